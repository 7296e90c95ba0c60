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
from functools import lru_cache
from typing import Any, cast

import anyio
import asyncssh

from precip_async.ssh.openssh_fast_channel import SESSION, open_session
from precip_async.ssh.openssh_fast_dial import DIALLING, Dialled, dial, shared
from precip_async.ssh.openssh_fast_exchange import EXCHANGE_PARTS
from precip_async.ssh.openssh_fast_login import LOGIN_PARTS
from precip_async.ssh.openssh_fast_packets import PACKET_PARTS
from precip_async.ssh.openssh_parts import as_known

__all__ = [
    "DIALLING",
    "PARTS",
    "SESSION",
    "available",
    "connect",
    "connection_class",
    "has_sessions",
    "open_session",
    "shared",
]

CLOSING = 1.0  # seconds for what is left of an attempt that was given up
PARTS = (*PACKET_PARTS, *EXCHANGE_PARTS, *LOGIN_PARTS)


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
        type("FastConnection", (*fitting, Dialled), {"_packet_handlers": handlers}),
    )


async def connect(
    options: asyncssh.SSHClientConnectionOptions,
    host: str,
    port: int | None,
    *,
    client: asyncssh.SSHClient,
    host_keys: frozenset[asyncssh.SSHKey],
    host_key_algorithms: list[bytes],
    tunnel: asyncssh.SSHClientConnection | None,
) -> asyncssh.SSHClientConnection:
    """As `asyncssh.connect`, with options that are made once for all connections.

    Args:
        options: Without a configuration file; see `shared`.
        host: An address or a name.
        port: Of its SSH server; ``None``: 22.
        client: Is told what happens.
        host_keys: Which to believe; others are `client`'s to judge.
        host_key_algorithms: Which to ask for, the best first.
        tunnel: A connection to go through.

    If cancelled, nothing of it is left.
    """
    loop = asyncio.get_running_loop()
    port = options.port if port is None else port
    kind: Any = connection_class()
    connection: Dialled = kind(loop, options, host, port, client, host_keys, host_key_algorithms)
    waiter: asyncio.Future[Any] = connection._waiter
    try:
        await dial(connection, host, port, tunnel)
        await waiter
    except BaseException:
        waiter.cancel()
        if connection.get_owner() is not None:  # else it was never made
            connection.abort()
            with anyio.move_on_after(CLOSING, shield=True):
                await connection.wait_closed()
        raise
    return connection
