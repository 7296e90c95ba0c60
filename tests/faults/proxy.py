"""A bad line: passes bytes on, until the one that suffers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.faults.trials import Fault

__all__ = ["Line", "bad_line"]

CHUNK: Final = 1 << 14
DELAY: Final = 0.2  # seconds that each piece takes from then on
FROZEN: Final = 4.0  # seconds for which nothing moves
CLOSE: Final = 5.0  # seconds


class Line:
    """What the connections through one proxy share.

    Attributes:
        port: Where it begins.
    """

    def __init__(self, fault: Fault, at: int, port: int) -> None:
        self.port = port
        self._fault, self._at = fault, float(at)
        self._pieces = 0
        self._moves = asyncio.Event()
        self._moves.set()

    def heal(self) -> None:
        """Be a good line from now on."""
        self._at = math.inf
        self._moves.set()

    async def passed(self, data: bytes) -> bytes:
        """What arrives of `data`, once it does.

        Raises:
            ConnectionResetError: The connection is cut.
        """
        self._pieces += 1
        if self._pieces == self._at:
            if self._fault == "cut":
                raise ConnectionResetError
            if self._fault == "garble":
                middle = len(data) // 2
                data = data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
            if self._fault == "freeze":
                self._moves.clear()
                asyncio.get_running_loop().call_later(FROZEN, self._moves.set)
        await self._moves.wait()
        if self._fault == "delay" and self._pieces >= self._at:
            await anyio.sleep(DELAY)
        return data


@asynccontextmanager
async def bad_line(
    fault: Fault, at: int, target: Callable[[str], tuple[str, int]]
) -> AsyncIterator[Line]:
    """A bad line that begins at a port of all of the loopback's addresses.

    Args:
        fault: What happens to it.
        at: To which piece of data, counted over all connections and both directions.
        target: Where a connection leads that was made to an address.
    """
    connections = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        try:
            there = await asyncio.open_connection(*target(writer.get_extra_info("sockname")[0]))
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_pass_on(line, reader, there[1]))
                    tasks.create_task(_pass_on(line, there[0], writer))
            finally:
                there[1].transport.abort()
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    listener.bind(("", 0))
    line = Line(fault, at, listener.getsockname()[1])
    server = await asyncio.start_server(serve, sock=listener)
    try:
        yield line
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        if connections:
            with anyio.move_on_after(CLOSE, shield=True):
                await asyncio.wait(connections)


async def _pass_on(line: Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(await line.passed(data))
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
