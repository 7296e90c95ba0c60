"""What experiments left on this machine: local instances, and hosts that they had taken."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from precip_async.clouds.local.remains import clear_dead, end_left_behind, left_behind
from precip_async.clouds.local.state import State
from precip_async.errors import CloudError
from precip_async.home.journal import Journal
from precip_async.reaping.leftover import Leftover

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from precip_async.ending import Books
    from precip_async.home.directory import Home
    from precip_async.home.rows import Row
    from precip_async.reaping.holders import Holders
    from precip_async.reaping.leftover import Selection

__all__ = ["HOSTS", "LOCAL", "given_back", "is_here", "reaped_here"]

LOCAL: Final = "local"
HOSTS: Final = "hosts"


def is_here(row: Row) -> bool:
    """Whether `row` is of a local instance of this machine, and not of one that shares the home."""
    return row.cloud == LOCAL and row.endpoint == socket.gethostname()


async def reaped_here(
    home: Home, books: Books, holders: Holders, rows: Sequence[Row], selection: Selection
) -> list[Leftover]:
    """What lives on this machine, by the journal and by who keeps it; ended as `selection` says."""
    in_thread = anyio.to_thread.run_sync
    base = await in_thread(home.runtime, "local")
    await in_thread(clear_dead, base)
    kept = {one.experiment for one in await in_thread(left_behind, base)}
    found: list[Leftover] = []
    for name in sorted(kept | {row.experiment for row in rows if _is_ours(row, home)}):
        if selection.experiment in (None, name):
            holder = await holders.of(name)
            # Only now: until we held the name, whoever had it may have started more and gone.
            now = await books.write(Journal.alive, name)
            mine = [row for row in now if _is_ours(row, home)]
            machines = await in_thread(_kept, base, name)
            left = await _left(books, holder, name, mine, machines)
            shown = [replace(one, owner=home.account_id) for one in left]
            shown = [one for one in shown if selection.takes(one)]
            if len(shown) == len(left):
                shown = await _ended(books, base, name, shown, selection)
            elif selection.end:
                why = f"instances here end together, and {len(left) - len(shown)} are not meant"
                shown = [replace(one, problem=why) for one in shown]
            found += shown
    return found


def _is_ours(row: Row, home: Home) -> bool:
    """Whether it is kept under `home`: several homes may share a journal, each with its names."""
    return is_here(row) and row.owner == home.account_id


def _kept(base: Path, name: str) -> tuple[str, ...]:
    """The ids of all that the living keeper of an experiment was ever told to start. Blocks."""
    record = State(base, name).read()
    return record.machines if record is not None and record.alive else ()


async def _left(
    books: Books, holder: str, name: str, rows: Sequence[Row], machines: Collection[str]
) -> list[Leftover]:
    """What one experiment has here; what the journal has and nobody keeps has ended."""
    known = {row.instance_id: row for row in rows if row.instance_id}
    if not holder:
        gone = known.keys() - set(machines)
        where = socket.gethostname()
        await books.write(Journal.ended, gone, endpoint=where, experiment=name)
        known = {one: row for one, row in known.items() if one not in gone}
        for row in rows:
            if not row.instance_id and not machines:
                await books.write(Journal.refused, row.token, "it has started nothing here")
    # that its keeper goes on means that one of them lives, and not that all do
    ids = [*known] if known or holder else [*machines]
    return [
        Leftover(
            kind="instance",
            id=one,
            experiment=name,
            cloud=LOCAL,
            instance_type=known[one].instance_type if one in known else "",
            state=known[one].state if one in known else "",
            launched_at=known[one].asked_at if one in known else None,
            expires=known[one].expires if one in known else None,
            known_by="the journal" if one in known else "its keeper",
            holder=holder,
        )
        for one in sorted(ids)
    ]


async def _ended(
    books: Books, base: Path, name: str, left: Sequence[Leftover], selection: Selection
) -> list[Leftover]:
    """End an experiment's instances here, all of them at once with their keeper."""
    if not left or not all(selection.ends(one) for one in left):
        return [*left]
    try:
        await end_left_behind(base, name)
    except CloudError as error:
        return [replace(one, problem=str(error)) for one in left]
    await books.write(Journal.ended, [one.id for one in left], endpoint=socket.gethostname())
    return [replace(one, ended=True) for one in left]


async def given_back(
    books: Books, holders: Holders, rows: Sequence[Row], selection: Selection, owner: str
) -> list[Leftover]:
    """Hosts that experiments had taken, which is noted nowhere but in the journal."""
    found = []
    for row in rows:
        if row.cloud != HOSTS or not row.instance_id:
            continue
        one = Leftover(
            kind="host",
            id=row.instance_id,
            experiment=row.experiment,
            owner=row.owner,
            mine=row.owner == owner,
            cloud=HOSTS,
            state="taken",
            launched_at=row.asked_at,
            holder=await holders.of(row.experiment, row),
        )
        if selection.takes(one):
            if selection.ends(one):
                where = row.endpoint
                whose = row.experiment  # a living one may have taken the same host
                await books.write(Journal.ended, [one.id], endpoint=where, experiment=whose)
                one = replace(one, ended=True)
            found.append(one)
    return found
