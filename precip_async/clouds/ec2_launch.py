"""Launches: as few calls as the cloud allows, none doubled, and none whose instances are forgotten.

Where a launch that is asked for twice with one token starts once, a lost answer is asked for again.
Where tokens are ignored, the launch has a key pair of its own, and what bears it is looked for
before anything is asked again; a launch that may be under way still is not asked for again at all.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import anyio

from precip_async.clouds.ec2_calls import BRIEF, together
from precip_async.clouds.ec2_documents import images_of, instances_of, truth_of
from precip_async.clouds.ec2_errors import ReplyLost, ServerTrouble, Unanswered
from precip_async.clouds.ec2_keys import launch_key
from precip_async.clouds.ec2_wire import (
    MARK,
    Placing,
    checked_options,
    expiry,
    launch_parameters,
    marks,
    root_device,
)
from precip_async.errors import (
    CapacityUnavailable,
    CloudError,
    EndpointUnreachable,
    ImageNotFound,
    QuotaExceeded,
)

if TYPE_CHECKING:
    from precip_async.clouds.base import Access, LaunchRequest
    from precip_async.clouds.ec2_calls import Calls
    from precip_async.clouds.ec2_documents import Image, Seen
    from precip_async.clouds.ec2_groups import Groups
    from precip_async.clouds.ec2_keys import Keys
    from precip_async.clouds.ec2_roster import Roster

__all__ = ["Launches"]

LOOKS: Final = (
    3  # times that a launch is looked for whose answer was lost, before it is asked again
)
LOOK_AGAIN: Final = 1.0  # seconds between two looks
ASKED: Final = 3  # times that a launch is asked for whose token is ignored

NEWBORN_LOOKS: Final = 3  # times that a launch waits for a key or a group that was just made
NEWBORN_AGAIN: Final = 2.0  # seconds; section 6, "eventual consistency": "back off from ~2 s"

# Refusals for want of what `prepare` has seen or made; nothing was launched.
_NEWBORN: Final = frozenset({"InvalidKeyPair.NotFound", "InvalidGroup.NotFound"})
_ROOM: Final = (CapacityUnavailable, QuotaExceeded)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """One launch call."""

    token: str
    count: int
    least: int


class Launches:
    """Launches the instances of one experiment.

    Args:
        calls: What is asked with.
        access: Whose instances they are.
        keys: Key pairs.
        groups: Security groups.
        roster: Is told what was launched, and ends what must not stay.
        zone: Where; ``None``: the cloud's choice.
        root_login: Whether images are to let root in.
        max_lifetime: Seconds after which an instance ends by itself.
    """

    def __init__(
        self,
        calls: Calls,
        access: Access,
        keys: Keys,
        groups: Groups,
        roster: Roster,
        *,
        zone: str | None,
        root_login: bool,
        max_lifetime: float | None,
    ) -> None:
        self._calls, self._dialect, self._access = calls, calls.dialect, access
        self._keys, self._groups, self._roster = keys, groups, roster
        self._zone, self._root_login, self._max_lifetime = zone, root_login, max_lifetime
        self._asked: dict[str, tuple[dict[str, Any], list[_Batch]]] = {}  # by token of the request

    async def start(self, request: LaunchRequest) -> list[Seen]:
        """Launch what `request` says; all of it, or as much as there is from ``min_count`` on.

        Raises:
            InvalidArgument: It asks for what can't be had; nothing was started.
            EndpointUnreachable: Nobody knows what it has started.
            CloudError: It was refused, and nothing of it is left.
        """
        checked_options(self._dialect, request.options)
        placing = await self._placing(request)
        parameters = launch_parameters(self._dialect, request, placing)
        batches = self._batches(request)
        self._asked[request.token] = (parameters, batches)
        launches = [functools.partial(self._launch, parameters, batch) for batch in batches]
        outcomes = await self._some_at_once(launches)
        started = [one for outcome in outcomes if isinstance(outcome, list) for one in outcome]
        errors = [outcome for outcome in outcomes if isinstance(outcome, CloudError)]
        if errors:
            started = await self._after(errors, request, started)
        if self._dialect.mark != "tags" and self._dialect.tags_after:
            await self._tag(started, marks(self._dialect, request, placing))
        return started

    async def find(self, token: str) -> list[Seen]:
        """What the launch named `token` has started.

        Raises:
            CloudError: The cloud did not say.
        """
        match self._dialect.mark:
            case "tags":
                tag = f"{MARK}token"
                found = await self._roster.everything({f"tag:{tag}": token})
                found = [one for one in found if one.tags.get(tag) == token]
            case "key":
                found = [one for one in await self._roster.everything() if _bears(one, token)]
            case _:
                found = await self._ask_again(token)
        self._roster.launched(found)
        return found

    async def _ask_again(self, token: str) -> list[Seen]:
        """What the launch has started, where only asking again with its token can tell."""
        if token not in self._asked:
            return []  # of an earlier process: the journal knows, and Nimbus ends what it leases
        parameters, batches = self._asked[token]
        found: list[Seen] = []
        for batch in batches:
            found += await self._launch(parameters, batch)
        return found

    # -- what is asked for -------------------------------------------------------------------

    async def _placing(self, request: LaunchRequest) -> Placing:
        options = request.options
        subnet = options.get("SubnetId")
        grouped = options.keys() & {"SecurityGroupIds", "SecurityGroups"}
        group = None if grouped else await self._groups.ready(subnet)
        return Placing(
            experiment=self._access.experiment,
            owner=self._access.owner,
            key_name=self._keys.name or launch_key(request.token),
            public_key=self._access.public_key if self._root_login else "",
            group=group[0] if group else "",
            group_is_id=bool(group and group[1]),
            zone=self._zone,
            image=await self._image(request),
            expires=expiry(request.expires) if request.expires else "",
            lifetime=self._max_lifetime,
        )

    async def _image(self, request: LaunchRequest) -> Image | None:
        if request.ebs_size is None:
            return None
        if "BlockDeviceMappings" not in self._dialect.accepts["RunInstances"]:
            root_device(self._dialect, None, request.image_id)  # says so
        images = await self._calls.ask(
            "DescribeImages", {"ImageIds": [request.image_id]}, images_of
        )
        found = [image for image in images if image.id.lower() == request.image_id.lower()]
        if not found:
            raise ImageNotFound(
                f"there is no image {request.image_id}",
                cloud=self._dialect.title,
                operation="DescribeImages",
                hint="check its id; ids differ by region and by cloud",
            )
        return found[0]

    def _batches(self, request: LaunchRequest) -> list[_Batch]:
        most, left = self._dialect.batch, request.count
        if left <= most:
            return [_Batch(token=request.token, count=left, least=request.min_count)]
        batches: list[_Batch] = []
        while left:
            count = min(most, left)
            left -= count
            # Which of the calls the cloud has room for is not known beforehand.
            least = count if request.min_count == request.count else 1
            token = f"{request.token}-{len(batches)}"
            batches.append(_Batch(token=token, count=count, least=least))
        return batches

    # -- asking ------------------------------------------------------------------------------

    async def _some_at_once(self, launches: list[Any]) -> list[list[Seen] | CloudError]:
        limiter = anyio.Semaphore(self._dialect.launches)

        async def one(launch: Any) -> list[Seen]:
            async with limiter:
                return await launch()  # type: ignore[no-any-return] # a `_launch`

        return await together([functools.partial(one, launch) for launch in launches])

    async def _launch(self, parameters: dict[str, Any], batch: _Batch) -> list[Seen]:
        started: list[Seen]
        try:
            if self._dialect.exact_count:
                started = await self._launch_exactly(parameters, batch)
            elif self._dialect.mark == "key":
                started = await self._launch_looking(parameters, batch)
            else:
                started = await self._run(parameters, batch, repeat=True)
        except ServerTrouble as error:
            if self._dialect.mark == "key":  # it was looked for
                raise
            raise self._calls.tell.lost(
                "RunInstances",
                f"it had trouble of its own and may have launched all the same: {error.message}"
                f" ({error.code})",
                "try again later",
            ) from error
        self._roster.launched(started)
        return started

    async def _run(self, parameters: dict[str, Any], batch: _Batch, *, repeat: bool) -> list[Seen]:
        counts = {"MinCount": batch.least, "MaxCount": batch.count, "ClientToken": batch.token}
        for look in itertools.count(1):
            try:
                return await self._calls.ask(
                    "RunInstances",
                    {**parameters, **counts},
                    instances_of,
                    repeat=repeat,
                    instances=batch.count,
                )
            except CloudError as error:
                if error.code not in _NEWBORN or look > NEWBORN_LOOKS:
                    raise
            await anyio.sleep(NEWBORN_AGAIN)
        raise AssertionError("it returns or raises")

    async def _launch_exactly(self, parameters: dict[str, Any], batch: _Batch) -> list[Seen]:
        """Launch where ``MinCount`` is all that counts: ask for all, and else for the least."""
        whole = replace(batch, least=batch.count)
        try:
            return await self._run(parameters, whole, repeat=True)
        except _ROOM:
            if batch.least == batch.count:
                raise
        least = _Batch(token=f"{batch.token}-least", count=batch.least, least=batch.least)
        return await self._run(parameters, least, repeat=True)

    async def _launch_looking(self, parameters: dict[str, Any], batch: _Batch) -> list[Seen]:
        """Launch where the token is ignored, or heeded too late to be relied on.

        An answer that says that the cloud had trouble is one: what the launch has started, if
        anything, bears its key by then. One that broke off may be under way still; where the token
        is heeded it can be asked for again. One that is not answered at all is under way.
        """
        key = await self._keys.for_launch(batch.token)
        parameters = {**parameters, "KeyName": key}
        for attempt in range(1, ASKED + 1):
            try:
                started = await self._run(parameters, batch, repeat=False)
            except (ReplyLost, ServerTrouble) as error:
                if isinstance(error, Unanswered):
                    raise
                found = await self._sought(batch)
                if found and len(found) < batch.count:
                    raise self._unknown(error) from error
                if not found and isinstance(error, ReplyLost) and not self._dialect.repeats:
                    raise self._unknown(error) from error
                if not found and attempt == ASKED:
                    raise
                started = found
            if started:
                self._keys.launched(key, [one.id for one in started])
                return started
        raise AssertionError("the last attempt returns or raises")

    async def _sought(self, batch: _Batch) -> list[Seen]:
        """What the launch `batch` has started, as far as it is to be seen by now."""
        found: list[Seen] = []
        for look in range(LOOKS):
            if look:
                await anyio.sleep(LOOK_AGAIN)
            found = [one for one in await self._roster.everything() if _bears(one, batch.token)]
            if len(found) == batch.count:
                break
        return found

    def _unknown(self, error: CloudError) -> ReplyLost:
        return self._calls.tell.lost(
            "RunInstances",
            f"the answer was lost: {error.message}",
            f"{self._dialect.title} does not tell a launch from its repetition, so that it was not "
            "asked for again",
        )

    # -- afterwards --------------------------------------------------------------------------

    async def _after(
        self, errors: list[CloudError], request: LaunchRequest, started: list[Seen]
    ) -> list[Seen]:
        """What to make of a launch of which a part was refused: what stays of it, or the error."""
        for error in errors:
            if isinstance(error, EndpointUnreachable):
                raise error  # the experiment looks for it, by the token, and for its other parts
        surplus: list[Seen] = []
        if self._dialect.mark == "key":
            # ec2-api was seen to leave servers of a launch that it refused for the quota
            known = {one.id for one in started}
            surplus = [one for one in await self.find(request.token) if one.id not in known]
        room = all(isinstance(error, _ROOM) for error in errors)
        enough = room and len(started) >= request.min_count
        unwanted = surplus if enough else [*surplus, *started]
        if unwanted:
            try:
                await self._roster.end([one.id for one in unwanted])
            except (
                CloudError
            ):  # then they are the experiment's: it ends them, or says that it can't
                return [*started, *surplus]
        if enough:
            return started
        raise next((error for error in errors if not isinstance(error, _ROOM)), errors[0])

    async def _tag(self, started: list[Seen], tags: dict[str, str]) -> None:
        parameters = {
            "Resources": [one.id for one in started],
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        }
        with contextlib.suppress(CloudError):  # for people's eyes: the mark is the key pair
            await self._calls.ask("CreateTags", parameters, truth_of, patience=BRIEF)


def _bears(instance: Seen, token: str) -> bool:
    """Whether `instance` has the key pair of the launch `token`, or of a part of it."""
    # an administrator of nova sees "name (project, host)" (section 2, "Addresses")
    name, whole = instance.key.split(" ")[0], launch_key(token)
    return name == whole or name.startswith(f"{whole}-")
