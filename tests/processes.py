"""What runs on this machine, read from /proc: for helpers that must leave nothing behind."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Process", "descendants", "end", "everything", "marked", "opened", "owned_by"]

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment; `started` (clock ticks) tells it from a later one of its pid."""

    pid: int
    parent: int
    name: str
    state: str
    started: int

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        now = read(self.pid)
        return now is not None and now.started == self.started and now.state not in "ZX"

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; one that has ended gets none."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return  # it ended between the look and the signal


def read(pid: int) -> Process | None:
    """The process `pid`, or ``None`` where there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, tail = text.rpartition(")")  # the name may hold spaces and parentheses itself
    fields = tail.split()
    name = head.partition("(")[2]
    return Process(
        pid=pid, parent=int(fields[1]), name=name, state=fields[0], started=int(fields[19])
    )


def everything() -> dict[int, Process]:
    """All processes, by pid; empty where there is no /proc."""
    names = [path.name for path in PROC.iterdir()] if PROC.exists() else []
    pids = [int(name) for name in names if name.isdigit()]
    return {pid: process for pid in pids if (process := read(pid)) is not None}


def descendants(roots: Iterable[int]) -> list[Process]:
    """All processes that descend from `roots`, which are not among them."""
    children: dict[int, list[Process]] = {}
    for process in everything().values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    queue = list(roots)
    while queue:
        born = children.get(queue.pop(), [])
        found += born
        queue += [process.pid for process in born]
    return found


def marked(mark: str) -> list[Process]:
    """The living processes that have `mark` (``NAME=value``) in their environment."""
    wanted = mark.encode()
    found = []
    for pid, process in everything().items():
        try:
            environment = (PROC / str(pid) / "environ").read_bytes()
        except OSError:  # it has ended, or is another user's and so none of ours
            continue
        if wanted in environment.split(b"\0") and process.alive():
            found.append(process)
    return found


def owned_by(uid: int) -> list[Process]:
    """The processes of the user `uid`."""
    found = []
    for pid, process in everything().items():
        try:
            owner = (PROC / str(pid)).stat().st_uid
        except FileNotFoundError:
            continue
        if owner == uid:
            found.append(process)
    return found


def opened(place: Path) -> list[str]:
    """The files at `place`, removed ones included, that this process has open."""
    links = [link for link in (PROC / "self" / "fd").iterdir() if link.is_symlink()]
    return [path for path in map(os.readlink, links) if path.startswith(str(place))]


def end(processes: Iterable[Process], *, within: float = 10.0) -> None:
    """Kill `processes` and wait until they have ended.

    Raises:
        AssertionError: One of them still lives `within` seconds later.
    """
    ending = list(processes)
    for process in ending:
        process.signal(signal.SIGKILL)
    until(
        lambda: not any(process.alive() for process in ending),
        f"end of {ending}",
        within=within,
    )
