"""The seams at which tests stand in the way: named steps, and the clock."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from precip_async import clock
from precip_async.steps import STEPS, reached, watched
from tests.sources import package

if TYPE_CHECKING:
    from collections.abc import Iterator


def steps_in_the_source() -> Iterator[str]:
    """What is given to `reached`, wherever it is called."""
    for source in package():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "reached":
                yield ast.literal_eval(node.args[0])


def test_each_step_is_reached_in_one_place_and_described() -> None:
    """What the table describes and what the source passes by are the same."""
    assert sorted(steps_in_the_source()) == sorted(STEPS)


def test_a_step_is_seen_by_whoever_watches_and_by_nobody_else() -> None:
    """Before and after it is watched, a step is nothing."""
    seen: list[str] = []
    reached("name.held")
    with watched(seen.append):
        reached("boot.ready")
    reached("name.released")

    assert seen == ["boot.ready"]


def test_the_clock_is_the_computers_unless_it_is_set() -> None:
    """Set back by an hour it is an hour behind, and afterwards it is right again."""
    hour = timedelta(hours=1)
    with clock.set_by(-3600):
        behind = datetime.now(UTC) - clock.now()
    right = datetime.now(UTC) - clock.now()

    assert abs(behind - hour) < timedelta(seconds=5)
    assert abs(right) < timedelta(seconds=5)
