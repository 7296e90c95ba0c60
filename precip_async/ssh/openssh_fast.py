"""asyncssh's client connections with their costly parts replaced: half the CPU and round trips.

This takes private parts of asyncssh. A part of ours is a class that overrides methods of asyncssh's
connection, and names the methods that it relies on, with the shape they had when it was written:
where asyncssh's are of another shape, the part is left out, and asyncssh's own way is taken.
Nothing of asyncssh is changed: others who use it in this process are unaffected.

After TCP's there are three round trips: two of the key exchange, of which the version is part of
the first, and one of the login. There is no guess at the key exchange, which might save another:
servers prefer post-quantum exchanges and have host keys of several types, so that it would mostly
be wrong, and asyncssh's server does not judge it as RFC 4253, section 7, does.
"""

from __future__ import annotations

import asyncio
import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import anyio
import asyncssh
from asyncssh.channel import SSHClientChannel
from asyncssh.packet import String

from precip_async.ssh.openssh_fast_login import LOGIN_PARTS
from precip_async.ssh.openssh_fast_packets import PACKET_PARTS
from precip_async.ssh.openssh_parts import as_known

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PARTS", "available", "connect", "connection_class", "has_sessions", "open_session"]

CLOSING = 1.0  # seconds for what is left of an attempt that was given up
PARTS = (*PACKET_PARTS, *LOGIN_PARTS)
DIALLING = {
    "connection.connect": "4f2892cb",
    "connection._connect": "1e4afdce",
    "connection.SSHClientConnection.__init__": "fbeeae78",
}
SESSION = {
    "connection.SSHClientConnection.create_session": "146cd64d",
    "channel.SSHClientChannel.__init__": "f62e119a",
    "channel.SSHClientChannel.create": "89eb955f",
    "channel.SSHChannel._open": "13cd42ed",
    "channel.SSHChannel._make_request": "22cde1d0",
    "channel.SSHChannel._start_reading": "bd8dbdb3",
}


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether `connect` is to be had with this asyncssh; it takes some milliseconds, once."""
    if not as_known(DIALLING):
        return False
    connection_class()
    return True


@lru_cache(maxsize=1)
def has_sessions() -> bool:
    """Whether `open_session` has a way of its own with this asyncssh."""
    return as_known(SESSION)


@lru_cache(maxsize=1)
def connection_class() -> type[asyncssh.SSHClientConnection]:
    """Asyncssh's client connection with those of our parts that fit it."""
    fitting = [part for part in PARTS if as_known(part.RELIES_ON)]
    handlers = dict(asyncssh.SSHClientConnection._packet_handlers)
    for part in fitting:
        for kind, name in getattr(part, "HANDLES", {}).items():
            handlers[kind] = getattr(part, name)
    return cast(
        "type[asyncssh.SSHClientConnection]",
        type(
            "FastConnection",
            (*fitting, asyncssh.SSHClientConnection),
            {"_packet_handlers": handlers},
        ),
    )


async def connect(
    options: asyncssh.SSHClientConnectionOptions,
    host: str,
    port: int | None,
    *,
    client: asyncssh.SSHClient,
    host_keys: Sequence[asyncssh.SSHKey],
    host_key_algorithms: Sequence[str],
    tunnel: asyncssh.SSHClientConnection | None,
) -> asyncssh.SSHClientConnection:
    """As `asyncssh.connect`, with options that are copied and not made anew each time.

    Args:
        options: Without a configuration file.
        host: An address or a name.
        port: Of its SSH server; ``None``: 22.
        client: Is told what happens.
        host_keys: Which to believe; others are `client`'s to judge.
        host_key_algorithms: Which to ask for, the best first.
        tunnel: A connection to go through.

    If cancelled, nothing of it is left.
    """
    loop = asyncio.get_running_loop()
    own = copy.copy(options)
    own.host = own.orig_host = host
    own.port = options.port if port is None else port
    own.known_hosts = cast("Any", (host_keys, [], []))
    own.server_host_key_algs = host_key_algorithms
    own.protocol_factory = lambda: client
    own.waiter = loop.create_future()
    own.login_timeout = 0  # no timer: who calls us has a deadline
    own.agent_path = options.agent_path or None  # asyncssh would ask the agent at ""
    # a pair remembers the signature that its server takes
    own.client_keys = [copy.copy(pair) for pair in options.client_keys or ()]
    kind = connection_class()

    def factory() -> Any:
        return kind(loop, own, wait="auth")

    try:
        _, made = await (tunnel or loop).create_connection(factory, host, own.port)
    except BaseException:
        own.waiter.cancel()
        raise
    connection = cast("asyncssh.SSHClientConnection", made)
    connection.set_extra_info(host=host, port=own.port)
    try:
        await own.waiter
    except BaseException:
        connection.abort()
        with anyio.move_on_after(CLOSING, shield=True):
            await connection.wait_closed()
        raise
    return connection


class _Channel(SSHClientChannel[bytes]):
    """A session that has nothing but a command."""

    async def run(self, session: asyncssh.SSHClientSession[bytes], command: bytes) -> None:
        """Have `command` run, and `session` told of it."""
        (await self._open(b"session")).check_end()
        self._session = session
        session.connection_made(self)
        if not await self._make_request(b"exec", String(command)):
            self.close()
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_REQUEST_SESSION_FAILED, "Session request failed"
            )
        session.session_started()
        self._loop.call_soon(self._listen)  # not before our caller has its channel

    def _listen(self) -> None:
        if self._recv_paused == "starting":
            self._recv_paused = False
            self._flush_recv_buf()


async def open_session(
    connection: asyncssh.SSHClientConnection,
    session: asyncssh.SSHClientSession[bytes],
    command: bytes,
    window: int,
) -> None:
    """As `create_session`, for bytes and without what a terminal or a subsystem needs.

    Raises:
        asyncssh.ChannelOpenError: There is no session, or it runs nothing.
    """
    options, loop = connection._options, connection._loop
    decoding, size = options.utf8_decode_errors, options.max_pktsize
    channel = _Channel(connection, loop, decoding, None, options.errors, window, size)
    await channel.run(session, command)
