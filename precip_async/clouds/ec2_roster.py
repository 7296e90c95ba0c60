"""What became of instances: described, found and ended, whatever their cloud makes of dead ids.

Describing costs one call a round, by ids: an experiment asks for those that still boot, and an
answer holds nothing else. Where one dead id spoils the call for all, those that the cloud names are
left out of the next; where it names them one by one, everything is listed and looked through.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, Final

import anyio

from precip_async.clouds.ec2_calls import BRIEF, PATIENT, together
from precip_async.clouds.ec2_documents import instances_of, next_token_of
from precip_async.clouds.ec2_errors import MissingInstances
from precip_async.errors import CloudError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from xml.etree import ElementTree as ET

    from precip_async.clouds.base import MachineState
    from precip_async.clouds.ec2_calls import Calls
    from precip_async.clouds.ec2_documents import Seen

__all__ = ["Roster"]

MOST_IDS: Final = 1000  # of one call: section 6, "DescribeInstances"
PAGE: Final = 1000  # instances; section 6, likewise
REFUSALS: Final = 2  # for dead ids, after which everything is listed
ASK_AGAIN: Final = 2.0  # seconds; section 6, "eventual consistency": "back off from ~2 s"


class Roster:
    """The instances of one experiment, as its cloud has them.

    Args:
        calls: What is asked with.
        clock: Seconds, for tests.
    """

    def __init__(self, calls: Calls, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls, self._dialect, self._clock = calls, calls.dialect, clock
        self._born: dict[str, float] = {}  # by id in lower case: when it was launched here
        self._met: set[str] = set()  # likewise: those that were described once
        self._ending: set[str] = set()  # likewise: those whose end was asked for

    def launched(self, instances: Iterable[Seen]) -> None:
        """Instances were launched just now."""
        now = self._clock()
        self._born |= {one.id.lower(): now for one in instances}

    def is_ours(self, instance_id: str) -> bool:
        """Whether it was launched here, and its end was not asked for."""
        return instance_id.lower() in self._born.keys() - self._ending

    def missing(self, instance_id: str) -> MachineState:
        """What it means that an instance is not there: not yet, or not any more."""
        one = instance_id.lower()
        if one in self._ending or one not in self._born:
            return "terminated"
        # Where ended instances stay for a while, one that was there is only out of sight of the
        # server that was asked (section 6, "eventual consistency").
        if one in self._met and not self._dialect.keeps_ended:
            return "terminated"
        young = self._clock() - self._born[one] < self._dialect.grace
        return "pending" if young else "terminated"

    # -- looking -----------------------------------------------------------------------------

    async def look(self, ids: Sequence[str], patience: float = BRIEF) -> dict[str, Seen]:
        """Those of `ids` that are there, by id in lower case.

        Raises:
            CloudError: The cloud did not say.
        """
        # ids are compared without case: section 4, "Ids"
        wanted = [*dict.fromkeys(ids)]
        chunks = [wanted[at : at + MOST_IDS] for at in range(0, len(wanted), MOST_IDS)]
        outcomes = await together(
            [functools.partial(self._look, chunk, patience) for chunk in chunks]
        )
        found: dict[str, Seen] = {}
        for outcome in outcomes:
            if isinstance(outcome, CloudError):
                raise outcome
            found |= outcome
        self._met |= found.keys()
        return found

    async def _look(self, ids: list[str], patience: float) -> dict[str, Seen]:
        left, refusals = ids, 0
        while left:
            try:
                return _by_id(await self._describe({"InstanceIds": left}, patience), left)
            except MissingInstances as error:
                refusals += 1
                rest = [one for one in left if one.lower() not in error.ids]
                if len(rest) == len(left) or refusals > REFUSALS:
                    return await self._look_apart(left, patience)
                left = rest
        return {}

    async def _look_apart(self, ids: list[str], patience: float) -> dict[str, Seen]:
        """Those of `ids` that are there, when asking for them by name is refused."""
        if self._dialect.listable:
            return _by_id(await self.everything(patience=patience), ids)
        if len(ids) == 1:
            return {}
        half = len(ids) // 2
        found = await self._look(ids[:half], patience)
        return found | await self._look(ids[half:], patience)

    async def everything(
        self, filters: Mapping[str, str] | None = None, patience: float = PATIENT
    ) -> list[Seen]:
        """All instances of the account, filtered where the cloud can; page by page.

        Raises:
            CloudError: The cloud did not say.
        """
        parameters: dict[str, Any] = {}
        if filters:
            parameters["Filters"] = [{"Name": k, "Values": [v]} for k, v in filters.items()]
        if self._dialect.pages:
            parameters["MaxResults"] = PAGE
        found: list[Seen] = []
        while True:
            page, token = await self._calls.ask(
                "DescribeInstances", parameters, _page, patience=patience
            )
            found += page
            if not token or token == parameters.get("NextToken"):
                return found
            parameters["NextToken"] = token

    async def _describe(self, parameters: dict[str, Any], patience: float) -> list[Seen]:
        return await self._calls.ask(
            "DescribeInstances", parameters, instances_of, patience=patience
        )

    # -- ending ------------------------------------------------------------------------------

    async def end(self, ids: Sequence[str]) -> dict[str, Seen]:
        """Ask for the end of `ids`; what the cloud says of those that it knows, by lower-case id.

        Raises:
            CloudError: Some were not asked for.
        """
        wanted = [*dict.fromkeys(ids)]
        chunks = [wanted[at : at + MOST_IDS] for at in range(0, len(wanted), MOST_IDS)]
        outcomes = await together([functools.partial(self._end, chunk) for chunk in chunks])
        ended: dict[str, Seen] = {}
        for outcome in outcomes:
            if isinstance(outcome, CloudError):
                raise outcome
            ended |= outcome
        return ended

    async def _end(self, ids: list[str]) -> dict[str, Seen]:
        ended: dict[str, Seen] = {}
        left = ids
        while left:
            ended |= await self._end_known(left)
            # One that is too young to be seen can't be ended yet, and must not be forgotten.
            left = [
                one for one in left if one.lower() not in ended and self.missing(one) == "pending"
            ]
            self._ending |= {one.lower() for one in ids} - {one.lower() for one in left}
            if left:
                await anyio.sleep(ASK_AGAIN)
        return ended

    async def _end_known(self, ids: list[str]) -> dict[str, Seen]:
        """End those of `ids` that the cloud knows."""
        left, refusals = ids, 0
        while left:
            try:
                answer = await self._calls.ask(
                    "TerminateInstances", {"InstanceIds": left}, instances_of, instances=len(left)
                )
                return _by_id(answer, left)
            except MissingInstances as error:
                refusals += 1
                rest = [one for one in left if one.lower() not in error.ids]
                if len(rest) == len(left) or refusals > REFUSALS:
                    found = await self._look(left, PATIENT)
                    rest = [one for one in left if one.lower() in found]
                    if len(rest) == len(left):  # there when looked at, and not when ended
                        raise
                left = rest
        return {}


def _page(root: ET.Element) -> tuple[list[Seen], str]:
    return instances_of(root), next_token_of(root)


def _by_id(instances: Iterable[Seen], ids: Iterable[str]) -> dict[str, Seen]:
    wanted = {one.lower() for one in ids}
    return {one.id.lower(): one for one in instances if one.id.lower() in wanted}
