"""What nobody well-behaved sends: refused in order, and nothing falls over."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import pytest

from tests.lab.clients import lab_and_client, post

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.lab.lab import Lab

FORM = "application/x-www-form-urlencoded"


def port_of(lab: Lab) -> int:
    """Where a lab's server listens."""
    return urlsplit(lab.endpoint).port or 0


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (b"", FORM, 400, "<Code>"),
        (b"Action=DescribeInstances", FORM, 400, "<Code>"),
        (b"Action=DescribeInstances&Version=2016-11-15", "text/plain", 400, "<Code>"),
        (b'{"Action": "DescribeInstances"}', "application/json", 400, "<Code>"),
        (b"<Action>DescribeInstances</Action>", "text/xml", 400, "<Code>"),
        (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x", 400, "<Code>"),
        (b"Action=\xff\xfe", FORM, 400, "MalformedQueryString"),
        (b"Action=%ff", FORM, 400, "MalformedQueryString"),
        (b"Action=A&Action=B", FORM, 400, "MalformedQueryString"),
        (b"Action=A&Action.B=C", FORM, 400, "MalformedQueryString"),
        (b"Action=%00", FORM, 400, "MalformedQueryString"),
        (b"A." * 1000 + b"A=1", FORM, 400, "MalformedQueryString"),
        (b"&".join(b"A.%d=1" % n for n in range(30_000)), FORM, 400, "MalformedQueryString"),
        (b"Action=" + b"x" * 2_000_000, FORM, 413, "too large"),
        (b"&&&=&=&==&", FORM, 400, "<Code>"),
    ],
    ids=range(15),
)
async def test_rubbish_is_refused(
    tmp_path: Path, body: bytes, content_type: str, status: int, words: str
) -> None:
    """Whatever comes, an error in order is the answer, and the next request is served."""
    async with lab_and_client(tmp_path) as (lab, client):
        got, text = await post(lab, body, content_type)

        assert (got, words in text) == (status, True), text
        assert (await client.describe_instances())["Reservations"] == []


async def test_what_is_reflected_is_escaped(tmp_path: Path) -> None:
    """Text from a request comes back as text, never as elements."""
    async with lab_and_client(tmp_path) as (lab, _):
        async with await anyio.connect_tcp("127.0.0.1", port_of(lab)) as line:
            await line.send(
                b"GET /%3Cscript%3E<b>&?a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            said = b"".join([part async for part in line]).decode()

        assert said.startswith("HTTP/1.1 404")
        assert "<b>" not in said


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nshort",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"",
    ],
    ids=["line", "short", "length", "headers", "tls", "nothing"],
)
async def test_broken_http_harms_nobody(tmp_path: Path, sent: bytes) -> None:
    """A connection that is none is dropped; others are served."""
    async with lab_and_client(tmp_path) as (lab, client):
        with socket.create_connection(("127.0.0.1", port_of(lab))) as line:
            line.sendall(sent)

        assert (await client.describe_instances())["Reservations"] == []


async def test_the_lab_ends_with_requests_in_flight(tmp_path: Path) -> None:
    """A client that never finishes its request does not keep the lab open."""
    async with lab_and_client(tmp_path) as (lab, _):
        line = await anyio.connect_tcp("127.0.0.1", port_of(lab))
        await line.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nshort")
    await line.aclose()
