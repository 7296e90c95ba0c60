"""The directory that a warden keeps while it lives: who it is, and what it has to answer for.

``<home>/local/<experiment>/`` holds

- ``lock``: locked by the warden for its life. The kernel lets go of it when the warden dies, by
  whatever death; so a directory whose lock is free belongs to nobody, and whoever finds it clears
  it.
- ``warden.json``: a `Record`.
- ``line``: a socket at which a warden that keeps machines can be called by another script.
- ``warden.log``: the warden's own complaints. ``i-….log``: a machine's console.

Standard library only: the warden imports it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from precip_async.clouds.local import processes

__all__ = ["Record", "State", "experiments_in"]

_LOCK: Final = "lock"
_RECORD: Final = "warden.json"
_LINE: Final = "line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Who keeps an experiment's machines.

    Attributes:
        experiment: Its name.
        isolation: How the machines are kept apart.
        keep: Whether they outlive the script.
        pid: The warden.
        born: See `processes.birth`.
        machines: The ids of all that were ever launched.
    """

    experiment: str
    isolation: str
    keep: bool
    pid: int
    born: str
    machines: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether the warden lives."""
        return bool(self.born) and processes.birth(self.pid) == self.born

    def with_machines(self, ids: list[str]) -> Record:
        """The same with more machines."""
        return replace(self, machines=(*self.machines, *ids))


class State:
    """One experiment's directory.

    Args:
        base: The directory of all of them: ``<home>/local``.
        experiment: The experiment's name.
    """

    def __init__(self, base: Path, experiment: str) -> None:
        self.experiment = experiment
        self.path = base / _file_name(experiment)

    @property
    def log(self) -> Path:
        """Where the warden complains."""
        return self.path / "warden.log"

    def claim(self, *, create: bool) -> int | None:
        """Lock the directory, if nobody holds it.

        Args:
            create: Whether to make a directory that isn't there.

        Returns:
            A descriptor that holds the lock until it, and every copy of it, is closed. ``None``:
            somebody else holds it, or there is no directory and none was to be made.
        """
        while True:
            if create:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.path.mkdir(mode=0o700, exist_ok=True)
            try:
                lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                if create:  # whoever held it has removed it between our two steps
                    continue
                return None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_same(lock, self.path / _LOCK):
                    return lock
            except BlockingIOError:
                os.close(lock)
                return None
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)  # locked, but removed meanwhile: a lock on nothing

    def read(self) -> Record | None:
        """The record; ``None`` while there is none, or when it is not of our making."""
        try:
            facts = json.loads((self.path / _RECORD).read_text(encoding="utf-8"))
            return Record(**facts | {"machines": tuple(facts["machines"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def write(self, record: Record) -> None:
        """Replace the record, at once and whole."""
        draft = self.path / f"{_RECORD}.new"
        draft.write_text(json.dumps(asdict(record)), encoding="utf-8")
        draft.replace(self.path / _RECORD)

    def listen(self) -> socket.socket:
        """The socket of this directory, bound: whoever may enter the directory may call. Blocks."""
        line = socket.socket(socket.AF_UNIX)
        here = Path.cwd()
        try:
            os.chdir(self.path)  # a socket's path can't be longer than some hundred bytes
            line.bind(_LINE)
        except BaseException:
            line.close()
            raise
        finally:
            os.chdir(here)
        return line

    def call(self) -> socket.socket | None:
        """A line to the warden; ``None``: none can be called here. Blocks."""
        try:
            directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        line = socket.socket(socket.AF_UNIX)
        try:
            # the same by a shorter name, where the system has such names
            short = Path(f"/proc/self/fd/{directory}")
            line.connect(str((short if short.exists() else self.path) / _LINE))
        except (FileNotFoundError, ConnectionRefusedError):
            line.close()
            return None
        except BaseException:
            line.close()
            raise
        finally:
            os.close(directory)
        return line

    def remove(self) -> None:
        """Remove the directory, whose lock we hold. Blocks.

        The guard of a yard may be removing parts of it at the same time, and who wants the name may
        take the directory over as soon as its lock is gone.
        """
        for path in self.path.iterdir():
            if path.name != _LOCK:
                _remove(path)
        (self.path / _LOCK).unlink()
        try:
            self.path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise  # else it is somebody else's by now


def _remove(path: Path) -> None:
    """Remove a file or a tree, of which others may remove parts."""
    while os.path.lexists(path):
        with contextlib.suppress(FileNotFoundError):  # each is somebody's progress
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def experiments_in(base: Path) -> list[str]:
    """The names of all experiments that have a directory under `base`."""
    try:
        return sorted(unquote(path.name) for path in base.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


def _file_name(experiment: str) -> str:
    name = quote(experiment, safe=" @+=,")
    return name.replace(".", "%2E", 1) if name.startswith(".") else name


def _is_same(descriptor: int, path: Path) -> bool:
    ours = os.fstat(descriptor)
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
