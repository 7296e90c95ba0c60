"""One operation on many instances: one after the other, or many at once."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from precip_async.errors import CommandFailed, FleetError, RemoteError
from precip_async.results import CommandResult, RunResults

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence

    from anyio.abc import TaskGroup

__all__ = ["fan_out", "in_child_task", "results_of", "task_group"]

Item = TypeVar("Item")
Value = TypeVar("Value")


async def fan_out(
    items: Sequence[Item],
    operation: Callable[[Item], Awaitable[Value]],
    *,
    width: int,
    results: bool = False,
) -> list[Value]:
    """Do `operation` on each of `items` and return what came of it, in their order.

    Args:
        items: On what.
        operation: What; what it raises other than a `RemoteError` ends everything.
        width: How many at once; 0: one after the other, and the first failure ends the series.
        results: Whether an error carries the `CommandResult` of all that came so far.

    Raises:
        RemoteError: The first failure of a series.
        FleetError: Some failed; all were tried.

    If cancelled, so are the operations under way, and each is awaited: also when the cancellation
    is asyncio's own, which knows no shields, since operations run in tasks of their own.
    """
    outcomes: dict[int, Value | RemoteError] = {}
    rest = iter(enumerate(items))

    async def work() -> None:
        for place, item in rest:  # one iterator for all workers: each takes the next
            try:
                outcomes[place] = await operation(item)
            except RemoteError as error:
                outcomes[place] = error
                if not width:
                    return

    async with task_group() as tasks:
        for _ in range(min(width, len(items)) or 1):
            tasks.start_soon(work)
    ordered = [outcomes[place] for place in sorted(outcomes)]
    failed = [outcome for outcome in ordered if isinstance(outcome, RemoteError)]
    if failed:
        error = FleetError(ordered) if width else failed[0]
        if results:
            error.results = results_of(ordered)
        raise error
    return [outcome for outcome in ordered if not isinstance(outcome, RemoteError)]


async def in_child_task(operation: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
    """Await `operation` in a task of its own.

    asyncio's own cancellation knows no shields: it strikes whatever its task waits for. In a child
    task `operation` is cancelled by anyio instead, and what it shields is left to end. The child's
    error goes before a cancellation.
    """
    outcome: list[Value] = []

    async def child() -> None:
        outcome.append(await operation())

    async with task_group() as tasks:
        tasks.start_soon(child)
    return outcome[0]


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """A task group that raises a task's error as it is; of several the first, which names them."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    # A KeyboardInterrupt stays in its group: bare it would tear asyncio's loop out of its shutdown.
    except ExceptionGroup as group:
        first, *others = group.exceptions
        for other in others:  # what ends everything often strikes more than once
            first.add_note(f"and at the same time: {type(other).__name__}: {other}")
        raise first from first.__cause__


def results_of(outcomes: Iterable[object]) -> RunResults:
    """The results among `outcomes`, those of failed commands included, in their order."""
    results = (one.result if isinstance(one, CommandFailed) else one for one in outcomes)
    return RunResults(result for result in results if isinstance(result, CommandResult))
