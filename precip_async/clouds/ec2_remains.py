"""What earlier processes left at a cloud that speaks EC2: found by its marks, and taken over.

How much a mark says differs by dialect. Tags say all; a key pair of its own says which launch it
was; and on Nimbus the key pair says whose it is, and nothing more. See ``docs/leaks.md``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from precip_async.clouds.base import ENDING, Marked
from precip_async.clouds.ec2_addresses import Addresses
from precip_async.clouds.ec2_documents import addresses_of
from precip_async.clouds.ec2_wire import MARK, decoded, machine_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from precip_async.clouds.base import HeldAddress
    from precip_async.clouds.ec2_documents import Seen
    from precip_async.clouds.ec2_parts import Parts

__all__ = ["Remains"]

_TAG: Final = f"{MARK}tag:"
_TOKEN: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:-([0-9]{1,4}))?")
_LAUNCH_KEY: Final = re.compile(rf"precip_{_TOKEN.pattern}")
_OWNERS_KEY: Final = re.compile(r"precip_([0-9a-f]{32})(?:_[0-9a-f]{8})?")


class Remains:
    """What is at the cloud of `parts`, whoever put it there."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._dialect = parts, parts.calls.dialect

    async def marked(self) -> list[Marked]:
        """Every instance of the account that bears a mark of ours and has not ended.

        Raises:
            CloudError: The cloud did not say.
        """
        wanted = {"tag-key": f"{MARK}token"} if self._dialect.mark == "tags" else None
        seen = await self._parts.roster.everything(wanted)
        found = [self._read(one) for one in seen]
        return [one for one in found if one is not None and one.machine.state not in ENDING]

    async def adopt(self, ids: Collection[str], addresses: Sequence[HeldAddress]) -> None:
        """Take over instances, with the key pairs of their launches, and addresses.

        Raises:
            CloudError: The cloud did not say what became of them.
        """
        parts = self._parts
        if self._dialect.mark == "key" and ids:
            for one in (await parts.roster.look([*ids])).values():
                parts.keys.adopted(_key_of(one), [one.id])
        if parts.addresses is not None:
            await parts.addresses.adopt(addresses, ids)

    async def addresses(self) -> dict[str, str]:
        """The elastic addresses of the account, each with the instance that has it, if any.

        Raises:
            CloudError: The cloud did not say.
        """
        if not self._dialect.can("DescribeAddresses"):
            return {}
        found = await self._parts.calls.ask("DescribeAddresses", {}, addresses_of)
        return {one.ip: one.instance for one in found}

    async def give_back(self, addresses: Iterable[HeldAddress], ids: Collection[str] = ()) -> None:
        """Release addresses that an earlier process took, unless others than `ids` have them.

        Raises:
            CloudError: One can't be released; the message names it.
        """
        ours = Addresses(self._parts.calls, self._parts.access.ledger)
        await ours.adopt(addresses, ids)
        await ours.release()

    async def launches_with_keys(self) -> set[str]:
        """The tokens of the launches whose key pairs are there.

        Raises:
            CloudError: The cloud did not say.
        """
        if self._dialect.mark != "key":
            return set()
        found = map(_LAUNCH_KEY.fullmatch, await self._parts.keys.names())
        return {one[1] for one in found if one is not None}

    async def drop_keys(self, tokens: Iterable[str]) -> None:
        """Delete the key pairs of launches of which nothing is left.

        Raises:
            CloudError: One can't be deleted.
        """
        await self._parts.keys.drop(tokens)

    # -- reading marks -----------------------------------------------------------------------

    def _read(self, seen: Seen) -> Marked | None:
        """What the marks of an instance say; ``None``: it bears none of ours."""
        tags = {key: decoded(self._dialect, value) for key, value in seen.tags.items()}
        key = _key_of(seen)
        launch, owners = _LAUNCH_KEY.fullmatch(key), _OWNERS_KEY.fullmatch(key)
        owner, token = tags.get(f"{MARK}owner", ""), tags.get(f"{MARK}token", "")
        match self._dialect.mark:
            case "tags":
                marked, mark = bool(token), "its tags"
            case "key":
                marked, mark = launch is not None, "its key pair and tags" if token else "its key"
                token = launch[1] if launch else ""
                owner = owner or (self._parts.access.owner if self._parts.keys.is_own(key) else "")
            case _:
                marked, mark = owners is not None, "its key pair"
                owner = owners[1] if owners else ""
        if not marked:
            return None
        return Marked(
            machine=machine_of(self._dialect, seen),
            experiment=tags.get(f"{MARK}experiment", ""),
            owner=owner,
            token=token,
            ordinal=self._ordinal(seen, tags.get(f"{MARK}first", "")),
            tags=tuple(tag.removeprefix(_TAG) for tag in tags if tag.startswith(_TAG)),
            mark=mark,
            image_id=seen.image,
            instance_type=seen.kind,
            zone=seen.zone,
            launched_at=_time(seen.launched),
            expires=_time(tags.get(f"{MARK}expires", "")),
        )

    def _ordinal(self, seen: Seen, first: str) -> int | None:
        """That of the launch's first, and its index in the call that was a part of the launch."""
        if not first.isdecimal():
            return None
        token = _TOKEN.fullmatch(seen.token) or _LAUNCH_KEY.fullmatch(_key_of(seen))
        before = int(token[2]) * self._dialect.batch if token and token[2] else 0
        return int(first) + before + (int(seen.index) if seen.index.isdecimal() else 0)


def _key_of(seen: Seen) -> str:
    """The name of its key pair."""
    # an administrator of nova sees "name (project, host)" (section 2, "Addresses")
    return seen.key.split(" ")[0]


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:  # some clouds leave it empty
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
