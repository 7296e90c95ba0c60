"""Connections that end in the middle: never a quiet result, and nothing left behind."""

from __future__ import annotations

import logging
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async.errors import CommandTimeout, ConnectError, ConnectionLost, ExperimentClosed
from precip_async.limits import Limits
from tests.peers import ChoppyProxy
from tests.polling import eventually
from tests.servers import OpenSSHServer
from tests.ssh.rig import Nap, Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = pytest.mark.sshd

LIMITS = Limits(keepalive=0.2, keepalive_count=2, connect_timeout=3, kill_grace=1, close_grace=1)


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[OpenSSHServer]:
    """A server that may be harmed."""
    async with OpenSSHServer(tmp_path) as server:
        yield server


@pytest.fixture
async def rig(own: OpenSSHServer, tmp_path: Path) -> AsyncIterator[Rig]:
    """A pool against it that notices soon."""
    async with Rig(own, tmp_path, limits=LIMITS) as rig:
        yield rig


async def losing(rig: Rig, command: str, **settings: Any) -> ConnectionLost:
    """Run `command`, which is to lose its connection; the error."""
    with anyio.fail_after(20), pytest.raises(ConnectionLost) as caught:
        await rig.run(command, **settings)
    return caught.value


@pytest.mark.parametrize("command", ["echo started; NAP", "echo started; setsid NAP & NAP"])
async def test_a_lost_connection_is_no_result_and_nothing_is_left(
    rig: Rig, own: OpenSSHServer, command: str
) -> None:
    """A killed session raises at once; what it was doing is ended by the next connection."""
    nap = Nap()
    errors: list[ConnectionLost] = []

    async def run() -> None:
        errors.append(await losing(rig, command.replace("NAP", str(nap))))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await eventually(nap.sleepers)
        own.kill_sessions()

    assert "nobody knows how it ended" in str(errors[0])
    assert "i-1" in str(errors[0])
    assert nap.sleepers(), "the test is of no use: sshd's end took the command along"
    assert await rig.out("echo again") == "again"
    assert not nap.sleepers()
    assert rig.connector.attempts == 2


async def test_a_command_that_had_exited_before_keeps_its_result(
    rig: Rig, own: OpenSSHServer
) -> None:
    """Only what was under way is lost."""
    assert await rig.out("echo one") == "one"
    own.kill_sessions()

    assert await rig.out("echo two") == "two"


async def test_all_commands_of_a_lost_connection_hear_of_it(rig: Rig, own: OpenSSHServer) -> None:
    """Each of many commands over one connection raises, and one new connection does for all."""
    nap = Nap()
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(losing, rig, str(nap))
        await eventually(lambda: len(nap.sleepers()) == 5)
        own.kill_sessions()

    await rig.out("true")
    assert not nap.sleepers()
    assert rig.connector.attempts == 2


async def test_a_peer_that_falls_silent_is_lost(rig: Rig, own: OpenSSHServer) -> None:
    """A frozen server answers no keepalive: a run raises, and does not wait for ever."""
    nap = Nap()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(losing, rig, str(nap))
        await eventually(nap.sleepers)
        own.freeze()

    await rig.out("true")
    assert not nap.sleepers()


async def test_a_peer_that_is_frozen_when_a_command_is_asked_for_is_given_up(
    rig: Rig, own: OpenSSHServer
) -> None:
    """A request for a session that nobody answers is made again, over a new connection."""
    await rig.out("true")
    own.freeze()

    with anyio.fail_after(10):
        assert await rig.out("echo after all") == "after all"
    assert rig.connector.attempts == 2


async def test_a_frozen_peer_without_keepalives_is_given_up_too(
    own: OpenSSHServer, tmp_path: Path
) -> None:
    """The request for a session has a limit of its own, and what it started is not known."""
    limits = replace(LIMITS, keepalive=60, connect_timeout=1)
    async with Rig(own, tmp_path, limits=limits) as rig:
        await rig.out("true")
        own.freeze()

        error = await losing(rig, "echo never")

        assert "does not answer" in str(error)
        assert await rig.out("echo again") == "again"


async def timed_out_when_frozen(
    own: OpenSSHServer,
    directory: Path,
    command: str,
    when: Callable[[], object],
    **limits: float,
) -> CommandTimeout:
    """What comes of `command`, which has time to begin, with a peer that is frozen at `when`."""
    errors: list[CommandTimeout] = []
    bounds = replace(LIMITS, kill_grace=8, **limits)  # type: ignore[arg-type]  # of any type
    async with Rig(own, directory, limits=bounds) as rig:

        async def run() -> None:
            with anyio.fail_after(40), pytest.raises(CommandTimeout) as caught:
                await rig.run(command, timeout=3)
            errors.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await eventually(when)
            own.freeze()
            await anyio.Path(directory, "frozen").touch()
    return errors[0]


async def test_a_timeout_on_a_frozen_peer_is_seen_to_over_a_new_connection(
    own: OpenSSHServer, tmp_path: Path
) -> None:
    """What can't be ended over the old connection is ended, and verified, over a new one."""
    nap = Nap()

    error = await timed_out_when_frozen(own, tmp_path, str(nap), nap.sleepers, keepalive=60)

    assert error.leftover == ""
    assert not nap.sleepers()


async def test_a_peer_that_freezes_while_a_command_is_ended_is_asked_anew(
    own: OpenSSHServer, tmp_path: Path
) -> None:
    """Who was to say whether anything is left is not heard any more: a new connection says it."""
    told, frozen = tmp_path / "told", tmp_path / "frozen"
    command = f"trap 'touch {told}' TERM; until [ -e {frozen} ]; do sleep 0.1; done"

    # Silence is counted in questions: a machine that is busy asks fewer of them in the same time.
    silence = {"keepalive": 0.1, "keepalive_count": 20}
    error = await timed_out_when_frozen(own, tmp_path, command, told.exists, **silence)

    assert error.leftover == ""


async def test_a_connection_cut_on_the_way_is_no_result(own: OpenSSHServer, tmp_path: Path) -> None:
    """A reset in the middle of the output raises, and the output is not taken for whole."""
    async with (
        ChoppyProxy(own.host, own.port) as proxy,
        Rig(own, tmp_path, limits=LIMITS, port=proxy.port) as rig,
    ):
        await rig.out("true")
        proxy.cut_after = proxy.forwarded + 300_000

        await losing(rig, "head -c 5000000 /dev/zero")

        proxy.cut_after = None
        assert await rig.out("echo again") == "again"


@pytest.mark.parametrize("answers", [1, 60], ids=["before the yes", "after the yes"])
async def test_a_command_is_asked_for_again_only_if_it_was_never_started(
    own: OpenSSHServer, tmp_path: Path, answers: int
) -> None:
    """Cut before the server's yes to a session: asked again. Cut after it: perhaps it has run."""
    done = tmp_path / "done"
    async with (
        ChoppyProxy(own.host, own.port) as proxy,
        Rig(own, tmp_path, limits=LIMITS, port=proxy.port) as rig,
    ):
        await rig.out("true")
        proxy.cut_after = proxy.forwarded + answers  # the yes has about 50 bytes

        async def mend() -> None:
            await eventually(lambda: proxy.open == 0)
            proxy.cut_after = None

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mend)
            if answers == 1:
                await rig.out(f"echo x >>{done}")
                assert done.read_text() == "x\n"
            else:
                await losing(rig, f"echo x >>{done}")
                assert not done.exists() or done.read_text() == "x\n"


async def test_a_server_that_is_gone_when_debts_are_due_is_no_hindrance(
    rig: Rig, own: OpenSSHServer
) -> None:
    """As long as nobody answers, what is left is remembered; then it is ended."""
    nap = Nap()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(losing, rig, str(nap))
        await eventually(nap.sleepers)
        own.kill_sessions()
    listener = own._listener
    assert listener is not None
    listener.kill()
    listener.wait()

    with pytest.raises(ConnectError, match="no SSH server listens there"):
        await rig.reach(rig.target, 1)
    own.start()

    assert await rig.out("echo again") == "again"
    assert not nap.sleepers()


@pytest.mark.in_process
async def test_what_is_owed_is_owed_by_this_boot(rig: Rig, own: OpenSSHServer) -> None:
    """After the next one, the group that has the number is somebody else's."""
    boot = (await anyio.Path("/proc/sys/kernel/random/boot_id").read_text()).strip()
    nap = Nap()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(losing, rig, str(nap))
        await eventually(nap.sleepers)
        own.kill_sessions()

    (lines,) = rig.pool._slot(rig.target).debts
    assert boot in lines[0].split()[-1]
    assert await rig.out("echo again") == "again"
    assert not nap.sleepers()


@pytest.mark.in_process
async def test_what_a_next_connection_can_not_end_is_warned_of(
    rig: Rig, own: OpenSSHServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the connection is used all the same."""
    await rig.out("true")
    rig.pool._slot(rig.target).debts.append(("exit 9",))
    own.kill_sessions()

    with caplog.at_level(logging.WARNING, "precip_async"):
        await rig.out("true")

    assert "could be ended" in caplog.text
    assert not rig.pool._slot(rig.target).debts


async def test_closing_the_pool_cuts_off_what_runs(rig: Rig) -> None:
    """Who still runs something over a closed pool hears of it, in bounded time."""
    nap = Nap()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(losing, rig, str(nap))
        await eventually(nap.sleepers)
        with anyio.fail_after(10):
            await rig.remote.aclose()

    with pytest.raises(ExperimentClosed):
        await rig.run("true")
    for process in nap.sleepers():
        process.signal(signal.SIGKILL)


async def test_closing_a_connection_to_a_frozen_peer_takes_no_longer_than_its_grace(
    rig: Rig, own: OpenSSHServer
) -> None:
    """A peer that does not even acknowledge the end is left."""
    await rig.out("true")
    own.freeze()

    with anyio.fail_after(2 * LIMITS.close_grace + 1):
        await rig.remote.aclose()
