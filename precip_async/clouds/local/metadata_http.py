"""A metadata service at its address within one machine's network, and nowhere else.

The address is that machine's own: no other machine, and not this computer, has a way there. The
socket is opened within the machine's network namespace and served from the warden's process, so
that who asks is known by where they asked, and nothing is left of it when the warden is gone.

The warden has the standard library only, and so this speaks HTTP by itself: a request a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from precip_async.clouds.local.metadata import Ask, Reply

if TYPE_CHECKING:
    from precip_async.clouds.local.metadata import Service

__all__ = ["ADDRESS", "MetadataServer"]

ADDRESS: Final = "169.254.169.254"
PORT: Final = 80
MOST: Final = 16 * 1024  # bytes of a request
PATIENCE: Final = 10.0  # seconds for a request to arrive and its answer to be taken
_CLONE_NEWNET: Final = 0x40000000


class MetadataServer:
    """Serves one machine. Its listening socket keeps the machine's network: close it first."""

    def __init__(self, server: asyncio.Server, connections: set[asyncio.Transport]) -> None:
        self._server, self._connections = server, connections

    @classmethod
    async def open(cls, service: Service, pid: int, own: str) -> Self:
        """Listen in the network of the process `pid`.

        Args:
            service: Answers.
            pid: The machine's process 1.
            own: The machine's address: who asks from another is beyond it, in a container say.

        Raises:
            OSError: It has ended, or the address is not there.
        """
        loop = asyncio.get_running_loop()
        # The thread stays in that network to its end. It is not awaited, so that no cancellation
        # can come between the socket and us; what it does waits for nobody.
        with ThreadPoolExecutor(1) as alone:
            listening = alone.submit(_listening_in, pid).result()
        connections: set[asyncio.Transport] = set()
        try:
            server = await loop.create_server(
                lambda: _Visit(service, own, connections), sock=listening
            )
        except BaseException:
            listening.close()
            raise
        return cls(server, connections)

    def close(self) -> None:
        """Let go of the machine's network."""
        self._server.close()
        for connection in list(self._connections):
            connection.abort()


class _Visit(asyncio.Protocol):
    """One connection: one request, answered as soon as it is there."""

    def __init__(self, service: Service, own: str, connections: set[asyncio.Transport]) -> None:
        self._service, self._own, self._connections = service, own, connections
        self._read = bytearray()
        self._is_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(transport)
        self._end = asyncio.get_running_loop().call_later(PATIENCE, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        if self._is_answered:
            return
        self._read += data
        if len(self._read) > MOST:
            self._say(Reply(status=413))
        elif (ask := _read_request(bytes(self._read))) is not None:
            self._say(self._service.answer(ask), head=ask.method == "HEAD")

    def _say(self, reply: Reply, *, head: bool = False) -> None:
        self._is_answered = True
        if reply.hop_limit is not None and not self._limit(reply.hop_limit):
            return  # it is lost on its way, and whoever asked waits in vain
        status = HTTPStatus(reply.status)
        headers = {
            "Content-Type": "text/plain",
            "Content-Length": str(len(reply.body)),
            "Connection": "close",
            "Server": "EC2ws",
            **reply.headers,
        }
        lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if not head:
            self._transport.write(reply.body)
        self._transport.close()

    def _limit(self, hops: int) -> bool:
        """Let what is sent travel `hops` hops at most; whether it gets anywhere.

        Clouds' services are outside of the machine, so that the machine is a hop for who is beyond
        it. This one is within.
        """
        asker, *_ = self._transport.get_extra_info("peername") or (self._own,)
        if asker not in (ADDRESS, self._own) and not asker.startswith("127."):
            hops -= 1
        if hops:
            line: socket.socket = self._transport.get_extra_info("socket")
            line.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
        return bool(hops)


def _read_request(read: bytes) -> Ask | None:
    """The request that was `read`; ``None`` while it is not there as a whole."""
    top, end, body = read.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = top.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = headers.get("content-length", "")
    if re.fullmatch("[0-9]{1,5}", length) and len(body) < int(length):
        return None
    method, _, rest = first.partition(" ")
    return Ask(method=method, path=rest.partition(" ")[0], headers=headers)


def _listening_in(pid: int) -> socket.socket:
    """A socket in the network of the process `pid`, where this thread stays. Blocks."""
    with Path(f"/proc/{pid}/ns/net").open("rb") as network:
        _enter(network.fileno())
    with contextlib.ExitStack() as undo:
        made = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        made.bind((ADDRESS, PORT))
        made.listen()
        made.setblocking(False)
        undo.pop_all()
    return made


def _enter(network: int) -> None:
    if sys.version_info >= (3, 12):
        os.setns(network, _CLONE_NEWNET)
    elif ctypes.CDLL(None, use_errno=True).setns(network, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
