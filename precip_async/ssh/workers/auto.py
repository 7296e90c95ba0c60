"""Whether worker processes are worth having: by the instances, and by the cores that are there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precip_async.limits import Limits
    from precip_async.results import CommandResult
    from precip_async.ssh.answer import Answer
    from precip_async.ssh.command import Order
    from precip_async.ssh.output import Budget, Listener, OutputFiles
    from precip_async.ssh.remote import Remote
    from precip_async.ssh.source import Source
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

    async def reach(self, target: Target, timeout: float) -> None:
        """See `Remote.reach`."""
        await self._for(target).reach(target, timeout)

    async def ask(self, target: Target, order: Order, limits: Limits) -> Answer:
        """See `Remote.ask`."""
        return await self._for(target).ask(target, order, limits)

    async def run(
        self,
        target: Target,
        order: Order,
        *,
        index: int,
        budget: Budget,
        files: OutputFiles,
        stdin: bytes | None = None,
        listener: Listener | None = None,
    ) -> CommandResult:
        """See `Remote.run`."""
        return await self._for(target).run(
            target,
            order,
            index=index,
            budget=budget,
            files=files,
            stdin=stdin,
            listener=listener,
        )

    async def put(self, target: Target, order: Order, source: Source, remote: str) -> int:
        """See `Remote.put`."""
        return await self._for(target).put(target, order, source, remote)

    async def get(
        self, target: Target, order: Order, remote: str, local: str, suffix: str = ""
    ) -> tuple[Path, int]:
        """See `Remote.get`."""
        return await self._for(target).get(target, order, remote, local, suffix)

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
