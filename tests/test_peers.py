"""The misbehaving peers misbehave as they say, and the proxy cuts, freezes and delays."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

import anyio
import pytest

from tests import peers
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Echo(peers.Peer):
    """Sends back what it is sent."""

    def __init__(self) -> None:
        super().__init__(self._echo)

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1024):
            writer.write(chunk)
            await writer.drain()


@pytest.fixture
async def proxy() -> AsyncIterator[peers.ChoppyProxy]:
    async with Echo() as echo, peers.ChoppyProxy(echo.host, echo.port) as running:
        yield running


class Client:
    """A connection to a peer; a test that uses it is over in ten seconds."""

    def __init__(self, peer: peers.Peer) -> None:
        self.peer = peer

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(self.peer.host, self.peer.port)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.writer.transport.abort()

    async def says(self, text: bytes) -> bytes:
        """What comes back for `text`."""
        self.writer.write(text)
        with anyio.fail_after(10):
            return await self.reader.readexactly(len(text))

    async def hears(self, count: int = -1) -> bytes:
        """`count` bytes, or all there are until the end."""
        with anyio.fail_after(10):
            return await (self.reader.read() if count < 0 else self.reader.readexactly(count))


async def test_a_mute_peer_accepts_and_says_nothing() -> None:
    """Nothing comes from a mute peer, whatever it is told; the connection stays."""
    async with peers.mute_peer() as peer, Client(peer) as client:
        with pytest.raises(TimeoutError), anyio.fail_after(0.2):
            await client.says(b"anybody?\n")
        assert peer.open == 1


async def test_a_closing_peer_ends_the_connection() -> None:
    """A closing peer accepts and is gone, without a word."""
    async with peers.closing_peer() as peer, Client(peer) as client:
        assert await client.hears() == b""


async def test_an_http_peer_speaks_http() -> None:
    """An HTTP peer takes an SSH banner for a bad request."""
    async with peers.http_peer() as peer, Client(peer) as client:
        client.writer.write(b"SSH-2.0-x\r\n")
        assert (await client.hears()).startswith(b"HTTP/1.1 400 ")


async def test_a_garbage_peer_starts_like_ssh() -> None:
    """A garbage peer shows a banner that lets a client go on, and then no packet."""
    async with peers.garbage_peer() as peer, Client(peer) as client:
        assert await client.hears(22) == b"SSH-2.0-OpenSSH_9.2\r\n\xff"


async def test_an_endless_banner_does_not_end() -> None:
    """An endless banner goes on well past any buffer, and never says SSH."""
    async with peers.endless_banner_peer() as peer, Client(peer) as client:
        assert b"SSH-" not in await client.hears(20_000)


async def test_leaving_a_peer_ends_its_connections() -> None:
    """After a peer was left, its connections are closed and nobody listens."""
    async with peers.mute_peer() as peer:
        client = await Client(peer).__aenter__()
        await eventually(lambda: peer.open == 1, "accepted")

    assert await client.hears() == b""
    client.writer.transport.abort()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(peer.host, peer.port)


async def test_the_proxy_forwards_both_ways(proxy: peers.ChoppyProxy) -> None:
    """Undisturbed, the proxy forwards everything and counts the answers."""
    async with Client(proxy) as client:
        assert await client.says(b"x" * 100_000) == b"x" * 100_000

    assert proxy.forwarded == 100_000


async def test_the_proxy_forwards_the_end(proxy: peers.ChoppyProxy) -> None:
    """Half a connection closed on one side is closed on the other."""
    async with Client(proxy) as client:
        client.writer.write(b"last words")
        client.writer.write_eof()
        assert await client.hears() == b"last words"


async def test_a_cut_resets(proxy: peers.ChoppyProxy) -> None:
    """A cut is a reset, not an end of file."""
    async with Client(proxy) as client:
        await client.says(b"hello")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await client.hears()
    await eventually(lambda: proxy.open == 0, "the proxy has let go")


async def test_a_frozen_proxy_is_silent_until_thawed(proxy: peers.ChoppyProxy) -> None:
    """Frozen, the proxy forwards nothing; thawed, it forwards what was held back."""
    async with Client(proxy) as client:
        proxy.freeze()
        with pytest.raises(TimeoutError), anyio.fail_after(0.2):
            await client.says(b"hello")
        proxy.thaw()
        assert await client.hears(5) == b"hello"


async def test_a_delay_holds_each_chunk_back(proxy: peers.ChoppyProxy) -> None:
    """With a delay, an answer takes it twice: there and back."""
    async with Client(proxy) as client:
        proxy.delay = 0.1
        began = time.monotonic()
        await client.says(b"hello")

    assert time.monotonic() - began >= 0.2


async def test_a_proxy_cuts_after_so_many_bytes(proxy: peers.ChoppyProxy) -> None:
    """With a number of bytes to cut after, the connection is reset before they are through."""
    proxy.cut_after = 10
    async with Client(proxy) as client:
        assert await client.says(b"123456789") == b"123456789"
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await client.says(b"0")


async def test_a_target_that_refuses_closes_the_client() -> None:
    """A proxy whose target is down closes what it accepted."""
    async with peers.closing_peer() as gone:
        port = gone.port
    async with peers.ChoppyProxy("127.0.0.1", port) as proxy, Client(proxy) as client:
        assert await client.hears() == b""
