"""Limits: each bound is a positive number, and nonsense is refused by name."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precip_async.errors import InvalidArgument
from precip_async.limits import Limits

FIELDS = {field.name: field.type for field in dataclasses.fields(Limits)}
WHOLE = sorted(name for name, kind in FIELDS.items() if kind == "int")
SECONDS = sorted(name for name, kind in FIELDS.items() if kind == "float")
SWITCHES = sorted(name for name, kind in FIELDS.items() if kind == "bool")
# What the design promises, in its own units.
DEFAULTS = {
    "max_connects": 64,
    "max_connects_per_server": 8,
    "max_channels": 8,
    "max_hosts": 256,
    "connect_timeout": 30,
    "keepalive": 15,
    "keepalive_count": 4,
    "drain_grace": 1,
    "kill_grace": 5,
    "close_grace": 10,
    "terminate_timeout": 300,
    "poll_interval": 1,
    "output_limit": 16 * 2**20,
    "output_total": 2**30,
    "ssh_fast": True,
    "ssh_workers": 0,
}


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_a_default_is_as_designed(name: str) -> None:
    """The defaults are those that the design gives reasons for."""
    assert getattr(Limits(), name) == DEFAULTS[name]


def test_every_limit_is_whole_in_seconds_or_a_switch() -> None:
    """No limit escapes validation by a type that nobody checks; workers have one of their own."""
    assert set(WHOLE) | set(SECONDS) | set(SWITCHES) | {"ssh_workers"} == set(FIELDS)


@pytest.mark.parametrize("name", [*WHOLE, *SECONDS])
@pytest.mark.parametrize("value", [0, -1, True, None, "8", math.nan], ids=repr)
def test_nonsense_is_refused_by_name(name: str, value: Any) -> None:
    """A limit that is no positive number is refused; the message names it and shows the value."""
    with pytest.raises(InvalidArgument, match=re.escape(f"limits.{name} must be a")) as refused:
        Limits(**{name: value})

    assert repr(value) in str(refused.value)


@pytest.mark.parametrize("name", WHOLE)
def test_a_count_is_a_whole_number(name: str) -> None:
    """Half a channel is refused, and so is a whole number that is a float."""
    with pytest.raises(InvalidArgument, match=r"a whole number above 0, not 2\.0"):
        Limits(**{name: 2.0})  # type: ignore[arg-type] # that it is refused is the point


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", [0, 1, None, "no"], ids=repr)
def test_a_switch_is_on_or_off(name: str, value: Any) -> None:
    """A switch takes True and False, and nothing that merely counts as such."""
    with pytest.raises(
        InvalidArgument, match=f"limits.{name} must be True or False, not"
    ) as refused:
        Limits(**{name: value})

    assert repr(value) in str(refused.value)
    assert not getattr(Limits(**{name: False}), name)


@pytest.mark.parametrize("value", [-1, 65, True, 2.0, None, "2", "all"], ids=repr)
def test_workers_are_few_none_or_auto(value: Any) -> None:
    """What is no number of processes is refused, and the message says what is one."""
    with pytest.raises(InvalidArgument, match='from 0 to 64, or "auto", not') as refused:
        Limits(ssh_workers=value)

    assert repr(value) in str(refused.value)


@given(st.data())
def test_any_positive_number_is_taken(data: st.DataObject) -> None:
    """Every positive whole number does for a count, every positive number for seconds."""
    given_: dict[str, Any] = {name: data.draw(st.integers(min_value=1)) for name in WHOLE}
    seconds = st.floats(min_value=0, exclude_min=True, allow_nan=False) | st.integers(min_value=1)
    given_ |= {name: data.draw(seconds) for name in SECONDS}
    given_ |= {name: data.draw(st.booleans()) for name in SWITCHES}
    given_ |= {"ssh_workers": data.draw(st.integers(0, 64) | st.just("auto"))}

    assert dataclasses.asdict(Limits(**given_)) == given_


def test_limits_are_frozen_and_named() -> None:
    """Limits are given by name, and do not change under an experiment."""
    with pytest.raises(TypeError):
        Limits(64)  # type: ignore[call-arg] # that it is refused is the point
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().max_hosts = 1  # type: ignore[misc] # likewise


def test_every_limit_is_documented() -> None:
    """Each limit has its line in the docstring."""
    documented = Limits.__doc__ or ""

    assert [name for name in FIELDS if f"        {name}: " not in documented] == []
