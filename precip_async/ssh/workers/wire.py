"""The line between a worker and its parent: what can wait for each other goes as one pickle.

It is a socket pair that only these two hold, and both run this package: neither is a stranger to
the other, so that pickles may be read.
"""

from __future__ import annotations

import asyncio
import io
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from precip_async.limits import Limits
    from precip_async.ssh.transport import Login

__all__ = ["Beginning", "Wire", "packed"]

HEAD = 8  # bytes that tell how many follow

Message = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a worker is told first.

    Attributes:
        login: How it logs in.
        limits: Its bounds, of what all share its part.
        learns: See `Trust.learns`.
    """

    login: Login
    limits: Limits
    learns: bool


class _Pickler(pickle.Pickler):
    """Takes text and numbers of classes that only the user's script knows for what they are."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, str):
            return str, (str.__str__(obj),)
        if isinstance(obj, int):
            return int, (int.__int__(obj),)
        if isinstance(obj, float):
            return float, (float.__float__(obj),)
        return NotImplemented


def packed(value: Any) -> bytes:
    """`value` as a pickle."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


class Wire(asyncio.Protocol):
    """One end of the line. It needs no task: what comes is handed on as it comes.

    Args:
        hear: Is given each message, in order.
        gone: Is called once, when the other end is closed or this one has been.

    Attributes:
        heard: How many packets have come, or parts of one.
    """

    def __init__(self, hear: Callable[[Message], object], gone: Callable[[], object]) -> None:
        self._hear, self._gone = hear, gone
        self.heard = 0
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._unsaid: list[Message] = []
        self._flushing: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def over(
        cls,
        line: socket.socket,
        hear: Callable[[Message], object],
        gone: Callable[[], object],
    ) -> Wire:
        """The end of the line that `line` is, which it takes over."""
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(lambda: cls(hear, gone), sock=line)
        return wire

    def say(self, message: Message, within: float = 0.0) -> None:
        """Send a message within so many seconds. To an end that is closed: nothing."""
        self._unsaid.append(message)
        due = self._loop.time() + within
        if self._flushing is None or due < self._flushing.when():
            if self._flushing is not None:
                self._flushing.cancel()
            self._flushing = self._loop.call_at(due, self.flush)

    async def room(self) -> None:
        """Wait until the other end takes more, or is gone."""
        await self._room.wait()

    def flush(self) -> None:
        """Send at once what was said."""
        messages, self._unsaid = self._unsaid, []
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if messages and self._transport is not None and not self._transport.is_closing():
            try:
                data = packed(messages)
            except BaseException:  # a bug: nobody may wait for what was never said
                self._transport.abort()
                raise
            self._transport.writelines((len(data).to_bytes(HEAD, "big"), data))

    def close(self) -> None:
        """Send what was said, and hang up."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    # -- told by the loop --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.heard += 1
        self._buffer += data
        while len(self._buffer) >= HEAD:
            end = HEAD + int.from_bytes(self._buffer[:HEAD], "big")
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as view:
                messages = pickle.loads(view[HEAD:end])  # noqa: S301 - ours: see above
            del self._buffer[:end]
            for message in messages:
                self._hear(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._room.set()
        self._gone()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._room.clear()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._room.set()
