"""What is sent to instances: a local file or tree, read once for all that it goes to."""

from __future__ import annotations

import itertools
import os
import stat
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Protocol, Self, cast

import anyio
import anyio.from_thread
import anyio.to_thread

from precip_async.ssh import tree
from precip_async.ssh.conversation import send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from precip_async.limits import Limits
    from precip_async.ssh.conversation import Conversation

__all__ = ["Content", "Source"]

BLOCK = 512 * 1024  # bytes read at once: a hop to a thread costs as much as sending 64 KiB
KEPT_BLOCKS = 8  # for those who are a little behind; who is further behind reads again


class Body(Protocol):
    """The bytes of a copy, in the order in which they are sent."""

    @property
    def descriptor(self) -> int | None:
        """The open file that it is read from; it goes with a pickle of this, which is without."""
        ...

    def opened(self, file: IO[bytes]) -> None:
        """Read from `file`: what the descriptor has become in another process."""

    async def feed(self, talk: Conversation) -> int:
        """Send them as fast as they are taken, and their end; return the bytes of content."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A source that is open. A pickle of it serves another process of this machine as well.

    Attributes:
        name: What a copy of it is called in a directory.
        is_tree: Whether it is sent as tar.
        words: What else the instance is told of it before it comes: of a file its size, its mode
            and its time.
        body: What is sent.
    """

    name: str
    is_tree: bool
    words: tuple[str, ...]
    body: Body


class Source:
    """A local file or tree on its way to some instances; closed at the end of ``with``.

    It is opened when the first of them wants it, and is for all what it was then: a small file is
    kept in memory, a large one stays open, and a tree is packed to a temporary file. Of what is not
    in memory all share a few blocks. Who keeps pace with the others finds them there, who does not
    reads again, so that a slow instance neither holds the others up nor makes memory grow.

    Attributes:
        path: Where it is.
        shared: Whether it goes to several.
        number: By which other processes know it.
        closing: What is called when it is closed.
    """

    _numbers = itertools.count()

    def __init__(self, path: Path, limits: Limits, *, users: int = 1) -> None:
        self.path, self._limits = path, limits
        self.shared, self._left = users > 1, users
        self.number = next(self._numbers)
        self.closing: list[Callable[[], object]] = []
        self._opening = anyio.Lock()
        self._content: Content | None = None
        self._failure: Exception | None = None
        self._file: IO[bytes] | None = None

    @classmethod
    def shown(
        cls, path: Path, content: Content | Exception, descriptor: int | None, limits: Limits
    ) -> Self:
        """What another process has `show`n, for as many as there are until it is closed."""
        source = cls(path, limits, users=sys.maxsize)
        if isinstance(content, Exception):
            source._failure = content
            return source
        source._content = content
        if descriptor is not None:
            source._file = os.fdopen(descriptor, "rb")
            content.body.opened(source._file)
        return source

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the content."""
        called, self.closing = self.closing, []
        for close in called:
            close()
        self._content = None
        if self._file is not None:
            self._file.close()

    async def show(self) -> Content | Exception:
        """What it holds, or why that can't be told, for another process to send until it is closed.

        Where its body has a `descriptor`, that goes there as well.
        """
        try:
            return self._content or await self._opened()
        except (OSError, tree.TreeError) as error:
            return error

    @asynccontextmanager
    async def content(self) -> AsyncIterator[Content]:
        """What it holds, for one of its users; the last one closes it.

        Raises:
            OSError: It can't be read.
            TreeError: It can't be copied.
        """
        try:
            yield self._content or await self._opened()
        finally:
            self._left -= 1
            if not self._left:
                self.close()

    async def _opened(self) -> Content:
        async with self._opening:  # who is cancelled here leaves it to the next
            if self._failure is not None:
                raise self._failure
            if self._content is None:
                try:
                    self._content = await anyio.to_thread.run_sync(self._open)
                except (OSError, tree.TreeError) as error:
                    self._failure = error
                    raise
            return self._content

    def _open(self) -> Content:
        path = self.path
        status = path.stat()
        name = path.name if path.name not in ("", "..") else path.resolve().name or "root"
        if stat.S_ISDIR(status.st_mode):
            return Content(name=name, is_tree=True, words=(), body=self._tree())
        if not stat.S_ISREG(status.st_mode):  # opening a fifo would wait for who writes to it
            raise tree.TreeError(f"{path} is neither a file nor a directory")
        self._file = file = path.open("rb")
        status = os.fstat(file.fileno())
        body = self._body(file, status.st_size)
        mode = f"{stat.S_IMODE(status.st_mode) & 0o777:04o}"
        words = (str(body.size), mode, tree.touch_time(status.st_mtime))
        return Content(name=name, is_tree=False, words=words, body=body)

    def _body(self, file: IO[bytes], size: int, content: int | None = None) -> _Bytes | _Blocks:
        if size <= self._limits.small_file:  # also what has no size before it is read, in /proc
            return _Bytes(file.read(self._limits.small_file), content)
        return _Blocks(file, size, content)

    def _tree(self) -> Body:
        """Packed once for all, where there is more than one of them and room for it."""
        if self.shared:
            try:
                return self._packed(_Spool(self._limits.packed_tree))
            except _NoRoom:
                pass
        return _Packing(self.path)

    def _packed(self, spool: _Spool) -> Body:
        try:
            content = tree.pack(self.path, cast("BinaryIO", spool))
            spool.file.seek(0)
            body = self._body(spool.file, spool.size, content)
        except BaseException:
            spool.file.close()
            raise
        self._file = spool.file
        return body


# -- bodies ----------------------------------------------------------------------------------


class _Own:
    """A body that needs no open file."""

    descriptor: int | None = None

    def opened(self, file: IO[bytes]) -> None:
        raise AssertionError("there is no file")


class _Bytes(_Own):
    """What is in memory."""

    def __init__(self, data: bytes, content: int | None = None) -> None:
        self._data, self.size = data, len(data)
        self._content = self.size if content is None else content

    async def feed(self, talk: Conversation) -> int:
        if await send(talk, self._data) and talk.channel is not None:
            talk.channel.write_eof()
        return self._content


class _Blocks:
    """A file that many read, each at his own pace; the blocks read last are kept."""

    def __init__(self, file: IO[bytes] | None, size: int, content: int | None = None) -> None:
        self._file, self.size = file, size
        self._content = size if content is None else content
        self._kept: dict[int, bytes] = {}  # by where they begin, the oldest first
        self._coming: dict[int, anyio.Event] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _Blocks, (None, self.size, self._content)

    @property
    def descriptor(self) -> int | None:
        assert self._file is not None
        return self._file.fileno()

    def opened(self, file: IO[bytes]) -> None:
        self._file = file

    async def feed(self, talk: Conversation) -> int:
        sent = 0
        while sent < self.size:  # exactly what was announced: the file may grow meanwhile
            block = await self._block(sent)
            if not block:
                break  # it has shrunk: the other end sees that some is missing
            if not await send(talk, block):
                return self._content
            sent += len(block)
        if talk.channel is not None:
            talk.channel.write_eof()
        return self._content

    async def _block(self, start: int) -> bytes:
        """What begins at `start`; empty where the file has ended before."""
        while (coming := self._coming.get(start)) is not None:
            await coming.wait()
        if (kept := self._kept.get(start)) is not None:
            return kept
        self._coming[start] = anyio.Event()
        try:
            block = await anyio.to_thread.run_sync(self._read, start)
            self._kept[start] = block
            if len(self._kept) > KEPT_BLOCKS:
                del self._kept[next(iter(self._kept))]
            return block
        finally:
            self._coming.pop(start).set()

    def _read(self, start: int) -> bytes:
        assert self._file is not None
        return os.pread(self._file.fileno(), min(BLOCK, self.size - start), start)


class _Packing(_Own):
    """A tree that is packed for each who gets it, in a thread, as fast as he takes it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def feed(self, talk: Conversation) -> int:
        writer = cast("BinaryIO", _ToLoop(talk))
        # A thread of its own: a slow instance would keep one that all share.
        own = anyio.CapacityLimiter(1)
        try:
            content = await anyio.to_thread.run_sync(tree.pack, self._path, writer, limiter=own)
        except _Stopped:
            return 0
        if talk.channel is not None:
            talk.channel.write_eof()
        return content


# -- what a tree is packed to ----------------------------------------------------------------


class _NoRoom(Exception):
    """A temporary file can't hold it."""


class _Spool:
    """A temporary file for a thread to write to, up to a limit, until its task is cancelled."""

    def __init__(self, limit: int) -> None:
        self.size, self._limit = 0, limit
        try:
            self.file: IO[bytes] = tempfile.TemporaryFile(prefix="precip-", buffering=0)  # noqa: SIM115 - its source closes it
        except OSError as error:  # there is no directory for it
            raise _NoRoom from error

    def write(self, data: bytes) -> int:
        anyio.from_thread.check_cancelled()
        self.size += len(data)
        if self.size > self._limit:
            raise _NoRoom
        view = memoryview(data)
        try:
            while view:
                view = view[self.file.write(view) :]
        except OSError as error:  # the disk is full, most likely
            raise _NoRoom from error
        return len(data)


class _Stopped(Exception):
    """Nobody takes the rest."""


class _ToLoop:
    """A file for a thread to write to, whose content a conversation sends."""

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk

    def write(self, data: bytes) -> int:
        anyio.from_thread.check_cancelled()  # where there is always room, `send` never waits
        if not anyio.from_thread.run(send, self._talk, data):
            raise _Stopped
        return len(data)
