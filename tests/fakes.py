"""An in-memory cloud and in-memory SSH, both told by the test what to do wrong."""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from precip_async.boot import Boot
from precip_async.clouds.base import Access, LaunchRequest, Machine, Traits
from precip_async.ending import Books
from precip_async.errors import ConnectError, RemoteError
from precip_async.events import Announcer, Event
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.launch import Launcher
from precip_async.limits import Limits
from precip_async.reach import Reach
from precip_async.settings import Settings
from precip_async.ssh.pool import Pool
from precip_async.ssh.remote import PooledRemote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    import pytest

    from precip_async.fleet import Instance
    from precip_async.home.journal import Row
    from precip_async.ssh.transport import Channel, Receiver, Target

__all__ = ["QUICK", "Bench", "FakeCloud", "FakeConnector", "bench", "faked_ssh", "refused"]

QUICK = Limits(
    poll_interval=0.02,
    launch_timeout=0.3,
    terminate_timeout=0.5,
    probe_timeout=0.5,
    kill_grace=0.2,
    close_grace=0.5,
)

Hook = Callable[[Any], Awaitable[object]]


class FakeCloud:
    """A `Cloud` in memory: machines run, with an address, as soon as they are launched.

    Attributes:
        calls: Every call in order: the operation, and what it was given.
        machines: What there is, by id; a test may put there what it wants the cloud to say.
        before: By operation, awaited with its argument before it takes effect.
        after: Likewise, when it has taken effect and the answer is about to be given.
        first: What the next launches answer and describe until the test changes it.
    """

    def __init__(self, **traits: Any) -> None:
        given = {"name": "fake", "default_image": "ami-1", "poll_interval": 0.02, **traits}
        self._traits = Traits(**given)
        self.calls: list[tuple[str, Any]] = []
        self.machines: dict[str, Machine] = {}
        self.launches: dict[str, list[str]] = {}
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.first: dict[str, Any] = {"state": "running"}
        self.short_by = 0
        self._numbers = itertools.count(1)

    @property
    def traits(self) -> Traits:
        """As the test wants them."""
        return self._traits

    def count(self, operation: str) -> int:
        """How often `operation` was called."""
        return sum(name == operation for name, _ in self.calls)

    def alive(self) -> list[str]:
        """The ids of the machines that nobody has ended."""
        return [one.id for one in self.machines.values() if one.state != "terminated"]

    def say(self, machine_id: str, **facts: Any) -> None:
        """Say `facts` of a machine from now on."""
        self.machines[machine_id] = replace(self.machines[machine_id], **facts)

    async def _called(self, operation: str, argument: Any) -> None:
        self.calls.append((operation, argument))
        if hook := self.before.get(operation):
            await hook(argument)

    async def _done(self, operation: str, argument: Any) -> None:
        if hook := self.after.get(operation):
            await hook(argument)

    async def prepare(self, access: Access) -> None:
        """See `Cloud.prepare`."""
        await self._called("prepare", access)
        await self._done("prepare", access)

    async def launch(self, request: LaunchRequest) -> list[Machine]:
        """See `Cloud.launch`."""
        await self._called("launch", request)
        ids = []
        for _ in range(request.count - self.short_by):
            number = next(self._numbers)
            facts = {"public_address": f"127.9.9.{number}", "private_address": f"127.9.0.{number}"}
            machine = Machine(**{"id": f"i-{number:017x}", **facts, **self.first})
            self.machines[machine.id] = machine
            ids.append(machine.id)
        self.launches[request.token] = ids
        await self._done("launch", request)
        return [self.machines[one] for one in ids]

    async def describe(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """See `Cloud.describe`."""
        await self._called("describe", list(ids))
        await self._done("describe", ids)
        return {one: self._machine(one) for one in ids}

    async def terminate(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """See `Cloud.terminate`."""
        await self._called("terminate", list(ids))
        for one in ids:
            if one in self.machines:
                self.say(one, state="terminated")
        await self._done("terminate", ids)
        return {one: self._machine(one) for one in ids}

    async def find(self, token: str) -> list[Machine]:
        """See `Cloud.find`."""
        await self._called("find", token)
        await self._done("find", token)
        return [self.machines[one] for one in self.launches.get(token, ())]

    async def console(self, instance_id: str) -> str:
        """See `Cloud.console`."""
        await self._called("console", instance_id)
        return f"the console of {instance_id}"

    async def aclose(self) -> None:
        """See `Cloud.aclose`."""
        await self._called("aclose", None)

    def _machine(self, machine_id: str) -> Machine:
        return self.machines.get(machine_id) or Machine(id=machine_id, state="terminated")


def refused(
    target: Target, kind: type[RemoteError] = ConnectError, said: str = "no"
) -> RemoteError:
    """What a connection to `target` fails with."""
    return kind(instance_id=target.instance_id, host=target.host, problem=said)


class FakeConnector:
    """SSH in memory: every login works and every command exits with 0, unless the test minds.

    Attributes:
        attempts: Every target that was connected to, in order.
        open: Connections that are open.
        answer: Awaited with the target by every attempt to connect; may raise or hang.
        lines: Every line that a login shell was given.
        mute: Whether commands begin and never end, until their connection is closed.
        reply: What a command says and exits with, by the line that starts it.
    """

    def __init__(self) -> None:
        self.attempts: list[Target] = []
        self.lines: list[str] = []
        self.open = 0
        self.answer: Callable[[Target], Awaitable[object]] | None = None
        self.mute = False
        self.reply: Callable[[str], tuple[bytes, int]] = lambda _: (b"", 0)

    async def connect(self, target: Target, timeout: float) -> _Connection:
        """See `Connector.connect`."""
        self.attempts.append(target)
        if self.answer is not None:
            await self.answer(target)
        return _Connection(self)

    async def aclose(self) -> None:
        """See `Connector.aclose`."""


def faked_ssh(monkeypatch: pytest.MonkeyPatch) -> FakeConnector:
    """Have experiments of this test use SSH in memory; workers, who know none, are refused."""
    connector = FakeConnector()

    def refuse() -> None:
        raise AssertionError("SSH is faked here, and a worker process would open real connections")

    monkeypatch.setattr("precip_async.ssh.openssh.AsyncsshConnector", lambda *_: connector)
    monkeypatch.setattr("precip_async.ssh.workers.shard.WorkerProcess", refuse)
    return connector


class _Connection:
    def __init__(self, connector: FakeConnector) -> None:
        self._connector = connector
        self.alive = True
        self._running: list[Receiver] = []
        connector.open += 1

    async def start(self, line: str, receiver: Receiver) -> Channel:
        self._connector.lines.append(line)
        said, code = b"", 0
        if mark := re.search(r"PRECIP_RUN=(\w+)", line):
            receiver.received("stdout", f"\2{mark.group(1)} 1\n".encode())
            if self._connector.mute:
                self._running.append(receiver)
                return _Channel()
            said, code = self._connector.reply(line)
        receiver.received("stdout", said)
        receiver.exited(code)
        receiver.closed()
        return _Channel()

    async def aclose(self) -> None:
        self._connector.open -= self.alive
        self.alive = False
        while self._running:
            self._running.pop().closed()


class _Channel:
    def write(self, data: bytes | memoryview) -> None:
        """Nobody reads it."""

    def write_eof(self) -> None:
        """Likewise."""

    def pause(self) -> None:
        """Nothing more comes."""

    def resume(self) -> None:
        """Likewise."""

    def close(self) -> None:
        """It is closed already."""


class Bench:
    """The launcher and the boot of an experiment, over a cloud and SSH in memory.

    Attributes:
        events: All that was announced.
    """

    def __init__(
        self,
        home: Home,
        journal: Journal,
        cloud: FakeCloud,
        connector: FakeConnector,
        limits: Limits,
        settings: Settings,
    ) -> None:
        self.cloud, self.connector, self.journal, self.home = cloud, connector, journal, home
        self.events: list[Event] = []
        announce = Announcer("bench", [self.events.append])
        self.pool = Pool(connector, limits)
        self.reach = Reach(settings, cloud.traits)
        shared = (PooledRemote(self.pool, limits), self.reach, limits, announce)
        self.launcher = Launcher(cloud, Books(journal), *shared)
        self.boot = Boot(cloud, self.launcher, *shared)

    async def provision(
        self,
        count: int = 1,
        *,
        boot_timeout: float | None = None,
        boot_max_tries: int = 3,
        cloud_init: bool = True,
        **given: Any,
    ) -> list[Instance]:
        """Launch `count` instances."""
        given = {"min_count": count, "image_id": "ami-1", "instance_type": "m1.small", **given}
        request = LaunchRequest(token="", first=0, count=count, **given)
        return await self.launcher.provision(
            request,
            boot_timeout=boot_timeout,
            boot_max_tries=boot_max_tries,
            cloud_init=cloud_init,
        )

    async def rows(self) -> list[Row]:
        """What the journal believes to be running."""
        return await anyio.to_thread.run_sync(self.journal.alive)

    def of(self, kind: type[Event]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if type(event) is kind]


@asynccontextmanager
async def bench(
    path: Path, *, limits: Limits = QUICK, settings: Settings | None = None, **traits: Any
) -> AsyncIterator[Bench]:
    """A bench whose home is at `path`."""
    assert not limits.ssh_workers, "a bench is all in memory"
    home = await anyio.to_thread.run_sync(Home.open, path)
    journal = await anyio.to_thread.run_sync(Journal.open, home)
    cloud, connector = FakeCloud(**traits), FakeConnector()
    made = Bench(home, journal, cloud, connector, limits, settings or Settings())
    await made.reach.open(home)
    try:
        yield made
        await made.pool.aclose()
        assert connector.open == 0, "connections left open"
    finally:
        await anyio.to_thread.run_sync(journal.close)
