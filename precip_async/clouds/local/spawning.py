"""Starting a warden, and what is said when it does not start, or does not answer."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from precip_async.clouds.local import processes
from precip_async.errors import CloudError

if TYPE_CHECKING:
    import socket

    from precip_async.clouds.local.state import State

__all__ = ["not_started", "ourselves", "silent", "spawn", "tail"]

CONSOLE: Final = 16 * 1024  # bytes of a console that are shown


def ourselves() -> list[Any]:
    """This process, in words by which a warden knows when it has ended. Blocks."""
    return [os.getpid(), processes.birth(os.getpid())]


def spawn(state: State, facts: dict[str, Any], lock: int, line: socket.socket) -> None:
    """Start a warden, which takes over the lock and its end of the line. Blocks.

    Raises:
        CloudError: It does not start.
    """
    facts = {**facts, "script": ourselves(), "lock": lock, "line": line.fileno()}
    with state.log.open("ab") as log:
        # -P: the current directory may hold a random.py of the user's.
        done = subprocess.run(
            [sys.executable, "-P", "-m", "precip_async.clouds.local.warden", json.dumps(facts)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(),
            pass_fds=(lock, line.fileno()),
            start_new_session=True,  # Ctrl-C in the terminal is the script's, not the warden's
            check=False,
        )
    if done.returncode:
        raise not_started(state)


def _environment() -> dict[str, str]:
    """Ours, with the package where the warden can find it: a script may run from a checkout."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[3])
    if root not in site.getsitepackages():
        paths = [environment.get("PYTHONPATH", ""), root]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def not_started(state: State) -> CloudError:
    """That a warden does not start, with its last words. Blocks."""
    words = tail(state.log).strip()
    return CloudError(
        "the process that is to keep the instances did not start",
        cloud="local",
        operation="prepare",
        hint=f"it said: {words.splitlines()[-1]}" if words else f"see {state.log}",
    )


def silent(pid: int) -> CloudError:
    """That a warden does not answer who wants to go on with its instances."""
    return CloudError(
        f"the process {pid} that keeps the instances does not answer",
        cloud="local",
        operation="prepare",
        hint="continue it if it was stopped (kill -CONT), and attach again",
    )


def tail(path: Path) -> str:
    """The end of a file; empty where there is none. Blocks."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - CONSOLE))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
