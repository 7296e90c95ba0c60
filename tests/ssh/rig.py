"""What the SSH layer is driven with: a pool, and the few things that a verb brings along."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

import anyio

from precip_async.errors import ConnectError
from precip_async.limits import Limits
from precip_async.ssh.batch import Column, Reaches, Watch
from precip_async.ssh.command import Order
from precip_async.ssh.commands import Commands
from precip_async.ssh.openssh import AsyncsshConnector, Login
from precip_async.ssh.output import Budget, OutputFiles
from precip_async.ssh.pool import Pool
from precip_async.ssh.remote import PooledRemote, one
from precip_async.ssh.source import Source
from precip_async.ssh.transfers import Gets, Puts
from precip_async.ssh.transport import Target
from precip_async.ssh.workers.remote import ShardedRemote
from tests import processes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from precip_async.results import CommandResult
    from precip_async.ssh.remote import Remote
    from precip_async.ssh.transport import Connector, Trust
    from tests.servers import OpenSSHServer

__all__ = ["FAST", "WORKERS", "Counting", "Nap", "Pins", "Rig", "in_child"]

# All these tests hold on either path: `make test-slow` runs them on the public one as well.
# And with the connections in two worker processes, but for those that look into the pool.
PATH = os.environ.get("PRECIP_TEST_SSH", "fast")
FAST = {"fast": True, "public": False, "workers": True}[PATH]
WORKERS = 2 if PATH == "workers" else 0


class Nap:
    """A length to sleep that nobody else sleeps, so that its sleepers are found among all."""

    def __init__(self) -> None:
        self._length = f"{300 + secrets.randbelow(600)}.{secrets.randbelow(10**9):09}"

    def __str__(self) -> str:
        return f"sleep {self._length}"

    def sleepers(self) -> list[processes.Process]:
        """The processes that sleep it, whoever started them."""
        found = []
        for pid, process in processes.everything().items():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if line[:2] == [b"sleep", self._length.encode()] and process.alive():
                    found.append(process)
        return found


class Pins:
    """Host keys in memory. What is not in it is believed at first sight only if `learns`."""

    def __init__(self, *keys: str, learns: bool = False) -> None:
        self.keys, self.learns = keys, learns
        self.asked: list[str] = []
        self.shown: list[str] = []

    def known(self, target: Target) -> tuple[str, ...]:
        """See `Trust.known`."""
        self.asked.append(target.alias)
        return self.keys

    def learned(self, target: Target, key: str) -> bool:
        """See `Trust.learned`."""
        self.shown.append(key)
        if self.learns:
            self.keys = (key,)
        return self.learns


class Counting:
    """A connector that counts what it passes on."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.attempts = self.now = self.most = 0
        self.final = 0  # attempts whose error said that trying again makes no sense

    async def connect(self, target: Target, timeout: float) -> Any:
        """See `Connector.connect`."""
        self.attempts += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self.connector.connect(target, timeout)
        except ConnectError as error:
            self.final += not error.patience
            raise
        finally:
            self.now -= 1

    async def aclose(self) -> None:
        """See `Connector.aclose`."""
        await self.connector.aclose()


class Rig:
    """A pool against `server`, closed at the end of ``async with``.

    Attributes:
        remote: Who works on the server: over the pool, or over worker processes.
        pool: The pool; unused where there are worker processes.
        connector: Counts its attempts to connect; who has worker processes can't, and any number
            is right.
        target: The server, as its user.
        spill: Where output goes that is not kept in memory.
    """

    def __init__(
        self,
        server: OpenSSHServer,
        directory: Path,
        *,
        limits: Limits | None = None,
        login: Login | None = None,
        trust: Trust | None = None,
        host: str | None = None,
        port: int | None = None,
        user: str | None = None,
        fast: bool = FAST,
    ) -> None:
        self.server, self.spill = server, directory / "spill"
        self.limits = replace(limits or Limits(), ssh_fast=fast)
        self.login = login or Login(keys=(server.client_key_path,))
        self.trust = trust or Pins(server.host_public_key)
        self.connector = Counting(AsyncsshConnector(self.login, self.trust, self.limits))
        self.pool = Pool(self.connector, self.limits, bastion=self.login.bastion is not None)
        self.remote: Remote = PooledRemote(self.pool, self.limits)
        if WORKERS:
            self.connector.attempts = mock.ANY
            self.remote = ShardedRemote(self.login, self.trust, self.limits, WORKERS)
        self.target = Target(
            instance_id="i-1",
            host=host or server.host,
            port=port or server.port,
            user=user or server.user,
            alias="i-1",
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.remote.aclose()

    def on(self, host: str, number: int = 1) -> Target:
        """Another host of the server."""
        return replace(self.target, host=host, instance_id=f"i-{number}", alias=f"i-{number}")

    def order(self, command: str = "", **settings: Any) -> Order:
        """An order of the target's user."""
        return Order(command=command, **{"user": self.target.user, **settings})

    async def run(
        self,
        command: str,
        *,
        target: Target | None = None,
        stdin: bytes | None = None,
        listener: Callable[[Any, str], object] | None = None,
        files: OutputFiles | None = None,
        budget: Budget | None = None,
        **settings: Any,
    ) -> CommandResult:
        """Run a command."""
        files = files or OutputFiles(self.spill, always=False)
        order = self.order(command, **settings)
        watch = Watch()
        if listener is not None:
            watch = Listening(listener)
        commands = Commands(
            targets=Column([target or self.target]),
            command=Column([order.command]),
            user=Column([order.user]),
            sudo_user=Column([order.sudo_user]),
            env=Column([order.env]),
            mark=Column([order.mark]),
            cwd=order.cwd,
            timeout=order.timeout,
            index=Column([0]),
            stem=Column([str(files.stem)]),
            always=files.always,
            stdin=stdin,
            budget=budget or Budget(self.limits.output_total),
        )
        commands.check([0])
        result: CommandResult = await one(self.remote, commands, watch)
        return result

    async def out(self, command: str, **settings: Any) -> str:
        """What a command that succeeds says, without the last newline."""
        result = await self.run(command, **settings)
        assert result.exit_code == 0, (result, result.stderr)
        return result.stdout.removesuffix("\n")

    async def everywhere(self, command: str, targets: Iterable[Target]) -> list[str]:
        """What `command` says at `targets`, all at once; in the order of its coming."""
        outs: list[str] = []

        async def one(target: Target) -> None:
            outs.append(await self.out(command, target=target))

        async with anyio.create_task_group() as tasks:
            for target in targets:
                tasks.start_soon(one, target)
        return outs

    async def put(
        self,
        source: Path,
        remote: str | os.PathLike[str],
        *,
        target: Target | None = None,
        **settings: Any,
    ) -> int:
        """Copy to the server."""
        with Source(source, self.limits) as alone:
            return await self.send(alone, remote, target=target, **settings)

    async def send(
        self,
        source: Source,
        remote: str | os.PathLike[str],
        *,
        target: Target | None = None,
        **settings: Any,
    ) -> int:
        """Copy to the server what perhaps goes to others too."""
        order = self.order(**settings)
        puts = Puts(**transfer(order, target or self.target, remote), source=Column([source]))
        size: int = await one(self.remote, puts)
        return size

    async def get(
        self,
        remote: str | os.PathLike[str],
        local: str | os.PathLike[str],
        suffix: str = "",
        *,
        target: Target | None = None,
        **settings: Any,
    ) -> tuple[Path, int]:
        """Copy from the server."""
        gets = Gets(
            **transfer(self.order(**settings), target or self.target, remote),
            local=Column([str(local)]),
            suffix=Column([suffix]),
        )
        got: tuple[Path, int] = await one(self.remote, gets)
        return got

    async def reach(self, target: Target, timeout: float) -> None:
        """See that there is a connection."""
        await one(self.remote, Reaches(targets=Column([target]), timeout=timeout))


class Listening(Watch):
    """Gives output to a listener."""

    keen = True

    def __init__(self, listener: Callable[[Any, str], object]) -> None:
        self.listener = listener

    def heard(self, place: int, stream: Any, text: str) -> None:
        """See `Watch.heard`."""
        self.listener(stream, text)


def transfer(order: Order, target: Target, remote: str | os.PathLike[str]) -> dict[str, Any]:
    """The columns that transfers have in common, of one place."""
    return {
        "targets": Column([target]),
        "remote": Column([str(remote)]),
        "user": Column([order.user]),
        "sudo_user": Column([order.sudo_user]),
        "mark": Column([order.mark]),
        "timeout": order.timeout,
    }


async def in_child(job: Awaitable[Any]) -> Any:
    """Await `job` in a task of its own, as the fan-out does, and raise what it raises."""
    results: list[Any] = []

    async def run() -> None:
        results.append(await job)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return results[0]
