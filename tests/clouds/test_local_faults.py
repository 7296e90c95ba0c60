"""What is asked to go wrong: for which launch, when, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from precip_async.clouds.local.faults import Faults
from precip_async.errors import InvalidArgument

NAMES = (
    "never_boots",
    "dies_booting",
    "ssh_late",
    "ssh_refuses_key",
    "ssh_hangs",
    "root_refused",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_is_meant_for_the_launches_it_names(name: str) -> None:
    """Ordinals count launches from 0; the others have no fault."""
    faults = Faults(**{name: [1, 3]})  # type: ignore[arg-type] # one of the collections

    assert [faults.of(ordinal) for ordinal in range(4)] == ["", name, "", name]


@pytest.mark.parametrize("name", NAMES)
def test_true_means_all_launches(name: str) -> None:
    """``True`` spoils every launch."""
    assert Faults(**{name: True}).of(12345) == name  # type: ignore[arg-type] # likewise


def test_by_default_nothing_goes_wrong() -> None:
    """Without being asked for, there is neither a fault nor a delay."""
    assert Faults().of(0) == ""
    assert Faults().delay(0) == 0.0


def test_a_delay_of_a_range_is_drawn_by_seed_and_launch() -> None:
    """The same seed draws the same delays; another launch, or another seed, another one."""
    faults = Faults(boot_delay=(1.0, 2.0), seed=7)
    drawn = [faults.delay(ordinal) for ordinal in range(20)]

    assert drawn == [Faults(boot_delay=(1.0, 2.0), seed=7).delay(n) for n in range(20)]
    assert drawn != [Faults(boot_delay=(1.0, 2.0), seed=8).delay(n) for n in range(20)]
    assert len(set(drawn)) == 20
    assert all(1.0 <= delay <= 2.0 for delay in drawn)


@pytest.mark.parametrize(
    "facts",
    [
        {"boot_delay": -1},
        {"boot_delay": "2"},
        {"boot_delay": (2, 1)},
        {"boot_delay": (1, 2, 3)},
        {"boot_delay": float("nan")},
        {"boot_delay": float("inf")},
        {"ssh_late_by": True},
        {"dies_after": -0.1},
        {"seed": 1.5},
        {"never_boots": 0},
        {"never_boots": False},
        {"never_boots": [-1]},
        {"never_boots": ["0"]},
        {"never_boots": "0"},
        {"ssh_hangs": [True]},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(facts: dict[str, Any]) -> None:
    """Bad input is refused by name, before anything is started."""
    with pytest.raises(InvalidArgument, match=f"faults: {next(iter(facts))}"):
        Faults(**facts)
