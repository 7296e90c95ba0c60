"""The lab's HTTP(S) server: the only place that knows aiohttp."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

import anyio

from precip_async.lab.messages import Reply, Request

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp import web

__all__ = ["HOST", "serving"]

HOST: Final = "127.0.0.1"
CLOSE_GRACE: Final = 2.0  # seconds for requests in flight when the lab is closed


@asynccontextmanager
async def serving(
    answer: Callable[[Request], Awaitable[Reply]],
    *,
    clock: Callable[[], float],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Answer requests at a port of the loopback; the port.

    Args:
        answer: What a request is answered with.
        clock: What the time is, in seconds since the epoch; every answer bears it.
        tls: For https.
    """
    from aiohttp import web

    under_way: set[asyncio.Task[object]] = set()

    async def handle(incoming: web.BaseRequest) -> web.StreamResponse:
        # aiohttp forgets a request whose client is gone; it goes on, and is ended with the rest
        if (task := asyncio.current_task()) is not None:
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        try:
            request = await _request(incoming)
        except web.HTTPRequestEntityTooLarge:  # than a MiB; a thousand ids take 40 KiB
            return web.Response(status=413, text="The request is too large.")
        reply = await answer(request)
        if reply.cut:
            _reset(incoming)
            return web.Response()  # goes nowhere
        headers = {"Content-Type": reply.content_type, "Date": formatdate(clock(), usegmt=True)}
        return web.Response(status=reply.status, body=reply.body, headers=headers)

    server = web.Server(handle, access_log=None)
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=CLOSE_GRACE)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, 0, ssl_context=tls)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        with anyio.move_on_after(2 * CLOSE_GRACE, shield=True):
            await runner.cleanup()
            for task in list(under_way):
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)


async def _request(incoming: web.BaseRequest) -> Request:
    path, _, query = incoming.raw_path.partition("?")
    return Request(
        method=incoming.method,
        path=path,
        query=query,
        headers=tuple(
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in incoming.raw_headers
        ),
        body=await incoming.read(),
    )


def _reset(incoming: web.BaseRequest) -> None:
    transport = incoming.transport
    if transport is None:
        return
    line: socket.socket = transport.get_extra_info("socket")
    # Without this the kernel would end the connection in order, as if there were nothing to say.
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
