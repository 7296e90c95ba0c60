"""Elastic addresses: what connections to them meet."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from precip_async.lab.forwarding import Forwarder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MACHINE = "127.0.0.1"


@asynccontextmanager
async def machine() -> AsyncIterator[int]:
    """A machine that sends back what it is sent; its port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async with await asyncio.start_server(echo, MACHINE, 0) as server:
        yield int(server.sockets[0].getsockname()[1])


async def test_an_address_is_taken_away_while_it_is_in_use() -> None:
    """What goes through it breaks, it refuses from then on, and can lead elsewhere again."""
    async with machine() as port:
        forwarder = Forwarder(port)
        try:
            await forwarder.lead_to(lambda: MACHINE)
            reader, writer = await asyncio.open_connection(forwarder.address, port)
            writer.write(b"in\n")
            assert await reader.readline() == b"in\n"

            await forwarder.lead_nowhere()
            with pytest.raises(ConnectionError):
                await asyncio.open_connection(forwarder.address, port)
            assert reader.exception() or not await reader.readline()
            await forwarder.lead_to(lambda: MACHINE)
            _, again = await asyncio.open_connection(forwarder.address, port)
            again.close()
            writer.close()
        finally:
            await forwarder.aclose()
