"""What one process has of the portal: its loop, what is open, and what ends it."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - its exit hook must be there before ours: see below
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio

from precip_async import console, signals
from precip_async.console import WARNING, log_line
from precip_async.errors import ExperimentClosed, ExperimentException
from precip_async.portal.loop import Job, LoopThread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import FrameType

    from precip_async.limits import Limits

__all__ = ["UNWIND", "Closable", "Portal", "current", "unwind_time"]

UNWIND = 30.0  # seconds for a call to unwind, where nobody says better
STANDSTILL = 10.0  # seconds without a turn of the loop after which it is said where it is
NOTICE = 1.0  # seconds of unwinding after which a user wants to know what is waited for
CONSOLE = console.__file__

T = TypeVar("T")


class Closable(Protocol):
    """What an open experiment is to the portal."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def limits(self) -> Limits:
        """How long closing it may take."""
        ...

    @property
    def keep(self) -> bool:
        """Whether its instances outlive it."""
        ...

    def instances(self) -> Sequence[object]:
        """What closing it may end; raises `ExperimentClosed` where it is not open."""
        ...

    async def aclose(self) -> None:
        """Close it; more than once is no error."""
        ...


def unwind_time(limits: Limits) -> float:
    """Seconds within which an interrupted call has ended its commands and connections.

    A launch in flight is not given up before the cloud has answered, so its time counts as well.
    """
    return limits.launch_timeout + limits.drain_grace + 2 * limits.kill_grace + limits.close_grace


def closing_time(limits: Limits) -> float:
    """Seconds within which an experiment has closed, calls in flight and its cloud included."""
    return unwind_time(limits) + 2 * limits.terminate_timeout + 4 * limits.close_grace


class Portal:
    """What one process has of this: its loop, and the experiments that are open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: LoopThread | None = None
        self._open: dict[int, Closable] = {}
        self.exiting = False
        self.hung_up = False  # whether the terminal has gone while something was open

    @property
    def holds_any(self) -> bool:
        """Whether an experiment is open."""
        return bool(self._open)

    def hold(self, experiment: Closable) -> None:
        """See `precip_async.portal.hold`."""
        self._open[id(experiment)] = experiment
        signals.take(_on_ending)

    def release(self, experiment: Closable) -> None:
        """See `precip_async.portal.release`."""
        self._open.pop(id(experiment), None)
        if not self._open:
            self.hung_up = False
            signals.give_back(_on_ending)

    def call(self, unwind: float, work: Callable[[], Awaitable[T]]) -> T:
        """See `precip_async.portal.call_within`."""
        loop = self.running_loop()
        job = Job(work)
        try:
            loop.start(job)
            _attend(job, loop)
        except BaseException as interrupt:  # it reached us, not the loop: let the call unwind first
            loop.cancel(job)
            if not job.wait(min(NOTICE, unwind)):
                _say(f"interrupted; ending what runs (up to {unwind:.0f} s, Ctrl-C leaves at once)")
            if not job.wait(unwind):
                interrupt.add_note(f"the interrupted call had not ended {unwind:.0f} s later")
            interrupt.__cause__ = job.error
            raise
        return job.result()

    def running_loop(self) -> LoopThread:
        """The loop for one more call, started where there is none."""
        with self._lock:
            if self.exiting:
                raise ExperimentClosed("the interpreter exits: there are no more experiments")
            if self._loop is None or not self._loop.alive:
                _close_at_exit()
                self._loop = LoopThread()
            if self._loop.is_this_thread:
                raise ExperimentException(
                    "a blocking verb was called from an observer or another callback, which run on "
                    "the experiments' event loop; hand it to a thread, or use the async classes"
                )
            return self._loop

    def part(self) -> None:
        """In a fork: leave the parent's loop and experiments to the parent."""
        if self._loop is not None:
            self._loop.part()

    def close_all(self) -> None:
        """End the calls in flight, close what is open, and stop the loop."""
        with self._lock:
            self.exiting = True
            loop, left = self._loop, list(self._open.values())
        if loop is None:
            return  # nothing was ever opened
        if left and not loop.alive:
            loop = LoopThread()
        patience = max([UNWIND, *(closing_time(experiment.limits) for experiment in left)])
        try:
            self._end_calls(loop, patience)
            if left:
                self._close(loop, left, patience)
        except KeyboardInterrupt:
            _say("interrupted; instances may still be running: `precip reap` ends them")
        loop.stop()
        signals.give_back(_on_ending)

    def _end_calls(self, loop: LoopThread, within: float) -> None:
        deadline = time.monotonic() + within
        jobs = list(loop.jobs)
        for job in jobs:
            loop.cancel(job)
        for job in jobs:
            job.wait(deadline - time.monotonic())

    def _close(self, loop: LoopThread, left: list[Closable], within: float) -> None:
        async def close_every() -> None:
            async with anyio.create_task_group() as closing:
                for experiment in left:
                    closing.start_soon(_close_one, experiment)

        job = Job(close_every)
        loop.start(job)
        if job.wait(within + NOTICE):
            job.result()
        else:
            _say("closing did not end; `precip reap` ends what may still be running")


async def _close_one(experiment: Closable) -> None:
    if count := _instances_of(experiment):
        _say(
            f"experiment '{experiment.name}' was left open with {count} instance(s), which "
            f"{'go on running' if experiment.keep else 'are ended'} as the interpreter exits"
        )
    try:
        with anyio.fail_after(closing_time(experiment.limits)):
            await experiment.aclose()
    except Exception as exc:  # noqa: BLE001 - the others are to be closed as well
        _say(
            f"experiment '{experiment.name}' could not be closed: {str(exc) or repr(exc)}; "
            "`precip reap` ends what it may have left running"
        )


def _instances_of(experiment: Closable) -> int:
    try:
        return len(experiment.instances())
    except ExperimentClosed:  # its opening was interrupted, or its closing
        return 0


def _attend(job: Job[Any], loop: LoopThread) -> None:
    """Wait until `job` has settled, and say once where the loop is when it stands still."""
    pulse = loop.pulse()
    while not job.wait(STANDSTILL):
        where = "" if pulse.is_set() else loop.whereabouts()
        if CONSOLE in where:  # whoever reads stderr has stopped, and nothing can be said
            continue
        if where:
            _say(
                f"the experiments' event loop has stood still for {STANDSTILL:g} s at {where}; "
                "observers, on_output and other callbacks run on it and must not block"
            )
            break
        pulse = loop.pulse()
    job.wait()


def _say(text: str) -> None:
    if sys.stderr is not None:
        try:
            sys.stderr.write(log_line(datetime.now(UTC), WARNING, text))
            sys.stderr.flush()
        except (OSError, ValueError):
            return  # nobody reads stderr any more, and there is nobody else to tell


# The last one is this process's. Those before it are of the processes that it was forked from, and
# are kept because collecting them here would close descriptors that their loops share with ours.
_portals = [Portal()]
_hooked: list[bool] = []


def current() -> Portal:
    """The portal of this process."""
    return _portals[-1]


def _after_fork_in_child() -> None:
    current().part()
    _portals.append(Portal())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _close_at_exit() -> None:
    """Close what is open when the interpreter exits, while threads can still be started.

    Hooks run last registered first: the import of `concurrent.futures.thread` above lets its hook,
    after which the executor that resolves names takes no work, run after this one.

    Raises:
        ExperimentClosed: It is exiting already.
    """
    if _hooked:
        return
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(_at_exit)
    except RuntimeError as exc:
        raise ExperimentClosed("the interpreter exits: no experiment can be opened") from exc
    _hooked.append(True)


def _at_exit() -> None:
    current().close_all()  # those of the process that exits: it may be a fork


def _on_ending(number: int, _frame: FrameType | None) -> None:
    portal = current()
    if portal.exiting:
        return  # what it asks for is being done
    if not portal.holds_any:  # a fork's, which has opened none
        signals.pass_on(number)
        return
    if number == signal.SIGHUP:
        if portal.hung_up:
            return  # shell and kernel both say so; nobody is there who would insist
        portal.hung_up = True
    raise SystemExit(128 + number)
