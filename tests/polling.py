"""Waiting for what can only be looked at: polled conditions, always with a deadline."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

from anyio import sleep

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["eventually", "until"]

INTERVAL = 0.02  # seconds between two looks

T = TypeVar("T")


async def eventually(condition: Callable[[], T], what: str = "", *, within: float = 10.0) -> T:
    """The first true value of `condition`, looked at for up to `within` seconds.

    Raises:
        AssertionError: It never was true; `what` says what was waited for.
    """
    deadline = time.monotonic() + within
    while not (value := condition()):
        _check(deadline, what or repr(condition), within)
        await sleep(INTERVAL)
    return value


def until(condition: Callable[[], T], what: str = "", *, within: float = 10.0) -> T:
    """`eventually`, for where there is no event loop; it blocks."""
    deadline = time.monotonic() + within
    pause = threading.Event()
    while not (value := condition()):
        _check(deadline, what or repr(condition), within)
        pause.wait(INTERVAL)
    return value


def _check(deadline: float, what: str, within: float) -> None:
    if time.monotonic() > deadline:
        raise AssertionError(f"not within {within:g} s: {what}")
