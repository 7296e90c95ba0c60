"""Trees to move in tests: planted with everything that one may hold, and read as facts."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["facts", "free", "names", "plant", "small_disk"]

# Kind, mode, time and content of each path; what a link has none of is None.
Facts = dict[str, tuple[int, int | None, int | None, bytes | None]]


def names(directory: Path) -> list[str]:
    """What is in a directory, hidden files too."""
    return sorted(entry.name for entry in directory.iterdir())


def plant(root: Path) -> None:
    """Make a tree with everything that a tree may hold."""
    (root / "sub" / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "sub" / "file").write_text("content")
    (root / "sub" / "none").touch()
    (root / "sub" / "same").hardlink_to(root / "sub" / "file")
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o755)
    (root / "big").write_bytes(os.urandom(600_000))
    (root / "to file").symlink_to("sub/file")
    (root / "to directory").symlink_to("sub")
    (root / "out").symlink_to("/etc/passwd")
    (root / "up").symlink_to("../../..")
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "pipe", 0o600)
    for name in ("-rf", "a b'c\"", "new\nline", "end\n", os.fsdecode(b"\xff\xfe"), "x" * 255):
        (root / name).write_bytes(os.fsencode(name))
    long = root / ("d" * 200) / ("e" * 200)
    long.mkdir(parents=True)
    (long / "file").write_text("far away")
    (root / "read only").mkdir()
    (root / "read only" / "file").write_text("x")
    (root / "secret").mkdir(mode=0o700)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    (root / "read only").chmod(0o555)
    for path in every(root):
        os.utime(path, (1_000_000_000, 1_000_000_000), follow_symlinks=False)


def every(root: Path) -> Iterator[Path]:
    """All paths of a tree, the deepest first."""
    for folder, folders, files in os.walk(root, topdown=False):
        for name in (*files, *folders):
            yield Path(folder, name)
    yield root


def facts(root: Path) -> Facts:
    """All of a tree that a copy has to keep, by the path below its root."""
    found: Facts = {}
    for path in every(root):
        status = path.lstat()
        mode: int | None = stat.S_IMODE(status.st_mode)
        time: int | None = int(status.st_mtime)
        content = None
        if path.is_symlink():
            mode, time, content = None, None, os.fsencode(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(root))] = (stat.S_IFMT(status.st_mode), mode, time, content)
    return found


def free(root: Path) -> None:
    """Let a tree be removed by whoever made it."""
    for folder, folders, _ in os.walk(root):
        for path in (Path(folder, name) for name in folders):
            if not path.is_symlink():
                path.chmod(0o700)


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A file system of `size` at `place`."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "small", place], check=True, timeout=30
    )
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True, timeout=30)
