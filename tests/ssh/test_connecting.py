"""Why a connection can't be made: the right class, the right words, and tried again or not."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import asyncssh
import pytest

from precip_async.errors import (
    AuthenticationFailed,
    ConnectError,
    ConnectTimeout,
    HostKeyMismatch,
)
from precip_async.limits import Limits
from precip_async.ssh.openssh import AsyncsshConnector, Login
from precip_async.ssh.openssh_errors import SHORT_PATIENCE, Seen, translate
from precip_async.ssh.pool import Pool
from precip_async.ssh.transport import Target
from tests import peers
from tests.polling import eventually
from tests.servers import OpenSSHServer, free_port, make_key
from tests.ssh.rig import FAST, Counting, Pins, Rig

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from precip_async.ssh.transport import Trust

HERE = Target(instance_id="i-1", host="127.0.0.1", port=22, user="root", alias="i-1")
IMPATIENT = Limits(connect_timeout=0.3)


class Attempt:
    """One try to lease a channel; how it failed and how often it was tried."""

    def __init__(self, login: Login | None = None, trust: Trust | None = None) -> None:
        self.login, self.trust = login or Login(), trust or Pins()
        self.attempts = self.final = 0

    async def fails(
        self, target: Target, *, limits: Limits = IMPATIENT, timeout: float | None = None
    ) -> ConnectError:
        """Try; the error."""
        limits = replace(limits, ssh_fast=FAST)
        connector = Counting(AsyncsshConnector(self.login, self.trust, limits))
        pool = Pool(connector, limits)
        try:
            with anyio.fail_after(20), pytest.raises(ConnectError) as caught:
                async with pool.lease(target, timeout=timeout):
                    pytest.fail("there is a connection")
        finally:
            await pool.aclose()
        self.attempts, self.final = connector.attempts, connector.final
        return caught.value


def at(peer: peers.Peer) -> Target:
    """The account on a peer."""
    return replace(HERE, port=peer.port)


# -- nobody, or nobody who speaks SSH --------------------------------------------------------


async def test_a_refused_connection_is_tried_again_for_a_short_while() -> None:
    """A server may be restarting: it is given some seconds, and the error says how many tries."""
    attempt = Attempt()

    error = await attempt.fails(replace(HERE, port=free_port("127.0.0.1")))

    assert type(error) is ConnectError
    assert "refused the connection: no SSH server listens there" in str(error)
    assert error.patience == SHORT_PATIENCE
    assert attempt.attempts > 1
    assert f"{attempt.attempts} attempts in" in error.__notes__[0]


async def test_a_single_attempt_is_not_repeated() -> None:
    """A probe of an instance that boots has its own rhythm."""
    attempt = Attempt()

    await attempt.fails(replace(HERE, port=free_port("127.0.0.1")), timeout=1)

    assert attempt.attempts == 1


@pytest.mark.in_process
@pytest.mark.sshd
async def test_a_server_that_starts_late_is_reached(tmp_path: Path) -> None:
    """Refused at first, served in the end: no error at all."""
    server = OpenSSHServer(tmp_path)
    outs: list[str] = []
    async with Rig(server, tmp_path) as rig, contextlib.AsyncExitStack() as running:

        async def run() -> None:
            outs.append(await rig.out("echo hi"))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await eventually(lambda: rig.connector.attempts)
                await running.enter_async_context(server)

    assert outs == ["hi"]
    assert rig.connector.attempts > 1


async def test_a_peer_that_says_nothing_is_a_timeout() -> None:
    """Somebody accepts and is silent: that is not a filtered port, and the words say so."""
    async with peers.mute_peer() as peer:
        error = await Attempt().fails(at(peer), timeout=0.3)

    assert isinstance(error, ConnectTimeout)
    assert isinstance(error, TimeoutError)
    assert "accepts connections, but let nobody log in within 0.3 s" in str(error)


@pytest.mark.sshd
@pytest.mark.parametrize("verb", ["run", "put", "get"])
async def test_whatever_is_to_be_done_a_login_that_takes_too_long_is_a_timeout(
    server: OpenSSHServer, tmp_path: Path, verb: str
) -> None:
    """It is a `TimeoutError`, and so an `OSError`: that makes it no trouble with files here."""
    (tmp_path / "file").touch()
    given = {"run": ("true",), "put": (tmp_path / "file", "there"), "get": ("there", tmp_path)}
    async with (
        peers.mute_peer() as peer,
        Rig(server, tmp_path, port=peer.port, limits=Limits(connect_timeout=0.3)) as rig,
    ):
        with pytest.raises(ConnectTimeout, match="let nobody log in"):
            await getattr(rig, verb)(*given[verb])


async def test_an_address_that_nobody_answers_at_is_a_timeout() -> None:
    """Nobody accepts: the port is filtered, or there is no machine."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        place: tuple[str, int] = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(place)
            error = await Attempt().fails(replace(HERE, port=place[1]), timeout=0.3)
        finally:
            for filler in fillers:
                filler.close()

    assert isinstance(error, ConnectTimeout)
    assert "no answer from 127.0.0.1" in str(error)


@pytest.mark.parametrize("kind", [peers.closing_peer, peers.http_peer])
async def test_a_peer_that_hangs_up_is_tried_again(kind: Callable[[], peers.Peer]) -> None:
    """Sshd hangs up when too many log in; so does another service, and the words say both."""
    attempt = Attempt()
    async with kind() as peer:
        error = await attempt.fails(at(peer))

    assert type(error) is ConnectError
    assert "before it had said that it speaks SSH" in str(error)
    assert error.patience == math.inf
    assert attempt.attempts > 1


async def test_a_connection_that_is_cut_during_the_login_is_tried_again() -> None:
    """A server that has greeted and then goes may be restarting."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await reader.readuntil(b"\n")

    attempt = Attempt()
    async with peers.Peer(behave) as peer:
        error = await attempt.fails(at(peer))

    assert "before we were logged in" in str(error)
    assert attempt.attempts > 1


@pytest.mark.parametrize("kind", [peers.garbage_peer, peers.endless_banner_peer])
async def test_a_peer_that_speaks_nonsense_is_not_tried_again(
    kind: Callable[[], peers.Peer],
) -> None:
    """What is no SSH server will be none the next time."""
    attempt = Attempt()
    async with kind() as peer:
        error = await attempt.fails(at(peer), limits=replace(IMPATIENT, connect_timeout=5))

    assert "no way of speaking in common" in str(error)
    assert attempt.attempts == 1


async def test_a_name_that_can_not_be_resolved_is_named() -> None:
    """The error names the name."""
    error = await Attempt().fails(replace(HERE, host="no-such-host.invalid"))

    assert "'no-such-host.invalid' can't be resolved" in str(error)
    assert error.patience == SHORT_PATIENCE


@pytest.fixture
def no_descriptors() -> Iterator[None]:
    """This process may open nothing more, once the test lowers the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("no_descriptors")
async def test_a_limit_of_this_machine_is_not_blamed_on_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Out of descriptors: trying again makes it no better, and the words say what does."""
    attempt = Attempt()
    async with peers.mute_peer() as peer:
        monkeypatch.setenv("USER", "root")  # else asyncssh has to open /etc/passwd
        lowest = os.dup(0)
        os.close(lowest)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        error = await attempt.fails(at(peer))

    assert "this machine's own limit is reached" in str(error)
    assert attempt.attempts == 1


# -- a server that does not let us in --------------------------------------------------------


@pytest.mark.sshd
async def test_a_key_that_is_not_accepted_is_final(server: OpenSSHServer, tmp_path: Path) -> None:
    """The key won't be accepted the next time either; who was not let in is named."""
    make_key(tmp_path / "stranger")
    attempt = Attempt(Login(keys=(tmp_path / "stranger",)), Pins(server.host_public_key))
    target = replace(HERE, host=server.host, port=server.port, user=server.user)

    error = await attempt.fails(target)

    assert type(error) is AuthenticationFailed
    assert f"does not accept our key for {server.user}" in str(error)
    assert attempt.attempts == 1


@pytest.mark.sshd
async def test_too_many_keys_are_told_from_wrong_ones(tmp_path: Path) -> None:
    """A server that loses its patience with an agent full of keys says so, and so do we."""
    keys = []
    for number in range(4):
        make_key(tmp_path / f"key{number}")
        keys.append(tmp_path / f"key{number}")
    async with OpenSSHServer(tmp_path, extra_config=["MaxAuthTries 2"]) as server:
        attempt = Attempt(Login(keys=tuple(keys)), Pins(server.host_public_key))
        error = await attempt.fails(replace(HERE, port=server.port, user=server.user))

    assert type(error) is AuthenticationFailed
    assert "too many keys" in str(error)
    assert attempt.attempts == 1


@pytest.mark.sshd
async def test_an_unknown_host_key_is_refused_where_the_policy_is_strict(
    server: OpenSSHServer,
) -> None:
    """Who gave a file of known hosts wants no other host; the key that was shown is named."""
    trust = Pins()
    attempt = Attempt(Login(keys=(server.client_key_path,)), trust)

    error = await attempt.fails(replace(HERE, port=server.port, user=server.user))

    assert type(error) is HostKeyMismatch
    assert "a host key that is not known (ssh-ed25519 SHA256:" in str(error)
    assert trust.shown == [server.host_public_key]
    assert attempt.attempts == 1


@pytest.mark.sshd
async def test_a_first_host_key_is_believed_where_the_policy_allows(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """The policy is shown the key once, and from then on it is known."""
    trust = Pins(learns=True)
    async with Rig(server, tmp_path, trust=trust) as rig:
        await rig.out("true")
        await rig.out("true", target=rig.on(server.hosts(2)[1], 2))

    assert trust.shown == [server.host_public_key]


@pytest.mark.sshd
@pytest.mark.parametrize("kinds", [("ed25519", "ed25519"), ("ed25519", "rsa"), ("rsa", "ecdsa")])
async def test_a_changed_host_key_is_a_mismatch(tmp_path: Path, kinds: Any) -> None:
    """Another key is refused whatever its type, though the policy would believe a first one."""
    known, shown = kinds
    async with OpenSSHServer(tmp_path, host_key_types=[shown]) as server:
        trust = Pins(make_key(tmp_path / "other", known), learns=True)
        attempt = Attempt(Login(keys=(server.client_key_path,)), trust)

        error = await attempt.fails(replace(HERE, port=server.port, user=server.user))

    assert type(error) is HostKeyMismatch
    assert "another host key than the one known for i-1" in str(error)
    assert "forget the old key" in str(error)
    assert trust.shown == []
    assert attempt.attempts == 1


@pytest.mark.sshd
async def test_one_of_several_known_keys_will_do(tmp_path: Path) -> None:
    """A host has a key of each type: whichever of them is known is asked for."""
    async with OpenSSHServer(tmp_path, host_key_types=["ed25519", "rsa", "ecdsa"]) as server:
        for line in server.host_public_keys:
            async with Rig(server, tmp_path, trust=Pins(line)) as rig:
                assert await rig.out("echo in") == "in"


@pytest.mark.sshd
@pytest.mark.parametrize("demand", ["KexAlgorithms diffie-hellman-group1-sha1", "Ciphers 3des-cbc"])
async def test_a_server_with_nothing_in_common_is_not_tried_again(
    tmp_path: Path, demand: str
) -> None:
    """What both sides have of algorithms does not change; the words say what was missing."""
    async with OpenSSHServer(tmp_path, extra_config=[demand]) as server:
        attempt = Attempt(Login(keys=(server.client_key_path,)), Pins(server.host_public_key))
        error = await attempt.fails(replace(HERE, port=server.port, user=server.user))

    assert "no way of speaking in common" in str(error)
    # sshd hangs up at once: a reset may eat what it said, and is repeated; the verdict never is.
    assert attempt.final == 1


@pytest.mark.sshd
@pytest.mark.parametrize(
    "demand",
    [
        "Ciphers chacha20-poly1305@openssh.com",
        "Ciphers aes256-ctr\nMACs hmac-sha2-512",
        "Ciphers aes256-gcm@openssh.com",
        "KexAlgorithms ecdh-sha2-nistp256,ecdh-sha2-nistp384",
        pytest.param(
            "KexAlgorithms diffie-hellman-group16-sha512",
            marks=pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields"),
        ),
        "KexAlgorithms curve25519-sha256@libssh.org",
        "HostKeyAlgorithms rsa-sha2-512",
        "HostKeyAlgorithms ecdsa-sha2-nistp256",
        "PubkeyAcceptedAlgorithms ssh-ed25519",
        "RekeyLimit 1M",
        "Compression no\nMaxAuthTries 1",
    ],
)
async def test_hardened_and_old_servers_are_reached(tmp_path: Path, demand: str) -> None:
    """What we prefer is a preference: a server that allows one thing only is spoken to."""
    kinds = {"rsa": "rsa", "ecdsa": "ecdsa"}
    kind: Any = next((kinds[name] for name in kinds if f"Algorithms {name}" in demand), "ed25519")
    server = OpenSSHServer(tmp_path, extra_config=demand.splitlines(), host_key_types=[kind])
    async with server, Rig(server, tmp_path) as rig:
        result = await rig.run("head -c 3000000 /dev/zero")

    assert len(result.stdout_bytes) == 3_000_000


# -- the table -------------------------------------------------------------------------------


def all_of(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    """A class and all that derive from it."""
    yield kind
    for derived in kind.__subclasses__():
        yield from all_of(derived)


def made(kind: type[BaseException]) -> Exception:
    """An instance of one of asyncssh's errors."""
    for arguments in (("why",), (1, "why"), ("why", "en"), (None,) * 9):
        try:
            error = kind(*arguments)
        except TypeError:
            continue
        assert isinstance(error, Exception)
        return error
    raise AssertionError(f"how is {kind} made?")


FINAL = (
    asyncssh.CompressionError,
    asyncssh.HostKeyNotVerifiable,
    asyncssh.IllegalUserName,
    asyncssh.KeyExchangeFailed,
    asyncssh.MACError,
    asyncssh.PermissionDenied,
    asyncssh.ProcessError,
    asyncssh.ProtocolError,
    asyncssh.ProtocolNotSupported,
    asyncssh.ServiceNotAvailable,
    asyncssh.SFTPError,
)


@pytest.mark.parametrize("kind", sorted(set(all_of(asyncssh.Error)), key=repr))
def test_every_error_of_asyncssh_has_one_of_ours(kind: type[BaseException]) -> None:
    """None is unmapped: each has a sentence that names the host, and a patience."""
    ours = translate(made(kind), HERE)

    assert isinstance(ours, ConnectError)
    assert "127.0.0.1:22" in str(ours)
    if issubclass(kind, FINAL):
        assert ours.patience == 0
    elif issubclass(kind, asyncssh.ChannelOpenError):
        assert ours.patience == SHORT_PATIENCE
    elif kind is not asyncssh.Error:
        assert ours.patience == math.inf


@pytest.mark.parametrize(
    ("error", "kind", "patience"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "no"), ConnectError, SHORT_PATIENCE),
        (OSError(errno.EHOSTUNREACH, "no"), ConnectError, SHORT_PATIENCE),
        (OSError(errno.ENETUNREACH, "no"), ConnectError, SHORT_PATIENCE),
        (TimeoutError(errno.ETIMEDOUT, "no"), ConnectError, SHORT_PATIENCE),
        (TimeoutError(), ConnectTimeout, 0),
        (ConnectionResetError(errno.ECONNRESET, "no"), ConnectError, math.inf),
        (BrokenPipeError(errno.EPIPE, "no"), ConnectError, math.inf),
        (socket.gaierror(socket.EAI_AGAIN, "no"), ConnectError, SHORT_PATIENCE),
        (OSError(errno.EMFILE, "no"), ConnectError, 0),
        (OSError(errno.EADDRNOTAVAIL, "no"), ConnectError, 0),
        (ValueError("no"), ConnectError, 0),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 101] no"),
            ConnectError,
            SHORT_PATIENCE,
        ),
    ],
    ids=str,
)
def test_what_the_system_says_has_its_row_in_the_table(
    error: Exception, kind: type[ConnectError], patience: float
) -> None:
    """Each is the right class, with the right patience."""
    ours = translate(error, HERE)

    assert type(ours) is kind
    assert ours.patience == patience


def test_a_jump_host_of_a_configuration_is_told_from_the_target() -> None:
    """No key of the target was ever shown: it is the jump host that is not known."""
    error = translate(asyncssh.HostKeyNotVerifiable("no"), HERE, Seen(known=True))

    assert "a jump host on the way to 127.0.0.1:22" in str(error)


def test_what_a_server_says_moves_no_cursor() -> None:
    """Its last words are shown short, on one line, without what a terminal would obey."""
    error = translate(asyncssh.DisconnectError(2, "a\n\x1b[2J" + "b" * 5000), HERE)

    assert "(a �[2Jbbb" in error.problem
    assert error.problem.isprintable()
    assert len(error.problem) <= 600
