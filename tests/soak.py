"""Experiments that start and end for a while: does anything grow?

    python -m tests.soak --minutes 10

Each round is a whole life on this computer, now and then one that is cancelled midway. Writes a
line a minute. Its exit code is 1 when descriptors, tasks, threads, child processes or files are
more at the end than after the first rounds, or memory by more than `GROWTH`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import anyio

from precip_async import Limits, LocalExperiment

WARM: Final = 20  # rounds until caches are full, and what is imported late has been
GROWTH: Final = 8.0  # MiB: what an allocator may need that never gives anything back
EVERY: Final = 5  # of so many rounds one is cancelled
LIMITS: Final = Limits(poll_interval=0.1, terminate_timeout=30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What this process, and the home, hold between two rounds."""

    memory: float
    descriptors: int
    tasks: int
    threads: int
    children: int
    files: int

    @classmethod
    def now(cls, home: Path) -> Held:
        """What is held at this instant. Blocks for a moment."""
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            memory=resident * os.sysconf("SC_PAGE_SIZE") / 2**20,
            descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
            tasks=len(asyncio.all_tasks()),
            threads=threading.active_count(),
            children=len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
            files=sum(1 for _ in home.rglob("*")),
        )

    def grown_to(self, later: Held) -> list[str]:
        """What is more in `later` than it may be."""
        return [
            f"{one.name}: {getattr(self, one.name)} -> {getattr(later, one.name)}"
            for one in fields(self)
            if getattr(later, one.name) > getattr(self, one.name) + GROWTH * (one.name == "memory")
        ]


async def life(home: Path, *, cancelled: bool) -> None:
    """One experiment, from its start to its end."""
    with anyio.CancelScope() as scope:
        async with LocalExperiment(
            home=home, isolation="process", limits=LIMITS, parallel=True
        ) as exp:
            await exp.provision(count=3, tags=["worker"])
            if cancelled:
                scope.cancel()
            await exp.wait()
            await exp.run("worker", "echo $PRECIP_INDEX; head -c 100000 /dev/zero")
            await exp.put("worker", __file__, "there")
            await exp.get("worker", "there", home.parent / "got")
            run = await exp.start("worker", "echo on")
            await run.wait()


async def soak(minutes: float) -> list[str]:
    """Live for `minutes`; what has grown."""
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        home, first = Path(directory, "home"), None
        began = told = time.monotonic()
        for number in itertools.count(1):
            await life(home, cancelled=number % EVERY == 0)
            held = Held.now(home)
            if number == WARM:
                first = held
            now = time.monotonic()
            if now - told > 60 or number == WARM:
                told = now
                say(f"{now - began:.0f} s, {number} experiments: {held}")
            if first is not None and now - began > 60 * minutes:
                say(f"{now - began:.0f} s, {number} experiments: {held}")
                return first.grown_to(held)
    raise AssertionError("unreachable")


def say(line: str) -> None:
    """Write a line, and have it read at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Parse, soak, tell."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="for how long (default: 10)")
    grown = asyncio.run(soak(parser.parse_args().minutes))
    say("nothing has grown" if not grown else "grown: " + "; ".join(grown))
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
