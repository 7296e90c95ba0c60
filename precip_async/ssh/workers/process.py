"""The process of a worker: started with a line to it, and what it says when it dies."""

from __future__ import annotations

import os
import site
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

__all__ = ["WorkerProcess"]

WORDS = 2000  # bytes of what a worker wrote that are shown
GOING = 5.0  # seconds for a process to go that has been killed


class WorkerProcess:
    """One process. All of its methods block, but for `pid`.

    Attributes:
        line: Our end of the line to it.
    """

    def __init__(self) -> None:
        """Start it.

        Raises:
            OSError: It can't be.
        """
        self.line, theirs = socket.socketpair()
        self._said: IO[bytes] | None = None
        try:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 - reap() closes it
            # -P: the current directory may hold a random.py of the user's.
            module = "precip_async.ssh.workers.worker"
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env=_environment(),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in the terminal is the script's to deal with
            )
        except BaseException:
            self.line.close()
            if self._said is not None:
                self._said.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def reap(self, grace: float) -> str:
        """See that it has ended, within `grace` seconds by itself; how, and its last words."""
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(GOING)
        assert self._said is not None
        with self._said as said:
            size = said.seek(0, os.SEEK_END)
            said.seek(max(0, size - WORDS))
            words = said.read().decode(errors="replace").strip()
        code = self._process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{how}: {words}" if words else how


def _environment() -> dict[str, str]:
    """Ours, with the package where it is found: a script may run from a checkout."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[3])
    if root not in site.getsitepackages():
        paths = [environment.get("PYTHONPATH", ""), root]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment
