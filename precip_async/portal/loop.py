"""The event loop thread, and one call on its way through it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import selectors
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from precip_async.errors import ExperimentClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from anyio.abc import TaskGroup

__all__ = ["Job", "LoopThread"]

TICK = 0.5  # seconds; a signal that comes just as its thread falls asleep is seen no later
LIB = (f"{Path(threading.__file__).parent}/", "<frozen ")  # where a line waits for another's sake
STOP = 5.0  # seconds for the loop to end once nothing is open any more

T = TypeVar("T")


class Job(Generic[T]):
    """One call on its way through the loop; its caller waits for `settled`."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._scope: anyio.CancelScope | None = None
        self._results: list[T] = []  # at most one
        self.cancelled = False
        self.settled = threading.Event()
        self.error: BaseException | None = None

    async def perform(self) -> None:
        """Do the work and keep what came of it. On the loop."""
        try:
            with anyio.CancelScope() as self._scope:
                if not self.cancelled:
                    self._results.append(await self._work())
        except asyncio.CancelledError:
            raise  # the loop ends, and there is nothing to keep
        except BaseException as exc:  # noqa: BLE001 - it is the caller's, whatever it is
            self.error = exc
        finally:
            self.settled.set()

    def cancel(self) -> None:
        """Make the work unwind, or not begin. On the loop."""
        self.cancelled = True
        if self._scope is None:
            self.settled.set()
        else:
            self._scope.cancel()

    def wait(self, within: float = math.inf) -> bool:
        """Wait up to `within` seconds until it has settled, and say whether it has.

        The wait is made of ticks: CPython looks for signals before it falls asleep, and one that
        comes in between would wake nobody.
        """
        deadline = time.monotonic() + within
        while not self.settled.wait(min(TICK, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return False
        return True

    def result(self) -> T:
        """What the work returned or raised."""
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # its traceback holds this frame, which holds it
        if not self._results:
            raise ExperimentClosed("the call was ended in its midst: the interpreter exits")
        return self._results[0]


class _Selector(selectors.BaseSelector):
    """The default selector, from which a fork can part.

    What epoll watches is shared after a fork: when the child collected one of the parent's
    connections and unregistered it, the parent would no longer hear of that.
    """

    def __init__(self) -> None:
        self._inner: selectors.BaseSelector = selectors.DefaultSelector()

    def part(self) -> None:
        """Let go of what is shared with the process that this one was forked from."""
        with contextlib.suppress(OSError):  # kqueue is not inherited, so there is nothing to close
            self._inner.close()
        self._inner = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return self._inner.select(timeout)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()


class LoopThread:
    """An event loop in a daemon thread of its own."""

    def __init__(self) -> None:
        self.jobs: set[Job[Any]] = set()
        self._selector = _Selector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._stopped = asyncio.Event()
        self._tasks: TaskGroup
        self._serving = self._loop.create_task(self._serve(), context=contextvars.Context())
        self._thread = threading.Thread(target=self._run, name="precip", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still takes calls."""
        return self._thread.is_alive()

    @property
    def is_this_thread(self) -> bool:
        """Whether the caller runs on it."""
        return self._thread is threading.current_thread()

    def start(self, job: Job[Any]) -> None:
        """Have `job` performed, in a copy of the caller's context."""
        self.jobs.add(job)
        context = contextvars.copy_context()
        try:
            self._loop.call_soon_threadsafe(self._begin, job, context=context)
        except RuntimeError:  # the loop has ended, and nobody else would settle it
            job.settled.set()

    def cancel(self, job: Job[Any]) -> None:
        """Have `job` unwind; one that has not begun is settled at once."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and settled its jobs
            self._loop.call_soon_threadsafe(self._cancel, job)

    def pulse(self) -> threading.Event:
        """An event that the loop sets with its next turn."""
        event = threading.Event()
        try:
            self._loop.call_soon_threadsafe(event.set)
        except RuntimeError:  # it has ended, and stands in nobody's way
            event.set()
        return event

    def whereabouts(self) -> str:
        """Which line it is at, the library's that such a line may wait in left out."""
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - the only way
        stack = [one for one in traceback.extract_stack(frame) if not one.filename.startswith(LIB)]
        return f"{stack[-1].filename}:{stack[-1].lineno}, in {stack[-1].name}" if stack else ""

    def stop(self) -> None:
        """End the loop and its thread, whatever still runs there."""
        if self.alive:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(STOP)

    def part(self) -> None:
        """In a fork: let go of what is the parent's. Nothing can be called here any more."""
        self._selector.part()

    def _begin(self, job: Job[Any]) -> None:
        self._tasks.start_soon(self._perform, job)

    async def _perform(self, job: Job[Any]) -> None:
        try:
            await job.perform()
        finally:
            self.jobs.discard(job)

    def _cancel(self, job: Job[Any]) -> None:
        job.cancel()
        if job.settled.is_set():
            self.jobs.discard(job)

    async def _serve(self) -> None:
        async with anyio.create_task_group() as self._tasks:
            await self._stopped.wait()
            self._tasks.cancel_scope.cancel()

    def _run(self) -> None:
        try:
            while not self._serving.done():
                try:
                    self._loop.run_until_complete(self._serving)
                except (KeyboardInterrupt, SystemExit):
                    continue  # raised by a user's callback: its call hears of it, others go on
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
            for job in list(self.jobs):  # nobody waits for a loop that has ended
                job.settled.set()
