"""Whoever answers in the cloud's place, and means us ill: memory, time and errors stay bounded."""

from __future__ import annotations

import asyncio
import tracemalloc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from precip_async.clouds import ec2_replies
from precip_async.errors import CloudError, EndpointUnreachable
from tests.clouds.ec2_peer import Reply, cloud_at, described, document, item, peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIB = 1024 * 1024
START = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">
<!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;"><!ENTITY e "&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;">
<!ENTITY f "&e;&e;&e;&e;&e;&e;&e;&e;&e;&e;"><!ENTITY g "&f;&f;&f;&f;&f;&f;&f;&f;&f;&f;">
<!ENTITY h "&g;&g;&g;&g;&g;&g;&g;&g;&g;&g;">]>
<DescribeKeyPairsResponse><keySet>&h;</keySet></DescribeKeyPairsResponse>"""
OUTSIDE = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<DescribeKeyPairsResponse><keySet><item><keyName>&a;</keyName></item></keySet>
</DescribeKeyPairsResponse>"""


@asynccontextmanager
async def endless() -> AsyncIterator[str]:
    """Where every answer begins well and has no end; its URL."""
    piece = b"100000\r\n" + bytes(MIB) + b"\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(START)
            while True:
                writer.write(piece)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client has had enough
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "http://{}:{}/".format(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()


@pytest.mark.slow
async def test_an_answer_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no more memory than the longest answer may have, and is an error of ours."""
    monkeypatch.setattr(ec2_replies, "LONGEST", 4 * MIB)
    tracemalloc.start()
    try:
        async with endless() as url:
            with pytest.raises(EndpointUnreachable, match="longer than 4194304 bytes"):
                async with cloud_at(url):
                    pytest.fail("it was taken for a cloud")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < 40 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("body", [BOMB, OUTSIDE], ids=["bomb", "outside"])
async def test_entities_are_not_resolved(body: str) -> None:
    """Neither those that unfold to gigabytes nor those that stand for a file of ours."""
    async with peer({"DescribeKeyPairs": body}) as it:
        with pytest.raises(CloudError) as caught:
            async with cloud_at(it.url):
                pytest.fail("it was taken for a cloud")

    assert "root:" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "inside",
    ["<a>" * 100_000 + "</a>" * 100_000, "<item><keyName>" + "k" * MIB + "</keyName></item>"],
    ids=["deep", "long"],
)
async def test_a_strange_document_harms_nobody(inside: str) -> None:
    """Elements in elements without end, and names of a mebibyte, are no key pair of ours."""
    answer = document("DescribeKeyPairs", f"<keySet>{inside}</keySet>")
    async with peer({"DescribeKeyPairs": answer}) as it, cloud_at(it.url):
        assert [one.parameters["KeyName"] for one in it.asked("ImportKeyPair")] == ["precip"]


@pytest.mark.slow
@pytest.mark.parametrize("size", ["0", "99999999999999999999", "-1", "ten"])
async def test_a_length_that_is_a_lie_is_an_error_in_time(size: str) -> None:
    """An answer that promises more than comes, or makes no sense, is no answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n<a/>".encode())
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        with pytest.raises(CloudError):
            async with cloud_at(f"http://{host}:{port}/"):
                pytest.fail("it was taken for a cloud")


async def test_what_a_cloud_says_is_shown_short() -> None:
    """A refusal of a megabyte does not fill anybody's terminal."""
    said = f"<Response><Errors><Error><Code>No</Code><Message>{'x' * MIB}</Message></Error>"
    answer = Reply(status=400, body=said + "</Errors></Response>")
    async with peer({"DescribeKeyPairs": answer}) as it:
        with pytest.raises(CloudError) as caught:
            async with cloud_at(it.url):
                pytest.fail("it was taken for a cloud")

    assert len(str(caught.value)) < 2000


async def test_what_a_cloud_says_moves_no_cursor() -> None:
    """Sequences that a terminal would obey are shown, and not sent to it."""
    said = "<Response><Errors><Error><Code>No</Code><Message>a&#27;[2Jb&#155;c\u202ed"
    answer = Reply(status=400, body=said + "</Message></Error></Errors></Response>")
    async with peer({"DescribeKeyPairs": answer}) as it:
        with pytest.raises(CloudError) as caught:
            async with cloud_at(it.url):
                pytest.fail("it was taken for a cloud")

    assert [char for char in str(caught.value) if not char.isprintable()] == []


async def test_where_a_cloud_points_to_moves_no_cursor() -> None:
    """A redirect's target is repeated, and may be anything."""
    async with peer(
        {"DescribeKeyPairs": Reply(status=302, headers={"Location": "http://x/\x1b[2J"})}
    ) as it:
        with pytest.raises(CloudError, match="it points to") as caught:
            async with cloud_at(it.url):
                pytest.fail("it was taken for a cloud")

    assert [char for char in str(caught.value) if not char.isprintable()] == []


async def test_why_an_instance_is_as_it_is_moves_no_cursor() -> None:
    """The reason goes into diagnoses, short and on one line."""
    reason = f"<reason>a\n&#155;2J{'b' * 5000}</reason>"
    async with peer() as it, cloud_at(it.url) as cloud:
        it.answers["DescribeInstances"] = described(item("i-1", "terminated", reason))
        said = (await cloud.describe(["i-1"]))["i-1"].reason

    assert said.startswith("a �2Jbbb")
    assert said.isprintable()
    assert len(said) <= 400
