"""The time of day, for what is shown and written down; what is measured takes a monotonic clock.

Clocks of computers are set back, by hand and by their time service. A test sets back this one, and
never the computer's.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["now", "set_by"]

_ahead = [timedelta()]


def now() -> datetime:
    """The aware time, in UTC. It may be earlier than it was a moment ago."""
    return datetime.now(UTC) + _ahead[0]


@contextmanager
def set_by(seconds: float) -> Iterator[None]:
    """Have this process's clock go ahead by `seconds`, or behind where they are below 0."""
    _ahead[0] = timedelta(seconds=seconds)
    try:
        yield
    finally:
        _ahead[0] = timedelta()
