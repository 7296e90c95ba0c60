"""What is open while its loop ends, or the process: it is closed first.

A script may end its event loop and forget the experiment that it opened there. It is not left to
the garbage collector, which can't wait for a cloud: it is kept until the interpreter exits, and
closed then, with a warning. Threads that nobody told of the end of their loop are told then.

SIGTERM, and SIGHUP when the terminal goes, are taken as Ctrl-C in the meantime: asyncio cancels the
main task then, and the experiments are left on the way out. (The blocking twins, whose loop is in a
thread, have a way of their own: `precip_async.portal`.)
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - its exit hook must be there before ours: see portal
import logging
import os
import signal
import threading
from contextlib import suppress
from queue import Full
from typing import TYPE_CHECKING

from precip_async import signals

if TYPE_CHECKING:
    from types import FrameType

    from precip_async.life import Life

__all__ = ["attend", "hold", "release", "released"]

logger = logging.getLogger(__name__)

_open: dict[Life, tuple[int, asyncio.AbstractEventLoop]] = {}
_closing: dict[Life, int] = {}  # in which process
_hooked: list[bool] = []
_ending: list[int] = []  # the signals that have come while something was open
_exiting: list[bool] = []


def attend() -> None:
    """Be there when the interpreter exits, before it waits for its threads."""
    if not _hooked:
        _hooked.append(True)
        with suppress(RuntimeError):  # it is exiting already: whoever opens now closes by himself
            getattr(threading, "_register_atexit", atexit.register)(_at_exit)


def hold(life: Life) -> None:
    """Close `life`, which was opened on the running loop, when the interpreter exits."""
    _open[life] = os.getpid(), asyncio.get_running_loop()
    attend()
    if threading.current_thread() is threading.main_thread():
        signals.take(_on_ending)


def release(life: Life) -> None:
    """`life` is being closed, on the running loop."""
    _open.pop(life, None)
    _closing[life] = os.getpid()


def released(life: Life) -> None:
    """`life` is closed."""
    _closing.pop(life, None)
    if not _open and not _closing:
        _ending.clear()
        signals.give_back(_on_ending)


def _on_ending(number: int, frame: FrameType | None) -> None:
    if _exiting:
        return  # what it asks for is being done
    if os.getpid() not in (*_closing.values(), *(process for process, _ in _open.values())):
        signals.pass_on(number)  # they are of the process that this one is a fork of
        return
    if number == signal.SIGHUP and _ending:
        return  # shell and kernel both say so; nobody is there who would insist
    _ending.append(number)
    ctrl_c = signal.getsignal(signal.SIGINT)
    if callable(ctrl_c):
        ctrl_c(signal.SIGINT, frame)
    else:  # nothing hears of Ctrl-C in the background of a shell
        try:
            asyncio.get_running_loop().call_soon_threadsafe(_leave, number)
        except RuntimeError:
            _leave(number)


def _leave(number: int) -> None:
    raise SystemExit(128 + number)


def _at_exit() -> None:
    _exiting.append(True)
    for life, (process, loop) in [*_open.items()]:
        # a running loop is in another thread, which is the portal's, or has its own plans
        if process == os.getpid() and not loop.is_running():
            _close(life, loop)
    for thread in threading.enumerate():
        _let_go(thread)


def _let_go(thread: threading.Thread) -> None:
    """Tell a thread of anyio's that its loop is closed, and it has nothing more to wait for.

    anyio has it told when the root task is done, but only from the moment on when the thread has
    started: a KeyboardInterrupt that strikes before leaves it untold, and the interpreter, which
    waits for it, hangs (`run_sync_in_worker_thread` in anyio 4.16).
    """
    if type(thread).__module__ == "anyio._backends._asyncio":
        loop, queue = getattr(thread, "loop", None), getattr(thread, "queue", None)
        if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed() and queue is not None:
            with suppress(Full):  # it is busy, and was told
                queue.put_nowait(None)


def _close(life: Life, loop: asyncio.AbstractEventLoop) -> None:
    kept = "go on running" if life.keep else "are ended"
    logger.warning(
        "experiment %r was left open: its instances %s as the interpreter exits", life.name, kept
    )
    try:
        if loop.is_closed():
            asyncio.run(life.aclose())
        else:
            loop.run_until_complete(life.aclose())
    except Exception as error:  # noqa: BLE001 - the others are to be closed as well
        logger.warning(
            "experiment %r could not be closed: %s; `precip reap` ends what may be left",
            life.name,
            error,
        )
