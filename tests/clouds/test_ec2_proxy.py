"""A proxy of the environment between us and the cloud: what it says, and its password."""

from __future__ import annotations

import asyncio
import logging
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from precip_async.errors import CloudError, EndpointUnreachable
from tests.clouds.ec2_peer import cloud_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PASSWORD = "proxy-pass-77"
REFUSAL = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def proxied(monkeypatch: pytest.MonkeyPatch, url: str = "") -> AsyncIterator[None]:
    """An environment with a proxy that lets nobody pass, or with one at `url`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REFUSAL)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, url or f"http://me:{PASSWORD}@127.0.0.1:{port}")
    try:
        yield
    finally:
        server.close()


async def refused(url: str) -> CloudError:
    """What opening a cloud at `url` ends with."""
    with pytest.raises(CloudError) as caught:
        async with cloud_at(url):
            pytest.fail("it was let through")
    return caught.value


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_lets_nobody_pass_is_told(
    scheme: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With what it answers and where it is said; and its password is nowhere."""
    caplog.set_level(logging.DEBUG)
    async with proxied(monkeypatch):
        error = await refused(f"{scheme}://192.0.2.1/")

    assert isinstance(error, EndpointUnreachable)
    assert "407" in str(error)
    assert "check HTTP_PROXY, HTTPS_PROXY" in str(error)
    assert PASSWORD not in "".join(traceback.format_exception(error))
    assert PASSWORD not in caplog.text


async def test_a_proxy_that_is_no_url_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and without its text, in which a password may be."""
    async with proxied(monkeypatch, f"http://me:{PASSWORD}@no host:xx"):
        error = await refused("https://192.0.2.1/")

    assert "the URL of the proxy is none" in str(error)
    assert PASSWORD not in "".join(traceback.format_exception(error))
