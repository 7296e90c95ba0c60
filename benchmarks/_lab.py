"""The cloud of a benchmark: a lab in a process of its own, with a fleet of machines."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Lab", "fleet"]

END = 60.0  # seconds for the lab to end, with thousands of machines


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A lab that runs, and the way to ask it what it knows.

    Attributes:
        facts: Endpoint, credentials and the like, as it says them itself.
    """

    facts: dict[str, Any]
    process: subprocess.Popen[str]

    def ask(self, what: str) -> list[dict[str, Any]]:
        """Its ``instances`` or its ``calls``. Blocks."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextlib.contextmanager
def fleet(scenario: str) -> Iterator[Lab]:
    """A lab of thousands of machines on loopback; ended with all of them."""
    command = [sys.executable, "-m", "precip_async.lab", "--fleet", "--scenario", scenario]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Lab(facts=json.loads(process.stdout.readline()), process=process)
        finally:
            process.stdin.close()  # its input is what it lives by
            process.wait(END)
