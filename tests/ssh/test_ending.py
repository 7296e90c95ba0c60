"""Ended for real: after a timeout or a cancellation nothing of a command is left."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async.errors import CommandTimeout
from precip_async.limits import Limits
from tests.polling import eventually
from tests.servers import OpenSSHServer, sudo_rights
from tests.ssh.rig import Nap, Rig, in_child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.servers import TemporaryUser

pytestmark = pytest.mark.sshd

LIMITS = Limits(kill_grace=0.4, drain_grace=0.2)

# NAP is a sleep of its own; each says `ready` once all of it runs.
COMMANDS = {
    "alone": "echo ready; NAP",
    "exec": "echo ready; exec NAP",
    "with a child in the background": "NAP & echo ready; NAP",
    "with a child in a session of its own": "setsid NAP & sleep 0.1; echo ready; NAP",
    "with an orphan in a session of its own": "setsid sh -c 'NAP & NAP &'; echo ready; NAP",
    "with children of children": "sh -c 'sh -c \"NAP; true\" & echo ready; NAP; true'; true",
    "without an environment": "env -i setsid NAP & sleep 0.1; echo ready; NAP",
    "an orphan without an environment": "sh -c 'env -i NAP &'; sleep 0.1; echo ready; NAP",
    "stopped": "NAP & kill -STOP $!; echo ready; NAP",
    "ignoring hangups": "nohup NAP >/dev/null 2>&1 & sleep 0.1; echo ready; NAP",
    "ignoring TERM": "trap '' TERM HUP INT; NAP & echo ready; NAP; NAP; NAP",
    "starting another when asked to end": "trap 'NAP & NAP' TERM; echo ready; NAP; NAP",
}


@pytest.fixture
async def rig(server: OpenSSHServer, tmp_path: Path) -> AsyncIterator[Rig]:
    """A pool with short graces."""
    async with Rig(server, tmp_path, limits=LIMITS) as rig:
        yield rig


@pytest.fixture
def nap() -> Iterator[Nap]:
    """A sleep that is killed if the test fails to."""
    nap = Nap()
    yield nap
    for process in nap.sleepers():
        process.signal(signal.SIGKILL)


class Ready:
    """Knows when a command has said that it is ready."""

    def __init__(self) -> None:
        self.event = anyio.Event()

    def __call__(self, _stream: str, text: str) -> None:
        """Listen."""
        if "ready" in text:
            self.event.set()

    async def wait(self) -> None:
        """Wait for it, not for ever."""
        with anyio.fail_after(10):
            await self.event.wait()


async def by_scope(rig: Rig, command: str, **settings: Any) -> None:
    """Run `command` and cancel the scope around it once it is ready."""
    ready = Ready()

    async def run() -> None:
        await rig.run(command, listener=ready, **settings)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await ready.wait()
        tasks.cancel_scope.cancel()


async def by_task(rig: Rig, command: str, **settings: Any) -> None:
    """Run `command` and cancel the asyncio task in which a fan-out runs it."""
    ready = Ready()
    task = asyncio.create_task(in_child(rig.run(command, listener=ready, **settings)))
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_timeout(rig: Rig, command: str, **settings: Any) -> None:
    """Run `command` until its time is up."""
    ready = Ready()
    with pytest.raises(CommandTimeout) as caught:
        await rig.run(command, timeout=0.3, listener=ready, **settings)
    assert ready.event.is_set(), "the test's time was too short"
    assert caught.value.leftover == ""


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
async def test_nothing_of_a_command_is_left_after_its_timeout(
    rig: Rig, nap: Nap, command: str
) -> None:
    """Whatever it has started, and however that resists, is gone when the timeout is raised."""
    await by_timeout(rig, command.replace("NAP", str(nap)))

    assert not nap.sleepers()
    assert await rig.out("echo again") == "again"
    assert rig.connector.attempts == 1


@pytest.mark.parametrize("end", [by_scope, by_task])
@pytest.mark.parametrize("kind", ["with a child in a session of its own", "ignoring TERM"])
async def test_nothing_of_a_command_is_left_after_it_was_cancelled(
    rig: Rig, nap: Nap, kind: str, end: Any
) -> None:
    """A cancelled scope and a cancelled task end it as a timeout does."""
    await end(rig, COMMANDS[kind].replace("NAP", str(nap)))

    assert not nap.sleepers()
    assert await rig.out("echo again") == "again"
    assert rig.connector.attempts == 1


@pytest.mark.root
@pytest.mark.parametrize("end", [by_timeout, by_scope])
async def test_a_user_who_is_not_root_leaves_nothing(
    server: OpenSSHServer, tmp_path: Path, second_user: TemporaryUser, nap: Nap, end: Any
) -> None:
    """It needs no rights but the user's own."""
    async with Rig(server, tmp_path, limits=LIMITS, user=second_user.name) as rig:
        await end(rig, COMMANDS["with a child in a session of its own"].replace("NAP", str(nap)))

        assert not nap.sleepers()
        assert rig.connector.attempts == 1


@pytest.mark.root
@pytest.mark.parametrize(
    "kind", ["alone", "with an orphan in a session of its own", "ignoring TERM"]
)
async def test_a_command_behind_sudo_leaves_nothing(
    server: OpenSSHServer,
    tmp_path: Path,
    sudoer: TemporaryUser,
    second_user: TemporaryUser,
    nap: Nap,
    kind: str,
) -> None:
    """What runs as another user is ended as that user."""
    command = COMMANDS[kind].replace("NAP", str(nap))
    async with Rig(server, tmp_path, limits=LIMITS, user=sudoer.name) as rig:
        await by_timeout(rig, command, user=second_user.name, sudo_user=second_user.name)
        assert not nap.sleepers()

        await by_scope(rig, command, user="root", sudo_user="root")
        assert not nap.sleepers()
        assert rig.connector.attempts == 1


@pytest.mark.root
async def test_a_command_that_itself_becomes_root_leaves_nothing(
    server: OpenSSHServer, tmp_path: Path, sudoer: TemporaryUser, nap: Nap
) -> None:
    """What a command does by `sudo` is beyond its user's reach, and ended by `sudo` as well."""
    async with Rig(server, tmp_path, limits=LIMITS, user=sudoer.name) as rig:
        await by_timeout(rig, f"sudo setsid {nap} & echo ready; sudo {nap}")

        assert not nap.sleepers()


@pytest.mark.slow
@pytest.mark.root
async def test_what_can_not_be_ended_is_named(
    server: OpenSSHServer, tmp_path: Path, second_user: TemporaryUser, nap: Nap
) -> None:
    """Where the rights are missing, the error says which processes are left."""
    resisting = "/usr/bin/env --ignore-signal=TERM"
    with sudo_rights(second_user.name, f"ALL=(root) NOPASSWD: {resisting} *"):
        async with Rig(server, tmp_path, limits=LIMITS, user=second_user.name) as rig:
            with pytest.raises(CommandTimeout, match=r"could be ended: process ids \d+") as caught:
                await rig.run(f"sudo -n {resisting} {nap}", timeout=0.4)

    (left,) = nap.sleepers()
    assert str(left.pid) in caught.value.leftover


async def test_a_login_that_hangs_is_ended_too(tmp_path: Path, nap: Nap) -> None:
    """A start file that never ends keeps the command from beginning; no process of it is left."""
    async with (
        OpenSSHServer(tmp_path) as server,
        Rig(server, tmp_path, limits=LIMITS) as rig,
    ):
        await rig.out("true")
        (server.home / ".bashrc").write_text(f"[ -e ~/done ] && return; touch ~/done; {nap}\n")
        with pytest.raises(CommandTimeout):
            await rig.run("echo never", timeout=0.3)

        assert not nap.sleepers()
        assert not server.commands()


async def test_thirty_timeouts_in_a_row_leave_the_connection_usable(rig: Rig) -> None:
    """Every channel is free again: more timeouts than sessions, over one connection."""
    for _ in range(30):
        with pytest.raises(CommandTimeout):
            await rig.run("sleep 60", timeout=0.02)

    assert await rig.out("echo usable") == "usable"
    assert rig.connector.attempts == 1


async def test_many_timeouts_at_once_leave_the_connection_usable(rig: Rig, nap: Nap) -> None:
    """As many commands as there are channels are ended at the same time."""

    async def one() -> None:
        with pytest.raises(CommandTimeout):
            await rig.run(f"{nap} & {nap}", timeout=0.5)

    async with anyio.create_task_group() as tasks:
        for _ in range(rig.limits.max_channels):
            tasks.start_soon(one)

    assert not nap.sleepers()
    assert await rig.out("echo usable") == "usable"
    assert rig.connector.attempts == 1


async def test_a_command_that_has_exited_in_time_is_not_timed_out(rig: Rig, nap: Nap) -> None:
    """What its background child holds open is waited for, but that is not the command's time."""
    result = await rig.run(f"{nap} & echo x", timeout=0.2)

    assert (result.stdout, result.exit_code) == ("x\n", 0)
    assert nap.sleepers()


async def test_a_timeout_brings_the_output_so_far(rig: Rig) -> None:
    """The error holds what the command had said, last words included, and no exit code."""
    with pytest.raises(CommandTimeout) as caught:
        await rig.run("trap 'echo last words; exit' TERM; echo so far; sleep 60", timeout=0.3)

    assert caught.value.result.stdout == "so far\nlast words\n"
    assert caught.value.result.exit_code is None
    assert isinstance(caught.value, TimeoutError)


async def test_a_command_gets_the_grace_to_end_by_itself(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """TERM comes first, and KILL only `kill_grace` later."""
    async with Rig(server, tmp_path, limits=replace(LIMITS, kill_grace=5)) as rig:
        with pytest.raises(CommandTimeout) as caught:
            await rig.run(
                "trap 'sleep 0.5; echo saved; exit' TERM; while :; do sleep 0.1; done", timeout=0.3
            )

    assert caught.value.result.stdout == "saved\n"


async def test_a_slow_end_on_one_host_keeps_no_other_waiting(rig: Rig, nap: Nap) -> None:
    """While one host's command resists, another host's run goes on."""
    other = rig.on(rig.server.hosts(2)[1], 2)
    await rig.out("true", target=other)
    ended: list[float] = []

    async def resist() -> None:
        with pytest.raises(CommandTimeout):
            await rig.run(COMMANDS["ignoring TERM"].replace("NAP", str(nap)), timeout=0.2)
        ended.append(time.monotonic())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(resist)
        await eventually(nap.sleepers)
        for _ in range(3):
            await rig.out("true", target=other)
        done = time.monotonic()

    assert ended[0] > done


async def test_a_run_cancelled_while_it_waits_for_a_channel_starts_nothing(
    rig: Rig, nap: Nap
) -> None:
    """Who is cancelled in the queue leaves it, and his command never runs."""
    async with anyio.create_task_group() as tasks:
        for _ in range(rig.limits.max_channels):
            tasks.start_soon(rig.run, f"{nap}")
        await eventually(lambda: len(nap.sleepers()) == rig.limits.max_channels)
        other = Nap()
        with anyio.move_on_after(0.2) as scope:
            await rig.run(str(other))
        assert scope.cancelled_caught
        assert not other.sleepers()
        tasks.cancel_scope.cancel()

    assert not nap.sleepers()


async def test_cancelling_at_any_moment_leaves_nothing(rig: Rig, nap: Nap) -> None:
    """Before, during and after the request for a session: no process is ever left."""
    await rig.out("true")
    for step in range(12):
        with anyio.move_on_after(step * 0.001):
            await in_child(rig.run(str(nap)))
        assert not nap.sleepers()

    assert await rig.out("echo usable") == "usable"
    assert rig.connector.attempts == 1


@pytest.mark.slow
async def test_cancelling_a_bare_task_at_any_moment_leaves_nothing(rig: Rig) -> None:
    """Cancellation by asyncio passes anyio's shields: even so no process is left."""
    for step in range(40):
        nap = Nap()
        task = asyncio.create_task(rig.run(str(nap)))
        await anyio.sleep(step * 0.0001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await rig.out("true")  # what was asked for before this has begun by now
        assert not nap.sleepers()
