"""Elastic addresses: what a lab does with one that is in use."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute

from precip_async.lab.forwarding import Forwarder
from precip_async.lab.http import HOST

if TYPE_CHECKING:
    from anyio.abc import SocketStream


async def test_an_address_is_taken_away_while_it_is_used() -> None:
    """Whoever is connected through it is cut off, and it can lead somewhere again."""

    async def greet(stream: SocketStream) -> None:
        async with stream:
            await stream.send(b"hello")
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()

    async with await anyio.create_tcp_listener(local_host=HOST) as target:
        port = target.extra(SocketAttribute.local_port)
        forwarder = Forwarder(port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(target.serve, greet)
            await forwarder.lead_to(lambda: HOST)
            address = forwarder.address
            async with await anyio.connect_tcp(address, port) as first:
                assert await first.receive() == b"hello"

                await forwarder.lead_nowhere()
                await forwarder.lead_to(lambda: HOST)

                async with await anyio.connect_tcp(address, port) as second:
                    assert await second.receive() == b"hello"
            await forwarder.aclose()
            tasks.cancel_scope.cancel()
