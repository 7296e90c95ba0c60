"""A `Remote` over worker processes: each SSH server is one worker's to speak to."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from precip_async.errors import ExperimentClosed
from precip_async.ssh.batch import Column, Forgets, Watch
from precip_async.ssh.room import Room
from precip_async.ssh.tasks import task_group
from precip_async.ssh.workers.portion import Division, Portion
from precip_async.ssh.workers.shard import Shard
from precip_async.ssh.workers.wire import Beginning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from precip_async.limits import Limits
    from precip_async.ssh.batch import Batch
    from precip_async.ssh.transport import Login, Target, Trust

__all__ = ["ShardedRemote"]


class ShardedRemote:
    """Hands each worker its portion of a batch: the places whose targets are its.

    What is a server's or a bastion's own limit is kept, since all connections to it are one
    worker's; ``limits.max_connects`` is divided among the workers, and so is what a fan-out may
    keep in memory.

    Args:
        login: How the workers log in; it goes to them by a socket that only they have.
        trust: Whom to believe.
        limits: The bounds of all workers together.
        workers: How many; through a bastion there is one.
    """

    def __init__(self, login: Login, trust: Trust, limits: Limits, workers: int) -> None:
        self._bastion = login.bastion is not None
        count = 1 if self._bastion else workers
        own = replace(limits, max_connects=max(1, limits.max_connects // count))
        beginning = Beginning(login=login, limits=own, learns=trust.learns)
        self._shards = [Shard(beginning, trust) for _ in range(count)]
        self._homes: dict[tuple[str, int | None], Shard] = {}
        self._met: dict[str, dict[Target, Shard]] = {}  # by instance
        self._close_grace = limits.close_grace
        self._closed = False

    def __repr__(self) -> str:
        return f"<ShardedRemote over {', '.join(str(one.pid) for one in self._shards)}>"

    @property
    def pids(self) -> list[int]:
        """The ids of the worker processes that are at work."""
        return [shard.pid for shard in self._shards if shard.pid is not None]

    async def expect(self, instances: int) -> None:
        """See `Remote.expect`: have the workers stand ready that will be needed."""
        async with task_group() as tasks:
            for shard in self._shards[:instances]:
                tasks.start_soon(shard.started)

    def working(self, hosts: int, *, here: bool = False) -> AbstractAsyncContextManager[None]:
        """See `Remote.working`: what is not `here` each worker sees to for its portion."""
        return Room.here().working(hosts, connected=False) if here else nullcontext()

    async def each(self, batch: Batch, places: Sequence[int], watch: Watch, *, width: int) -> None:
        """See `Remote.each`."""
        whose: dict[Shard, list[int]] = {}
        for place in places:
            whose.setdefault(self._shard(batch.targets[place]), []).append(place)
        portions = {shard: Portion(batch, own, watch, len(whose)) for shard, own in whose.items()}
        Division([*portions.values()], width)
        async with task_group() as tasks:
            for shard, portion in portions.items():
                tasks.start_soon(self._do, shard, portion)

    async def forget(self, instance_id: str) -> None:
        """See `Remote.forget`."""
        met = self._met.pop(instance_id, {})
        for shard, target in {shard: target for target, shard in met.items()}.items():
            shard.forget(target)
            if shard.pid is not None:
                portion = Portion(Forgets(targets=Column([target])), (0,), Watch())
                portion.grant(1)
                await shard.do(portion)

    async def aclose(self) -> None:
        """See `Remote.aclose`."""
        self._closed = True
        async with anyio.create_task_group() as tasks:
            for shard in self._shards:
                tasks.start_soon(shard.aclose)

    async def _do(self, shard: Shard, portion: Portion) -> None:
        await portion.permitted.wait()
        try:
            await shard.do(portion)
        finally:
            if portion.lost:  # the worker is gone, and can't clear up what it left here any more
                with anyio.move_on_after(self._close_grace, shield=True):
                    await anyio.to_thread.run_sync(portion.clear)

    def _shard(self, target: Target) -> Shard:
        """Whose `target` is: a server that is new is the worker's that has the fewest."""
        if self._closed:
            raise ExperimentClosed("the experiment's connections are closed")
        met = self._met.setdefault(target.instance_id, {})
        if (shard := met.get(target)) is None:
            server = (target.host, target.port)
            shard = self._homes.get(server)
            if shard is None:
                shard = min(self._shards, key=lambda one: one.servers)
                shard.servers += 1
                self._homes[server] = shard
            met[target] = shard
        return shard
