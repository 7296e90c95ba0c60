"""Trees as tar streams: packed from a local tree, and unpacked where nothing can escape.

Everything here blocks and runs in threads.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["COMPLETE", "TreeError", "merge", "pack", "unpack"]

COMPLETE = ".precip-complete"  # the last member: a stream cut short at a member's end lacks it
CONTENT = "content"  # the tree itself, beside COMPLETE
BLOCK = 256 * 1024
LONGEST_HEADER = 1024 * 1024  # bytes of a name or an extended header; more is an attack
OWNER_ALL = 0o700
KEPT_MODES = 0o1777  # set-id bits are not kept: the copy has another owner


class TreeError(Exception):
    """A tree can't be moved; the text says why."""


class _Bounded(tarfile.TarInfo):
    """A member whose headers can't make us read without end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Bounded:
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
        return member


def pack(root: Path, out: BinaryIO) -> tuple[int, list[tuple[int, str]]]:
    """Write the tree under `root` to `out`, as ``content/...`` and `COMPLETE` at the end.

    Symlinks are written as links. Directories are written so that their owner can enter them; the
    modes of those that lacked it are returned, to be set at the end.

    Returns:
        The bytes of content, and ``(mode, path below content)`` of the directories to mend.

    Raises:
        OSError: Something can't be read.
        TreeError: Something is neither file, directory, symlink nor fifo.
    """
    size, mend = 0, []
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
            if member.isdir() and member.mode & OWNER_ALL != OWNER_ALL:
                mend.append((member.mode, name))
                member.mode |= OWNER_ALL
            if member.isreg():
                size += member.size
                with open(path, "rb") as content:  # noqa: PTH123 - the path may hold any bytes
                    tar.addfile(member, content)
            else:
                tar.addfile(member)
        tar.addfile(tarfile.TarInfo(COMPLETE))
    mend.reverse()  # the deepest first
    return size, mend


def _walk(root: Path) -> Iterator[tuple[str, str]]:
    """Every path of the tree with its name below the root, parents first; links not followed."""
    top = os.fspath(root)
    yield top, ""
    waiting = [("", top)]
    while waiting:
        below, folder = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{below}{entry.name}"
                yield entry.path, name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{name}/", entry.path))


def unpack(stream: BinaryIO, into: Path) -> int:
    """Unpack a tar stream of one tree, whose root is ``.``, into the new directory `into`.

    Whatever the stream says, nothing outside `into` is touched: a member's parent must be a
    directory that the same stream has made, a link's target a file of it, and no name is used
    twice. Symlinks are made as they are and never followed.

    Returns:
        The bytes of content.

    Raises:
        OSError: Something can't be written.
        TreeError: The stream is no such tree, or wants out of it.
    """
    into.mkdir(mode=0o700)
    folders: dict[str, tarfile.TarInfo | None] = {"": None}
    files: set[str] = set()
    links: set[str] = set()
    size = 0
    try:
        with tarfile.open(
            fileobj=stream, mode="r|", bufsize=BLOCK, errors="surrogateescape", tarinfo=_Bounded
        ) as tar:
            for member in tar:
                name = _checked(member.name)
                if name == "":
                    folders[""] = member
                    continue
                parent = name.rpartition("/")[0]
                if parent not in folders or name in files or name in links:
                    raise TreeError(f"the stream of files wants to write {name!r} through a link")
                path = into / name
                if member.isdir():
                    if name not in folders:
                        path.mkdir(mode=0o700)
                    folders[name] = member
                elif name in folders:
                    raise TreeError(f"the stream of files has {name!r} twice")
                elif member.isreg():
                    content = tar.extractfile(member)
                    assert content is not None
                    with path.open("xb") as out:
                        shutil.copyfileobj(content, out, BLOCK)
                    size += member.size
                    files.add(name)
                    _dress(path, member)
                elif member.islnk():
                    linked = _checked(member.linkname)
                    if linked not in files:
                        raise TreeError(f"the stream of files links {name!r} to what it lacks")
                    path.hardlink_to(into / linked)
                    files.add(name)
                elif member.issym():
                    path.symlink_to(member.linkname)
                    links.add(name)
                elif member.isfifo():
                    os.mkfifo(path, stat.S_IMODE(member.mode))
                    files.add(name)
                else:
                    raise TreeError(f"{name!r} is a device, which can't be copied")
    except tarfile.TarError as error:
        raise TreeError(f"the stream of files is damaged or was cut off: {error}") from error
    for name, folder in sorted(folders.items(), reverse=True):  # the deepest first
        if folder is not None:
            _dress(into / name, folder)
    return size


def _checked(name: str) -> str:
    """`name` without a leading ``./``; empty for the root.

    Raises:
        TreeError: It is absolute, climbs, or holds a NUL byte.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise TreeError(f"the stream of files holds the name {name!r}, which leaves the tree")
    return "/".join(parts)


def _dress(path: Path, member: tarfile.TarInfo) -> None:
    path.chmod(member.mode & KEPT_MODES)
    os.utime(path, (member.mtime, member.mtime))


def merge(new: Path, target: Path) -> None:
    """Move the tree `new` to `target`, into what is there: trees merge, files are replaced whole.

    Raises:
        TreeError: A file stands where a directory must be, or the reverse; nothing was moved.
        OSError: Something can't be moved.
    """
    if not os.path.lexists(target):
        new.rename(target)
        return
    _check_merge(new, target)
    _merge(new, target)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _check_merge(new: Path, target: Path) -> None:
    if not target.is_dir():
        raise TreeError(f"{target} is there and is no directory")
    for entry in new.iterdir():
        there = target / entry.name
        if _is_folder(entry):
            if os.path.lexists(there):
                _check_merge(entry, there)
        elif _is_folder(there):
            raise TreeError(f"{there} is a directory, and a file is to go there")


def _merge(new: Path, target: Path) -> None:
    status = new.stat()
    for entry in new.iterdir():
        there = target / entry.name
        if _is_folder(entry) and os.path.lexists(there):
            _merge(entry, there)
        else:
            entry.replace(there)
    target.chmod(stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
