"""A protection that is taken away on purpose is missed: the harness sees what it is there for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.faults.breaking import broken
from tests.faults.cancelling import at_every_suspension, everything
from tests.faults.driver import Stage, Warm
from tests.faults.memory import world
from tests.faults.trials import Kind, Trial
from tests.faults.virtual import VirtualLoop, run_virtually

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("protection", "verb"),
    [
        ("no_shield_of_launches", "provision"),
        ("no_shield_of_starts", "run"),
        ("no_shield_of_ends", "everything"),
        ("commands_go_on", "run"),
    ],
)
def test_a_shield_that_is_gone_is_missed(tmp_path: Path, protection: str, verb: str) -> None:
    """What it keeps from being abandoned is lost at one of the verb's suspensions."""
    with broken(protection), pytest.raises(AssertionError):
        at_every_suspension(tmp_path / "home", verb, "scope")


@pytest.mark.parametrize("protection", ["late_intent", "early_word_of_an_end"])
def test_a_journal_that_does_not_know_what_runs_is_missed(tmp_path: Path, protection: str) -> None:
    """While the cloud starts or ends machines, whoever came after us could not find them."""

    async def main(loop: VirtualLoop) -> None:
        loop.strike(there.check_journal, range(1, 10**6))
        await everything(there.experiment())

    missed = pytest.raises(AssertionError, match="knows nothing of")
    with broken(protection), world(tmp_path / "home") as there, missed:
        run_virtually(main)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protection", "dialect", "kind", "point", "missed"),
    [
        ("late_intent", "amazon", "kill", "launch.accepted", "unknown to the journal"),
        ("another_token_each_time", "amazon", "lost", "", "launched twice"),
        ("a_secret_in_a_log", "amazon", "none", "", "the secret key is in"),
        ("addresses_stay", "nova-havana", "none", "", "it left something"),
    ],
)
async def test_on_the_lab_a_protection_that_is_gone_is_missed(
    tmp_path: Path, protection: str, dialect: str, kind: Kind, point: str, missed: str
) -> None:
    """Trials that succeed with it are violations without it."""
    trial = Trial(number=1, seed=0, kind=kind, point=point, dialect=dialect, after=1.0)
    async with Warm() as warm, Stage(warm, tmp_path) as stage:
        good = await stage.play(trial)
        bad = await stage.play(replace(trial, number=2, broken=protection))

    assert good.violations == []
    assert [one for one in bad.violations if missed in one]
