"""A `Remote` over worker processes: each SSH server is one worker's to speak to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import anyio
import anyio.to_thread

from precip_async.errors import ConnectionLost, ExperimentClosed
from precip_async.ssh import download
from precip_async.ssh.tasks import task_group
from precip_async.ssh.transfer import local_trouble
from precip_async.ssh.workers.shard import Shard
from precip_async.ssh.workers.wire import Beginning

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.limits import Limits
    from precip_async.results import CommandResult
    from precip_async.ssh.answer import Answer
    from precip_async.ssh.command import Order
    from precip_async.ssh.output import Budget, Listener, OutputFiles
    from precip_async.ssh.source import Source
    from precip_async.ssh.transport import Login, Target, Trust

__all__ = ["ShardedRemote"]


class ShardedRemote:
    """Hands each operation to the worker whose its target is.

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

    async def reach(self, target: Target, timeout: float) -> None:
        """See `Remote.reach`."""
        await self._shard(target).do("reach", target, None, timeout)

    async def ask(self, target: Target, order: Order, limits: Limits) -> Answer:
        """See `Remote.ask`."""
        return cast("Answer", await self._shard(target).do("ask", target, order, limits))

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
        shard = self._shard(target)
        if not files.stem.is_absolute():
            shard.follow()
        result: CommandResult = await shard.do(
            "run",
            target,
            order,
            listener=listener,
            index=index,
            budget=(budget.number, min(budget.left, budget.total // len(self._shards))),
            files=files,
            stdin=stdin,
            listens=listener is not None,
        )
        budget.take(len(result.stdout_bytes) + len(result.stderr_bytes))
        return result

    async def put(self, target: Target, order: Order, source: Source, remote: str) -> int:
        """See `Remote.put`; what goes to several is opened here, and shown to each worker."""
        shard = self._shard(target)
        shard.follow()
        if not source.shared:
            return await self._put(shard, target, order, source, remote)
        with local_trouble(target, source.path):
            async with source.content() as content:
                await shard.show(target, source, content)
                return await self._put(shard, target, order, source, remote)

    async def _put(
        self, shard: Shard, target: Target, order: Order, source: Source, remote: str
    ) -> int:
        size = await shard.do(
            "put", target, order, source.number, source.path, shared=source.shared, remote=remote
        )
        return cast("int", size)

    async def get(
        self, target: Target, order: Order, remote: str, local: str, suffix: str = ""
    ) -> tuple[Path, int]:
        """See `Remote.get`."""
        shard = self._shard(target)
        shard.follow()
        try:
            got = await shard.do("get", target, order, remote, local, suffix)
        except ConnectionLost:  # perhaps because the worker is gone, which then left something here
            await anyio.to_thread.run_sync(download.sweep, local, order.mark)
            raise
        return cast("tuple[Path, int]", got)

    async def forget(self, instance_id: str) -> None:
        """See `Remote.forget`."""
        met = self._met.pop(instance_id, {})
        for shard, target in {shard: target for target, shard in met.items()}.items():
            await shard.forget(target)

    async def aclose(self) -> None:
        """See `Remote.aclose`."""
        self._closed = True
        async with anyio.create_task_group() as tasks:
            for shard in self._shards:
                tasks.start_soon(shard.aclose)

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
