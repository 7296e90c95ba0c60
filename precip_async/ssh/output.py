"""What becomes of a command's output: kept in memory up to a bound, beyond it on disk."""

from __future__ import annotations

import time
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import anyio.to_thread

from precip_async.errors import CommandTimeout, TransferError
from precip_async.results import CommandResult
from precip_async.ssh.command import converse
from precip_async.ssh.conversation import Conversation, send

if TYPE_CHECKING:
    from codecs import IncrementalDecoder

    from precip_async.events import Stream
    from precip_async.limits import Limits
    from precip_async.ssh.command import Order
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.transport import Target

__all__ = ["Budget", "Collector", "Listener", "OutputFiles", "Unwritable", "run_command"]

Listener = Callable[["Stream", str], object]
Waiting = Callable[[], Awaitable[object]]


class Budget:
    """Bytes of output that one fan-out may still keep in memory.

    Attributes:
        left: How many they are.
    """

    __slots__ = ("left",)

    def __init__(self, total: int) -> None:
        self.left = total

    def take(self, wanted: int) -> int:
        """How many of `wanted` bytes may be kept."""
        granted = min(wanted, self.left)
        self.left -= granted
        return granted


class OutputFiles:
    """Where streams are written.

    Args:
        stem: Files are named ``<stem>.stdout`` and ``<stem>.stderr``.
        always: Write every stream from its first byte and keep nothing in memory; else only a
            stream that outgrows its limit, and its head is kept as well.
    """

    __slots__ = ("always", "stem")

    def __init__(self, stem: Path | str, *, always: bool) -> None:
        self.stem, self.always = stem, always

    def path(self, stream: Stream) -> Path:
        """The file of `stream`."""
        return Path(f"{self.stem}.{stream}")


class Unwritable(Exception):
    """Output can't be written on this machine.

    Not every `OSError` says so: a connection that is not had in time is one, and what a listener
    raises may be.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"the command's output can't be written to {error.filename or 'a file'}: "
            f"{error.strerror}"
        )


class _Kept:
    """One stream: its head in memory and, where it has one, its file."""

    __slots__ = ("backlog", "decoder", "file", "head", "path", "room", "shown")

    def __init__(self, limit: int) -> None:
        self.head = bytearray()
        self.room = limit
        self.path: Path | None = None
        self.file: IO[bytes] | None = None
        self.backlog: deque[bytes] | None = None  # what is not in the file yet, where it has one
        self.shown: list[bytes] = []
        self.decoder: IncrementalDecoder | None = None  # of what is shown

    def goes_to(self, path: Path) -> None:
        """Write to `path` what comes from here on, and first what is kept."""
        self.path = path
        self.backlog = deque((bytes(self.head),) if self.head else ())


class Collector(Conversation):
    """Keeps, writes and shows the output of one command."""

    def __init__(
        self,
        mark: str,
        limits: Limits,
        budget: Budget,
        files: OutputFiles,
        listener: Listener | None,
        room: Waiting | None = None,
    ) -> None:
        super().__init__(mark)
        self._budget, self._files = budget, files
        self._listener, self._listeners_room = listener, room
        limit = 0 if files.always else limits.output_limit
        self.streams: dict[Stream, _Kept] = {"stdout": _Kept(limit), "stderr": _Kept(limit)}
        if files.always:
            for stream, kept in self.streams.items():
                kept.goes_to(files.path(stream))
            self.put_off(0)  # also of an empty stream there is a file

    def output(self, stream: Stream, data: bytes) -> None:
        """Keep it, and remember what is to be written and shown."""
        kept = self.streams[stream]
        if kept.path is None:
            fits = self._budget.take(min(len(data), kept.room))
            kept.room -= fits
            if fits < len(data):  # from here on it goes to a file, the head first
                kept.room = 0
                kept.goes_to(self._files.path(stream))
            kept.head += data if fits == len(data) else data[:fits]
        if kept.backlog is not None:
            kept.backlog.append(data)
        if self._listener is not None:
            kept.shown.append(data)
        if kept.path is not None or self._listener is not None:
            self.put_off(len(data))

    async def flush(self) -> None:
        """Write and show what has come.

        Raises:
            Unwritable: It can't be written.
            Exception: Whatever the listener raises.
        """
        for stream, kept in self.streams.items():
            if kept.path is not None and (kept.backlog or kept.file is None):
                try:
                    await anyio.to_thread.run_sync(_write, kept)
                except OSError as error:
                    raise Unwritable(error) from error
            if kept.shown and self._listener is not None:
                shown, kept.shown = b"".join(kept.shown), []
                kept.decoder = kept.decoder or getincrementaldecoder("utf-8")("replace")
                if text := kept.decoder.decode(shown):
                    self._listener(stream, text)
                    if self._listeners_room is not None:
                        await self._listeners_room()
        self.caught_up(
            sum(len(data) for kept in self.streams.values() for data in kept.backlog or ())
        )

    def close(self) -> None:
        """Close the files, and show what was the beginning of a character. Blocks shortly."""
        for stream, kept in self.streams.items():
            if kept.file is not None:
                kept.file.close()
            rest = "" if kept.decoder is None else kept.decoder.decode(b"", final=True)
            if rest and self._listener is not None:
                self._listener(stream, rest)


def _write(kept: _Kept) -> None:
    if kept.file is None:
        assert kept.path is not None
        kept.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept.file = kept.path.open("wb", buffering=0)
    while kept.backlog:  # taken here, in the thread: a cancelled flush neither loses nor repeats
        view = memoryview(kept.backlog.popleft())
        while view:
            view = view[kept.file.write(view) or 0 :]


async def _send_all(given: bytes, conversation: Conversation) -> None:
    """Send `given` as the whole of the command's input."""
    if await send(conversation, given) and conversation.channel is not None:
        conversation.channel.write_eof()


async def run_command(
    pool: Pool,
    target: Target,
    order: Order,
    limits: Limits,
    *,
    index: int,
    budget: Budget,
    files: OutputFiles,
    stdin: bytes | None = None,
    listener: Listener | None = None,
    room: Waiting | None = None,
) -> CommandResult:
    """Run `order` on `target` and return what came of it, whatever its exit code.

    Args:
        pool: Whose connection is used.
        target: Where.
        order: What.
        limits: The graces and bounds.
        index: The instance's place, for the result.
        budget: What the whole fan-out may keep in memory.
        files: Where output goes that is not kept in memory.
        stdin: The command's input; ``None``: none.
        listener: Is given text as it arrives, on the event loop; what it raises ends the command.
        room: Waits until the listener takes more; ``None``: it always does.

    Raises:
        CommandTimeout: Its time was up; it was ended.
        TransferError: Its output can't be written on this machine; it was ended.
        RemoteError: See `converse`.

    If cancelled, the command is ended.
    """
    talk = Collector(order.mark, limits, budget, files, listener, room)
    feed = None if stdin is None else partial(_send_all, stdin)

    started_at, began = datetime.now(UTC), time.monotonic()
    try:
        left = await converse(pool, target, order, talk, limits, feed)
    except Unwritable as error:
        raise TransferError(
            instance_id=target.instance_id,
            host=target.host,
            problem=f"{error}; the command was ended",
        ) from error.__cause__
    finally:
        talk.close()
    out, err = talk.streams["stdout"], talk.streams["stderr"]
    result = CommandResult(
        instance_id=target.instance_id,
        index=index,
        host=target.host,
        command=order.command,
        user=order.user,
        exit_code=talk.exit_code if left is None else None,
        started_at=started_at,
        duration=time.monotonic() - began,
        stdout_bytes=bytes(out.head),
        stderr_bytes=bytes(err.head),
        stdout_path=out.path,
        stderr_path=err.path,
    )
    if left is not None:
        raise CommandTimeout(result=result, leftover=left)
    return result
