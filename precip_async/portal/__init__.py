"""One event loop thread for all blocking experiments of a process.

A call waits in its own thread while the work is done on the loop. Whatever interrupts the wait
(Ctrl-C, SIGTERM, SIGHUP) cancels the work there, and goes on only when that has unwound.
Experiments that are still open when the interpreter exits are closed before threads are shut down:
later, no name can be resolved and no thread be started, and instances would be left running.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from precip_async.portal.process import UNWIND, Closable, current, unwind_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Closable", "call", "call_within", "exiting", "hold", "release", "unwind_time"]

P = ParamSpec("P")
T = TypeVar("T")


def call(function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """`call_within`, with the usual time to unwind."""
    return current().call(UNWIND, partial(function, *args, **kwargs))


def call_within(
    unwind: float, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Await ``function(*args, **kwargs)`` on the loop, in this thread's context; what it returns.

    An interrupted call is given `unwind` seconds to unwind before the interrupt goes on; a second
    interrupt does not wait.

    Raises:
        ExperimentClosed: The interpreter exits.
        ExperimentException: It was called on the loop itself, for instance by an observer.
    """
    return current().call(unwind, partial(function, *args, **kwargs))


def exiting() -> bool:
    """Whether the interpreter exits, and what is open is closed without anybody's doing."""
    return current().exiting


def hold(experiment: Closable) -> None:
    """Close `experiment` when the interpreter exits; SIGTERM and SIGHUP unwind until then."""
    current().hold(experiment)


def release(experiment: Closable) -> None:
    """`experiment` is closed: nothing is left to do for it."""
    current().release(experiment)
