"""For how many connections there are file descriptors, and which gives way where they are few.

A connection takes one, and a host that is worked on two more: for the files that its output goes
to, or the two ends of a transfer. Whatever else this process opens is not ours to bound: `RESERVE`
is left to it, so that no file fails to open because of a connection.
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio.lowlevel import RunVar

from precip_async import descriptors
from precip_async.errors import ConnectError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from precip_async.ssh.transport import Target, Transport

__all__ = ["FILES", "RESERVE", "Room"]

FILES = 2  # of a host that is worked on, beside its connection
RESERVE = 64  # for the journal, calls to clouds, names being resolved, and the user's own files
SMALL = 4  # of a limit that is small, one in so many is reserved


class Resting(Protocol):
    """A connection that nobody uses."""

    async def give_way(self) -> None:
        """Close it; the next who wants it opens another."""


class Room:
    """The connections of one event loop, over all its pools, within a number of descriptors.

    State is changed synchronously: ``held`` are the open connections, ``resting`` those of them
    that nobody uses, the longest unused first.

    Args:
        limit: How many descriptors this process may have; default: any number.
    """

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.limit = limit
        self.held: set[Transport] = set()
        self.resting: dict[Resting, None] = {}  # a set that keeps its order
        self._connecting = 0
        self._files = 0  # set aside for those that are worked on
        self._working = 0
        self._others = 0
        self._door = anyio.Lock(fast_acquire=True)  # who finds no room waits here, in order
        self._stirred: anyio.Event | None = None  # set when something has changed, if one waits
        self._stuck = False
        self.look()

    def __repr__(self) -> str:
        return f"<Room for {self.free} more, {len(self.held)} held, {len(self.resting)} resting>"

    @classmethod
    def here(cls) -> Room:
        """That of the running event loop, made when first asked for: the limit is raised then."""
        room = _room.get(None)
        if room is None:
            room = cls(descriptors.raised())
            _room.set(room)
        return room

    @property
    def free(self) -> int:
        """How many more connections there is room for."""
        return self._total - self._files - len(self.held) - self._connecting

    @property
    def _total(self) -> int:
        return self.limit - min(RESERVE, self.limit // SMALL) - self._others

    def look(self) -> None:
        """See how many descriptors are not ours."""
        ours = len(self.held) + self._connecting
        self._others = max(0, descriptors.in_use() - ours) if self.limit < sys.maxsize else 0

    @asynccontextmanager
    async def working(self, hosts: int, *, connected: bool = True) -> AsyncIterator[None]:
        """Set aside what `hosts` that are worked on at once take; resting connections give way.

        Args:
            hosts: How many.
            connected: Whether the connections to them are this loop's.

        Raises:
            InvalidArgument: They don't fit, even when all that rest have given way.
        """
        if not self._files:  # else its files would be taken for somebody else's
            self.look()
        files = FILES * hosts
        others = self._working + self._files  # other work of this loop's, under way
        each = FILES + connected
        if others + each * hosts > self._total:
            raise InvalidArgument(self._too_many(hosts, others, each))
        connections = hosts * connected
        self._files += files
        self._working += connections
        try:
            while self.free < 0 and self.resting:
                await self._retire()
            yield
        finally:
            self._files -= files
            self._working -= connections
            self._stir()

    def _too_many(self, hosts: int, others: int, each: int) -> str:
        most = (self._total - others) // each
        fewer = f"work on at most {most} at once (parallel={most})" if most > 0 else "close some"
        taken = self._others + others + each * hosts
        needed = min(taken + RESERVE, -(-taken * SMALL // (SMALL - 1)))
        return (
            f"{hosts} host(s) at once take more file descriptors than this process may have: it "
            f"may have {self.limit}, and needs {needed}; raise the limit (as `ulimit -n {needed}`, "
            f"or LimitNOFILE= of a service), or {fewer}"
        )

    async def enter(self, target: Target, patience: float, *, urgent: bool) -> None:
        """Have room for a connection to `target`, until `left` is called.

        Where there is none the connection that rests longest gives way; where none rests, one is
        waited for.

        Args:
            target: For messages.
            patience: Seconds to wait for while nobody gives anything back.
            urgent: Take it from the reserve: others may wait for what this one brings to an end.

        Raises:
            ConnectError: There was no room in all that time.
        """
        if urgent or (self.free > 0 and not self._door.locked()):
            self._connecting += 1
            return
        async with self._door:
            while self.free <= 0:
                if self.resting:
                    await self._retire()
                elif self._stuck or not (self.held or self._connecting):
                    raise self._full(target)
                else:
                    await self._wait(patience)
            self._connecting += 1

    async def _wait(self, patience: float) -> None:
        self._stirred = anyio.Event()
        with anyio.move_on_after(patience) as scope:
            await self._stirred.wait()
        self._stuck = scope.cancelled_caught  # those behind us have waited as long

    def _full(self, target: Target) -> ConnectError:
        problem = (
            f"no file descriptor is left for it: this process may have {self.limit}, and "
            f"{len(self.held)} connections are in use; raise the limit (as `ulimit -n "
            f"{2 * self.limit}`), or do fewer things at once"
        )
        return ConnectError(instance_id=target.instance_id, host=target.host, problem=problem)

    def left(self, transport: Transport | None) -> None:
        """End an `enter`: there is a connection now, or there is none."""
        self._connecting -= 1
        if transport is None:
            self._stir()
        else:
            self.held.add(transport)

    def closed(self, transport: Transport) -> None:
        """A connection is closed, or was found to be."""
        self.held.discard(transport)
        self._stir()

    def rests(self, one: Resting) -> None:
        """A connection is used by nobody any more."""
        self.resting[one] = None
        self._stir()

    def works(self, one: Resting) -> None:
        """A connection is used."""
        self.resting.pop(one, None)

    async def _retire(self) -> None:
        """Have the one that rests longest give way."""
        oldest = next(iter(self.resting))
        del self.resting[oldest]  # before it is awaited: others may look for one meanwhile
        await oldest.give_way()

    def _stir(self) -> None:
        self._stuck = False
        if self._stirred is not None:
            self._stirred.set()


_room: RunVar[Room | None] = RunVar("precip_room")
