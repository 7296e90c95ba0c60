"""Rehearsals as users start them: the command, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["LAUNCH", "Rehearsed", "Running", "rehearse", "rehearsing"]

PATIENCE = 50.0  # seconds for a rehearsal, which takes about three
PRECIP = (sys.executable, "-m", "precip_async", "rehearse")

LAUNCH = """
import sys
from precip import *
exp = EC2Experiment("us-west-2d", None, "key", "secret", quiet=True)
exp.provision("ami-8a1e92ba", tags=["worker"])
exp.wait()
"""


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """What a rehearsal did; `facts` is its report for programs."""

    code: int
    stdout: str
    stderr: str
    facts: dict[str, Any]

    @property
    def instances(self) -> list[dict[str, Any]]:
        """All instances of all places."""
        return [one for place in self.facts["places"] for one in place["instances"]]


def rehearse(
    folder: Path, text: str, *options: str, arguments: tuple[str, ...] = (), fast: bool = True
) -> Rehearsed:
    """Rehearse the script `text`; `fast`: with instances of one process."""
    script, report = folder / "script.py", folder / "report.json"
    script.write_text(text)
    isolated = ["--isolation", "process"] if fast else []
    ran = subprocess.run(
        [*PRECIP, *isolated, "--report", str(report), *options, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    facts = json.loads(report.read_text()) if report.exists() else {}
    return Rehearsed(code=ran.returncode, stdout=ran.stdout, stderr=ran.stderr, facts=facts)


class Running:
    """A rehearsal that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def wait_for(self, wanted: str) -> str:
        """Read stdout up to the line that begins with `wanted`; the rest of that line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(wanted):
                return line.removeprefix(wanted).strip()
        raise AssertionError(f"{wanted!r} never came: {self.end()}")

    def interrupt(self) -> None:
        """Do what Ctrl-C does in a terminal: all of its processes have the signal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """Its exit code, and what else it says."""
        out, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, errors


@contextmanager
def rehearsing(folder: Path, text: str) -> Iterator[Running]:
    """Start a rehearsal of `text`; it is killed when the block ends, or when it takes too long."""
    script = folder / "script.py"
    script.write_text(text)
    with subprocess.Popen(
        [*PRECIP, "--isolation", "process", str(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        impatience = threading.Timer(PATIENCE, process.kill)
        impatience.start()
        try:
            yield Running(process)
        finally:
            impatience.cancel()
            process.kill()
