"""Files and trees from an instance, which is not trusted."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

import anyio
import anyio.to_thread

from precip_async.shell import script
from precip_async.ssh import tree
from precip_async.ssh.transfer import Script, finish, local_trouble

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from precip_async.events import Stream
    from precip_async.limits import Limits
    from precip_async.ssh.command import Order
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.transport import Target

__all__ = ["get", "sweep"]

LONGEST_HEAD = 256  # bytes of the first line; what is longer is none
GATHERED = 128 * 1024  # bytes written at once: a hop to a thread costs as much as 64 KiB
ONE_TREE = 2  # threads: one unpacks, one hands over; the shared ones are for what ends soon

# $1 the path. First a line: `F mode seconds bytes` and the content, or `D` and a tar of what is in
# it.
_GET = r"""
f=$1
case $f in '~/'*) f=${f#'~/'};; '~') f=.;; esac
case $f in -*) f=./$f;; esac
die() { echo "$2" >&2; exit "$1"; }
if [ -d "$f" ]; then
  command -v tar >/dev/null || die 1 "there is no tar on the instance, which a tree needs"
  echo D && exec tar -cf - -C "$f" .
elif [ -f "$f" ]; then
  [ -r "$f" ] || die 1 "$f can't be read"
  echo F "$(stat -L -c '%a %Y %s' -- "$f")" && exec cat -- "$f"
elif [ -e "$f" ]; then die 4 "$f is neither a file nor a directory"
else die 3 "there is no $f"
fi
"""


async def get(
    pool: Pool,
    target: Target,
    order: Order,
    limits: Limits,
    remote: str,
    local: str,
    suffix: str = "",
) -> tuple[Path, int]:
    """Copy `remote`, a file or a tree, to `local`; return where it is now and its bytes of content.

    An existing directory, or a trailing slash, means into it. A symlink named as `remote` is
    followed; symlinks inside a tree are copied as links and never followed. What the instance says
    is not trusted: nothing is written outside the target.

    Args:
        pool: Whose connection is used.
        target: Where from.
        order: As whom and for how long; its command is ours.
        limits: The graces.
        remote: What, there; relative to the user's home directory.
        local: Where to, here.
        suffix: What is added to the name here.

    Raises:
        TransferError: It can't be read there or written here; what was here is as it was.
        RemoteError: See `converse`.

    If cancelled, nothing of it is left here.
    """
    with local_trouble(target, Path(local)):
        place, staging = await anyio.to_thread.run_sync(_place, local, remote, suffix, order.mark)
        talk, there = _Getter(order.mark, staging), True
        try:
            text = replace(order, command=script(_GET, remote))
            try:
                async with anyio.create_task_group() as tasks:
                    talk.tasks = tasks
                    try:
                        await finish(pool, target, text, talk, limits, None, remote)
                    finally:
                        talk.close()  # the unpacker sees the end
            except BaseExceptionGroup as group:
                error = talk.reason(group)
                raise error from error.__cause__
            await anyio.to_thread.run_sync(talk.commit, place)
            there = False
        finally:
            if there:
                with anyio.move_on_after(limits.close_grace, shield=True):
                    await anyio.to_thread.run_sync(_remove, staging)
    return place, talk.size


def _place(local: str, remote: str, suffix: str, mark: str) -> tuple[Path, Path]:
    """Where a copy of `remote` goes that is to go to `local`, and a new directory beside it."""
    place = Path(local)
    base = remote.rstrip("/").rpartition("/")[2] or "root"
    if local.endswith("/") or place.is_dir():
        if not place.is_dir():
            raise tree.TreeError(f"there is no directory {local}")
        if base == "..":
            raise tree.TreeError(f"a copy of {remote} has no name here: give it one")
        place /= base
    elif place.is_symlink():
        place = place.resolve()
    place = place.with_name(place.name + suffix)
    if not place.parent.is_dir():
        raise tree.TreeError(f"there is no directory {place.parent}")
    if place.exists() and not (place.is_file() or place.is_dir()):
        raise tree.TreeError(f"{place} is neither a file nor a directory")
    return place, Path(tempfile.mkdtemp(prefix=_prefix(mark), dir=place.parent))


def sweep(local: str, mark: str) -> None:
    """Remove what a `get` to `local` has left whose process was killed. Blocks."""
    place = Path(local)
    for folder in {place, place.parent, place.resolve().parent}:
        for staging in folder.glob(f"{_prefix(mark)}*"):
            _remove(staging)


def _prefix(mark: str) -> str:
    return f".precip.{mark}."


def _remove(staging: Path) -> None:
    for folder, names, _ in os.walk(staging):  # a tree may hold directories that we can't enter
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(staging)


class _Getter(Script):
    """Writes what comes: a file as it is, a tree by way of an unpacking thread."""

    def __init__(self, mark: str, staging: Path) -> None:
        super().__init__(mark)
        self.tasks: TaskGroup | None = None
        self.size = 0
        self._staging, self._content = staging, staging / "content"
        self._begun, self._head = False, b""
        self._facts: list[int] | None = None
        self._backlog: deque[bytes] = deque()
        self._gathered = 0
        self._out: IO[bytes] | None = None
        self._closed = False
        self._failure: tree.TreeError | OSError | None = None
        self._unpacked: tree.Unpacked | None = None
        self._threads = anyio.CapacityLimiter(ONE_TREE)

    def output(self, stream: Stream, data: bytes) -> None:
        if stream == "stderr":
            super().output(stream, data)
            return
        if not self._begun:
            self._head += data
            self._head, newline, data = self._head.partition(b"\n")
            if not newline and len(self._head) < LONGEST_HEAD:
                return
            self._begun = True
        self._backlog.append(data)
        self._gathered += len(data)
        if self._gathered >= GATHERED:  # the rest is flushed when the command has exited
            self.put_off(self._gathered)
            self._gathered = 0

    async def flush(self) -> None:
        if self._backlog:
            if self._out is None:
                self._facts = _facts(self._head)
                if self._facts is None:
                    assert self.tasks is not None
                    self.tasks.start_soon(self._unpack, self._piped())
            await anyio.to_thread.run_sync(self._write, limiter=self._threads)
            self._gathered = 0
            self.caught_up(sum(map(len, self._backlog)))

    def _piped(self) -> BinaryIO:
        readable, writable = os.pipe()
        self._out = open(writable, "wb", buffering=0)  # noqa: PTH123, SIM115 - close() closes it
        return open(readable, "rb")  # noqa: PTH123 - the unpacker closes it

    async def _unpack(self, stream: BinaryIO) -> None:
        with stream:
            try:
                self._unpacked = await anyio.to_thread.run_sync(
                    tree.unpack, stream, self._content, limiter=self._threads
                )
            except (tree.TreeError, OSError) as error:
                if not self._closed:
                    raise  # nobody need send the rest
                self._failure = error  # perhaps because it was cut off, and who did that says why
                return
        self.size = self._unpacked.size

    def _write(self) -> None:
        if self._out is None:
            self._out = self._content.open("xb", buffering=0)
        while self._backlog:
            view = memoryview(self._backlog.popleft())
            if self._facts is not None:
                self.size += len(view)
            while view:
                view = view[self._out.write(view) or 0 :]

    def close(self) -> None:
        """Say that nothing more comes."""
        self._closed = True
        if self._out is not None:
            self._out.close()

    def commit(self, place: Path) -> None:
        """Move what has come to `place`, and remove what is left of its coming. Blocks."""
        if self._out is None:
            raise tree.TreeError("the instance did not say what it sends")
        if self._failure is not None:
            raise self._failure
        if self._unpacked is not None:
            tree.merge(self._content, place, self._unpacked)
        else:
            self._commit_file(place)
        _remove(self._staging)

    def _commit_file(self, place: Path) -> None:
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory", str(place))
        if self._facts:
            mode, seconds, size = self._facts
            if self.size < size:
                raise tree.TreeError(f"{self.size} of {size} bytes came, and no more")
            self._content.chmod(mode & 0o777)
            os.utime(self._content, (seconds, seconds))
        self._content.replace(place)

    @staticmethod
    def reason(group: BaseExceptionGroup) -> BaseException:
        """The error to show: why the unpacking failed, rather than that its pipe broke."""
        errors = [error for error in group.exceptions if not isinstance(error, BrokenPipeError)]
        return errors[0] if errors else group.exceptions[0]


def _facts(line: bytes) -> list[int] | None:
    """Mode, time and size of a file, as far as the instance's `stat` tells; of a tree ``None``.

    Raises:
        TreeError: That is not what our script says.
    """
    kind, *words = line.split()[:5] or [b""]
    if kind == b"D" and not words:
        return None
    if kind == b"F" and not words:  # a `stat` that knows no -c
        return []
    if kind == b"F" and len(words) == 3 and all(w.isdigit() and len(w) < 16 for w in words):  # noqa: PLR2004 - three words
        with contextlib.suppress(ValueError):  # the mode is octal
            return [int(words[0], 8), int(words[1]), int(words[2])]
    raise tree.TreeError(f"the instance says something senseless: {line[:LONGEST_HEAD]!r}")
