"""A cloud in memory that keeps machines for the next process, and may be reaped."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from precip_async.clouds.base import Marked
from tests.fakes import FakeCloud

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from precip_async.clouds.base import Access, HeldAddress

__all__ = ["LastingCloud"]


class LastingCloud(FakeCloud):
    """Attachable, keeping, and in place of an `EC2Cloud` for `reap`.

    Like local machines, those that were adopted end when it is closed, unless they are kept; and
    it hears of that before it answers.

    Attributes:
        owner: The account whose marks its machines bear.
        ips: Elastic addresses, each with the instance that has it.
    """

    def __init__(self) -> None:
        super().__init__(name="Amazon EC2", endpoint="http://there us-east-1", region="us-east-1")
        self.owner = ""
        self.ips: dict[str, str] = {}
        self._access: Access | None = None
        self._ends: tuple[str, ...] = ()

    @property
    def remains(self) -> LastingCloud:
        """What `Elsewhere` asks for the rest."""
        return self

    async def prepare(self, access: Access) -> None:
        """See `Cloud.prepare`."""
        await super().prepare(access)
        self._access, self._ends = access, ()

    async def marked(self) -> list[Marked]:
        """See `Attachable.marked`."""
        await self._called("marked", None)
        await self._done("marked", None)
        numbers = itertools.count()
        return [
            Marked(
                machine=self.machines[one],
                experiment="one",
                owner=self.owner,
                token=token,
                ordinal=next(numbers),
                tags=(),
                mark="its tags",
                image_id="ami-1",
                instance_type="m1.small",
                zone="",
                launched_at=None,
                expires=None,
            )
            for token, ids in self.launches.items()
            for one in ids
            if self.machines[one].state != "terminated"
        ]

    async def remember(self, ages: Mapping[str, float]) -> None:
        """See `Attachable.remember`."""
        await self._called("remember", ages)

    async def adopt(self, ids: Collection[str], addresses: Sequence[HeldAddress]) -> None:
        """See `Attachable.adopt`."""
        access, before = self._access, self._ends
        assert access is not None
        await self._called("adopt", ids)
        try:
            if access.purpose == "attach" and not access.keep:
                self._ends = tuple(ids)
            await self._done("adopt", ids)
        except BaseException:
            self._ends = before
            raise

    def keep(self) -> None:
        """See `Keeping`."""
        self._ends = ()

    async def addresses(self) -> dict[str, str]:
        """See `Remains.addresses`."""
        return dict(self.ips)

    async def give_back(self, addresses: Sequence[HeldAddress], _: Collection[str] = ()) -> None:
        """See `Remains.give_back`."""
        await self._called("give_back", addresses)

    async def launches_with_keys(self) -> set[str]:
        """See `Remains.launches_with_keys`."""
        await self._called("launches_with_keys", None)
        await self._done("launches_with_keys", None)
        return set(self.launches)

    async def drop_keys(self, tokens: Any) -> None:
        """See `Remains.drop_keys`."""
        await self._called("drop_keys", set(tokens))
        await self._done("drop_keys", set(tokens))

    async def aclose(self) -> None:
        """See `Cloud.aclose`."""
        await super().aclose()
        for one in self._ends:
            self.say(one, state="terminated")
