"""Cancelled at every single suspension, nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.cancelling import CASES, Means, at_every_suspension, everything
from tests.faults.memory import world
from tests.faults.virtual import Stuck, VirtualLoop, run_virtually

if TYPE_CHECKING:
    from pathlib import Path

ROADS: tuple[Means, ...] = ("scope", "native", "twice")
QUICK = {(verb, "scope") for verb in CASES} | {("provision", "native"), ("run", "native")}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where a home is made; all runs of a test share it."""
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("verb", "means"),
    [
        pytest.param(verb, means, marks=() if (verb, means) in QUICK else pytest.mark.slow)
        for verb in CASES
        for means in ROADS
    ],
)
def test_nothing_is_lost_wherever_a_verb_is_cancelled(home: Path, verb: str, means: Means) -> None:
    """At each suspension, one after the other: no machine, command, connection, file or row."""
    assert at_every_suspension(home, verb, means) >= CASES[verb].fewest


def test_at_every_suspension_the_journal_knows_what_runs(home: Path) -> None:
    """Whoever comes after a script that dies anywhere finds all of its machines."""
    looks = 0

    def look() -> None:
        nonlocal looks
        there.check_journal()
        looks += 1

    async def main(loop: VirtualLoop) -> None:
        loop.strike(look, range(1, 10**6))
        await everything(there.experiment())

    with world(home) as there:
        run_virtually(main)

    assert looks >= CASES["everything"].fewest


def test_the_same_suspension_is_the_same_each_time(home: Path) -> None:
    """What is called the n-th is at the same place of the code in every run."""
    runs: list[list[str]] = []

    async def main(loop: VirtualLoop) -> None:
        loop.strike(lambda: None, ())
        await everything(there.experiment())
        runs.append(loop.suspensions)

    for _ in range(3):
        with world(home) as there:
            run_virtually(main)

    assert runs[0] == runs[1] == runs[2]


def test_a_wait_that_nothing_ends_is_noticed() -> None:
    """On virtual time a wait without a deadline does not hang: it fails."""

    async def main(loop: VirtualLoop) -> None:
        await loop.create_future()

    with pytest.raises(Stuck):
        run_virtually(main)
