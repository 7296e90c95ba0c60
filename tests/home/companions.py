"""Real processes for the tests of the home: started together, and told when to go on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Companion", "companion", "foreign_file", "powerless", "together"]

PATIENCE = 30  # seconds for what a process is asked to do

# What every process has in hand; `go()` says that it is ready, and waits to be told.
PRELUDE = """
import os, signal, sys
from precip_async.home.directory import Home
from precip_async.home.hostkeys import HostKeys
from precip_async.home.journal import Journal
from precip_async.home.keys import ed25519_key, generate_host_key, rsa_key
from precip_async.home.names import hold_name

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

def go():
    say("ready")
    sys.stdin.readline()
"""


class Companion:
    """A Python process that runs `PRELUDE` and a script, with `argv` in ``sys.argv[1:]``."""

    def __init__(self, script: str, argv: Sequence[object], wrapper: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-c", PRELUDE + script, *map(str, argv)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def heard(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Let it go on from its next ``go()``."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def rest(self) -> str:
        """What it says until its end, which must be a good one."""
        out, err = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, err
        return out

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)


@contextlib.contextmanager
def companion(script: str, *argv: object, wrapper: Sequence[str] = ()) -> Iterator[Companion]:
    """A process that runs `script` after `PRELUDE`; it is killed at the end."""
    one = Companion(script, argv, wrapper)
    try:
        yield one
    finally:
        one.kill()


def together(script: str, argvs: Sequence[Sequence[object]]) -> list[str]:
    """What as many processes say as there are `argvs`, all past their ``go()`` at once."""
    with contextlib.ExitStack() as stack:
        companions = [stack.enter_context(companion(script, *argv)) for argv in argvs]
        for one in companions:
            assert one.heard() == "ready", one.rest()
        for one in companions:
            one.go()
        return [one.rest() for one in companions]


def powerless() -> list[str]:
    """What to put before a command so that modes bind it, for root as for everybody else."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        pytest.skip("modes do not bind root, and there is no setpriv to make them")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]


def foreign_file(directory: Path) -> Path:
    """A file that belongs to someone else; in `directory` where we can make one there."""
    if os.geteuid() != 0:
        return directory.__class__("/etc/passwd")
    path = directory / "foreign"
    path.write_text("not ours\n")
    path.chmod(0o600)
    os.chown(path, 65534, 65534)
    return path
