"""The line to a warden: requests and replies, as many in flight as one likes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from precip_async.clouds.base import Machine
from precip_async.errors import CloudError, QuotaExceeded

if TYPE_CHECKING:
    import socket

__all__ = ["WardenGone", "Wire", "machine_of"]


class WardenGone(CloudError):
    """The warden has ended, and all machines with it."""


class Wire(asyncio.Protocol):
    """One line; it needs no task: replies are handed out as they come in."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._number = 0
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self._gone = asyncio.Event()

    @classmethod
    async def over(cls, line: socket.socket, **hello: Any) -> tuple[Wire, asyncio.Future[Any]]:
        """A wire over a connected socket, and what the warden says first: to `hello`, if given."""
        loop = asyncio.get_running_loop()
        wire = cls()
        greeting = wire._expect("prepare")
        await loop.create_connection(lambda: wire, sock=line)
        if hello and wire._transport is not None:
            wire._transport.write(json.dumps({"id": 0, **hello}).encode() + b"\n")
        return wire, greeting

    @property
    def is_gone(self) -> bool:
        """Whether the warden has hung up, which it does when it ends."""
        return self._gone.is_set()

    async def ask(self, operation: str, **facts: Any) -> Any:
        """What the warden answers.

        Raises:
            QuotaExceeded: There is no room.
            CloudError: It can't do that; or, as `WardenGone`, there is no warden any more.
        """
        if self._transport is None or self.is_gone:
            raise _gone(operation)
        return await self._send(self._transport, operation, facts)

    def tell(self, operation: str, **facts: Any) -> None:
        """Ask after all that was asked before, and wait for no answer; to hang up loses nothing."""
        if self._transport is not None and not self.is_gone:
            self._send(self._transport, operation, facts).cancel()

    def _send(
        self, transport: asyncio.WriteTransport, operation: str, facts: dict[str, Any]
    ) -> asyncio.Future[Any]:
        number = self._number
        reply = self._expect(operation)
        text = json.dumps({"id": number, "op": operation, **facts})
        transport.write(text.encode() + b"\n")
        return reply

    async def dismiss(self) -> None:
        """Ask the warden to end all machines and itself, and wait until it has."""
        with contextlib.suppress(WardenGone):
            await self.ask("shutdown")
        await self._gone.wait()
        self.close()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def _expect(self, operation: str) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = (operation, future)
        self._number += 1
        return future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in lines:
            self._hand_out(json.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._gone.set()
        for operation, future in self._waiting.values():
            if not future.done():
                error = _gone(operation)
                error.__cause__ = exc
                future.set_exception(error)
                future.exception()  # one that nobody has come to wait for is no news
        self._waiting.clear()

    def _hand_out(self, reply: dict[str, Any]) -> None:
        operation, future = self._waiting.pop(reply["id"])
        if future.done():  # whoever asked has been cancelled
            return
        if "full" in reply:
            future.set_exception(QuotaExceeded(reply["full"], cloud="local", operation=operation))
        elif "error" in reply:
            future.set_exception(CloudError(reply["error"], cloud="local", operation=operation))
        else:
            future.set_result(reply["ok"])


def machine_of(view: dict[str, Any]) -> Machine:
    """What the warden says of a machine, as a value."""
    return Machine(**view | {"host_keys": tuple(view["host_keys"])})


def _gone(operation: str) -> WardenGone:
    return WardenGone(
        "the process that keeps the local instances has ended, and they with it",
        cloud="local",
        operation=operation,
    )
