"""The process of a worker: started with a line to it, and what it says when it dies."""

from __future__ import annotations

import os
import site
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

__all__ = ["WorkerProcess", "received_file"]

WORDS = 2000  # bytes of what a worker wrote that are shown
NUMBER = 8  # bytes of a number that goes with a descriptor
GOING = 5.0  # seconds for a process to go whose work is done, or that has been killed


class WorkerProcess:
    """One process. All of its methods block, but for `pid`.

    Attributes:
        line: Our end of the line to it.
        files: Our end of another, by which it gets descriptors of open files.
    """

    def __init__(self) -> None:
        """Start it.

        Raises:
            OSError: It can't be.
        """
        with ExitStack() as ours, ExitStack() as theirs:
            self.line, line = _pair(ours, theirs)
            self.files, files = _pair(ours, theirs)
            self._said = ours.enter_context(tempfile.TemporaryFile())
            descriptors = line.fileno(), files.fileno()
            # -P: the current directory may hold a random.py of the user's.
            module = "precip_async.ssh.workers.worker"
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *map(str, descriptors), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env=_environment(),
                pass_fds=descriptors,
                start_new_session=True,  # Ctrl-C in the terminal is the script's to deal with
            )
            ours.pop_all()  # reap() and the line's transport close them

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def send_file(self, number: int, descriptor: int) -> None:
        """Give it an open file, as `number`.

        Raises:
            OSError: It has ended.
        """
        socket.send_fds(self.files, [number.to_bytes(NUMBER, "big")], [descriptor])

    def kill(self) -> None:
        """End it at once. It does not block."""
        self._process.kill()

    def reap(self) -> str:
        """See that it has ended, within seconds by itself; how, and its last words."""
        try:
            self._process.wait(GOING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(GOING)
        self.files.close()
        with self._said as said:
            size = said.seek(0, os.SEEK_END)
            said.seek(max(0, size - WORDS))
            words = said.read().decode(errors="replace").strip()
        code = self._process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{how}: {words}" if words else how


def _pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair()
    return ours.enter_context(one), theirs.enter_context(other)


def received_file(files: socket.socket) -> tuple[int, int]:
    """What `WorkerProcess.send_file` has sent to this process: the number and the descriptor."""
    number, descriptors, _, _ = socket.recv_fds(files, NUMBER, 1)
    return int.from_bytes(number, "big"), descriptors[0]


def _environment() -> dict[str, str]:
    """Ours, with the package where it is found: a script may run from a checkout."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[3])
    if root not in site.getsitepackages():
        paths = [environment.get("PYTHONPATH", ""), root]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment
