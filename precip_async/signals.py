"""The signals that end a process: taken while something is open that has to be closed first.

They are taken from the system only, whose way is to end the process at once: a script that handles
them by itself, or ignores them as under ``nohup``, is left alone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final

__all__ = ["Taker", "give_back", "pass_on", "take"]

Taker = Callable[[int, FrameType | None], object]

ENDINGS: Final = (signal.SIGTERM, signal.SIGHUP)  # a terminal that closes sends the latter

_takers: list[Taker] = []


def take(taker: Taker) -> None:
    """Have `taker` called for each of them; of several, who came last."""
    if taker not in _takers:
        _takers.append(taker)
    with suppress(ValueError):  # not the main thread: only that one may, and could unwind
        for number in ENDINGS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _on_ending)


def give_back(taker: Taker) -> None:
    """`taker` has nothing open any more."""
    with suppress(ValueError):
        _takers.remove(taker)
    if _takers:
        return
    with suppress(ValueError):  # not the main thread: they are given back when one arrives
        for number in ENDINGS:
            if signal.getsignal(number) is _on_ending:
                signal.signal(number, signal.SIG_DFL)


def pass_on(number: int) -> None:
    """Do what the system does; it does not return where that is to end this process."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _on_ending(number: int, frame: FrameType | None) -> None:
    if _takers:
        _takers[-1](number, frame)
    else:
        pass_on(number)
