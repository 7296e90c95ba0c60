"""What is done on instances, whoever holds the connections: the protocol, and the usual way.

Verbs and boot speak to a `Remote`. `PooledRemote` does what they ask on a pool of this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from precip_async.ssh import download, upload
from precip_async.ssh.answer import ask
from precip_async.ssh.output import run_command

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.limits import Limits
    from precip_async.results import CommandResult
    from precip_async.ssh.answer import Answer
    from precip_async.ssh.command import Order
    from precip_async.ssh.output import Budget, Listener, OutputFiles
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.source import Source
    from precip_async.ssh.transport import Target

__all__ = ["PooledRemote", "Remote"]


class Remote(Protocol):
    """Works on instances over connections that it opens when they are needed, and keeps.

    Each operation raises a `RemoteError` of its target when that can't be reached or was lost, and
    `ExperimentClosed` once `aclose` has begun. If cancelled, it ends first what it has started.
    """

    async def expect(self, instances: int) -> None:
        """Prepare for so many instances, which are worked on soon.

        Raises:
            ExperimentException: They can't be.
        """

    async def reach(self, target: Target, timeout: float) -> None:
        """See that there is a connection to `target`; one attempt of `timeout` seconds."""
        ...

    async def ask(self, target: Target, order: Order, limits: Limits) -> Answer:
        """Run a short command; `limits` are the graces with which it is ended. See `ask`."""
        ...

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
        """Run a command; see `run_command`."""
        ...

    async def put(self, target: Target, order: Order, source: Source, remote: str) -> int:
        """Copy `source` to `remote`; see `upload.put`."""
        ...

    async def get(
        self, target: Target, order: Order, remote: str, local: str, suffix: str = ""
    ) -> tuple[Path, int]:
        """Copy `remote` to `local` here; see `download.get`."""
        ...

    async def forget(self, instance_id: str) -> None:
        """Close the connections to an instance, which is about to end."""

    async def aclose(self) -> None:
        """Close every connection, in bounded time. Operations under way are cut off."""


class PooledRemote:
    """Works over the connections of one pool, in this process."""

    def __init__(self, pool: Pool, limits: Limits) -> None:
        self.pool, self._limits = pool, limits

    async def expect(self, instances: int) -> None:
        """See `Remote.expect`: few or many, it is all one."""

    async def reach(self, target: Target, timeout: float) -> None:
        """See `Remote.reach`."""
        async with self.pool.lease(target, timeout=timeout):
            pass

    async def ask(self, target: Target, order: Order, limits: Limits) -> Answer:
        """See `Remote.ask`."""
        return await ask(self.pool, target, order, limits)

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
        return await run_command(
            self.pool,
            target,
            order,
            self._limits,
            index=index,
            budget=budget,
            files=files,
            stdin=stdin,
            listener=listener,
        )

    async def put(self, target: Target, order: Order, source: Source, remote: str) -> int:
        """See `Remote.put`."""
        return await upload.put(self.pool, target, order, self._limits, source, remote)

    async def get(
        self, target: Target, order: Order, remote: str, local: str, suffix: str = ""
    ) -> tuple[Path, int]:
        """See `Remote.get`."""
        return await download.get(self.pool, target, order, self._limits, remote, local, suffix)

    async def forget(self, instance_id: str) -> None:
        """See `Remote.forget`."""
        await self.pool.forget(instance_id)

    async def aclose(self) -> None:
        """See `Remote.aclose`."""
        await self.pool.aclose()
