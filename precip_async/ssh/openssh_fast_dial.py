"""Connections of asyncssh's that share their options, and do not wait for TCP.

What `openssh_fast` needs before any of its parts.
"""

from __future__ import annotations

import asyncio
import copy
import dis
import errno
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, cast

import asyncssh

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DIALLING", "Dialled", "dial", "shared"]

DIALLING = {
    "connection.connect": "4f2892cb",
    "connection._connect": "1e4afdce",
    "connection.SSHConnection.__init__": "8b762a5b",
    "connection.SSHConnection.connection_made": "3121c61d",
    "connection.SSHConnection._cleanup": "e92b0187",
    "connection.SSHConnection._force_close": "767f4ff8",
    "connection.SSHConnection._match_known_hosts": "bf0f533b",
    "connection.SSHClientConnection.__init__": "fbeeae78",
    "connection.SSHClientConnection._connection_made": "7d51477e",
}
_NONE: Any = frozenset()


def _attributes(kind: type) -> Iterator[str]:
    """What the constructor of `kind` sets."""
    for step in dis.get_instructions(kind.__init__):  # type: ignore[misc]  # it is only read
        if step.opname == "STORE_ATTR":
            yield step.argval


class Dialled(asyncssh.SSHClientConnection):
    """A connection that shares its options with others, and is given what is its own.

    Its attributes have slots: asyncssh's are so many that the interpreter would keep a dictionary
    of 3 KB for each connection, and look everything up in it.

    Attributes:
        reached: Whether there was somebody at the other end; known when it is closed.
    """

    __slots__ = tuple(
        {
            *_attributes(asyncssh.connection.SSHConnection),
            *_attributes(asyncssh.SSHClientConnection),
        }
    )
    reached = True
    _waiter: asyncio.Future[Any]

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHClientConnectionOptions,
        host: str,
        port: int,
        client: asyncssh.SSHClient,
        host_keys: frozenset[asyncssh.SSHKey],
        host_key_algorithms: list[bytes],
    ) -> None:
        super().__init__(loop, options, wait="auth")
        self._host, self._port, self._waiter = host, port, loop.create_future()
        self._protocol_factory = lambda: client
        self._trusted_host_keys = cast("set[asyncssh.SSHKey]", host_keys)
        self._trusted_ca_keys = self._revoked_host_keys = self._x509_revoked_certs = _NONE
        self._server_host_key_algs = host_key_algorithms
        # a pair of several kinds of signature remembers the one that its server takes
        self._client_keys = [
            pair if len(pair.sig_algorithms) == 1 and not pair.use_executor else copy.copy(pair)
            for pair in self._client_keys
        ]

    def _connection_made(self) -> None:
        """Nothing is looked up: it was given host keys, and nothing else."""

    def _force_close(self, exc: Exception | None) -> None:
        if self._transport is not None and not self._server_version:
            refused = isinstance(exc, OSError) and not isinstance(exc, ConnectionResetError)
            self.reached = not refused and not self._transport.get_write_buffer_size()
        super()._force_close(exc)


def shared(
    options: asyncssh.SSHClientConnectionOptions,
) -> asyncssh.SSHClientConnectionOptions:
    """Make `options` such that any number of connections can be made with them."""
    options.waiter = None
    options.login_timeout = 0  # no timer: who calls us has a deadline
    options.agent_path = options.agent_path or None  # asyncssh would ask the agent at ""
    return options


async def dial(
    connection: Any, host: str, port: int, tunnel: asyncssh.SSHClientConnection | None
) -> None:
    """Have `connection` made, through `tunnel` if there is one.

    Where that is possible it is made before there is one: asyncio keeps what is sent until TCP is
    ready, and tells of a failure as of any later one. That saves a wake-up of the task, and all
    that asyncio does to watch a socket, stop watching, and watch it again.

    Raises:
        OSError: There is no way there. Or `connection` is told of it.
    """
    loop = asyncio.get_running_loop()
    sock = None
    if tunnel is None and isinstance(loop, asyncio.SelectorEventLoop):
        sock = _on_its_way(host, port)
    if sock is not None:
        await loop.create_connection(lambda: connection, sock=sock)
    else:
        await (tunnel or loop).create_connection(lambda: connection, host, port)


def _on_its_way(host: str, port: int) -> socket.socket | None:
    """A socket that connects to `host`; ``None`` for a name, and where that can't be written to."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host)
    except OSError:
        return None
    if sys.platform != "linux":  # elsewhere to write is an error until it is connected
        return None
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    error = sock.connect_ex((host, port))
    if error not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(error, os.strerror(error))
    return sock
