"""Connections in memory, for the pool by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from precip_async.errors import ConnectError
from precip_async.ssh.transport import Target

if TYPE_CHECKING:
    from precip_async.events import Stream
    from precip_async.ssh.transport import Channel, Receiver

__all__ = ["FakeChannel", "FakeConnector", "FakeTransport", "NoReceiver", "refused", "target"]


def target(number: int = 1, host: str = "h") -> Target:
    """An account on an instance."""
    return Target(instance_id=f"i-{number}", host=host, alias=f"i-{number}", user="root")


def refused(patience: float = 0.0) -> ConnectError:
    """An error to fail with."""
    error = ConnectError(instance_id="i-1", host="h", problem="no")
    error.patience = patience
    return error


class FakeTransport:
    """A connection in memory; what it starts exits at once, unless told to fail."""

    def __init__(self) -> None:
        self.alive = True
        self.started: list[str] = []
        self.failures: list[Exception] = []
        self.exit_code = 0

    async def start(self, line: str, receiver: Receiver) -> Channel:
        """See `Transport.start`."""
        await anyio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        self.started.append(line)
        receiver.exited(self.exit_code)
        receiver.closed()
        return FakeChannel()

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        await anyio.lowlevel.checkpoint()
        self.alive = False


class FakeChannel:
    """A channel in memory."""

    def write(self, data: bytes | memoryview) -> None:
        """See `Channel.write`."""

    def write_eof(self) -> None:
        """See `Channel.write_eof`."""

    def pause(self) -> None:
        """See `Channel.pause`."""

    def resume(self) -> None:
        """See `Channel.resume`."""

    def close(self) -> None:
        """See `Channel.close`."""


class FakeConnector:
    """Connects when it is let: each attempt waits for the gate, and fails as `failures` say."""

    def __init__(self) -> None:
        self.gate = anyio.Event()
        self.failures: list[Exception] = []
        self.made: list[FakeTransport] = []
        self.transports: list[FakeTransport] = []
        self.attempts = self.now = self.most = 0
        self.closed = False

    async def connect(self, target: Target, timeout: float) -> FakeTransport:
        """See `Connector.connect`."""
        self.attempts += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.gate.wait()
            await anyio.lowlevel.checkpoint()
            if self.failures:
                raise self.failures.pop(0)
            transport = self.transports.pop(0) if self.transports else FakeTransport()
            self.made.append(transport)
            return transport
        finally:
            self.now -= 1

    async def aclose(self) -> None:
        """See `Connector.aclose`."""
        self.closed = True


class NoReceiver:
    """Wants nothing."""

    def received(self, stream: Stream, data: bytes) -> None:
        """See `Receiver.received`."""

    def exited(self, code: int) -> None:
        """See `Receiver.exited`."""

    def writable(self, ready: bool) -> None:
        """See `Receiver.writable`."""

    def closed(self) -> None:
        """See `Receiver.closed`."""
