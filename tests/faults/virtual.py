"""An event loop on virtual time, in which every suspension of a task is counted.

Nothing in it depends on how fast the computer is: when all tasks wait, time leaps to the next
timer, and what is given to a worker thread is done on the spot. So the n-th suspension is the same
in each run.
"""

from __future__ import annotations

import asyncio
import selectors
import time
import types
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Coroutine, Generator, Iterator

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


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop.

    Attributes:
        suspensions: The code that was suspended each time, since `strike` was called last.
        struck: Where the blow has struck.
        failures: What a blow has found.
    """

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)
        self.suspensions: list[str] = []
        self.struck: list[str] = []
        self.failures: list[AssertionError] = []
        self._blow: Callable[[], object] = _nothing
        self._at: Container[int] = ()
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """Seconds, of which none passes while anything can be done."""
        return self._leaping.now

    def strike(self, blow: Callable[[], object], at: Container[int]) -> None:
        """Call `blow` at the suspensions whose numbers, from 1 and from here on, are in `at`."""
        self._blow, self._at = blow, at
        self.suspensions, self.struck = [], []

    def spare(self) -> None:
        """Strike no more."""
        self._at = ()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Any, **given: Any
    ) -> asyncio.Task[Any]:
        async def counted() -> Any:
            return await _counted(coro, partial(self._has_suspended, coro))

        task = asyncio.Task(counted(), loop=loop, **given)
        task.add_done_callback(lambda _: coro.close())  # one that was cancelled before it began
        return task

    def _has_suspended(self, coro: Any) -> None:
        self.suspensions.append(_place(coro))
        if len(self.suspensions) in self._at:
            self.struck.append(self.suspensions[-1])
            try:
                self._blow()
            except AssertionError as error:  # no concern of the task that happens to be suspended
                self.failures.append(error)


def _nothing() -> None:
    """Strikes nobody."""


@types.coroutine
def _counted(
    coro: Coroutine[Any, Any, T], suspended: Callable[[], object]
) -> Generator[Any, Any, T]:
    """Await `coro`, and call `suspended` whenever it is about to wait."""
    step: Callable[[], Any] = partial(coro.send, None)
    while True:
        try:
            awaited = step()
        except StopIteration as stop:
            result: T = stop.value
            return result
        suspended()
        try:
            sent = yield awaited
        except GeneratorExit:
            coro.close()
            raise
        except BaseException as error:  # noqa: BLE001 - it is the coroutine's, whatever it is
            step = partial(coro.throw, error)
        else:
            step = partial(coro.send, sent)


def _place(coro: Any) -> str:
    """Where `coro` waits: the innermost line of the package."""
    place = ""
    while coro is not None:
        code, frame = getattr(coro, "cr_code", None), getattr(coro, "cr_frame", None)
        if code is not None and frame is not None and "/precip_async/" in code.co_filename:
            name = code.co_filename.rpartition("/precip_async/")[2]
            place = f"{name}:{frame.f_lineno} in {code.co_qualname}"
        coro = getattr(coro, "cr_await", None)
    return place


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
