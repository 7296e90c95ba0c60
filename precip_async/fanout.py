"""One operation on many instances: one after the other, or many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from precip_async.errors import CommandFailed, FleetError, RemoteError
from precip_async.results import CommandResult, RunResults
from precip_async.ssh.tasks import in_child_task, task_group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

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


def results_of(outcomes: Iterable[object]) -> RunResults:
    """The results among `outcomes`, those of failed commands included, in their order."""
    results = (one.result if isinstance(one, CommandFailed) else one for one in outcomes)
    return RunResults(result for result in results if isinstance(result, CommandResult))
