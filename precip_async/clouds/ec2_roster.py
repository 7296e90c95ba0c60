"""What became of instances: described, found and ended, whatever their cloud makes of dead ids.

Describing costs one call a round, by ids: an experiment asks for those that still boot, and an
answer holds nothing else. Where one dead id spoils the call for all, those that the cloud names are
left out of the next; where it names them one by one, everything is listed and looked through.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, Final

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
OUT_OF_SIGHT: Final = 20.0  # seconds for which an instance that was there may be invisible


class Roster:
    """The instances of one experiment, as its cloud has them.

    Args:
        calls: What is asked with.
        clock: Seconds, for tests.
    """

    def __init__(self, calls: Calls, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls, self._dialect, self._clock = calls, calls.dialect, clock
        # All by id in lower case: section 4, "Ids", has them in either.
        self._born: dict[str, float] = {}  # when it was launched here
        self._met: dict[str, float] = {}  # when it was described last
        self._ended: set[str] = set()  # its end was asked for, and accepted
        self._doomed: set[str] = set()  # its end was asked for, and it was not there yet

    def launched(self, instances: Iterable[Seen]) -> None:
        """Instances were launched just now."""
        now = self._clock()
        for one in instances:
            self._born.setdefault(one.id.lower(), now)

    def remember(self, ages: Mapping[str, float]) -> None:
        """Instances were launched by an earlier process, so many seconds ago."""
        now = self._clock()
        for one, age in ages.items():
            self._born.setdefault(one.lower(), now - age)

    def is_ours(self, instance_id: str) -> bool:
        """Whether it was launched here, and is to live."""
        one = instance_id.lower()
        return one in self._born and one not in self._ended | self._doomed

    def missing(self, instance_id: str) -> MachineState:
        """What it means that an instance is not there: not yet, or not any more."""
        one, now = instance_id.lower(), self._clock()
        if one in self._ended or one not in self._born:
            return "terminated"
        if (met := self._met.get(one)) is None:
            return "pending" if now - self._born[one] < self._dialect.grace else "terminated"
        # Where the ended stay for a while, one that was there a moment ago is only out of sight of
        # the server that was asked (section 6, "eventual consistency").
        out_of_sight = self._dialect.keeps_ended and now - met < OUT_OF_SIGHT
        return "pending" if out_of_sight else "terminated"

    # -- looking -----------------------------------------------------------------------------

    async def look(self, ids: Sequence[str], patience: float = BRIEF) -> dict[str, Seen]:
        """Those of `ids` that are there, by id in lower case.

        One whose end was asked for before it could be seen is ended now.

        Raises:
            CloudError: The cloud did not say.
        """
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
        self._met |= dict.fromkeys(found, self._clock())
        if late := [found[one].id for one in found.keys() & self._doomed]:
            await self.end(late)
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
        """All instances of the account, each once, filtered where the cloud can; page by page.

        Raises:
            CloudError: The cloud did not say.
        """
        parameters: dict[str, Any] = {}
        if filters:
            parameters["Filters"] = [{"Name": k, "Values": [v]} for k, v in filters.items()]
        if self._dialect.pages:
            parameters["MaxResults"] = PAGE
        found: dict[str, Seen] = {}  # pages shift as instances come and go: one may be on two
        tokens = {""}
        while True:
            page, token = await self._calls.ask(
                "DescribeInstances", parameters, _page, patience=patience
            )
            found |= {one.id.lower(): one for one in page}
            if token in tokens:
                return [*found.values()]
            tokens.add(token)
            parameters["NextToken"] = token

    async def _describe(self, parameters: dict[str, Any], patience: float) -> list[Seen]:
        return await self._calls.ask(
            "DescribeInstances", parameters, instances_of, patience=patience
        )

    # -- ending ------------------------------------------------------------------------------

    async def end(self, ids: Sequence[str]) -> dict[str, Seen]:
        """Ask for the end of `ids`; what the cloud says of those that it knows, by lower-case id.

        One that is too young to be seen is ended by `look`, once it is there.

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
        ended = await self._end_known(ids)
        gone = {one.lower() for one in ids}
        young = {one for one in gone - ended.keys() if self.missing(one) == "pending"}
        self._ended |= gone - young
        self._doomed = (self._doomed | young) - self._ended
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
