"""Peers that are no SSH servers, and a proxy that cuts, freezes and delays: all on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Self

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = [
    "ChoppyProxy",
    "Peer",
    "closing_peer",
    "endless_banner_peer",
    "garbage_peer",
    "http_peer",
    "mute_peer",
]

CHUNK = 64 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s: closing sends RST, not FIN


class Peer:
    """A TCP listener on loopback; `behave` has each connection, which ends when it returns.

    Use it by ``async with``; leaving that ends the listener and every connection.

    Attributes:
        host: Where it listens.
        port: Likewise.
        accepted: Connections so far.
        open: Connections now.
    """

    def __init__(
        self,
        behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        *,
        host: str = "127.0.0.1",
    ) -> None:
        self.host, self.port = host, 0
        self.accepted = 0
        self._behave = behave
        self._writers: set[asyncio.StreamWriter] = set()
        self._resources = contextlib.AsyncExitStack()

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._writers)

    def cut(self) -> None:
        """Reset every connection that is open: the peer sees RST, and what it sent is lost."""
        for writer in list(self._writers):
            reset(writer)

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as undo:
            tasks = await undo.enter_async_context(anyio.create_task_group())
            undo.callback(tasks.cancel_scope.cancel)

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                self.accepted += 1
                self._writers.add(writer)
                tasks.start_soon(self._serve, reader, writer)

            server = await asyncio.start_server(accept, self.host, 0)
            undo.callback(server.close)
            self.port = server.sockets[0].getsockname()[1]
            self._resources = undo.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._resources.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):  # the other side may go at any time
                await self._behave(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()
            with anyio.move_on_after(1, shield=True), contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            writer.transport.abort()  # a peer that reads nothing would keep it open


class ChoppyProxy(Peer):
    """Forwards to ``target_host:target_port``, until told to misbehave.

    Attributes:
        delay: Seconds that each chunk is held back, in either direction.
        cut_after: Bytes of the target's answers, over all connections, after which every
            connection is reset; ``None``: never.
        forwarded: Bytes of the target's answers so far.
    """

    def __init__(self, target_host: str, target_port: int, *, host: str = "127.0.0.1") -> None:
        super().__init__(self._forward, host=host)
        self.target = (target_host, target_port)
        self.delay = 0.0
        self.cut_after: int | None = None
        self.forwarded = 0
        self._flowing = asyncio.Event()
        self._flowing.set()

    def freeze(self) -> None:
        """Forward nothing more and keep every connection open: the peers fall silent."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Undo `freeze`; what was held back goes on."""
        self._flowing.set()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self.target)
        try:
            async with anyio.create_task_group() as both:
                both.start_soon(self._pump, reader, back, False)
                both.start_soon(self._pump, there, writer, True)
        except* OSError:  # a socket that is not connected any more is no ConnectionError
            reset(writer)  # one side broke: so does the other
        finally:
            back.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool
    ) -> None:
        while chunk := await reader.read(CHUNK):
            if self.delay:
                await anyio.sleep(self.delay)
            await self._flowing.wait()
            if answers:
                self.forwarded += len(chunk)
                if self.cut_after is not None and self.forwarded >= self.cut_after:
                    self.cut()
                    return
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST."""
    raw = writer.get_extra_info("socket")
    if raw is not None and not writer.transport.is_closing():
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


def mute_peer() -> Peer:
    """Accepts, and never speaks."""

    async def behave(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await anyio.sleep_forever()

    return Peer(behave)


def closing_peer() -> Peer:
    """Accepts, and closes at once."""

    async def behave(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        return

    return Peer(behave)


def http_peer() -> Peer:
    """An HTTP server, as a wrong port often is: it answers the first line with 400."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    return Peer(behave)


def garbage_peer() -> Peer:
    """An SSH banner, then bytes that are no packet."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n" + b"\xff" * 4096)
        await writer.drain()
        await reader.read()

    return Peer(behave)


def endless_banner_peer() -> Peer:
    """Lines before the banner, as the protocol allows them, without end."""

    async def behave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"Welcome to the machine. " * 8 + b"\r\n")
            await writer.drain()
            await anyio.sleep(0.001)  # endless, not a flood

    return Peer(behave)
