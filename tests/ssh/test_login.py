"""How we log in: keys, the agent, a configuration, a jump host; and what is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import asyncssh
import pytest

from precip_async.errors import (
    AuthenticationFailed,
    ConnectError,
    HostKeyMismatch,
    InvalidArgument,
)
from precip_async.limits import Limits
from precip_async.ssh.openssh import Login, load_key
from precip_async.ssh.transport import Target
from tests.polling import eventually, until
from tests.servers import OpenSSHServer, free_port, make_key
from tests.ssh.rig import Pins, Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.servers import KeyType

pytestmark = pytest.mark.sshd


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def encrypt(key: Path, passphrase: str) -> None:
    """Encrypt a key file with `passphrase`, as ssh-keygen does."""
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-P", "", "-N", passphrase, "-f", key], check=True, timeout=30
    )


# -- keys ------------------------------------------------------------------------------------


@pytest.mark.in_process
async def test_a_key_is_parsed_once(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsing an RSA key costs 0.1 s of CPU: for many hosts and many pools it is done once."""
    parsed: list[bytes] = []
    parse = asyncssh.import_private_key

    def counting(data: bytes, *arguments: Any, **settings: Any) -> asyncssh.SSHKey:
        parsed.append(data)
        return parse(data, *arguments, **settings)

    monkeypatch.setattr(asyncssh, "import_private_key", counting)
    make_key(tmp_path / "rsa", "rsa")
    login = Login(keys=(tmp_path / "rsa", server.client_key_path))

    for _ in range(2):
        async with Rig(server, tmp_path, login=login) as rig:
            targets = [rig.on(host, number) for number, host in enumerate(server.hosts(5))]
            await rig.everywhere("true", targets)

    assert parsed.count((tmp_path / "rsa").read_bytes()) == 1


async def test_a_key_may_be_given_as_it_is(server: OpenSSHServer, tmp_path: Path) -> None:
    """The home's own key is never a file for others to find."""
    login = Login(keys=(server.client_key_path.read_bytes(),), passphrase="of other keys")
    async with Rig(server, tmp_path, login=login) as rig:
        assert await rig.out("echo in") == "in"


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
async def test_one_key_logs_in_at_many_hosts_at_once(tmp_path: Path, kind: KeyType) -> None:
    """What is negotiated for a key on one connection is no other connection's business."""
    line = make_key(tmp_path / "key", kind)
    login = Login(keys=(tmp_path / "key",))
    async with (
        OpenSSHServer(tmp_path, authorized_keys=[line], address="0.0.0.0") as server,
        Rig(server, tmp_path, login=login) as rig,
    ):
        hosts = enumerate(server.hosts(8))
        targets = [rig.on(host, number) for number, host in hosts]
        assert await rig.everywhere("echo in", targets) == ["in"] * 8


@pytest.mark.parametrize("given", ["secret", None, "wrong"])
async def test_an_encrypted_key_takes_its_passphrase(
    server: OpenSSHServer, tmp_path: Path, given: str | None
) -> None:
    """With the right passphrase it opens; without, or with a wrong one, a sentence says so."""
    key = tmp_path / "key"
    key.write_bytes(server.client_key_path.read_bytes())
    key.chmod(0o600)
    encrypt(key, "secret")

    async with Rig(server, tmp_path, login=Login(keys=(key,), passphrase=given)) as rig:
        if given == "secret":
            assert await rig.out("echo in") == "in"
            return
        with pytest.raises(InvalidArgument, match=f"{key}.*key_passphrase") as caught:
            await rig.run("true")
    assert "wrong" not in str(caught.value)
    assert str(given) not in repr(rig.login) or given is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """As ssh does; the sentence says how to mend it."""
    make_key(tmp_path / "key")
    (tmp_path / "key").chmod(mode)

    with pytest.raises(InvalidArgument, match=f"chmod 600 {tmp_path / 'key'}"):
        load_key(tmp_path / "key", None)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAA\n"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    """The sentence names the file."""
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_bytes(content)

    with pytest.raises(InvalidArgument, match=f"ssh_key {key} can't be used"):
        load_key(key, None)


def test_a_key_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The sentence names the file."""
    with pytest.raises(InvalidArgument, match=r"ssh_key .*missing can't be read: No such file"):
        load_key(tmp_path / "missing", None)


# -- what is left alone unless asked for ------------------------------------------------------


@pytest.fixture
async def decoy_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[bytes]]:
    """SSH_AUTH_SOCK leads to somebody who counts; what it was asked."""
    asked: list[bytes] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(5))
        writer.close()

    listener = await asyncio.start_unix_server(count, tmp_path / "agent")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    yield asked
    listener.close()


async def test_no_agent_and_no_file_is_asked_unless_told_so(
    server: OpenSSHServer,
    tmp_path: Path,
    clean_environment: Path,
    decoy_agent: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An agent, a ~/.ssh/config, known_hosts and keys that would break everything don't matter."""
    ssh = clean_environment / ".ssh"
    ssh.mkdir(mode=0o700)
    (ssh / "config").write_text("Host *\n  Port 1\n  User nobody\n  ProxyJump nowhere.invalid\n")
    (ssh / "known_hosts").write_text(f"* {make_key(tmp_path / 'other')}\n")
    (ssh / "id_ed25519").write_text("no key at all")
    opened: list[str] = []
    monkeypatch.setattr(
        asyncssh.config.SSHConfig, "parse", lambda _self, path: opened.append(str(path))
    )
    monkeypatch.setattr(
        asyncssh.known_hosts.SSHKnownHosts, "load", lambda _self, text: opened.append(text)
    )

    trust = Pins(server.host_public_key)
    async with Rig(server, tmp_path, trust=trust) as rig:
        for number, host in enumerate(server.hosts(3)):
            await rig.out("true", target=rig.on(host, number))

    assert decoy_agent == []
    assert opened == []
    assert trust.asked == ["i-0", "i-1", "i-2"]


# -- the agent -------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent of our own, without keys."""
    socket = tmp_path / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until(socket.exists, "ssh-agent listens")
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.usefixtures("agent")
async def test_a_key_of_the_agent_logs_in(server: OpenSSHServer, tmp_path: Path) -> None:
    """With `agent=True` the agent's keys are offered beside ours, which need not fit."""
    make_key(tmp_path / "stranger")
    login = Login(keys=(tmp_path / "stranger",))
    await anyio.run_process(["ssh-add", "-q", str(server.client_key_path)])

    async with Rig(server, tmp_path, login=replace(login, agent=True)) as rig:
        assert await rig.out("echo in") == "in"
    async with Rig(server, tmp_path, login=Login(agent=True)) as rig:
        assert await rig.out("echo in") == "in"
    async with Rig(server, tmp_path, login=login) as rig:
        with pytest.raises(AuthenticationFailed):
            await rig.run("true")


@pytest.mark.usefixtures("agent")
async def test_the_agent_is_never_forwarded(server: OpenSSHServer, tmp_path: Path) -> None:
    """Who has an instance must not log in elsewhere as us, whatever a configuration says."""
    config = tmp_path / "config"
    config.write_text(f"Host *\n  ForwardAgent yes\n  IdentityFile {server.client_key_path}\n")
    look = "echo ${SSH_AUTH_SOCK:-none}"
    own = Login(keys=(server.client_key_path,), agent=True)
    for login in (own, Login(agent=True, config=config)):
        async with Rig(server, tmp_path, login=login) as rig:
            assert await rig.out(look) == "none"


async def test_an_agent_that_is_not_there_is_named(server: OpenSSHServer, tmp_path: Path) -> None:
    """Who asks for the agent and has none is told so."""
    async with Rig(server, tmp_path, login=Login(agent=True)) as rig:
        with pytest.raises(InvalidArgument, match="SSH_AUTH_SOCK is not set"):
            await rig.run("true")


# -- a configuration -------------------------------------------------------------------------


WEB = Target(instance_id="i-1", host="web", alias="i-1")  # what only a configuration knows


@pytest.mark.parametrize("passphrase", [None, "secret"])
async def test_a_configuration_says_where_and_who_and_by_which_key(
    server: OpenSSHServer, tmp_path: Path, passphrase: str | None
) -> None:
    """`Host` with `HostName`, `Port`, `User` and `IdentityFile`, as ssh understands them."""
    key = tmp_path / "key of web"
    key.write_bytes(server.client_key_path.read_bytes())
    key.chmod(0o600)
    if passphrase:
        encrypt(key, passphrase)
    config = tmp_path / "config"
    config.write_text(
        f"Host web\n  HostName {server.host}\n  Port {server.port}\n  User {server.user}\n"
        f'  IdentityFile "{key}"\n'
    )
    login = Login(config=config, passphrase=passphrase)
    async with Rig(server, tmp_path, login=login) as rig:
        assert await rig.out("id -un", target=WEB) == server.user


async def test_what_is_said_in_the_call_goes_before_the_configuration(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """User, port and key that are given win."""
    config = tmp_path / "config"
    config.write_text(f"Host web\n  HostName {server.host}\n  Port 1\n  User nobody\n")
    login = Login(config=config, keys=(server.client_key_path,))
    async with Rig(server, tmp_path, login=login) as rig:
        target = replace(WEB, port=server.port, user=server.user)
        assert await rig.out("id -un", target=target) == server.user


async def test_a_configuration_may_name_a_jump_host(
    server: OpenSSHServer, tmp_path: Path, clean_environment: Path
) -> None:
    """`ProxyJump` is followed, with the jump host's own settings and ~/.ssh/known_hosts."""
    async with OpenSSHServer(tmp_path) as jump:
        config = tmp_path / "config"
        config.write_text(
            f"Host web\n  HostName {server.host}\n  Port {server.port}\n  ProxyJump gate\n"
            f"  IdentityFile {server.client_key_path}\n"
            f"Host gate\n  HostName {jump.host}\n  Port {jump.port}\n"
            f"  IdentityFile {jump.client_key_path}\n"
            f"Host *\n  User {server.user}\n"
        )
        async with Rig(server, tmp_path, login=Login(config=config)) as rig:
            with pytest.raises(HostKeyMismatch, match="a jump host on the way"):
                await rig.run("true", target=WEB)

            known = clean_environment / ".ssh" / "known_hosts"
            known.parent.mkdir(mode=0o700)
            known.write_text(f"[{jump.host}]:{jump.port} {jump.host_public_key}\n")
            assert await rig.out("echo in", target=WEB) == "in"

            assert len(jump.sessions()) > 0


@pytest.mark.parametrize("content", [None, "Port nonsense\n"])
async def test_a_configuration_that_can_not_be_read_is_named(
    server: OpenSSHServer, tmp_path: Path, content: str | None
) -> None:
    """A missing file and a bad line are the user's to mend; nobody connects again and again."""
    config = tmp_path / "config"
    if content:
        config.write_text(content)
    async with Rig(server, tmp_path, login=Login(config=config)) as rig:
        with pytest.raises(InvalidArgument, match=f"ssh_config {config}"):
            await rig.run("true")

    assert rig.connector.attempts == 1


# -- a jump host -----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def through(
    jump: OpenSSHServer, server: OpenSSHServer, tmp_path: Path, **changes: Any
) -> AsyncIterator[Rig]:
    """A pool whose connections pass through `jump`, with the jump host's own key and host key."""
    bastion = Target(
        instance_id="the jump host", host=jump.host, port=jump.port, user=jump.user, alias="gate"
    )
    login = Login(
        keys=(server.client_key_path,), bastion=bastion, bastion_keys=(jump.client_key_path,)
    )

    class ByAlias(Pins):
        def known(self, target: Target) -> tuple[str, ...]:
            super().known(target)
            return ((jump if target.alias == "gate" else server).host_public_key,)

    async with Rig(server, tmp_path, login=replace(login, **changes), trust=ByAlias()) as rig:
        yield rig


@pytest.mark.in_process
async def test_every_connection_passes_through_the_jump_host(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """One connection to the jump host, with its own key and known host, carries all others."""
    async with OpenSSHServer(tmp_path) as jump, through(jump, server, tmp_path) as rig:
        hosts = enumerate(server.hosts(20))
        await rig.everywhere("true", [rig.on(host, number) for number, host in hosts])
        assert jump.log().count("Accepted publickey") == 1
        assert rig.pool.statistics().connected == 20

        jump.kill_sessions()
        await eventually(lambda: rig.pool.statistics().connected == 0)
        await rig.out("true")
        assert jump.log().count("Accepted publickey") == 2


async def test_a_jump_host_that_lets_nobody_in_is_named(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """It is the jump host's verdict, made once and told to all."""
    make_key(tmp_path / "stranger")
    async with (
        OpenSSHServer(tmp_path) as jump,
        through(jump, server, tmp_path, bastion_keys=(tmp_path / "stranger",)) as rig,
    ):
        errors: list[AuthenticationFailed] = []

        async def fail(target: Target) -> None:
            with pytest.raises(AuthenticationFailed, match="the jump host") as caught:
                await rig.run("true", target=target)
            errors.append(caught.value)

        async with anyio.create_task_group() as tasks:
            for number, host in enumerate(server.hosts(8)):
                tasks.start_soon(fail, rig.on(host, number))

        assert len(errors) == 8
        assert jump.log().count("Connection from") == 1


async def test_a_jump_host_that_can_not_be_reached_is_named(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """The words name the jump host's address, not the target's."""
    jump = OpenSSHServer(tmp_path)  # never started
    async with through(jump, server, tmp_path) as rig:
        with pytest.raises(ConnectError, match=rf"the jump host .*:{jump.port} refused"):
            await rig.reach(rig.target, 1)


async def test_a_target_that_the_jump_host_can_not_reach_is_named(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """The words say who could not reach whom."""
    async with OpenSSHServer(tmp_path) as jump, through(jump, server, tmp_path) as rig:
        nobody = replace(rig.target, port=free_port("127.0.0.1"))
        with pytest.raises(ConnectError, match=rf"the jump host can't reach .*:{nobody.port}"):
            await rig.reach(nobody, 2)


async def test_a_wrong_host_key_of_the_jump_host_is_a_mismatch(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """The jump host's key is checked like any other, before anything passes through it."""
    async with OpenSSHServer(tmp_path) as jump, through(jump, server, tmp_path) as rig:
        jump.host_public_keys = (make_key(tmp_path / "other"),)
        with pytest.raises(HostKeyMismatch, match="known for gate"):
            await rig.run("true")


# -- many at once ----------------------------------------------------------------------------


@pytest.mark.in_process
@pytest.mark.parametrize("per_server", [8, pytest.param(64, marks=pytest.mark.slow)])
async def test_two_hundred_logins_at_one_server_all_succeed(
    server: OpenSSHServer, tmp_path: Path, per_server: int
) -> None:
    """`MaxStartups 10:30:100` drops at random: few at once, and trying again with jitter."""
    limits = Limits(max_connects_per_server=per_server, connect_timeout=60)
    async with Rig(server, tmp_path, limits=limits) as rig:
        began = time.monotonic()
        targets = [replace(rig.target, instance_id=f"i-{number}") for number in range(200)]
        await rig.everywhere("true", targets)

        assert rig.pool.statistics().connected == 200
        assert rig.connector.most <= per_server
        assert time.monotonic() - began < 60


async def test_cancelled_logins_leave_no_socket_behind(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """Attempts that are cancelled at any moment leave neither a descriptor nor a task."""
    async with Rig(server, tmp_path) as rig:
        await rig.out("true")
        before = descriptors()
        for step in range(10):
            targets = [replace(rig.target, instance_id=f"i-{step}-{n}") for n in range(5)]
            with anyio.move_on_after(step * 0.01):
                await rig.everywhere("true", targets)
            for target in targets:
                await rig.remote.forget(target.instance_id)

        await eventually(lambda: descriptors() <= before)
