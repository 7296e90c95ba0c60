"""Finding and ending what experiments left running that nobody holds any more."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from precip_async.clock import now
from precip_async.clouds.local.remains import clear_dead, end_left_behind, left_behind
from precip_async.errors import NameInUse
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.home.names import hold_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from precip_async.home.journal import Row
    from precip_async.home.names import Hold
    from precip_async.settings import AnyPath

__all__ = ["Leftover", "reap"]

LOCAL = "local"
RELEASE = 10.0  # seconds for letting go of a name


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """An instance that may be running.

    Attributes:
        instance_id: The cloud's id.
        experiment: The name of the experiment that started it.
        cloud: The cloud's name; where it was spoken to, for one that is elsewhere.
        instance_type: What it was launched as; empty where only its keeper is known.
        launched_at: When, an aware UTC time; ``None`` where only its keeper is known.
        holder: The living process that answers for it; empty: nobody does.
        ended: Whether it was ended now.
    """

    instance_id: str
    experiment: str
    cloud: str
    instance_type: str = ""
    launched_at: datetime | None = None
    holder: str = ""
    ended: bool = False

    @property
    def age(self) -> float | None:
        """Seconds since its launch, where that is known."""
        if self.launched_at is None:
            return None
        return (now() - self.launched_at).total_seconds()


async def reap(
    *, home: AnyPath | None = None, experiment: str | None = None, end: bool = False
) -> list[Leftover]:
    """List what is still running by the journal of `home` and by what lives on this machine.

    Instances that a living process answers for are listed and never ended. What the journal knows
    of clouds that this version can't ask is listed, and not ended either.

    Args:
        home: Which home; ``None``: ``$PRECIP_HOME``, else ``~/.precip``.
        experiment: Only this experiment's.
        end: End what nobody answers for, on this machine.

    Raises:
        HomeError: The home or its journal can't be used.
        CloudError: Something would not end.
    """
    in_thread = anyio.to_thread.run_sync
    opened = await in_thread(Home.open, home)
    base = await in_thread(opened.runtime, "local")
    await in_thread(clear_dead, base)
    journal = await in_thread(Journal.open, opened)
    try:
        rows = await in_thread(journal.alive, experiment)
        alive = {record.experiment: record for record in await in_thread(left_behind, base)}
        names = {row.experiment for row in rows} | alive.keys()
        found: list[Leftover] = []
        for name in sorted(names if experiment is None else names & {experiment}):
            machines = alive[name].machines if name in alive else ()
            own = [row for row in rows if row.experiment == name]
            found += await _of_one(opened, journal, name, own, machines, end=end)
        return found
    finally:
        await in_thread(journal.close)


async def _of_one(
    home: Home,
    journal: Journal,
    name: str,
    rows: Iterable[Row],
    machines: tuple[str, ...],
    *,
    end: bool,
) -> list[Leftover]:
    """What one experiment left; with its name held, so that nobody starts it meanwhile."""
    in_thread = anyio.to_thread.run_sync
    async with AsyncExitStack() as held:
        holder = ""
        try:
            hold = await in_thread(hold_name, home, name)
            held.push_async_callback(_released, hold)
        except NameInUse as error:
            holder = error.holder
        known = {row.instance_id: row for row in rows}
        here = {one for one, row in known.items() if _is_here(row)}
        if not holder:  # its warden has died, and its machines with it
            await in_thread(journal.ended, here - set(machines))
            here &= set(machines)
        ended = end and not holder and bool(here or machines)
        if ended:
            await end_left_behind(await in_thread(home.runtime, "local"), name)
            await in_thread(journal.ended, here)
        elsewhere = [one for one, row in known.items() if one and not _is_here(row)]
        unknown = [one for one in machines if not holder and one not in known and not here]
        return [
            Leftover(
                instance_id=one,
                experiment=name,
                cloud=_cloud_of(known[one]) if one in known else LOCAL,
                instance_type=known[one].instance_type if one in known else "",
                launched_at=known[one].asked_at if one in known else None,
                holder=holder,
                ended=ended and one not in elsewhere,
            )
            for one in (*sorted(here), *elsewhere, *unknown)
        ]


def _is_here(row: Row) -> bool:
    return row.cloud == LOCAL and row.endpoint == socket.gethostname()


def _cloud_of(row: Row) -> str:
    return row.cloud if _is_here(row) else f"{row.cloud} ({row.endpoint})"


async def _released(hold: Hold) -> None:
    with anyio.move_on_after(RELEASE, shield=True):
        await anyio.to_thread.run_sync(hold.release)
