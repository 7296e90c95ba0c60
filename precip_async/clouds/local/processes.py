"""Processes told apart for good: a number is reused, a number and a birth are not.

Standard library only: the warden imports it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["bearing", "birth", "kill"]

_START_TIME = 19  # the field of /proc/<pid>/stat, counted from the one after the name


def birth(pid: int) -> str:
    """When the process `pid` began, as a text no other process of that number ever shares.

    Empty when there is none, or when it has ended and is only waiting to be reaped.
    """
    if sys.platform != "linux":
        shown = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        state, _, began = shown.stdout.strip().partition(" ")
        return "" if state.startswith("Z") else began.strip()
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else f"{boot}:{fields[_START_TIME]}"


def kill(pid: int, born: str, number: int = signal.SIGKILL) -> bool:
    """Signal the process `pid` if it is still the one that was `born` then; say whether it was."""
    if not born or birth(pid) != born:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def bearing(name: str, values: set[str]) -> dict[int, str]:
    """The processes whose environment says that the variable `name` is one of `values`.

    Returns their births by number. Those of other users are not seen unless we are root.
    """
    marks = {f"{name}={value}".encode() for value in values}
    found = {}
    for pid, environment in _environments():
        if marks.intersection(environment.split(b"\0")) and (born := birth(pid)):
            found[pid] = born
    return found


def _environments() -> list[tuple[int, bytes]]:
    if sys.platform != "linux":
        shown = subprocess.run(
            ["ps", "-axEww", "-o", "pid=,command="], capture_output=True, check=False
        )
        lines = [line.split() for line in shown.stdout.splitlines()]
        return [(int(words[0]), b"\0".join(words[1:])) for words in lines if words]
    found = []
    for entry in Path("/proc").glob("[1-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is none of our business
            found.append((int(entry.name), (entry / "environ").read_bytes()))
    return found
