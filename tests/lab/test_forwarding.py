"""Elastic addresses: what a lab does with one that is in use."""

from __future__ import annotations

import anyio
import anyio.to_thread

from precip_async.lab.forwarding import Forwarder

PORT = 2222


async def test_an_address_is_taken_away_while_it_is_used() -> None:
    """Whoever is connected through it is cut off, and it stays held to lead anywhere again."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=PORT) as target:

        async def greet(stream: anyio.abc.SocketStream) -> None:
            await stream.send(b"hello")
            await anyio.sleep_forever()

        forwarder = Forwarder(PORT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(target.serve, greet)
            await forwarder.lead_to(lambda: "127.0.0.1")
            address = forwarder.address
            async with await anyio.connect_tcp(address, PORT) as stream:
                assert await stream.receive() == b"hello"

                await forwarder.lead_nowhere()

                assert forwarder.address == address
            await forwarder.lead_to(lambda: "127.0.0.1")
            async with await anyio.connect_tcp(address, PORT) as stream:
                assert await stream.receive() == b"hello"
            await forwarder.aclose()
            tasks.cancel_scope.cancel()
