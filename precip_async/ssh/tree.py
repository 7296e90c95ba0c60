"""Trees as tar streams: packed from a local tree, and unpacked where nothing can escape.

Everything here blocks and runs in threads.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Self

from precip_async.shell import quote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["COMPLETE", "TreeError", "Unpacked", "merge", "pack", "touch_time", "unpack"]

COMPLETE = ".precip-complete"  # the last member: a stream cut short at a member's end lacks it
CONTENT = "content"  # the tree itself, beside COMPLETE
BLOCK = 256 * 1024
LONGEST_HEADER = 1024 * 1024  # bytes of a name or an extended header; more is an attack
OWNER_ALL = 0o700
PATHS_A_LINE = 30  # a path has 4 KiB, a command's arguments 128 KiB at least
KEPT_MODES = 0o1777  # set-id bits are not kept: the copy has another owner


class TreeError(Exception):
    """A tree can't be moved; the text says why."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What came of a stream.

    Attributes:
        size: Bytes of content.
        folders: Mode and time of each directory by its name below the root, the deepest first.
            They are set after the tree was moved: what its owner may not write to, he can't move.
    """

    size: int
    folders: list[tuple[str, int, float]]


class _Archive(tarfile.TarFile):
    """Knows whether its end was reached: tarfile takes a stream that stops anywhere for whole."""

    ended = False


class _Bounded(tarfile.TarInfo):
    """A member whose headers can't make us read, or write, without end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # typeshed lacks it
            assert isinstance(archive, _Archive)
            archive.ended = True
            raise

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        special = member.type not in tarfile.SUPPORTED_TYPES or member.type in (
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        )
        if member.size < 0 or (special and member.size > LONGEST_HEADER):
            raise TreeError("the stream of files holds a header of a senseless size")
        if member.type == tarfile.GNUTYPE_SPARSE:
            cls._refuse_sparse()
        return member

    @staticmethod
    def _refuse_sparse(*_arguments: object) -> None:
        """Nobody has asked the instance for sparse files: a few bytes of them fill a disk."""
        raise TreeError("the stream of files holds a sparse file")

    # the names that tarfile itself calls, for the three ways to say it in extended headers
    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


def pack(root: Path, out: BinaryIO) -> int:
    """Write the tree under `root` to `out`, as ``content/...``; return its bytes of content.

    Symlinks are written as links. Directories are written so that their owner can enter them. The
    last member, `COMPLETE`, is a script of lines ``m MODE PATH...`` and ``u TIME PATH...`` that
    gives all directories what they are to have in the end; times are as touch wants them in UTC.

    Raises:
        OSError: Something can't be read.
        TreeError: Something is neither file, directory, symlink nor fifo.
    """
    size = 0
    folders: list[tuple[str, int, float]] = []
    with tarfile.open(
        fileobj=out, mode="w|", format=tarfile.GNU_FORMAT, bufsize=BLOCK, errors="surrogateescape"
    ) as tar:
        for path, name in _walk(root):
            member: tarfile.TarInfo | None = tar.gettarinfo(
                path, f"{CONTENT}/{name}" if name else CONTENT
            )
            if member is None or (member.isdev() and not member.isfifo()):
                raise TreeError(f"{path} is a socket or a device, which can't be copied")
            member.mode &= KEPT_MODES
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            if member.isdir():
                folders.append((name, member.mode, member.mtime))
                member.mode |= OWNER_ALL
            if member.isreg():
                size += member.size
                with open(path, "rb") as content:  # noqa: PTH123 - the path may hold any bytes
                    tar.addfile(member, content)
            else:
                tar.addfile(member)
        finish = "".join(_finishing(folders)).encode(errors="surrogateescape")
        member = tarfile.TarInfo(COMPLETE)
        member.size = len(finish)
        tar.addfile(member, BytesIO(finish))
    return size


def _finishing(folders: list[tuple[str, int, float]]) -> Iterator[str]:
    """The lines of `COMPLETE`. What its owner can't enter comes last, and the deepest first."""
    paths: dict[str, list[str]] = {}
    last: list[str] = []
    for name, mode, mtime in folders:
        path = quote(f"./{name}")
        if mode & OWNER_ALL == OWNER_ALL:
            paths.setdefault(f"m {mode:04o}", []).append(path)
        else:
            last.append(f"m {mode:04o} {path}\n")
        paths.setdefault(f"u {touch_time(mtime)}", []).append(path)
    for what, those in paths.items():
        for start in range(0, len(those), PATHS_A_LINE):
            yield f"{what} {' '.join(those[start : start + PATHS_A_LINE])}\n"
    yield from reversed(last)


def touch_time(seconds: float) -> str:
    """A time as ``touch -t`` wants it in UTC; none before 1970, as not every touch takes those."""
    return time.strftime("%Y%m%d%H%M.%S", time.gmtime(max(0, seconds)))


def _walk(root: Path) -> Iterator[tuple[str, str]]:
    """Every path of the tree with its name below the root; links not followed.

    Depth first: a tar that unpacks sets a directory's time when it sees a member from outside.
    """
    waiting = [(os.fspath(root), "", True)]
    while waiting:
        path, name, is_folder = waiting.pop()
        yield path, name
        if is_folder:
            below = f"{name}/" if name else ""
            with os.scandir(path) as entries:
                inside = [
                    (entry.path, below + entry.name, entry.is_dir(follow_symlinks=False))
                    for entry in entries
                ]
            waiting += sorted(inside, reverse=True)


def unpack(stream: BinaryIO, into: Path) -> Unpacked:
    """Unpack a tar stream of one tree, whose root is ``.``, into the new directory `into`.

    Whatever the stream says, nothing outside `into` is touched: a member's parent must be a
    directory that the same stream has made, a link's target a file of it, and no name is used
    twice. Symlinks are made as they are and never followed.

    Raises:
        OSError: Something can't be written.
        TreeError: The stream is no such tree, or wants out of it.
    """
    unpacking = _Unpacking(into)
    try:
        with _Archive.open(
            fileobj=stream, mode="r|", bufsize=BLOCK, errors="surrogateescape", tarinfo=_Bounded
        ) as tar:
            for member in tar:
                unpacking.take(tar, member)
            if not tar.ended:
                raise tarfile.ReadError("it has no end")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise TreeError(f"the stream of files is damaged or was cut off: {error}") from error
    return unpacking.result()


class _Unpacking:
    """One tree that is being unpacked."""

    def __init__(self, into: Path) -> None:
        into.mkdir(mode=OWNER_ALL)
        self._into, self._size = into, 0
        self._folders: dict[str, tuple[int, float]] = {"": (OWNER_ALL, time.time())}
        self._files: set[str] = set()
        self._links: set[str] = set()

    def take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Make one member."""
        name = _checked(member.name)
        if member.size < 0:
            raise TreeError(f"the stream of files says that {name!r} has {member.size} bytes")
        if member.isdir():
            if name not in self._folders:
                self._new(name).mkdir(mode=OWNER_ALL)
            self._folders[name] = (member.mode & KEPT_MODES, member.mtime)
            return
        path = self._new(name)
        if member.isreg():
            content = tar.extractfile(member)
            assert content is not None
            with path.open("xb") as out:
                shutil.copyfileobj(content, out, BLOCK)
            self._size += member.size
            _dress(path, member.mode, member.mtime)
        elif member.islnk():
            linked = _checked(member.linkname)
            if linked not in self._files:
                raise TreeError(f"the stream of files links {name!r} to what it lacks")
            path.hardlink_to(self._into / linked)
        elif member.issym():
            path.symlink_to(member.linkname)
            os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)
            self._links.add(name)
            return
        elif member.isfifo():
            os.mkfifo(path)
            _dress(path, member.mode, member.mtime)
        else:
            raise TreeError(f"{name!r} is a device, which can't be copied")
        self._files.add(name)

    def result(self) -> Unpacked:
        """What has come of it."""
        deepest_first = sorted(self._folders.items(), reverse=True)
        return Unpacked(self._size, [(name, *facts) for name, facts in deepest_first])

    def _new(self, name: str) -> Path:
        """Where a new member goes."""
        if name in self._folders or name in self._files or name in self._links:
            raise TreeError(f"the stream of files has {name!r} twice")
        if name.rpartition("/")[0] not in self._folders:
            raise TreeError(f"the stream of files wants to write {name!r} outside its directories")
        return self._into / name


def _checked(name: str) -> str:
    """`name` without a leading ``./``; empty for the root.

    Raises:
        TreeError: It is absolute, climbs, or holds a NUL byte.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise TreeError(f"the stream of files holds the name {name!r}, which leaves the tree")
    return "/".join(parts)


def _dress(path: Path, mode: int, mtime: float) -> None:
    path.chmod(mode & KEPT_MODES)
    os.utime(path, (mtime, mtime))


def merge(new: Path, target: Path, unpacked: Unpacked) -> None:
    """Move the tree `new` to `target`, into what is there: trees merge, files are replaced whole.

    Symlinks that are there are never followed: a tree that came before may have brought them.

    Raises:
        TreeError: A file stands where a directory must be, or the reverse; nothing was moved.
        OSError: Something can't be moved.
    """
    try:
        new.rename(target)
    except OSError:
        if not os.path.lexists(target):
            raise
        _check_merge(new, target)
        _merge(new, target)
    for name, mode, mtime in unpacked.folders:
        _dress(target / name, mode, mtime)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _check_merge(new: Path, target: Path) -> None:
    if not _is_folder(target):
        raise TreeError(f"{target} is there and is no directory")
    for entry in new.iterdir():
        there = target / entry.name
        if _is_folder(entry):
            if os.path.lexists(there):
                _check_merge(entry, there)
        elif _is_folder(there):
            raise TreeError(f"{there} is a directory, and a file is to go there")


def _merge(new: Path, target: Path) -> None:
    if not os.access(target, os.W_OK | os.X_OK):  # its mode is set in the end
        target.chmod(OWNER_ALL)
    for entry in new.iterdir():
        there = target / entry.name
        if _is_folder(entry) and os.path.lexists(there):
            _merge(entry, there)
        else:
            entry.replace(there)
