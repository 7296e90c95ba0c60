"""Reaping: what the journal names is looked at, and what is meant is ended."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from precip_async.clouds.base import Access
from precip_async.ending import Books
from precip_async.errors import ExperimentException, InvalidArgument
from precip_async.events import Announcer
from precip_async.fanout import task_group
from precip_async.home.directory import Home, checked_owner
from precip_async.home.journal import Journal
from precip_async.home.names import checked_name
from precip_async.ledger import JournalLedger
from precip_async.limits import Limits
from precip_async.reach import Reach
from precip_async.reaping.elsewhere import Elsewhere, from_the_journal
from precip_async.reaping.here import HOSTS, LOCAL, given_back, is_here, reaped_here
from precip_async.reaping.holders import Holders
from precip_async.reaping.leftover import Selection
from precip_async.reaping.targets import Keys, named_target, targets_of
from precip_async.settings import Settings, checked_number

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from precip_async.clouds.hosts import Hosts
    from precip_async.events import Observer
    from precip_async.home.rows import AddressRow, Row
    from precip_async.reaping.leftover import Leftover
    from precip_async.reaping.targets import Target
    from precip_async.settings import AnyPath

__all__ = ["reaped"]

CLOSE = 10.0  # seconds for letting go of the journal, or of a cloud


async def reaped(
    *,
    cloud: str | None,
    endpoint: str | None,
    region: str | None,
    access_key: str | None,
    secret_key: str | None,
    session_token: str | None,
    profile: str | None,
    verify: bool | AnyPath,
    hosts: Hosts | None,
    login_user: str | None,
    ssh_key: AnyPath | None,
    ssh_port: int,
    home: AnyPath | None,
    limits: Limits | None,
    observer: Observer | None,
    **selected: Any,
) -> list[Leftover]:
    """See `precip_async.reap`."""
    selection = Selection(**selected)
    checked_number("older_than", selection.older_than)
    if selection.experiment is not None:
        checked_name(selection.experiment)
    if selection.owner is not None:
        checked_owner(selection.owner)
    keys = Keys(
        access_key=access_key,
        secret_key=secret_key,
        session_token=session_token,
        profile=profile,
    )
    if cloud is None and (keys.given or endpoint is not None or region is not None):
        raise InvalidArgument("keys, an endpoint or a region are those of a cloud: say which cloud")
    if cloud is not None and hosts is not None:
        raise InvalidArgument("hosts and cloud do not go together: reap one after the other")
    if region is not None and not region.strip():
        raise InvalidArgument("region is empty: leave it out, or say which")
    settings = Settings(
        home=home,
        verify=verify,
        limits=limits or Limits(),
        observer=observer,
        login_user=login_user,
        ssh_key=ssh_key,
        ssh_port=ssh_port,
    )
    await anyio.to_thread.run_sync(settings.check_files)
    opened = await anyio.to_thread.run_sync(Home.open, settings.path("home"))
    if hosts is not None:
        from precip_async.reaping.marks import reaped_on_hosts

        async with _books(opened) as books, Holders(opened) as holders:
            rows = await books.write(Journal.alive)
            return await reaped_on_hosts(hosts, opened, rows, settings, holders, selection)
    async with _books(opened) as books, Holders(opened) as holders:
        reaper = _Reaper(opened, books, holders, settings, selection, keys)
        return await reaper.reap(cloud, endpoint, region)


@asynccontextmanager
async def _books(home: Home) -> AsyncIterator[Books]:
    journal = await anyio.to_thread.run_sync(Journal.open, home)
    try:
        yield Books(journal)
    finally:
        with anyio.move_on_after(CLOSE, shield=True):
            await anyio.to_thread.run_sync(journal.close)


class _Reaper:
    """One reaping."""

    def __init__(
        self,
        home: Home,
        books: Books,
        holders: Holders,
        settings: Settings,
        selection: Selection,
        keys: Keys,
    ) -> None:
        self._home, self._books, self._holders = home, books, holders
        self._settings, self._selection, self._keys = settings, selection, keys

    async def reap(
        self, cloud: str | None, endpoint: str | None, region: str | None
    ) -> list[Leftover]:
        """Look at the cloud that is named, or at all that the journal names and this machine."""
        rows = await self._books.write(Journal.alive)
        addresses = await self._books.write(Journal.addresses)
        found: list[list[Leftover]] = []
        if cloud in (None, LOCAL):
            shared = (self._home, self._books, self._holders)
            found.append(await reaped_here(*shared, rows, self._selection))
        if cloud == LOCAL:
            return found[0]
        known = targets_of([*rows, *addresses])
        if cloud is None:
            whose = (self._selection, self._home.account_id)
            found.append(await given_back(self._books, self._holders, rows, *whose))
            found.append(await self._strangers(rows, known))
        targets = [*(known if cloud is None else named_target(cloud, endpoint, region, known))]
        found += [[] for _ in targets]

        async def look(place: int, target: Target) -> None:
            found[place] = await self._at(target, named=cloud is not None)

        async with task_group() as tasks:
            for place, target in enumerate(targets, len(found) - len(targets)):
                tasks.start_soon(look, place, target)
        return [one for part in found for one in part]

    async def _strangers(self, rows: Sequence[Row], known: set[Target]) -> list[Leftover]:
        """What the journal has of clouds that can't be asked from here."""
        titles = {target.title for target in known} | {HOSTS}
        me = self._home.account_id
        theirs = [row for row in rows if is_here(row) and row.owner != me]
        others = [row for row in rows if row.cloud not in titles and not is_here(row)]
        here = [row for row in others if row.cloud == LOCAL]
        away = "it is on another computer: reap there"
        strange = "it is kept under another home: reap there, with home= (--home)"
        plugged = "only the script knows how this cloud is asked: look at it yourself"
        left = await self._told(here, [], away) + await self._told(theirs, [], strange)
        return left + await self._told([row for row in others if row not in here], [], plugged)

    async def _told(
        self,
        rows: Sequence[Row],
        addresses: Sequence[AddressRow],
        problem: ExperimentException | str,
    ) -> list[Leftover]:
        whose = (self._holders, self._home.account_id)
        told = await from_the_journal(rows, addresses, *whose, problem)
        return [one for one in told if self._selection.takes(one)]

    async def _at(self, target: Target, *, named: bool) -> list[Leftover]:
        try:
            return await self._visit(target)
        except ExperimentException as error:
            if named:
                raise
            return await self._told(*await self._known(target), error)

    async def _known(self, target: Target) -> tuple[list[Row], list[AddressRow]]:
        """What the journal has at a cloud by now."""
        rows = await self._books.write(Journal.alive)
        addresses = await self._books.write(Journal.addresses)
        return (
            [row for row in rows if {target} == targets_of([row])],
            [row for row in addresses if {target} == targets_of([row])],
        )

    async def _visit(self, target: Target) -> list[Leftover]:
        settings, selection = self._settings, self._selection
        cloud = target.cloud(self._keys, settings.verify)
        announce = Announcer(selection.experiment or "reap", settings.observers)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(_closed, cloud)
            reach = Reach(settings, cloud.traits)
            public_key, remote = await reach.open(self._home)
            undo.push_async_callback(remote.aclose)
            await cloud.prepare(
                Access(
                    experiment=announce.experiment,
                    owner=self._home.account_id,
                    public_key=public_key,
                    purpose="look",
                    ledger=JournalLedger(self._books, announce, lambda: cloud.traits),
                )
            )
            shared = (self._books, self._holders, selection, self._home.account_id)
            there = Elsewhere(cloud, *shared)
            marked = await cloud.marked()
            # After the cloud: each launch is in the journal before it is asked for, so that
            # whatever bears a mark of this home is there by now, with whoever answers for it.
            rows, addresses = await self._known(target)
            found, ours = await there.found(marked, rows, addresses)
            if not selection.end:
                return [one.one for one in found]
            ways = (remote, reach, settings.limits, announce)
            return await there.ended(found, ours, addresses, ways)


async def _closed(cloud: Any) -> None:
    with anyio.move_on_after(CLOSE, shield=True):
        await cloud.aclose()
