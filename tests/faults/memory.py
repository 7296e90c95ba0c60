"""A cloud, its machines and SSH in memory, where everything takes its time; and their accounts."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from precip_async import Experiment, Limits, forsaken
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.reach import Reach
from precip_async.ssh.pool import Pool
from precip_async.ssh.remote import PooledRemote
from tests.fakes import FakeCloud
from tests.faults.virtual import off_the_loop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from precip_async.ssh.room import Room
    from precip_async.ssh.transport import Channel, Receiver, Target

__all__ = ["LIMITS", "Machines", "World", "world"]

LATENCY: Final = 0.03  # seconds that a message takes, one way
WORK: Final = 1.0  # seconds that a command takes
LIMITS: Final = Limits(poll_interval=0.1, launch_timeout=10, terminate_timeout=20, drain_grace=0.1)
OPERATIONS: Final = (
    *("prepare", "launch", "describe", "terminate", "find", "aclose"),
    *("marked", "remember", "adopt", "launches_with_keys", "drop_keys"),
)


class Machines:
    """SSH servers in memory, a `Connector`. What is started there runs, whoever still listens.

    Attributes:
        running: What runs, by its mark, and who listens to it.
        open: How many connections there are.
    """

    def __init__(self) -> None:
        self.running: dict[str, Receiver] = {}
        self.open = 0

    async def connect(self, target: Target, timeout: float) -> _Link:
        """See `Connector.connect`."""
        await anyio.sleep(LATENCY)
        return _Link(self)

    async def aclose(self) -> None:
        """See `Connector.aclose`."""

    def end(self, mark: str, code: int) -> None:
        """Have what bears `mark` exit, if it runs."""
        if (listener := self.running.pop(mark, None)) is not None:
            listener.exited(code)
            listener.closed()


class _Link:
    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._heard_by = set[str]()
        self.alive = True
        machines.open += 1

    async def start(self, line: str, receiver: Receiver) -> Channel:
        await anyio.sleep(LATENCY)
        machines = self._machines
        if found := re.search(r"PRECIP_RUN=(\w+)", line):
            mark = found.group(1)
            machines.running[mark] = receiver
            self._heard_by.add(mark)
            receiver.received("stdout", f"\2{mark} 1\n".encode())
            takes = WORK if "work" in line else LATENCY
            asyncio.get_running_loop().call_later(takes, machines.end, mark, 0)
        else:  # it ends another, or does nothing
            for mark in [mark for mark in machines.running if mark in line]:
                machines.end(mark, 143)
            receiver.exited(0)
            receiver.closed()
        await anyio.sleep(LATENCY)
        return _Channel()

    async def aclose(self) -> None:
        if self.alive:
            self.alive = False
            self._machines.open -= 1
            for mark in self._heard_by & self._machines.running.keys():
                self._machines.running[mark].closed()


class _Channel:
    def write(self, data: bytes | memoryview) -> None:
        """Nobody reads it."""

    def write_eof(self) -> None:
        """Likewise."""

    def pause(self) -> None:
        """Little comes."""

    def resume(self) -> None:
        """Likewise."""

    def close(self) -> None:
        """The command goes on."""


class World:
    """A home, a cloud, and its machines.

    The second machine that is ever launched fails at its first boot.

    Attributes:
        cloud: The cloud.
        machines: Its machines.
    """

    def __init__(self, home: Path, cloud: FakeCloud) -> None:
        self._path = home
        self.cloud = cloud
        self.machines = Machines()
        self._made: list[Experiment] = []
        for operation in OPERATIONS:
            self.cloud.before[operation] = self._takes_time
            self.cloud.after[operation] = self._takes_time
        self.cloud.after["launch"] = self._launched
        self._journal = Journal.open(Home.open(home))

    async def _takes_time(self, _: object) -> None:
        await anyio.sleep(LATENCY)

    async def _launched(self, _: object) -> None:
        if len(self.cloud.machines) == 3:
            self.cloud.say([*self.cloud.machines][1], state="failed", reason="out of luck")
        await anyio.sleep(LATENCY)

    def experiment(self, **given: Any) -> Experiment:
        """An experiment in it, always of the same name."""
        made = Experiment(self.cloud, name="one", home=self._path, limits=LIMITS, **given)
        self._made.append(made)
        return made

    def close(self) -> None:
        """Let go of the journal, and of experiments that nobody has closed.

        Their loop is gone, and so is their cloud: who would close them as the interpreter exits
        would only tell of it.
        """
        self._journal.close()
        for made in self._made:
            forsaken.release(made)

    def lose_journal(self) -> None:
        """Have the journal know nothing any more."""
        for table in ("instances", "launches"):
            self.rewrite(f"DELETE FROM {table}")

    def rewrite(self, statement: str) -> None:
        """Change the journal behind everybody's back."""
        off_the_loop(partial(self._journal._db.execute, statement))

    # -- accounts ----------------------------------------------------------------------------

    def check_journal(self) -> None:
        """See that whoever comes after us, if we died now, could find all that runs."""
        rows = off_the_loop(self._journal.alive)
        known = {row.instance_id for row in rows}
        for token in [row.token for row in rows if not row.instance_id]:
            known.update(self.cloud.launches.get(token, ()))
        lost = set(self.cloud.alive()) - known
        assert not lost, f"the journal knows nothing of {lost}"

    def check_launches(self) -> None:
        """See that nothing was launched twice."""
        tokens = Counter(given.token for name, given in self.cloud.calls if name == "launch")
        assert set(tokens.values()) <= {1}

    def check_gone(self) -> None:
        """See that nothing is left: no machine, no command, no connection, no file, no row."""
        assert self.cloud.alive() == [], "machines"
        assert self.machines.running == {}, "commands"
        assert off_the_loop(self._journal.alive) == [], "the journal"
        self.check_free()

    def check_free(self) -> None:
        """See that nobody holds anything, whatever goes on: no connection, no name, no draft."""
        assert self.machines.open == 0, "connections"
        assert [*self._path.glob("names/*")] == [], "the name"
        assert [*self._path.rglob(".new-*")] == [], "drafts"
        held = forsaken._open.keys() & set(self._made)
        assert not held, "closed once more as the interpreter exits"
        self.check_launches()

    def journal(self) -> dict[str, str]:
        """The states of the instances that the journal believes to be alive."""
        return {row.instance_id: row.state for row in off_the_loop(self._journal.alive)}


@contextmanager
def world(home: Path, cloud: FakeCloud | None = None) -> Iterator[World]:
    """A world whose home is at `home`, and in whose SSH every experiment is at home meanwhile."""
    made = World(home, cloud or FakeCloud())

    def prepare(reach: Reach, _: Home, room: Room) -> tuple[str, Any]:
        limits = reach._settings.limits
        assert not limits.ssh_workers, "they would open real connections"
        return "ssh-ed25519 AAAA", PooledRemote(Pool(made.machines, limits, room=room), limits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reach, "_prepare", prepare)
        try:
            yield made
        finally:
            made.close()
