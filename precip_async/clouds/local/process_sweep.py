"""Finding and ending what a machine without a space of its own has started.

Such machines share this computer's process table, so their processes are known by a mark in their
environment, which children inherit, also those that have left their session. A process that was
given a clean environment in the background is not found: that is what spaces are for.

Run as a program, this is the guard of a yard. Its standard input is one end of a pair of sockets:
it says ``READY`` there and waits for the end, which comes when the yard's process dies by whatever
means, and then ends and removes what that left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Final

from precip_async.clouds.local import processes

__all__ = ["MARK", "READY", "end_marked", "main", "marked"]

MARK: Final = "PRECIP_INSTANCE"
READY: Final = b"ready\n"
DEADLINE: Final = 10.0  # seconds for ending all of one machine's processes
PAUSE: Final = 0.01  # seconds between two looks


def marked(machine_id: str) -> dict[int, str]:
    """The births, by number, of the living processes that bear a machine's mark; not our own."""
    found = processes.bearing(MARK, {machine_id})
    found.pop(os.getpid(), None)
    return found


def end_marked(machine_id: str) -> set[int]:
    """Kill a machine's processes until none is left; blocks.

    Returns:
        Those that would not end in time: empty, but for processes that the kernel itself holds.
    """
    deadline = time.monotonic() + DEADLINE
    while left := marked(machine_id):
        if time.monotonic() > deadline:
            break
        for pid, born in left.items():
            processes.kill(pid, born)
        threading.Event().wait(PAUSE)  # in a thread or as a program, never on an event loop
    return set(left)


def main() -> None:
    """Wait for the yard's end, then clear the directory named by the first argument.

    It holds one directory a machine, named by its id. One that the yard has removed is no more
    ours to end.
    """
    directory = Path(sys.argv[1])
    line = sys.stdin.fileno()
    os.write(line, READY)
    while os.read(line, 64):
        pass
    with contextlib.suppress(FileNotFoundError):
        for machine in list(directory.iterdir()):
            end_marked(machine.name)
            shutil.rmtree(machine, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
