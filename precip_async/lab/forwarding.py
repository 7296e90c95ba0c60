"""Elastic addresses that work: a listener on this computer that passes on to a machine."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Forwarder", "can_listen"]

CHUNK: Final = 1 << 16
TRIES: Final = 64
PAUSE: Final = 0.02  # seconds between two of them


class Forwarder:
    """One address, held from the start; connections to it are refused while nothing is behind it.

    Args:
        port: Where it listens once something is.

    Raises:
        OSError: There is no such address to be had.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._held, self.address = _bound(port)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def lead_to(self, target: Callable[[], str]) -> None:
        """Pass connections on to where `target` says; nowhere is a connection reset."""
        await self.lead_nowhere()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
            try:
                await _pass_on(reader, writer, target(), self._port)
            except (OSError, asyncio.CancelledError):
                writer.transport.abort()  # the client sees why: the machine isn't there

        # The server closes its socket; the address stays held by ours.
        self._server = await asyncio.start_server(serve, sock=self._held.dup())

    async def lead_nowhere(self) -> None:
        """Refuse connections, and end those that there are."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        self._held.close()  # it listens, as a copy of the server's: only a new one refuses
        await self._hold_again()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _hold_again(self) -> None:
        for attempt in range(TRIES):
            try:
                self._held, self.address = _bound(self._port, self.address)
            except OSError:  # a process between its fork and its exec has a copy of the old one
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(PAUSE)
            else:
                return

    async def aclose(self) -> None:
        """Give the address back."""
        await self.lead_nowhere()
        self._held.close()


def can_listen(port: int) -> bool:
    """Whether addresses of this computer's own are to be had at `port`."""
    try:
        held, _ = _bound(port)
    except OSError:
        return False
    held.close()
    return True


def _bound(port: int, address: str = "") -> tuple[socket.socket, str]:
    for attempt in range(TRIES):
        wanted = address or f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}.254"
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, bool(address))
            held.bind((wanted, port))
            # Connections inherit it; those that linger must not keep us from binding again.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        except OSError:
            held.close()
            if address or attempt == TRIES - 1:
                raise
        else:
            return held, wanted
    raise AssertionError  # the last attempt raises


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, port: int
) -> None:
    if not address:
        raise ConnectionRefusedError
    there_reader, there_writer = await asyncio.open_connection(address, port)
    try:
        await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))
    finally:
        there_writer.transport.abort()
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):  # the other side has closed it already
        writer.write_eof()
