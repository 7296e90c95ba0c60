"""The journal's pages about addresses, and about how far instances are."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from precip_async.errors import HomeError
from precip_async.events import Warned
from precip_async.home.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from precip_async.clouds.base import Cloud, Traits
    from precip_async.ending import Books
    from precip_async.events import Announcer
    from precip_async.fleet import Instance

__all__ = ["JournalLedger", "States"]


class JournalLedger:
    """Writes down which addresses an experiment takes; a `Ledger`.

    Args:
        books: Where.
        announce: Is told of what can't be written, where that is no reason to stop.
        traits: What kind of cloud it is; asked when something is written.
    """

    def __init__(self, books: Books, announce: Announcer, traits: Callable[[], Traits]) -> None:
        self._books, self._announce, self._traits = books, announce, traits

    async def wanting(self, others: Sequence[str]) -> str:
        """See `Ledger.wanting`."""
        key, traits = str(uuid.uuid4()), self._traits()
        await self._books.write(
            Journal.wanting_address,
            key,
            experiment=self._announce.experiment,
            cloud=traits.name,
            endpoint=traits.endpoint,
            region=traits.region,
            others=others,
        )
        return key

    async def took(self, key: str, ip: str, allocation: str) -> None:
        """See `Ledger.took`."""
        try:
            await self._books.write(Journal.took_address, key, ip, allocation)
        except HomeError as error:
            self._warn(error)

    async def gave_back(self, key: str) -> None:
        """See `Ledger.gave_back`."""
        try:
            await self._books.write(Journal.released_address, key)
        except HomeError as error:
            self._warn(error)

    def _warn(self, error: HomeError) -> None:
        self._announce(Warned(experiment=self._announce.experiment, text=str(error)))


class States:
    """Writes down how far instances are, for those who attach to them."""

    def __init__(self, books: Books, announce: Announcer, cloud: Cloud) -> None:
        self._books, self._announce, self._cloud = books, announce, cloud
        self._written: dict[str, str] = {}  # by id

    async def record(self, instances: Iterable[Instance]) -> None:
        """Write down those that have come further since last time."""
        written = self._written
        new = {
            one.id: one.state for one in instances if one.alive and written.get(one.id) != one.state
        }
        if not new:
            return
        try:
            endpoint = self._cloud.traits.endpoint
            whose = self._announce.experiment
            await self._books.write(Journal.saw_all, new, endpoint=endpoint, experiment=whose)
        except HomeError as error:  # nothing is lost: it is seen again
            self._announce(Warned(experiment=self._announce.experiment, text=str(error)))
        written |= new
