"""The servers that other tests trust: they listen, let the right ones in, and leave nothing."""

from __future__ import annotations

import asyncio
import pwd
import socket
import sys
from typing import TYPE_CHECKING

import asyncssh
import pytest

from tests import processes
from tests.polling import eventually
from tests.servers import SUDOERS, OpenSSHServer, make_key, sudo_rights, temporary_user
from tests.sources import ROOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.servers import TemporaryUser

pytestmark = pytest.mark.sshd


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[OpenSSHServer]:
    async with OpenSSHServer(tmp_path) as running:
        yield running


async def connect(
    server: OpenSSHServer, *, user: str | None = None, host: str | None = None
) -> asyncssh.SSHClientConnection:
    """A connection to `server` that checks its host key."""
    host_key = asyncssh.import_public_key(server.host_public_key)
    return await asyncssh.connect(
        host or server.host,
        server.port,
        username=user or server.user,
        client_keys=[str(server.client_key_path)],
        known_hosts=([host_key], [], []),
        config=None,
        agent_path=None,
    )


async def test_a_server_runs_commands_for_its_key(server: OpenSSHServer) -> None:
    """Who has the client key runs commands, in a HOME that holds nobody's settings."""
    async with await connect(server) as connection:
        ran = await connection.run("echo $HOME; ls -A $HOME", check=True)

    assert ran.stdout == f"{server.home}\n"


async def test_a_server_refuses_other_keys(server: OpenSSHServer, tmp_path: Path) -> None:
    """A key that nobody authorised is refused."""
    make_key(tmp_path / "stranger")
    server.client_key_path = tmp_path / "stranger"

    with pytest.raises(asyncssh.PermissionDenied):
        await connect(server)


async def test_authorized_keys_are_let_in(tmp_path: Path) -> None:
    """A key given as authorised is let in as well as the server's own."""
    line = make_key(tmp_path / "guest")
    async with OpenSSHServer(tmp_path, authorized_keys=[line]) as server:
        server.client_key_path = tmp_path / "guest"
        async with await connect(server) as connection:
            ran = await connection.run("echo in", check=True)

    assert ran.stdout == "in\n"


async def test_one_server_plays_many_hosts(tmp_path: Path) -> None:
    """A server on 0.0.0.0 is reached at each of its loopback addresses."""
    async with OpenSSHServer(tmp_path, address="0.0.0.0") as server:
        for host in server.hosts(300)[::150]:
            async with await connect(server, host=host) as connection:
                ran = await connection.run("echo $SSH_CONNECTION", check=True)
                assert str(ran.stdout).split()[2] == host


async def test_max_sessions_is_the_servers(tmp_path: Path) -> None:
    """A server made with two sessions a connection refuses the third."""
    server = OpenSSHServer(tmp_path, max_sessions=2)
    async with server, await connect(server) as connection:
        for _ in range(2):
            await connection.create_process("sleep 60")
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process("sleep 60")


async def test_host_key_types_are_as_asked(tmp_path: Path) -> None:
    """Each kind of host key asked for is made, in that order."""
    async with OpenSSHServer(tmp_path, host_key_types=("ecdsa", "rsa", "ed25519")) as server:
        kinds = [key.split()[0] for key in server.host_public_keys]

    assert kinds == ["ecdsa-sha2-nistp256", "ssh-rsa", "ssh-ed25519"]


async def test_killed_sessions_lose_their_connections_and_leave_their_commands(
    server: OpenSSHServer,
) -> None:
    """Killing the sessions ends the connections; the server takes new ones, commands live on."""
    async with await connect(server) as connection:
        await connection.create_process("sleep 60")
        await eventually(server.commands, "the command runs")
        server.kill_sessions()
        await asyncio.wait_for(connection.wait_closed(), 10)

    assert server.commands()
    assert not server.sessions()
    async with await connect(server) as again:
        await again.run("true", check=True)


async def test_a_frozen_server_answers_when_thawed(server: OpenSSHServer) -> None:
    """A frozen session says nothing; what was asked meanwhile is answered after the thaw."""
    async with await connect(server) as connection:
        server.freeze()
        asked = asyncio.create_task(connection.run("echo still here", check=True))
        assert not (await asyncio.wait([asked], timeout=0.3))[0]
        server.thaw()
        ran = await asyncio.wait_for(asked, 10)

    assert ran.stdout == "still here\n"


async def test_a_restarted_server_is_the_same_machine(server: OpenSSHServer) -> None:
    """After a restart: the same port and host key, and nothing of what ran before."""
    port, key = server.port, server.host_public_key
    async with await connect(server) as connection:
        await connection.create_process("setsid sleep 60")
        await eventually(server.commands, "the command runs")
        await asyncio.to_thread(server.restart)
        await asyncio.wait_for(connection.wait_closed(), 10)

    assert (server.port, server.host_public_key) == (port, key)
    assert not server.commands()
    async with await connect(server) as again:
        await again.run("true", check=True)


async def test_renewed_host_keys_are_other_ones(server: OpenSSHServer) -> None:
    """A server restarted with renewed host keys is not taken for the one it was."""
    known = asyncssh.import_public_key(server.host_public_key)
    server.renew_host_keys()
    await asyncio.to_thread(server.restart)

    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await asyncssh.connect(
            server.host, server.port, known_hosts=([known], [], []), config=None, agent_path=None
        )


async def test_stopping_leaves_nothing(tmp_path: Path) -> None:
    """A stopped server leaves no listener, and no process of its sessions in any session."""
    async with OpenSSHServer(tmp_path) as server, await connect(server) as connection:
        await connection.run("setsid sleep 60 >/dev/null 2>&1 & sleep 61 >/dev/null 2>&1 &")
        left = await eventually(lambda: server.commands()[1:] and server.commands(), "two run")
        await asyncio.to_thread(server.stop)

    assert not any(process.alive() for process in left)
    with (
        pytest.raises(ConnectionRefusedError),
        socket.create_connection((server.host, server.port)),
    ):
        pytest.fail("somebody still listens")


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A wrong line of configuration is an error that quotes sshd, and leaves no process."""
    server = OpenSSHServer(tmp_path, extra_config=["NoSuchOption yes"])

    with pytest.raises(AssertionError, match="Bad configuration option: NoSuchOption"):
        server.start()


def test_a_taken_port_is_changed_for_another(tmp_path: Path) -> None:
    """A port that somebody takes between picking and listening costs nothing."""
    server = OpenSSHServer(tmp_path)
    with socket.create_server((server.host, server.port)) as taken, server:
        assert server.port != taken.getsockname()[1]


@pytest.mark.root
async def test_a_temporary_user_logs_in_and_goes(server: OpenSSHServer) -> None:
    """A temporary user is let in, is not root, and is gone afterwards with its processes."""
    with temporary_user() as user:
        async with await connect(server, user=user.name) as connection:
            ran = await connection.run("id -u; pwd", check=True)
            await connection.run("setsid sleep 60 >/dev/null 2>&1 &")

    assert ran.stdout == f"{user.uid}\n{user.home}\n"
    assert not processes.owned_by(user.uid)
    assert not user.home.exists()
    with pytest.raises(KeyError):
        pwd.getpwnam(user.name)


@pytest.mark.root
async def test_sudo_rights_last_as_long_as_asked(
    server: OpenSSHServer, second_user: TemporaryUser
) -> None:
    """A user with sudo rights becomes root without a password, and no longer does afterwards."""
    async with await connect(server, user=second_user.name) as connection:
        with sudo_rights(second_user.name):
            allowed = await connection.run("sudo -n id -u")
        refused = await connection.run("sudo -n id -u")

    assert (allowed.stdout, refused.exit_status) == ("0\n", 1)


@pytest.mark.root
async def test_commands_under_sudo_are_found_and_ended(
    tmp_path: Path, sudoer: TemporaryUser
) -> None:
    """What a session runs through sudo, which cleans the environment, is ended with the server."""
    server = OpenSSHServer(tmp_path)
    async with server, await connect(server, user=sudoer.name) as connection:
        await connection.create_process("sudo -n sleep 60")
        running = await eventually(
            lambda: [p for p in server.commands() if p.name == "sleep"], "sleep runs"
        )

    assert not running[0].alive()


@pytest.mark.root
async def test_the_user_of_a_killed_test_run_is_removed_by_the_next() -> None:
    """A user whose maker was killed is gone, sudo rights included, once another one is made."""
    program = (
        "import signal, sys; from tests.servers import sudo_rights, temporary_user\n"
        "with temporary_user() as user, sudo_rights(user.name):\n"
        "    sys.stdout.write(user.name); sys.stdout.flush(); signal.pause()\n"
    )
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert killed.stdout is not None
    name = (await asyncio.wait_for(killed.stdout.read(100), 30)).decode()
    assert name in {entry.pw_name for entry in pwd.getpwall()}
    killed.kill()
    await killed.wait()

    with temporary_user() as user:
        names = {entry.pw_name for entry in pwd.getpwall()}

    assert name not in names
    assert user.name in names
    assert not list(SUDOERS.glob(f"{name}*"))
