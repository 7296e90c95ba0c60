"""Bytes between a channel and a process: two pumps on bare descriptors.

They are callbacks on the event loop rather than streams and tasks, because that is what an SSH
session is as well: every transition is one synchronous step, so a client that vanishes between two
of them leaves nothing half done. Both directions can be held, so neither end fills our memory.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from typing import TYPE_CHECKING, Final

from precip_async.clouds.local.process_children import Streams

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Inlet", "Outlet", "pipes", "resize", "terminal"]

CHUNK: Final = 64 * 1024  # bytes a read: what a pipe holds
HIGH: Final = 256 * 1024  # bytes waiting for a process to read them before the client is held
LOW: Final = 64 * 1024  # bytes at which it is let go on


class Outlet:
    """What a process says, delivered as it comes; owns its descriptor.

    Args:
        fd: The reading end.
        deliver: Called with every piece.
        ended: Called once, when nobody can write any more. Not called after `close`.
    """

    def __init__(
        self, fd: int, deliver: Callable[[bytes], None], ended: Callable[[], None]
    ) -> None:
        self._fd = fd
        self._deliver = deliver
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""
        return self._fd

    def hold(self) -> None:
        """Leave the process waiting until `let_go`."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)

    def let_go(self) -> None:
        """Deliver again."""
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._readable)

    def close(self) -> None:
        """Stop reading: who goes on writing gets SIGPIPE. May be called more than once."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # EIO: the last process has closed its side of the terminal
            data = b""
        if data:
            self._deliver(data)
        else:
            self.close()
            self._ended()


class Inlet:
    """What a process is told; owns its descriptor.

    Args:
        fd: The writing end.
        hold: Called when the process reads too slowly.
        let_go: Called when it has caught up, or will never read again.
    """

    def __init__(self, fd: int, hold: Callable[[], None], let_go: Callable[[], None]) -> None:
        self._fd = fd
        self._hold = hold
        self._let_go = let_go
        self._waiting = bytearray()
        self._holding = False
        self._finishing = False
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)

    def write(self, data: bytes) -> None:
        """Pass `data` on, at once or when there is room; in vain once the reader has gone."""
        if self._fd < 0 or self._finishing:
            return
        if self._waiting:
            self._waiting += data
        else:
            self._waiting += data[self._put(data) :]
            if self._waiting:
                self._loop.add_writer(self._fd, self._writable)
        if len(self._waiting) > HIGH and not self._holding:
            self._holding = True
            self._hold()

    def finish(self) -> None:
        """Close behind what is still waiting: the process sees the end of its input."""
        self._finishing = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Close now and forget what is waiting. May be called more than once."""
        self._waiting.clear()
        if self._fd >= 0:
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._catch_up()

    def _put(self, data: bytes | bytearray) -> int:
        """How much of `data` is dealt with: all of it once nobody is left to read it."""
        try:
            return os.write(self._fd, data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:  # EPIPE, EIO: the reader has gone
            self.close()
            return len(data)

    def _writable(self) -> None:
        del self._waiting[: self._put(self._waiting)]
        if len(self._waiting) <= LOW:
            self._catch_up()
        if not self._waiting and self._fd >= 0:
            self._loop.remove_writer(self._fd)
            if self._finishing:
                self.close()

    def _catch_up(self) -> None:
        if self._holding:
            self._holding = False
            self._let_go()


def pipes() -> tuple[Streams, Streams]:
    """Three pipes: a child's ends, and ours."""
    made: list[int] = []
    try:
        for _ in range(3):
            made += os.pipe()
    except BaseException:
        for fd in made:
            os.close(fd)
        raise
    theirs = Streams(stdin=made[0], stdout=made[3], stderr=made[5])
    return theirs, Streams(stdin=made[1], stdout=made[2], stderr=made[4])


def terminal(size: tuple[int, int, int, int]) -> tuple[Streams, Streams]:
    """A new terminal: the child's side, and ours."""
    ours, theirs = os.openpty()
    try:
        resize(ours, size)
        copy = os.dup(ours)  # an inlet and an outlet own one each
    except BaseException:
        os.close(ours)
        os.close(theirs)
        raise
    return (
        Streams(stdin=theirs, stdout=theirs, stderr=theirs),
        Streams(stdin=copy, stdout=ours, stderr=ours),
    )


def resize(terminal: int, size: tuple[int, int, int, int]) -> None:
    """Set the size of a terminal: columns, rows, and both in pixels."""
    width, height, pixwidth, pixheight = (min(side, 0xFFFF) for side in size)
    packed = struct.pack("HHHH", height, width, pixwidth, pixheight)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, packed)
