"""Files that are whole or not there, however many write them and whenever one is killed.

Everything here blocks; call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import secrets
import shlex
import stat
import threading
import time
from typing import TYPE_CHECKING

from precip_async.errors import HomeError
from precip_async.steps import reached

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "check_owner",
    "create_once",
    "locked",
    "private_directory",
    "read_private",
    "replace",
    "reported",
    "sweep",
    "sync_directory",
]

DRAFT = ".new-"  # how the names of unfinished files begin
DRAFT_AGE = 3600.0  # seconds after which a draft's writer is taken for dead
LOCK_TIMEOUT = 30.0  # seconds; what is done under a lock takes milliseconds
LOCK_PAUSE = 0.01  # seconds between two tries
OTHERS = 0o077

ELSEWHERE = "or keep it elsewhere with home= or PRECIP_HOME"


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn an `OSError` about `path` into a `HomeError` that says how to mend it."""
    try:
        yield
    except OSError as exc:
        problem = exc.strerror or str(exc)
        raise HomeError(path=str(path), problem=problem, mend=_mend(path, exc)) from exc


def _mend(path: Path, exc: OSError) -> str:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"free some space there, {ELSEWHERE}"
    if exc.errno in (errno.EACCES, errno.EPERM):
        return f"let yourself in (chmod u+rwX {shlex.quote(str(path.parent))}), {ELSEWHERE}"
    if exc.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
        return "its file system has no locks or links: use another with home= or PRECIP_HOME"
    return f"look at what is there, {ELSEWHERE}"


def check_owner(path: Path, info: os.stat_result) -> None:
    """Refuse what belongs to someone else; `info` is the `os.stat` of `path`.

    Raises:
        HomeError: It does.
    """
    if info.st_uid == os.geteuid():
        return
    me, owner = _user(os.geteuid()), _user(info.st_uid)
    raise HomeError(
        path=str(path),
        problem=f"belongs to {owner}, and you are {me}",
        mend=f"if it ought to be yours, run: chown -R {me} {shlex.quote(str(path))}, {ELSEWHERE}",
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container's uid without a name
        return str(uid)


def private_directory(path: Path, *, mend: bool = False) -> bool:
    """Make sure that `path` is a directory of ours alone; it is made where it is missing.

    Args:
        path: Where; missing parents are made as well, with the modes that are usual.
        mend: Close one that is open to others, rather than refuse it.

    Returns:
        Whether it had to be mended.

    Raises:
        HomeError: It is something else, someone else's, or open to others.
    """
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        made = False
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            made = True
        info = path.stat()
        if not stat.S_ISDIR(info.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        check_owner(path, info)
        if not stat.S_IMODE(info.st_mode) & OTHERS:
            return False
        if mend:
            path.chmod(0o700)
            return True
    raise HomeError(
        path=str(path),
        problem=f"others may look into it (mode {stat.S_IMODE(info.st_mode):04o})",
        mend="its file system keeps no modes: use another with home= or PRECIP_HOME"
        if made
        else f"run: chmod 700 {shlex.quote(str(path))}",
    )


def read_private(path: Path) -> bytes:
    """The content of `path`, which must be a file that only we may read.

    A symbolic link is followed, and its target judged.

    Raises:
        HomeError: It is missing, no file, someone else's, or open to others.
    """
    with reported(path):
        _check_private(path, path.stat())  # before it is opened: to open a pipe is to wait
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()))  # what was judged may have been swapped
            return file.read()


def _check_private(path: Path, info: os.stat_result) -> None:
    check_owner(path, info)
    if not stat.S_ISREG(info.st_mode):
        raise HomeError(
            path=str(path),
            problem="is not a regular file",
            mend="move it away, and a new one is made",
        )
    if stat.S_IMODE(info.st_mode) & OTHERS:
        raise HomeError(
            path=str(path),
            problem=f"others may read it (mode {stat.S_IMODE(info.st_mode):04o})",
            mend=f"run: chmod 600 {shlex.quote(str(path))}",
        )


def create_once(path: Path, content: bytes) -> bool:
    """Write `content` to `path` unless there is something already, as a whole or not at all.

    Of several that try at once one wins, and the file is the winner's.

    Returns:
        Whether it was us.

    Raises:
        OSError: It could not be written.
    """
    with _draft(path, content, 0o600) as draft:
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
    sync_directory(path.parent)
    return True


def replace(path: Path, content: bytes, mode: int) -> None:
    """Write `content` to `path` in place of what is there, as a whole or not at all.

    Raises:
        OSError: It could not be written; what was there is as it was.
    """
    with _draft(path, content, mode) as draft:
        draft.replace(path)
    sync_directory(path.parent)


@contextlib.contextmanager
def _draft(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    draft = path.with_name(DRAFT + secrets.token_hex(8))
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            os.fchmod(descriptor, mode)  # whatever the umask says
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        reached("file.drafted")
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make what was created, renamed or removed in `path` survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(directory: Path) -> None:
    """Remove drafts whose writers were killed before they could."""
    for draft in directory.glob(f"{DRAFT}*"):
        with contextlib.suppress(FileNotFoundError):  # finished, or swept by another
            if time.time() - draft.stat().st_mtime > DRAFT_AGE:
                draft.unlink()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` against other processes and threads.

    It is let go of when the holder dies, too. The file stays.

    Raises:
        HomeError: Another held it for 30 s.
    """
    with reported(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _flock(path, descriptor)
            yield
        finally:
            os.close(descriptor)


def _flock(path: Path, descriptor: int) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT
    pause = threading.Event()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                pause.wait(LOCK_PAUSE)
                continue
            raise HomeError(
                path=str(path),
                problem=f"another process has held this lock for {LOCK_TIMEOUT:.0f} s",
                mend=f"find it with: fuser {shlex.quote(str(path))}, and continue or end it",
            ) from None
        return
