"""A warm parent: it has imported everything, and forks a child for each trial it is asked for.

It speaks lines of JSON: on stdin what to play, on stdout the process id of the child and later how
that ended. It runs no event loop and no thread, so that its forks begin like an interpreter.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import selectors
import sys
import threading
from pathlib import Path
from typing import Any

import precip_async
from tests.faults.child import exit_now, play

__all__ = ["main"]

LAZY = ("aioboto3", "asyncssh", "cryptography.hazmat.primitives.serialization.ssh", "sqlite3")


def warm_up() -> None:
    """Import what a script would come to need."""
    for found in pkgutil.walk_packages(precip_async.__path__, "precip_async."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    for name in LAZY:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else every child copies what it only looks at


def say(**facts: Any) -> None:
    """Tell whoever drives us."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def fork(given: dict[str, Any]) -> int:
    """Start a child that plays `given`; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 71
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        said = os.open(given["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ.update(given["environment"])
        os.chdir(Path(given["home"]).parent)
        code = play(given)
        threading._shutdown()  # type: ignore[attr-defined] # where an interpreter closes the twins
    finally:
        exit_now(code)
    raise AssertionError("it has ended")


def main() -> None:
    """Fork whatever is asked for, until stdin ends."""
    warm_up()
    say(ready=True)
    children: dict[int, tuple[int, int]] = {}  # by their descriptor: process and number
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        buffer = b""
        while True:
            for key, _ in selector.select():
                if key.fd != sys.stdin.fileno():
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    pid, number = children.pop(key.fd)
                    _, status = os.waitpid(pid, 0)
                    say(number=number, code=os.waitstatus_to_exitcode(status))
                    continue
                if not (data := os.read(key.fd, 1 << 16)):
                    return
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    given = json.loads(line)
                    pid = fork(given)
                    children[fd := os.pidfd_open(pid)] = pid, given["number"]
                    selector.register(fd, selectors.EVENT_READ)
                    say(number=given["number"], pid=pid)


if __name__ == "__main__":
    main()
