"""The shortcuts through asyncssh: each does its part, and none is needed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import anyio
import asyncssh
import pytest
from asyncssh import constants
from asyncssh.crypto.cipher import GCMCipher
from asyncssh.encryption import GCMEncryption
from hypothesis import given
from hypothesis import strategies as st

from precip_async.errors import AuthenticationFailed, ConnectError
from precip_async.ssh import (
    openssh_fast,
    openssh_fast_exchange,
    openssh_fast_login,
    openssh_fast_packets,
    openssh_parts,
)
from precip_async.ssh.openssh import Login
from precip_async.ssh.openssh_fast_exchange import begun
from precip_async.ssh.openssh_fast_packets import Seal
from tests.peers import ChoppyProxy
from tests.polling import eventually
from tests.servers import OpenSSHServer, make_key
from tests.sources import ROOT
from tests.ssh.rig import Pins, Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.servers import KeyType

pytestmark = [pytest.mark.sshd, pytest.mark.in_process]

both_paths = pytest.mark.parametrize("fast", [True, False], ids=["fast", "public"])


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """What fits is looked at again, before a test and after it."""
    for cached in (openssh_fast.available, openssh_fast.has_sessions):
        cached.cache_clear()
    openssh_fast.connection_class.cache_clear()
    yield
    for cached in (openssh_fast.available, openssh_fast.has_sessions):
        cached.cache_clear()
    openssh_fast.connection_class.cache_clear()


async def connection_of(rig: Rig) -> Any:
    """The connection that a rig has, or opens, of asyncssh's."""
    async with rig.pool.lease(rig.target) as lease:
        transport: Any = lease.transport
        return transport.connection


# -- which parts -----------------------------------------------------------------------------


def test_everything_fits_the_asyncssh_that_is_installed() -> None:
    """An asyncssh that was changed is not fallen back from unnoticed."""
    left_out = [part for part in openssh_fast.PARTS if not openssh_parts.as_known(part.RELIES_ON)]

    assert not left_out
    assert openssh_fast.available()
    assert openssh_fast.has_sessions()


@pytest.mark.parametrize("part", openssh_fast.PARTS, ids=lambda part: part.__name__)
async def test_a_part_that_does_not_fit_is_left_out(
    server: OpenSSHServer, tmp_path: Path, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where asyncssh has changed under a part, asyncssh's own way is taken, and all is well."""
    monkeypatch.setattr(part, "RELIES_ON", {"connection.SSHConnection._send": "another"})

    async with Rig(server, tmp_path, fast=True) as rig:
        assert await rig.out("cat", stdin=b"in") == "in"
        assert await rig.out("head -c 100000 /dev/zero | wc -c") == "100000"
        kinds = type(await connection_of(rig)).__mro__

    assert [one for one in openssh_fast.PARTS if one not in kinds] == [part]


@pytest.mark.parametrize("known", ["DIALLING", "SESSION"])
async def test_nothing_private_is_needed(
    server: OpenSSHServer, tmp_path: Path, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where asyncssh can't be dialled with, or have sessions, in our way, it is in its own."""
    monkeypatch.setattr(openssh_fast, known, {"no.such.thing": "at all"})

    async with Rig(server, tmp_path, fast=True) as rig:
        assert await rig.out("cat", stdin=b"in") == "in"
        kind = type(await connection_of(rig))

    assert (kind is asyncssh.SSHClientConnection) == (known == "DIALLING")


def test_an_asyncssh_whose_modules_have_moved_will_do(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """What can't even be imported is done without."""
    program = """
import sys, anyio, asyncssh.kex
from pathlib import Path
del asyncssh.kex.get_kex
from precip_async.ssh import openssh
from tests.ssh.rig import Rig
from tests.servers import OpenSSHServer

class Server:
    host, user = "127.0.0.1", sys.argv[1]
    port, client_key_path, host_public_key = int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]

async def main():
    assert openssh.openssh_fast is None
    async with Rig(Server, Path(sys.argv[5]), fast=True) as rig:
        sys.stdout.write(await rig.out("echo in"))

anyio.run(main)
"""
    facts = (server.user, server.port, server.client_key_path, server.host_public_key, tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", program, *map(str, facts)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ran.returncode, ran.stdout) == (0, "in"), ran.stderr


async def test_a_limit_switches_it_off(server: OpenSSHServer, tmp_path: Path) -> None:
    """With ``ssh_fast=False`` a connection is asyncssh's own, and nothing else."""
    async with Rig(server, tmp_path, fast=False) as rig:
        assert type(await connection_of(rig)) is asyncssh.SSHClientConnection


def test_a_shape_is_what_a_function_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another name in a function or in one within it, or another parameter, is another shape."""

    def was(self: Any) -> Any:
        return [one.a for one in self.b]

    def inner(self: Any) -> Any:
        return [one.c for one in self.b]

    def outer(self: Any) -> Any:
        return [one.a for one in self.b + self.c]

    def parameters(self: Any, more: Any) -> Any:  # noqa: ARG001 - that it is there is the point
        return [one.a for one in self.b]

    shapes = set()
    for function in (was, inner, outer, parameters):
        monkeypatch.setattr(asyncssh, "tried", function, raising=False)
        shapes.add(openssh_parts.shape("tried"))

    assert len(shapes) == 4
    assert not openssh_parts.shape("not_there")
    assert not openssh_parts.as_known({"not_there": "1234"})


# -- the handshake, as a server sees it ------------------------------------------------------


class Guest(asyncssh.SSHServer):
    """Lets the keys in `accepted` in, and notes which are shown."""

    def __init__(self, accepted: list[str], shown: list[str]) -> None:
        self.accepted, self.shown = accepted, shown

    def public_key_auth_supported(self) -> bool:
        """They are."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Note it."""
        line = key.export_public_key("openssh").decode().strip()
        self.shown.append(line)
        return line in self.accepted


class Register:
    """A server of asyncssh's in this process, which registers what it receives.

    Attributes:
        server: Looks like an `OpenSSHServer` to a rig.
        packets: The types of what comes that belongs to no channel and no key exchange.
        shown: The keys that it was shown, in order.
        accepted: The keys that it lets in.
    """

    def __init__(self, like: OpenSSHServer, port: int, host_key: str) -> None:
        self.packets: list[int] = []
        self.shown: list[str] = []
        self.accepted = [like.client_public_key]
        self.like, self.port, self.host_key = like, port, host_key

    def rig(self, directory: Path, *, keys: list[Path] | None = None, fast: bool = True) -> Rig:
        """A rig against it."""
        login = Login(keys=tuple(keys or [self.like.client_key_path]))
        trust = Pins(self.host_key)
        return Rig(self.like, directory, port=self.port, login=login, trust=trust, fast=fast)


@pytest.fixture
async def register(
    server: OpenSSHServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Register]:
    """A server of asyncssh's whose packets are registered."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    host_key = " ".join(key.export_public_key("openssh").decode().split()[:2])
    register = Register(server, 0, host_key)

    def received(_self: Any, kind: int, *_rest: Any) -> None:
        register.packets.append(kind)

    monkeypatch.setattr(asyncssh.SSHServerConnection, "log_received_packet", received)

    def ends(process: asyncssh.SSHServerProcess[str]) -> None:
        process.exit(0)

    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        server_factory=lambda: Guest(register.accepted, register.shown),
        process_factory=ends,
    )
    async with listener:
        register.port = listener.get_port()
        yield register


async def test_a_login_takes_one_request(register: Register, tmp_path: Path) -> None:
    """Proposal, keys, extensions, service, signature: no question, and nothing to be ignored."""
    async with register.rig(tmp_path) as rig:
        await connection_of(rig)

    assert register.packets[:5] == [
        constants.MSG_KEXINIT,
        constants.MSG_NEWKEYS,
        constants.MSG_EXT_INFO,
        constants.MSG_SERVICE_REQUEST,
        constants.MSG_USERAUTH_REQUEST,
    ]
    assert constants.MSG_IGNORE not in register.packets


async def test_others_who_use_asyncssh_are_unaffected(register: Register, tmp_path: Path) -> None:
    """A connection that a user makes beside ours is as asyncssh made it."""
    async with register.rig(tmp_path) as rig:
        await connection_of(rig)
        register.packets.clear()
        async with asyncssh.connect(
            "127.0.0.1",
            register.port,
            config=None,
            username=rig.target.user,
            client_keys=[str(register.like.client_key_path)],
            known_hosts=None,
        ) as connection:
            assert type(connection) is asyncssh.SSHClientConnection

    assert register.packets.count(constants.MSG_USERAUTH_REQUEST) == 3
    assert register.packets.count(constants.MSG_IGNORE) >= 3


@both_paths
async def test_keys_are_tried_in_their_order(
    register: Register, tmp_path: Path, fast: bool
) -> None:
    """Each key is shown once before the one that does, which takes no more than it did."""
    lines = [make_key(tmp_path / name) for name in "abc"]
    register.accepted[:] = lines[2:]

    async with register.rig(tmp_path, keys=[tmp_path / name for name in "abc"], fast=fast) as rig:
        await connection_of(rig)

    assert list(dict.fromkeys(register.shown)) == lines
    assert register.shown.count(lines[0]) == register.shown.count(lines[1]) == 1
    assert register.shown.count(lines[2]) == (1 if fast else 2)


async def test_a_key_before_the_last_is_not_signed_with_until_it_is_wanted(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signing may cost something: only for the last key nothing is lost by it."""
    lines = [make_key(tmp_path / name) for name in "ab"]
    register.accepted[:] = lines[1:]
    signed: list[bytes] = []
    sign = asyncssh.public_key.SSHLocalKeyPair.sign

    def counted(pair: Any, data: bytes) -> bytes:
        signed.append(pair.public_data)
        return sign(pair, data)

    monkeypatch.setattr(asyncssh.public_key.SSHLocalKeyPair, "sign", counted)
    async with register.rig(tmp_path, keys=[tmp_path / "a", tmp_path / "b"]) as rig:
        await connection_of(rig)

    first, second = (asyncssh.import_public_key(line).public_data for line in lines)
    assert (signed.count(first), signed.count(second)) == (0, 1)


@both_paths
async def test_who_wants_no_login_is_given_none(
    register: Register, tmp_path: Path, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that knows everybody already, and takes no keys, is entered all the same."""
    asked: list[bytes] = []

    async def only_none(self: Any, _kind: int, _id: int, packet: Any) -> None:
        user, _, method = (packet.get_string() for _ in range(3))
        asked.append(method)
        if method == b"none":
            self._username = user.decode()
            await self.send_userauth_success()
        else:
            self.send_userauth_failure(False)

    handlers = asyncssh.SSHServerConnection._packet_handlers
    monkeypatch.setattr(
        asyncssh.SSHServerConnection,
        "_packet_handlers",
        {**handlers, constants.MSG_USERAUTH_REQUEST: only_none},
    )
    monkeypatch.setattr(Guest, "public_key_auth_supported", lambda _self: False)
    async with register.rig(tmp_path, fast=fast) as rig:
        await connection_of(rig)

    assert asked == ([b"publickey", b"none"] if fast else [b"none"])


# -- the handshake, with OpenSSH -------------------------------------------------------------


class Turns(ChoppyProxy):
    """Counts how often an answer was waited for: runs of the server's after one of the client's."""

    turns = 0
    _ours = False

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool
    ) -> None:
        while chunk := await reader.read(65536):
            self.turns += answers and self._ours
            self._ours = not answers
            writer.write(chunk)


@both_paths
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
async def test_a_login_takes_three_round_trips(tmp_path: Path, kind: KeyType, fast: bool) -> None:
    """Two of the key exchange and one of the login; asyncssh by itself takes twice as many."""
    line = make_key(tmp_path / "key", kind)
    async with (
        OpenSSHServer(tmp_path, authorized_keys=[line]) as server,
        Turns(server.host, server.port) as turns,
        Rig(
            server, tmp_path, port=turns.port, login=Login(keys=(tmp_path / "key",)), fast=fast
        ) as rig,
    ):
        await connection_of(rig)

    # what an RSA key waits to hear comes with the new keys, and on a busy machine just after them
    most = 4 if kind == "rsa" else 3
    assert turns.turns <= most if fast else turns.turns >= 5


@both_paths
@pytest.mark.parametrize("tries", [2, 1])
async def test_tries_are_not_used_up(tmp_path: Path, fast: bool, tries: int) -> None:
    """Of the tries that a server allows each key takes one, and the right one none."""
    make_key(tmp_path / "stranger")
    async with OpenSSHServer(tmp_path, extra_config=[f"MaxAuthTries {tries}"]) as server:
        strangers = [tmp_path / "stranger"] * (tries - 1)
        login = Login(keys=(*strangers, server.client_key_path))
        async with Rig(server, tmp_path, login=login, fast=fast) as rig:
            assert await rig.out("echo in") == "in"


@both_paths
async def test_a_server_may_want_two_keys(tmp_path: Path, fast: bool) -> None:
    """A first key that is half of the way is followed by the second."""
    line = make_key(tmp_path / "second")
    wanted = ["AuthenticationMethods publickey,publickey"]
    async with OpenSSHServer(tmp_path, authorized_keys=[line], extra_config=wanted) as server:
        login = Login(keys=(server.client_key_path, tmp_path / "second"))
        async with Rig(server, tmp_path, login=login, fast=fast) as rig:
            assert await rig.out("echo in") == "in"


async def test_a_refusal_reads_the_same_on_either_path(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """A key that is not accepted is told of in the same words."""
    make_key(tmp_path / "stranger")
    said = []
    for fast in (True, False):
        login = Login(keys=(tmp_path / "stranger",))
        async with Rig(server, tmp_path, login=login, fast=fast) as rig:
            with pytest.raises(AuthenticationFailed) as refused:
                await rig.run("true")
            said.append(str(refused.value))

    assert said[0] == said[1]


async def test_a_banner_is_no_obstacle(tmp_path: Path) -> None:
    """A server may have something to say between the request and its answer."""
    (tmp_path / "banner").write_text("All your keystrokes are watched.\n" * 50)
    server = OpenSSHServer(tmp_path, extra_config=[f"Banner {tmp_path / 'banner'}"])
    async with server, Rig(server, tmp_path, fast=True) as rig:
        assert await rig.out("echo in") == "in"


async def test_a_known_host_key_is_not_parsed(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in memory is compared with what is shown."""
    parsed: list[bytes] = []
    monkeypatch.setattr(asyncssh.connection, "decode_ssh_certificate", parsed.append)
    async with Rig(server, tmp_path, fast=True) as rig:
        assert await rig.out("echo in") == "in"

    assert not parsed


async def test_proposals_are_gone_through_once(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts that propose the same agree on the same, and nothing is chosen a second time."""
    monkeypatch.setattr(openssh_fast_exchange.Agrees, "_agreements", {})
    chosen: list[str] = []
    choose = asyncssh.SSHClientConnection._choose_alg

    def counted(self: Any, what: str, *lists: Any) -> bytes:
        chosen.append(what)
        return choose(self, what, *lists)

    monkeypatch.setattr(asyncssh.SSHClientConnection, "_choose_alg", counted)
    async with Rig(server, tmp_path, fast=True) as rig:
        for number, host in enumerate(server.hosts(3)):
            assert await rig.out("echo in", target=rig.on(host, number)) == "in"

    assert chosen.count("key exchange") == 1


async def test_work_begins_at_once_and_waits_where_it_must() -> None:
    """What a job does before it waits is done; the rest goes on as in a task of its own."""
    done: list[str] = []
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def quick() -> None:
        done.append("quick")

    async def slow() -> None:
        done.append("begun")
        done.append(await gate)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Future()
        done.append("cancelled")

    assert begun(quick()) is None
    rest = begun(slow())
    assert done == ["quick", "begun"]
    assert rest is not None
    task = asyncio.ensure_future(rest)
    gate.set_result("waited")
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    await task
    assert done == ["quick", "begun", "waited", "cancelled"]


@pytest.mark.parametrize("hashed", [hashlib.sha256, hashlib.sha512])
@given(st.binary(min_size=1, max_size=80), st.binary(min_size=32, max_size=64))
def test_keys_are_derived_as_asyncssh_derives_them(
    hashed: Any, shared: bytes, session: bytes
) -> None:
    """From one hash come the keys that asyncssh takes a hash each for."""
    theirs = asyncssh.kex.Kex(b"", cast("Any", SimpleNamespace(logger=None)), hashed)
    for letter, length in ((b"A", 12), (b"C", 16), (b"D", 32)):
        ours = openssh_fast_packets._derived(hashed(shared + b"h"), session, letter, length)
        assert ours == theirs.compute_key(shared, b"h", letter, session, length)


async def test_an_answer_that_the_host_key_did_not_sign_is_refused(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the second time, when the exchange is ours: nothing is sent that matters."""
    async with register.rig(tmp_path) as rig:
        await connection_of(rig)
    signed = asyncssh.SSHKey.sign
    monkeypatch.setattr(
        asyncssh.SSHKey, "sign", lambda self, data, kind: signed(self, data + b"!", kind)
    )
    register.packets.clear()
    answered: list[bool] = []
    process = openssh_fast_exchange._Curve25519._packet_handlers[31]

    def counted(self: Any, *args: Any) -> None:
        answered.append(True)
        process(self, *args)

    monkeypatch.setitem(openssh_fast_exchange._Curve25519._packet_handlers, 31, counted)
    async with register.rig(tmp_path) as rig:
        with pytest.raises(ConnectError, match="hash mismatch"):
            await connection_of(rig)

    assert answered
    assert constants.MSG_USERAUTH_REQUEST not in register.packets


async def test_a_host_that_was_believed_at_first_sight_keeps_its_key(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """Of another key in a later exchange nobody is asked, and it is refused."""
    trust = Pins(learns=True)
    other = asyncssh.generate_private_key("ssh-ed25519").public_data
    async with Rig(server, tmp_path, trust=trust, fast=True) as rig:
        connection = await connection_of(rig)
        own = connection.get_server_host_key()
        assert connection.validate_server_host_key(own.public_data) == own
        with pytest.raises(asyncssh.HostKeyNotVerifiable):
            connection.validate_server_host_key(other)

    assert trust.shown == [server.host_public_key]


async def test_a_server_may_want_new_keys(tmp_path: Path) -> None:
    """What was let go of after the login is not needed when the server begins an exchange."""
    async with (
        OpenSSHServer(tmp_path, extra_config=["RekeyLimit 64K"]) as server,
        Rig(server, tmp_path, fast=True) as rig,
    ):
        began = (await connection_of(rig))._send_encryption
        assert await rig.out("head -c 400000 /dev/zero | tr '\\0' x | wc -c") == "400000"
        assert len(await rig.out("head -c 400000 /dev/zero | tr '\\0' x")) == 400000
        assert (await connection_of(rig))._send_encryption is not began
        assert await rig.out("echo in") == "in"


async def test_tcp_is_not_waited_for(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said first is given to a socket that still connects; a name is looked up before."""
    loop: Any = asyncio.get_running_loop()
    waited: list[object] = []
    connect = loop.sock_connect

    async def counted(sock: Any, address: Any) -> None:
        waited.append(address)
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", counted)
    async with Rig(server, tmp_path, fast=True) as rig:
        assert await rig.out("echo in") == "in"
        assert not waited
    async with Rig(server, tmp_path, host="localhost", fast=True) as rig:
        assert await rig.out("echo in") == "in"
        assert waited


# -- sessions --------------------------------------------------------------------------------


async def test_a_session_and_its_command_are_one_wait(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is asked for when there is a session, and not when its caller was woken."""
    assert openssh_fast.has_sessions()  # it is looked at once
    waits: list[str] = []
    kind = asyncssh.channel.SSHChannel

    def counting(name: str) -> Any:
        way = getattr(kind, name)

        async def counted(self: Any, *args: Any) -> Any:
            waits.append(name)
            return await way(self, *args)

        return counted

    for name in ("_open", "_make_request"):
        monkeypatch.setattr(kind, name, counting(name))
    async with Rig(server, tmp_path, fast=True) as rig:
        assert await rig.out("echo in") == "in"

    assert not waits


async def test_who_gave_up_before_there_was_a_session_has_nothing_run(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """A session that nobody waits for any more is asked for nothing."""
    ran = tmp_path / "ran"
    async with Rig(server, tmp_path, fast=True) as rig:
        connection = await connection_of(rig)
        session: Any = asyncssh.SSHClientSession()
        opening = asyncio.ensure_future(
            openssh_fast.open_session(connection, session, f"touch {ran}".encode(), 1024)
        )
        await anyio.wait_all_tasks_blocked()
        (channel,) = connection._channels.values()
        opening.cancel()
        await eventually(lambda: channel._send_state == "open")
        assert await rig.out("echo in") == "in"

    assert not ran.exists()


# -- packets ---------------------------------------------------------------------------------


@given(
    st.lists(st.binary(min_size=1, max_size=200), max_size=8), st.binary(min_size=12, max_size=12)
)
def test_a_seal_is_what_asyncssh_makes_of_it(packets: list[bytes], nonce: bytes) -> None:
    """What one of them seals the other opens, packet after packet; the counter may overflow."""
    key = bytes(range(16))
    ours, theirs = Seal(key, nonce), GCMEncryption(GCMCipher("aes128-gcm", key, nonce))
    back, forth = Seal(key, nonce), GCMEncryption(GCMCipher("aes128-gcm", key, nonce))
    for number, packet in enumerate(packets):
        header = len(packet).to_bytes(4, "big")
        sealed = b"".join(ours.encrypt_packet(number, header, packet))
        assert sealed == b"".join(theirs.encrypt_packet(number, header, packet))
        first, rest, tag = sealed[:16], sealed[16:-16], sealed[-16:]
        if len(sealed) >= 32:
            assert back.decrypt_packet(number, first, rest, 4, tag) == packet
            assert forth.decrypt_packet(number, first, rest, 4, tag) == packet
        else:
            assert back.open(header, sealed[4:]) == packet
            forth.decrypt_packet(number, header, sealed[4:-16], 4, tag)


def test_a_broken_seal_opens_nothing() -> None:
    """A packet that was tampered with is none."""
    sealed = Seal(bytes(16), bytes(12)).encrypt_packet(0, b"\0\0\0\4", b"abcd")[0]
    spoilt = sealed[:-1] + bytes((sealed[-1] ^ 1,))

    assert Seal(bytes(16), bytes(12)).open(sealed[:4], sealed[4:]) == b"abcd"
    assert Seal(bytes(16), bytes(12)).open(spoilt[:4], spoilt[4:]) is None


class Crumbs(ChoppyProxy):
    """Forwards a few bytes at a time, so that no read is a packet."""

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool
    ) -> None:
        while chunk := await reader.read(self.size):
            writer.write(chunk)
            await asyncio.sleep(0)  # a write, and a segment, of its own

    size = 5


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
async def test_packets_come_in_any_pieces(server: OpenSSHServer, tmp_path: Path, size: int) -> None:
    """Where one read ends means nothing to what is read."""
    async with Crumbs(server.host, server.port) as crumbs:
        crumbs.size = size
        async with Rig(server, tmp_path, port=crumbs.port, fast=True) as rig:
            given_ = bytes(range(256)) * 8
            assert (await rig.run("cat", stdin=given_)).stdout_bytes == given_


@both_paths
async def test_we_change_keys_when_it_is_time(
    server: OpenSSHServer, tmp_path: Path, fast: bool
) -> None:
    """New keys are agreed on amid a command that is fed, and another one follows."""
    async with Rig(server, tmp_path, fast=fast) as rig:
        connection = await connection_of(rig)
        began, connection._rekey_bytes = connection._send_encryption, 100_000
        given_ = bytes(range(256)) * 4000
        assert (await rig.run("cat", stdin=given_)).stdout_bytes == given_
        assert connection._send_encryption is not began
        assert await rig.out("echo in") == "in"
        assert (type(connection._send_encryption) is Seal) == fast


async def test_a_read_is_answered_by_one_write(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the connection to the exit of a command there are six writes, for ten packets."""
    writes: list[int] = []
    send = asyncssh.SSHClientConnection._send

    def counted(self: Any, data: bytes) -> None:
        writes.append(len(data))
        send(self, data)

    monkeypatch.setattr(asyncssh.SSHClientConnection, "_send", counted)
    async with Rig(server, tmp_path, fast=True) as rig:
        assert await rig.out("echo in") == "in"
        assert len(writes) == 6


async def test_usual_packets_take_the_short_way(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that a login or a command sends or receives goes through asyncssh's cases."""
    long_way: list[str] = []
    kind = asyncssh.SSHClientConnection

    def counting(name: str) -> Any:
        way = getattr(kind, name)

        def counted(self: Any, *args: Any, **named: Any) -> Any:
            long_way.append(name)
            return way(self, *args, **named)

        return counted

    for name in ("send_packet", "_recv_packet"):
        monkeypatch.setattr(kind, name, counting(name))
    async with Rig(server, tmp_path, fast=True) as rig:
        assert await rig.out("echo in") == "in"
        assert not long_way
        (await connection_of(rig)).send_debug("for whom it concerns")
        assert long_way == ["send_packet"]


async def test_host_keys_that_nobody_listens_to_take_nothing(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSH tells of its host keys after each login: asyncssh begins a task to ignore them."""
    told: list[object] = []
    report = asyncssh.SSHClientConnection._report_global_response

    def counted(self: Any, result: Any) -> None:
        told.append(result)
        report(self, result)

    monkeypatch.setattr(asyncssh.SSHClientConnection, "_report_global_response", counted)
    monkeypatch.delattr(asyncssh.SSHClientConnection, "_finish_hostkeys")
    part = openssh_fast_login.Spares
    monkeypatch.setattr(part, "RELIES_ON", {})  # of what was just taken away
    async with Rig(server, tmp_path, fast=True) as rig:
        assert await rig.out("echo in") == "in"

    assert not told


async def test_why_a_connection_is_closed_is_said(register: Register, tmp_path: Path) -> None:
    """What waits to be written when a connection is closed still goes."""
    async with register.rig(tmp_path) as rig:
        await connection_of(rig)
        assert constants.MSG_DISCONNECT not in register.packets
    with anyio.fail_after(5):
        while constants.MSG_DISCONNECT not in register.packets:
            await anyio.wait_all_tasks_blocked()


async def test_a_keepalive_timer_is_not_reset_by_each_read(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """A read is noted, and the timer looks when it is due."""
    async with Rig(server, tmp_path, fast=True) as rig:
        connection = await connection_of(rig)
        timer, heard_at = connection._keepalive_timer, connection._heard_at
        assert await rig.out("echo in") == "in"

        assert connection._keepalive_timer is timer
        assert connection._heard_at > heard_at


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING])
async def test_asyncssh_tells_its_log_what_somebody_reads(
    server: OpenSSHServer, tmp_path: Path, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Who turns asyncssh's log on can read on; else nothing of it is even formatted."""
    caplog.set_level(level, logger="asyncssh")
    async with Rig(server, tmp_path, fast=True) as rig:
        assert await rig.out("echo in") == "in"
        connection = await connection_of(rig)
        quiet = isinstance(connection.logger, openssh_fast_packets.Mute)

    said = "\n".join(caplog.messages)
    assert ("Completed key exchange" in said) == (level == logging.DEBUG)
    assert ("Received exit status 0" in said) == (level == logging.DEBUG)
    assert quiet == (level != logging.DEBUG)
