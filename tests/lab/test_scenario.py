"""Scenarios: what is drawn, and what can't be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from precip_async.errors import InvalidArgument
from precip_async.lab.scenario import Fate, Scenario


def test_a_good_day_has_no_trouble() -> None:
    """The default does nothing to anybody."""
    day = Scenario()

    assert {day.fate(n, launches=n) for n in range(100)} == {Fate()}
    assert {day.fault(n) for n in range(100)} == {""}


def test_the_same_seed_does_the_same_to_the_same() -> None:
    """Calls and machines meet what their number says, in whatever order one asks."""
    first, second = Scenario(seed=7, throttled=0.5), Scenario(seed=7, throttled=0.5)
    other = Scenario(seed=8, throttled=0.5)

    drawn = [first.fate(n) for n in range(200)]
    assert [second.fate(n) for n in reversed(range(200))] == drawn[::-1]
    assert [other.fate(n) for n in range(200)] != drawn


def test_a_share_is_about_that_share() -> None:
    """Of a thousand about a third."""
    bad = sum(bool(Scenario(never_boots=1 / 3).fault(n)) for n in range(1000))

    assert 280 < bad < 390


def test_ordinals_are_met_exactly() -> None:
    """A collection names who it happens to, and ``True`` means all."""
    some, everybody = Scenario(lost_launches=[1, 3]), Scenario(lost_launches=True)

    assert [n for n in range(6) if some.fate(9, launches=n).lost] == [1, 3]
    assert all(everybody.fate(9, launches=n).lost for n in range(6))
    assert not everybody.fate(0).lost  # no launch


def test_times_are_numbers_ranges_or_drawn() -> None:
    """A boot takes what a number, a range or a function says."""
    assert Scenario(boot=2).seconds("boot", 0) == 2
    ranged = [Scenario(boot=(2, 20)).seconds("boot", n) for n in range(100)]
    assert min(ranged) >= 2
    assert max(ranged) <= 20
    assert len(set(ranged)) == 100
    drawn = Scenario(boot=lambda rng: rng.lognormvariate(1, 0.5))
    assert drawn.seconds("boot", 3) == drawn.seconds("boot", 3) != drawn.seconds("boot", 4)


@pytest.mark.parametrize(
    "given",
    [
        {"throttled": 1.5},
        {"throttled": -0.1},
        {"throttled": "half"},
        {"throttled": False},
        {"errors": [-1]},
        {"never_boots": [True]},
        {"boot": -1},
        {"boot": (3, 2)},
        {"boot": (1, 2, 3)},
        {"boot": float("nan")},
        {"quota": -1},
        {"quota": 1.5},
        {"capacity": True},
        {"seed": "x"},
        {"clock_skew": float("inf")},
        {"default_vpc": 1},
        {"wrong_host": None},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(given: dict[str, Any]) -> None:
    """A scenario names the value that can't be."""
    with pytest.raises(InvalidArgument, match=next(iter(given))):
        Scenario(**given)


def test_a_scenario_can_be_written_in_a_line() -> None:
    """As on a command line: numbers, ranges, shares, ordinals and switches."""
    text = (
        "boot=2..20 throttled=0.5 lost_launches=0,3 never_boots=2 quota=7 wrong_host vanishes=true"
    )

    assert Scenario.parse(text) == Scenario(
        boot=(2.0, 20.0),
        throttled=0.5,
        lost_launches=(0, 3),
        never_boots=(2,),
        quota=7,
        wrong_host=True,
        vanishes=True,
    )
    assert Scenario.parse("") == Scenario()
    assert Scenario.parse("images=ami-1,ami-2 boot=3").images == ("ami-1", "ami-2")


@pytest.mark.parametrize("text", ["nonsense=1", "boot=fast", "boot=1..2..3", "quota=x", "boot=-1"])
def test_a_line_that_is_no_scenario_is_refused(text: str) -> None:
    """And what is wrong with it is said."""
    with pytest.raises(InvalidArgument, match=text.partition("=")[0]):
        Scenario.parse(text)
