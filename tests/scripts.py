"""Python scripts run as processes of their own: for signals, forks, and the interpreter's exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Script", "run_script", "script"]

PATIENCE = 20.0  # seconds for a script to do what is waited for

# -u: lines arrive as they are written; -W error: a resource left open is on stderr.
PYTHON = (sys.executable, "-u", "-W", "error")


class Script:
    """A running script; its lines are read one by one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors)
        self._reader.start()
        self.lines: list[str] = []

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)

    def wait_for(self, line: str) -> None:
        """Read stdout up to `line`.

        Raises:
            AssertionError: The script ended without writing it.
        """
        assert self._process.stdout is not None
        for text in self._process.stdout:
            self.lines.append(text.rstrip("\n"))
            if self.lines[-1] == line:
                return
        self.end()
        raise AssertionError(f"{line!r} never came: {self.lines}, {self.errors}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; Ctrl-C goes to all of its group, as a terminal's does."""
        if number == signal.SIGINT:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    def end(self) -> int:
        """Read what is left, wait for its end and return its exit code."""
        assert self._process.stdout is not None
        self.lines += [text.rstrip("\n") for text in self._process.stdout]
        code = self._process.wait(PATIENCE)
        self._reader.join()
        return code

    @property
    def errors(self) -> str:
        """What it has written to stderr."""
        return "".join(self._errors)

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self.end()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def script(code: str, *args: str) -> Iterator[Script]:
    """Start `code` as a script; it is killed when the block ends, or when it takes too long."""
    process = subprocess.Popen(
        [*PYTHON, "-c", textwrap.dedent(code), *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    running = Script(process)
    impatience = threading.Timer(PATIENCE, process.kill)
    impatience.start()
    try:
        yield running
    finally:
        impatience.cancel()
        running.kill()


def run_script(code: str, *args: str) -> tuple[int, list[str], str]:
    """Run `code` to its end: its exit code, its lines, and what it wrote to stderr."""
    with script(code, *args) as running:
        return running.end(), running.lines, running.errors
