"""Listening to one command: when it begins and exits, what it says, and what it may be told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio

from precip_async.errors import shortened

if TYPE_CHECKING:
    from precip_async.events import Stream
    from precip_async.ssh.transport import Channel

__all__ = ["CHUNK", "Conversation", "Feed", "Words", "send"]

NOISE_LIMIT = 64 * 1024  # bytes that a login shell's start files may print; the rest is dropped
LONGEST_NOISE = 1000  # characters of it that an error shows
CHUNK = 256 * 1024  # bytes of input handed over at once
BACKLOG = 256 * 1024  # bytes of output not yet dealt with, after which the peer has to wait

_BOOT = re.compile(rb"[0-9a-f-]{36}").fullmatch

Feed = Callable[["Conversation"], Coroutine[Any, Any, None]]


class Conversation:
    """Listens to one command. Subclasses say what becomes of its output.

    Attributes:
        channel: The command's channel, once it has one.
        group: Its process group on the instance, once it has said so; it has then begun. 0 when
            what it said is no group.
        boot: In which boot of the instance that is its group; empty while it is not known.
        exit_code: Once it has exited.
        over: Whether its channel is closed: nothing will follow.
        heard: Bytes that have come.
    """

    def __init__(self, mark: str) -> None:
        self.channel: Channel | None = None
        self.group: int | None = None
        self.boot = ""
        self.exit_code: int | None = None
        self.over = False
        self.heard = 0
        self._greeting = b"\x02" + mark.encode() + b" "
        self._noise: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._put_off = 0
        self._paused = self._resuming = self._deaf = self._impatient = False
        # asyncio's, which can be cleared: a command of anyio's would take a dozen of them
        self._news = asyncio.Event()
        self._room: asyncio.Event | None = None  # most commands are never told to wait

    # -- told by the channel -----------------------------------------------------------------

    def received(self, stream: Stream, data: bytes) -> None:
        """See `Receiver.received`."""
        self.heard += len(data)
        if stream in self._noise:
            data = self._greeted(stream, data)
        if data and not self._deaf:
            self.output(stream, data)

    def exited(self, code: int) -> None:
        """See `Receiver.exited`."""
        self.exit_code = code
        self._news.set()

    def closed(self) -> None:
        """See `Receiver.closed`."""
        self.over = True
        self.writable(True)
        self._news.set()

    def writable(self, ready: bool) -> None:
        """See `Receiver.writable`."""
        if ready or self.over:
            if self._room is not None:
                self._room.set()
        elif self._room is None:
            self._room = asyncio.Event()
        else:
            self._room.clear()

    # -- for subclasses ----------------------------------------------------------------------

    def output(self, stream: Stream, data: bytes) -> None:
        """Take output of the command. Called by the channel: it must neither block nor raise."""

    async def flush(self) -> None:
        """Do what `output` has put off. Called again and again while the command runs."""

    def put_off(self, size: int) -> None:
        """Say that `size` bytes wait for `flush`, which is called soon; with many, pause."""
        self._put_off += size
        self._news.set()
        # Never while resuming: asyncssh opens the window again for data that it still holds, so
        # that a pause amid what resume() delivers would let its buffer grow without bound.
        if self._put_off > BACKLOG and self.channel is not None and not self._resuming:
            self._paused = True
            self.channel.pause()

    def caught_up(self, waiting: int = 0) -> None:
        """Say that only `waiting` bytes still wait; the peer may send again."""
        self._put_off = waiting
        if self._resume():
            self.put_off(0)

    # -- for who converses -------------------------------------------------------------------

    @property
    def noise(self) -> str:
        """What came before the command began, shortened: all there is to know when it never did."""
        return shortened(b"".join(self._noise.values()).decode(errors="replace"), LONGEST_NOISE)

    def ignore(self) -> None:
        """Drop what still comes: only the command's end is of interest now."""
        self._deaf = True
        self._resume()

    async def room(self) -> None:
        """Wait until more input is welcome; the channel may be closed then."""
        if self._room is not None:
            await self._room.wait()

    async def begun(self) -> None:
        """Wait until the command has begun, or never will."""
        self._impatient = True
        while self.group is None and self.exit_code is None and not self.over:
            await self._next()

    async def until_exit(self) -> None:
        """Wait for the command's exit; output may still be on its way."""
        while self.exit_code is None and not self.over:
            await self._next()

    async def until_over(self) -> None:
        """Wait for the end of the channel, behind which nothing comes."""
        while not self.over:
            await self._next()

    async def until_silent(self, seconds: float) -> None:
        """Deal with what comes until nothing has come for `seconds`."""
        heard = -1
        while heard != self.heard:
            heard = self.heard
            with anyio.move_on_after(seconds):
                await self.until_over()
                await anyio.sleep_forever()

    async def _next(self) -> None:
        await self._news.wait()
        self._news.clear()
        if not self._deaf:
            await self.flush()

    def _resume(self) -> bool:
        """Take output again, if it was paused."""
        if not self._paused or self.channel is None or self.over:
            return False
        self._paused, self._resuming = False, True
        self.channel.resume()
        self._resuming = False
        return True

    def _greeted(self, stream: Stream, data: bytes) -> bytes:
        """Look for the greeting in what has come; what follows it is the command's output."""
        noise = self._noise[stream]
        noise += data
        start = noise.find(self._greeting)
        end = noise.find(b"\n", start) if start >= 0 else -1
        if end < 0:
            if start < 0:
                del noise[: max(0, len(noise) - NOISE_LIMIT)]
            return b""
        del self._noise[stream]
        group, _, boot = noise[start + len(self._greeting) : end].partition(b" ")
        self.group = int(group) if group.isdigit() else 0
        self.boot = boot.decode() if _BOOT(boot) else ""
        if self._impatient:  # nobody else need be woken for it
            self._news.set()
        return bytes(noise[end + 1 :])


class Words(Conversation):
    """Keeps the few words that a command of ours says, which does not greet."""

    def __init__(self) -> None:
        super().__init__("")
        self._noise.clear()
        self.words = ""

    def output(self, stream: Stream, data: bytes) -> None:
        """Keep it."""
        if len(self.words) < NOISE_LIMIT:
            self.words = (self.words + data.decode(errors="replace")).strip()


async def send(talk: Conversation, data: bytes) -> bool:
    """Write `data` as the command takes it; whether it still does."""
    assert talk.channel is not None
    view = memoryview(data)
    for start in range(0, len(view), CHUNK):
        await talk.room()
        if talk.over:
            return False
        talk.channel.write(view[start : start + CHUNK])
    return True
