"""Scripts that are killed, signalled and starved on the lab: what they leave is found and ended."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.faults.driver import play_all
from tests.faults.trials import KINDS, Trial, drawn, trials

if TYPE_CHECKING:
    from pathlib import Path

FEW = (
    Trial(number=1, seed=0, kind="kill", point="launch.accepted", dialect="amazon"),
    Trial(number=2, seed=0, kind="signal", point="INT", dialect="amazon", after=0.9),
    Trial(number=3, seed=0, kind="kill", point="command.started", dialect="amazon", blocking=True),
    Trial(number=4, seed=0, kind="attach", point="boot.ready", dialect="amazon", after=30.0),
)
MORE = 30


async def test_a_killed_script_leaves_nothing_that_reaping_does_not_find(tmp_path: Path) -> None:
    """Killed between the cloud's answer and the journal, interrupted, killed, and gone on with."""
    outcomes = await play_all(FEW, tmp_path, jobs=2)

    assert [outcome.violations for outcome in outcomes] == [[], [], [], []]
    assert [outcome.before for outcome in outcomes] == [2, 0, 2, 0]
    assert [outcome.after for outcome in outcomes] == [0, 0, 0, 0]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.root
async def test_nothing_that_befalls_a_script_costs_anybody_a_machine(tmp_path: Path) -> None:
    """Trials of all kinds; `make faults` plays more of them."""
    outcomes = await play_all(trials(1, MORE), tmp_path, jobs=3)

    assert {str(one.trial): one.violations for one in outcomes if one.violations} == {}


def test_a_trial_can_be_had_again_by_its_number() -> None:
    """What a seed draws does not depend on what was drawn before, and every kind is drawn."""
    many = [*trials(7, 300)]

    assert many[123] == drawn(7, 123)
    assert many != [*trials(8, 300)]
    assert Counter(trial.kind for trial in many).keys() == KINDS.keys()
    assert [Trial.from_json(trial.to_json()) for trial in many] == many
