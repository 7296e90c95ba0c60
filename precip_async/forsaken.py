"""What is there when nobody can end it any more: its loop, or all, has ended.

A script may end its event loop and forget the experiment that it opened there. It is not left to
the garbage collector, which can't wait for a cloud: it is kept until the interpreter exits, and
closed then, with a warning. Threads that nobody told of the end of their loop are told then.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - its exit hook must be there before ours: see portal
import logging
import os
import threading
from contextlib import suppress
from queue import Full
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from precip_async.life import Life

__all__ = ["attend", "hold", "release"]

logger = logging.getLogger(__name__)

_open: dict[Life, tuple[int, asyncio.AbstractEventLoop]] = {}
_hooked: list[bool] = []


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


def release(life: Life) -> None:
    """`life` is being closed."""
    _open.pop(life, None)


def _at_exit() -> None:
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
