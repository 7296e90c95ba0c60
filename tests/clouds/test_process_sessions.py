"""Sessions on machines of the process isolation, as OpenSSH's clients and ours see them."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import asyncssh
import pytest

from precip_async.clouds.local import process_login
from tests import processes
from tests.clouds.process_yard import USER_KEY, child_yard, open_lot
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from precip_async.clouds.local.process_ssh import Server, Session
    from tests.clouds.process_yard import Box, Lot

MEBI = 1024 * 1024
both = pytest.mark.parametrize("private", [True, False], ids=["space", "shared"])


@pytest.fixture(params=[True, False], ids=["space", "shared"])
async def lot(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lot]:
    """An open yard of either kind."""
    async with open_lot(tmp_path, private=request.param) as opened:
        yield opened


@pytest.fixture
async def box(lot: Lot) -> Box:
    """A machine."""
    return await lot.start()


@pytest.fixture
async def connection(box: Box) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """A connection to it."""
    async with box.connect() as opened:
        yield opened


def named(box: Box, name: str) -> list[processes.Process]:
    """The machine's processes of that name."""
    return [process for process in box.living() if process.name == name]


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def sessions(lot: Lot, box: Box) -> set[Session]:
    """The sessions that the machine's server has open."""
    machine = lot.yard._machines[box.spec.id]
    return {
        one for conn in machine.connections for one in cast("Server", conn.get_owner()).sessions
    }


async def test_exit_codes_arrive(connection: asyncssh.SSHClientConnection) -> None:
    """A command's exit code is the client's, whichever it is."""
    for code in (0, 1, 3, 126, 137, 255):
        assert (await connection.run(f"exit {code}")).exit_status == code


async def test_death_by_a_signal_is_told_by_its_name(
    connection: asyncssh.SSHClientConnection,
) -> None:
    """A command that a signal ends has no exit status but the signal's name."""
    for name in ("KILL", "TERM", "SEGV"):
        ran = await connection.run(f"ulimit -c 0; kill -{name} $$")
        assert ran.exit_signal is not None
        assert ran.exit_signal[0] == name


async def test_a_signal_without_a_name_in_ssh_is_told_as_openssh_does(
    connection: asyncssh.SSHClientConnection,
) -> None:
    """The protocol names thirteen signals; of another it is only said that there was one."""
    ran = await connection.run("ulimit -c 0; kill -XCPU $$")

    assert ran.exit_signal is not None
    assert ran.exit_signal[0] == "SIG@openssh.com"


async def test_every_byte_passes_both_ways(connection: asyncssh.SSHClientConnection) -> None:
    """Input comes back as it was, whatever bytes it holds, and the end of input is seen."""
    data = os.urandom(3 * MEBI)

    ran = await connection.run("cat", input=data, encoding=None)

    assert ran.stdout == data


async def test_a_command_need_not_be_utf8(connection: asyncssh.SSHClientConnection) -> None:
    """Bytes of a command that are no text, as in a file's name, reach the shell as they are."""
    command = cast("str", b"printf '%s' 'caf\xe9'")  # it takes bytes as well
    process = await connection.create_process(command, encoding=None)

    assert await process.stdout.read() == b"caf\xe9"


async def test_a_command_that_no_process_can_have_is_refused(
    connection: asyncssh.SSHClientConnection,
) -> None:
    """A zero byte ends no connection, only the request."""
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.run("echo \0")

    assert (await connection.run("echo on")).stdout == "on\n"


async def test_the_two_outputs_are_told_apart(connection: asyncssh.SSHClientConnection) -> None:
    """What a command writes to stderr does not arrive among its stdout."""
    ran = await connection.run("echo out; echo err >&2")

    assert (ran.stdout, ran.stderr) == ("out\n", "err\n")


async def test_large_output_arrives_whole(connection: asyncssh.SSHClientConnection) -> None:
    """64 MiB on stdout and as much on stderr, at once, lose nothing."""
    size = 64 * MEBI
    ran = await connection.run(
        f"head -c {size} /dev/zero >&2 & head -c {size} /dev/zero; wait", encoding=None
    )

    assert (len(ran.stdout or b""), len(ran.stderr or b"")) == (size, size)


@pytest.mark.slow
@both
async def test_a_gibibyte_of_output_costs_no_memory(tmp_path: Path, private: bool) -> None:
    """The server's memory stays what it was, also while the client does not read."""
    with child_yard(tmp_path, private=private) as child:
        await child.box.run("head -c 1000000 /dev/zero > /dev/null")
        before = child.peak()
        async with child.box.connect(encoding=None, compression_algs=["none"]) as connection:
            stuck = await connection.create_process(
                "head -c 1G /dev/zero", stdout=asyncssh.PIPE, encoding=None
            )
            ran = await connection.run("head -c 1G /dev/zero", stdout=asyncssh.DEVNULL, check=True)
            assert ran.exit_status == 0
            stuck.close()

        assert child.peak() - before < 24 * MEBI


async def test_a_process_waits_for_a_client_that_does_not_read(
    lot: Lot, box: Box, connection: asyncssh.SSHClientConnection
) -> None:
    """Output that nobody takes is kept by the process that makes it, not by the server."""
    process = await connection.create_process("head -c 64M /dev/zero; echo", encoding=None)
    (session,) = sessions(lot, box)
    await eventually(lambda: session._channel.get_write_buffer_size() > 0, "a full channel")

    assert session._channel.get_write_buffer_size() < MEBI
    assert named(box, "head")
    assert len(await process.stdout.read()) == 64 * MEBI + 1


async def test_a_client_waits_for_a_process_that_does_not_read(
    lot: Lot, box: Box, connection: asyncssh.SSHClientConnection
) -> None:
    """Input that nobody takes stays with the client, and reaches the process when it reads."""
    process = await connection.create_process("wc -c", encoding=None)
    (counter,) = await eventually(lambda: named(box, "wc"), "a process that counts")
    (session,) = sessions(lot, box)
    counter.signal(signal.SIGSTOP)
    process.stdin.write(b"x" * 16 * MEBI)
    process.stdin.write_eof()
    await eventually(lambda: session._watch is not None, "a client that is held")

    assert len(session._inlet._waiting) < 3 * MEBI
    counter.signal(signal.SIGCONT)
    with anyio.fail_after(20):
        assert (await process.stdout.read()).split() == [str(16 * MEBI).encode()]


async def test_a_held_client_that_leaves_frees_its_channel(
    lot: Lot, box: Box, connection: asyncssh.SSHClientConnection
) -> None:
    """A client that closes a channel while the server makes it wait is noticed all the same."""
    process = await connection.create_process("exec sleep 300", encoding=None)
    (session,) = sessions(lot, box)
    process.stdin.write(b"x" * 8 * MEBI)
    await eventually(lambda: session._watch is not None, "a client that is held")

    process.channel.abort()

    await eventually(lambda: not sessions(lot, box), "the end of the session")
    assert named(box, "sleep")


async def test_a_process_that_closes_its_input_does_not_stop_the_client(
    connection: asyncssh.SSHClientConnection,
) -> None:
    """Input for who reads no more is thrown away, and the exit code arrives."""
    ran = await connection.run("exec < /dev/null; sleep 0.1; exit 7", input="x" * 4 * MEBI)

    assert ran.exit_status == 7


async def test_the_exit_status_does_not_wait_for_background_output(
    box: Box, connection: asyncssh.SSHClientConnection
) -> None:
    """The status comes when the command exits; the channel ends when nobody can write any more."""
    process = await connection.create_process("sleep 300 & echo $!; exit 4")
    pid = (await process.stdout.readline()).strip()
    await eventually(lambda: process.exit_status is not None, "the exit status", within=5)

    assert process.exit_status == 4
    assert not process.stdout.at_eof()
    assert named(box, "sleep")
    await connection.run(f"kill {pid}", check=True)
    with anyio.fail_after(5):
        assert await process.stdout.read() == ""
        await process.wait_closed()


async def test_output_after_the_exit_still_arrives(
    connection: asyncssh.SSHClientConnection,
) -> None:
    """What a background child writes after the command has exited is delivered."""
    ran = await connection.run("(sleep 0.2; echo late) & exit 0")

    assert (ran.exit_status, ran.stdout) == (0, "late\n")


async def test_a_closed_channel_ends_no_process(
    lot: Lot, box: Box, connection: asyncssh.SSHClientConnection
) -> None:
    """Closing a channel, and sending it a signal, leave the command running."""
    process = await connection.create_process("echo up; exec sleep 300")
    await process.stdout.readline()
    process.send_signal("KILL")
    process.close()
    await process.wait_closed()
    await eventually(lambda: not sessions(lot, box), "the end of the session")

    assert named(box, "sleep")


async def test_a_lost_client_leaves_nothing_in_the_server(lot: Lot, box: Box) -> None:
    """Clients that vanish in mid-command leave no session, connection or descriptor behind."""
    machine = lot.yard._machines[box.spec.id]
    await box.run("true")
    counts = set()
    for _ in range(3):
        connection = await box.connect()
        for command in ("cat /dev/zero", "cat", "sleep 300 & echo x", "yes >&2"):
            await connection.create_process(command, encoding=None)
        connection.abort()
        await connection.wait_closed()
        await eventually(lambda: not machine.connections, "the end of the connection")
        processes.end(named(box, "sleep"))
        await eventually(lambda: not machine._children, "the end of what it ran")
        counts.add(descriptors())

    assert len(counts) == 1


async def test_a_connection_has_ten_sessions(
    lot: Lot, box: Box, connection: asyncssh.SSHClientConnection
) -> None:
    """As with OpenSSH's MaxSessions the eleventh is refused, until one of the ten has closed."""
    held = [await connection.create_process("cat") for _ in range(10)]
    with pytest.raises(asyncssh.ChannelOpenError, match="open failed"):
        await connection.run("true")

    held[0].stdin.write_eof()
    await held[0].wait_closed()
    await eventually(lambda: len(sessions(lot, box)) == 9, "room for one more")

    assert (await connection.run("exit 5")).exit_status == 5


async def test_many_sessions_come_and_go(connection: asyncssh.SSHClientConnection) -> None:
    """Two hundred short commands, eight at once, each get their own answer."""
    limiter = anyio.CapacityLimiter(8)

    async def ask() -> None:
        token = secrets.token_hex(8)
        async with limiter:
            ran = await connection.run(f"cat; echo {token}; exit 9", input=token)
        assert (ran.stdout, ran.exit_status) == (f"{token}{token}\n", 9)

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(ask)


async def test_an_environment_of_its_own(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session finds a login's variables and the mark, nothing of ours but the language."""
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("LEAK", "ours")
    sent = {"LC_ALL": "C", "LD_PRELOAD": "/evil.so", "FOO": "bar"}
    told = await box.run("env", env=sent)
    found = dict(line.partition("=")[::2] for line in told.splitlines())

    assert found["PRECIP_INSTANCE"] == box.spec.id
    assert (found["USER"], found["LOGNAME"], found["HOME"]) == ("root", "root", found["PWD"])
    assert (found["LANG"], found["LC_ALL"]) == ("C.UTF-8", "C")
    assert "/usr/bin" in found["PATH"].split(":")
    assert "/usr/sbin" in found["PATH"].split(":")
    assert found["SSH_CONNECTION"].split()[2:] == [
        box.placement.public_address,
        str(box.placement.ssh_port),
    ]
    assert not {"LEAK", "LD_PRELOAD", "FOO", "OLDPWD"} & found.keys()


async def test_no_descriptor_of_the_server_is_inherited(box: Box) -> None:
    """A command has its three streams and nothing else open."""
    assert (await box.run("sh -c 'ls /proc/$$/fd'")).split() == ["0", "1", "2"]


async def test_sessions_start_with_the_limits_of_a_login(lot: Lot, box: Box) -> None:
    """Our own raised limit of open files is not a command's, nor our umask."""
    before = os.umask(0o077)
    try:
        assert await box.run("ulimit -S -n; umask") == f"{lot.yard._open_files}\n0022"
    finally:
        os.umask(before)


async def test_each_user_has_a_home(box: Box) -> None:
    """Whatever name somebody logs in by, there is a home of that name, and it persists."""
    await box.run("echo mine > file", user="alice")

    assert await box.run('cat "$HOME/file"; echo $USER', user="alice") == "mine\nalice"
    assert await box.run("ls", user="bob") == ""


async def test_no_command_means_a_login_shell(connection: asyncssh.SSHClientConnection) -> None:
    """A shell without a terminal reads commands from its input."""
    ran = await connection.run(
        None, input="shopt -q login_shell && echo login $((40 + 2))\nexit 6\n"
    )

    assert (ran.stdout, ran.exit_status) == ("login 42\n", 6)


async def test_a_terminal_is_given_to_who_asks(connection: asyncssh.SSHClientConnection) -> None:
    """With a pty the command has a controlling terminal of the size and type that was asked for."""
    ran = await connection.run(
        "test -t 0 && test -t 2 && stty size && echo $TERM && echo ok > /dev/tty",
        term_type="vt100",
        term_size=(101, 41),
    )

    assert ran.stdout == "41 101\r\nvt100\r\nok\r\n"


async def test_a_terminal_follows_its_window(connection: asyncssh.SSHClientConnection) -> None:
    """A change of the client's window reaches the terminal."""
    process = await connection.create_process(
        "read -r _; stty size", term_type="vt100", term_size=(80, 24)
    )
    process.change_terminal_size(120, 50)
    process.stdin.write("\n")

    assert "50 120" in await process.stdout.read()


async def test_a_terminal_that_closes_hangs_up(
    box: Box, connection: asyncssh.SSHClientConnection
) -> None:
    """Unlike pipes, a terminal takes its processes along: the kernel sends them SIGHUP."""
    process = await connection.create_process("echo up; exec sleep 300", term_type="vt100")
    await process.stdout.readline()
    process.close()

    await eventually(lambda: not named(box, "sleep"), "a hangup")


async def test_sftp_means_the_same_paths(
    box: Box, connection: asyncssh.SSHClientConnection
) -> None:
    """A file that a command has written is where SFTP says it is, and the other way round."""
    await connection.run("echo from > ~/a-command", check=True)
    home = await box.run("pwd")
    async with connection.start_sftp_client() as sftp:
        assert await sftp.realpath(".") == home
        async with sftp.open(f"{home}/by-sftp", "w") as file:
            await file.write("through sftp")
        names = await sftp.listdir(home)

    assert {"a-command", "by-sftp"} <= set(names)
    assert await box.run("cat by-sftp") == "through sftp"


async def test_without_an_sftp_server_the_subsystem_is_refused(
    connection: asyncssh.SSHClientConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no sftp-server, SFTP is refused and commands go on."""
    monkeypatch.setattr(process_login, "SFTP_SERVERS", ())
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.start_sftp_client()

    assert (await connection.run("echo on")).stdout == "on\n"


async def test_a_session_that_cant_be_started_is_refused(
    lot: Lot,
    box: Box,
    connection: asyncssh.SSHClientConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no process can be started the client hears it, and the connection lives on."""
    machine = lot.yard._machines[box.spec.id]

    def full(*_args: Any) -> Any:
        raise BlockingIOError(11, "no more processes")

    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(machine, "run", full)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.run("true")

    assert descriptors() == before
    assert (await connection.run("echo on")).stdout == "on\n"


async def test_forwarding_is_refused(connection: asyncssh.SSHClientConnection) -> None:
    """A machine is not a way into the rest of this computer's network."""
    with pytest.raises(asyncssh.ChannelOpenError):
        await connection.open_connection("127.0.0.1", 1)


async def test_a_stopped_command_reports_its_exit_once_continued(
    box: Box, connection: asyncssh.SSHClientConnection
) -> None:
    """SIGSTOP and SIGCONT to a command's own shell do not lose its exit code."""
    process = await connection.create_process("echo $$; kill -STOP $$; exit 5")
    pid = (await process.stdout.readline()).strip()
    await eventually(lambda: any(one.state == "T" for one in box.living()), "a stopped shell")

    await connection.run(f"kill -CONT {pid}", check=True)

    with anyio.fail_after(5):
        await process.wait()
    assert process.exit_status == 5


async def test_openssh_gets_along(box: Box, tmp_path: Path) -> None:
    """OpenSSH's own client checks the host key, logs in, and gets output and exit code."""
    if not (ssh := shutil.which("ssh")):
        pytest.skip("there is no OpenSSH client here")
    placement, key = box.placement, box.host_key.export_public_key().decode()
    identity, known = tmp_path / "identity", tmp_path / "known"
    await anyio.Path(identity).touch(mode=0o600)
    await anyio.Path(identity).write_bytes(USER_KEY.export_private_key())
    await anyio.Path(known).write_text(f"[{placement.public_address}]:{placement.ssh_port} {key}")
    ran = await anyio.run_process(
        [
            *(ssh, "-F", "none", "-i", str(identity), "-p", str(placement.ssh_port)),
            *("-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"),
            *("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"),
            f"root@{placement.public_address}",
            "cat; echo err >&2; exit 3",
        ],
        input=b"through ssh",
        check=False,
        stderr=subprocess.PIPE,
    )

    assert (ran.returncode, ran.stdout) == (3, b"through ssh")
    assert ran.stderr.endswith(b"err\n")
