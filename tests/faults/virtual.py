"""An event loop on virtual time, on which the n-th suspension is the same in each run.

Nothing in it depends on how fast the computer is: when all tasks wait, time leaps to the next
timer, and what is given to a worker thread is done on the spot.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tests.faults.counting import CountingLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

__all__ = ["Stuck", "VirtualLoop", "off_the_loop", "run_virtually"]

T = TypeVar("T")


class Stuck(AssertionError):
    """All tasks wait, and nothing will ever wake one: somewhere a wait has no deadline."""


class _Leaping(selectors.SelectSelector):
    """Waits for nothing but what is there already; instead of a wait, time has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stuck
            self.now += timeout
        return ready


class VirtualLoop(CountingLoop):
    """The loop; see `CountingLoop`."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        """Seconds, of which none passes while anything can be done."""
        return self._leaping.now


def off_the_loop(function: Callable[[], T]) -> T:
    """Call `function` as if no loop ran in this thread, so that it may block."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return function()
    finally:
        asyncio._set_running_loop(loop)


async def _in_no_thread(
    function: Callable[..., T],
    *args: Any,
    abandon_on_cancel: bool = False,
    limiter: anyio.CapacityLimiter | None = None,
) -> T:
    """`anyio.to_thread.run_sync`, with its suspensions, but on the spot."""
    await anyio.lowlevel.checkpoint()
    outcome: Callable[[], T]
    async with limiter or anyio.Semaphore(1):
        with anyio.CancelScope(shield=not abandon_on_cancel):
            loop = asyncio.get_running_loop()
            done: asyncio.Future[None] = loop.create_future()
            try:
                outcome = partial(_returned, off_the_loop(partial(function, *args)))
            except Exception as error:  # noqa: BLE001 - raised below, where a thread's would be
                outcome = partial(_raised, error)
            loop.call_soon(_set, done)
            await done
    return outcome()


def _set(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.set_result(None)


def _returned(value: T) -> T:
    return value


def _raised(error: Exception) -> Any:
    raise error


@contextmanager
def _virtual() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio.to_thread, "run_sync", _in_no_thread)
        patch.setattr(time, "monotonic", loop.time)
        yield loop


def run_virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main`, given its loop, to its end.

    Raises:
        Stuck: It would never end.
        AssertionError: It has left tasks behind, or a blow has found something.
    """

    async def checked() -> T:
        try:
            return await main(loop)
        finally:
            loop.spare()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks left running: {left}"
            if loop.failures:
                raise loop.failures[0]

    with _virtual() as loop, asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(checked())
