"""Whether worker processes are worth having: by the instances, and by the cores that are there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio

from precip_async.ssh.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from precip_async.ssh.batch import Batch, Watch
    from precip_async.ssh.remote import Remote
    from precip_async.ssh.transport import Target

__all__ = ["AutoRemote", "worth"]

# A worker takes half a second to stand ready, in which one process logs in at some 250 instances.
# With fewer than twice as many for each, there is nothing to win.
INSTANCES_A_WORKER = 500


def worth(instances: int, cores: int | None = None) -> int:
    """How many workers `instances` are worth; the parent has a core of its own.

    Args:
        instances: How many are worked on at once, at most.
        cores: How many there are; ``None``: those that this process may use.
    """
    if cores is None:
        cores = _cores()
    workers = min(cores - 1, instances // INSTANCES_A_WORKER)
    return workers if workers > 1 else 0  # one worker is no more than this process


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


class AutoRemote:
    """Works in this process until so many instances are expected that workers are worth having.

    A server that was spoken to from this process is so to the end: its connections are there.

    Args:
        here: Works in this process.
        there: Makes who works over so many workers.
    """

    def __init__(self, here: Remote, there: Callable[[int], Remote]) -> None:
        self._here, self._make = here, there
        self._there: Remote | None = None
        self._met_here: set[tuple[str, int | None]] = set()

    async def expect(self, instances: int) -> None:
        """See `Remote.expect`."""
        if self._there is None and (workers := worth(instances)):
            self._there = self._make(workers)
        if self._there is not None:
            await self._there.expect(instances)

    def working(self, hosts: int, *, here: bool = False) -> AbstractAsyncContextManager[None]:
        """See `Remote.working`: here are those only that were met here."""
        if here and self._there is not None:  # its connections are few, and give way
            return self._there.working(hosts, here=True)
        most = hosts if self._there is None else len(self._met_here)
        return self._here.working(min(hosts, most))

    async def each(self, batch: Batch, places: Sequence[int], watch: Watch, *, width: int) -> None:
        """See `Remote.each`."""
        whose: dict[Remote, list[int]] = {}
        for place in places:
            whose.setdefault(self._for(batch.targets[place]), []).append(place)
        if width < len(whose):  # one after the other
            for remote, own in whose.items():
                await remote.each(batch, own, watch, width=width)
            return
        spare, left = width, len(places)
        async with task_group() as tasks:
            for remote, own in whose.items():
                part = max(1, spare * len(own) // left)
                spare, left = spare - part, left - len(own)
                tasks.start_soon(_each, remote, batch, own, watch, part)

    async def forget(self, instance_id: str) -> None:
        """See `Remote.forget`."""
        await self._here.forget(instance_id)
        if self._there is not None:
            await self._there.forget(instance_id)

    async def aclose(self) -> None:
        """See `Remote.aclose`."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._here.aclose)
            if self._there is not None:
                tasks.start_soon(self._there.aclose)

    def _for(self, target: Target) -> Remote:
        server = (target.host, target.port)
        if self._there is not None and server not in self._met_here:
            return self._there
        self._met_here.add(server)
        return self._here


async def _each(
    remote: Remote, batch: Batch, places: Sequence[int], watch: Watch, width: int
) -> None:
    await remote.each(batch, places, watch, width=width)
