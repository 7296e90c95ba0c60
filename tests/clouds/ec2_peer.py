"""An HTTP server that answers as a test says, and clients of it: the tests' own small cloud."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from precip_async.clouds.base import Access, LaunchRequest
from precip_async.clouds.dialects import AMAZON, Dialect
from precip_async.clouds.ec2 import EC2Cloud
from precip_async.clouds.ec2_endpoint import parse_endpoint

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

__all__ = [
    "ACCESS_KEY",
    "OWNER",
    "PUBLIC_KEY",
    "RSA_KEY",
    "SECRET_KEY",
    "TOKEN",
    "Peer",
    "Reply",
    "Request",
    "access",
    "cloud_at",
    "described",
    "document",
    "fault",
    "item",
    "peer",
    "request",
    "well",
]

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
OWNER = "0123456789abcdef0123456789abcdef"
TOKEN = "6fa459ea-ee8a-3ca4-894e-db77e160355e"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMiY9iQkWIq2vXAdvEJXklvCZwywosBk/U/hCUshyIhx"
RSA_KEY = (
    "ssh-rsa "
    "AAAAB3NzaC1yc2EAAAADAQABAAABAQCvxR6Hu/uCgsjVCxW5ghROoue3ZIPFqFbJ6o9wQIfO2Cx2QUBJoVk/HUqN"
    "uuFX/Ynu1piOhhUf3f/Ky4r+rHNDcCrjfZO0eG8M1BJzyqc6Btb/qbWX8uZfuGDdCfoz0znTpnVovRxQLQU8sCSw"
    "HOtYqqU6emUynm9mWg1CmhGpLAK+cDyoYb1Bj8i+Wu4Z35ZSx/sD3crjG9wGThgpTsNYavUOgw8vI5fDQwOdtO/Y"
    "PlrnQvoe4GmnWUBbw3ztlwBMD5CRGN2iKGgEewAAutIDMOrhMkVS3ICE3p5uBbBIn8MnJ7TggFR3Awp4EYjoUsVo"
    "Is059HFHmOSIhb/96P2j"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a peer was asked: parameters as they were sent, and headers in lower case."""

    action: str
    parameters: dict[str, str]
    headers: dict[str, str]
    path: str

    def listed(self, name: str) -> list[str]:
        """The values of a list of parameters, such as ``InstanceId.1``."""
        return [value for key, value in self.parameters.items() if key.startswith(f"{name}.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a peer answers. `cut` is how its connection ends instead of an answer."""

    status: int = 200
    body: bytes | str = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    never: bool = False


@dataclass(slots=True)
class Peer:
    """A server under a test's control.

    Attributes:
        answers: By action: a reply, several (the last one stays), or a function of the request.
        requests: What it was asked, in order.
        url: Where it is.
    """

    answers: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def asked(self, action: str) -> list[Request]:
        """The requests for `action`."""
        return [one for one in self.requests if one.action == action]

    def answer(self, asked: Request) -> Reply:
        """What it says to `asked`."""
        given = self.answers.get(asked.action, fault("InvalidAction", f"no {asked.action}"))
        if isinstance(given, list):
            given = given.pop(0) if len(given) > 1 else given[0]
        if callable(given):
            given = given(asked)
        return given if isinstance(given, Reply) else Reply(body=given)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, with as many requests as it brings."""
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone, as it may
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if not (begun := await reader.readexactly(1)).isalpha():  # it speaks TLS
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            return False
        head = (begun + await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines) if k}
        body = (await reader.readexactly(int(headers.get("content-length", "0")))).decode()
        parameters = dict(parse_qsl(body, keep_blank_values=True))
        asked = Request(
            action=parameters.get("Action", ""),
            parameters=parameters,
            headers=headers,
            path=first.split()[1],
        )
        self.requests.append(asked)
        reply = self.answer(asked)
        if reply.never:
            await reader.read()
            return False
        if reply.cut:
            return False
        text = reply.body.encode() if isinstance(reply.body, str) else reply.body
        extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        start = f"HTTP/1.1 {reply.status} Said\r\nContent-Length: {len(text)}\r\n{extra}\r\n"
        writer.write(start.encode() + text)
        await writer.drain()
        return True


@asynccontextmanager
async def peer(
    answers: dict[str, Any] | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Peer]:
    """A peer with `answers`, for as long as it lasts; more can be set while it does."""
    it = Peer(well() | (answers or {}))
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0, ssl=tls)
    host, port = server.sockets[0].getsockname()[:2]
    it.url = f"http{'s' if tls else ''}://{host}:{port}/"
    try:
        yield it
    finally:
        server.close()


@asynccontextmanager
async def cloud_at(
    url: str,
    dialect: Dialect | tuple[Dialect, ...] = AMAZON,
    *,
    prepared: bool = True,
    **given: Any,
) -> AsyncIterator[EC2Cloud]:
    """A cloud of ours that speaks to `url`."""
    dialects = dialect if isinstance(dialect, tuple) else (dialect,)
    facts: dict[str, Any] = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY} | given
    cloud = EC2Cloud(dialect=dialect, endpoint=parse_endpoint(url, *dialects), **facts)
    try:
        if prepared:
            await cloud.prepare(access(rsa=cloud.key_type == "rsa"))
        yield cloud
    finally:
        await cloud.aclose()


def access(*, rsa: bool = False, **given: Any) -> Access:
    """Whose experiment it is."""
    facts = {"experiment": "trial", "owner": OWNER, "public_key": RSA_KEY if rsa else PUBLIC_KEY}
    return Access(**facts | given)


def request(**given: Any) -> LaunchRequest:
    """A launch of one machine, but for what is given."""
    facts = {
        "token": TOKEN,
        "image_id": "ami-8a1e92ba",
        "instance_type": "m1.small",
        "count": 1,
        "min_count": given.get("count", 1),
        "first": 0,
    }
    return LaunchRequest(**facts | given)


# -- documents -----------------------------------------------------------------------------------


def document(action: str, inside: str = "<return>true</return>") -> str:
    """The answer to `action`."""
    space = "http://ec2.amazonaws.com/doc/2016-11-15/"
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><{action}Response xmlns="{space}">'
        f"<requestId>req-1</requestId>{inside}</{action}Response>"
    )


def fault(code: str, message: str, status: int = 400) -> Reply:
    """A refusal."""
    body = (
        f"<Response><Errors><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        "</Errors><RequestID>7a62c49f-347e-4fc4-9331-6e8eEXAMPLE</RequestID></Response>"
    )
    return Reply(status=status, body=body)


def item(instance_id: str, state: str = "running", more: str = "") -> str:
    """An instance in a document."""
    return (
        f"<item><instanceId>{instance_id}</instanceId><imageId>ami-8a1e92ba</imageId>"
        f"<instanceState><code>16</code><name>{state}</name></instanceState>{more}</item>"
    )


def described(*items: str, action: str = "DescribeInstances", token: str = "") -> str:
    """An answer that holds instances."""
    instances = f"<instancesSet>{''.join(items)}</instancesSet>"
    if action == "DescribeInstances":
        instances = f"<reservationSet><item>{instances}</item></reservationSet>"
    return document(action, instances + (f"<nextToken>{token}</nextToken>" if token else ""))


def well() -> dict[str, Callable[[Request], str]]:
    """The answers of a cloud on a good day, in which everything is there already."""
    rules = (
        "<item><ipProtocol>tcp</ipProtocol><fromPort>22</fromPort><toPort>22</toPort><ipRanges>"
        "<item><cidrIp>0.0.0.0/0</cidrIp></item></ipRanges></item><item><ipProtocol>-1</ipProtocol>"
        "<groups><item><groupId>sg-1</groupId></item></groups></item>"
    )
    group = (
        "<securityGroupInfo><item><ownerId>1</ownerId><groupId>sg-1</groupId><groupName>precip"
        f"</groupName><ipPermissions>{rules}</ipPermissions></item></securityGroupInfo>"
    )
    key = f"<item><keyName>precip</keyName><publicKey>{PUBLIC_KEY}</publicKey></item>"
    inside = {"DescribeKeyPairs": f"<keySet>{key}</keySet>", "DescribeSecurityGroups": group}
    plain = ("ImportKeyPair", "DeleteKeyPair", "CreateTags", "AuthorizeSecurityGroupIngress")
    return {
        **{name: _saying(document(name, text)) for name, text in inside.items()},
        **{name: _saying(document(name)) for name in plain},
    }


def _saying(text: str) -> Callable[[Request], str]:
    return lambda _: text
