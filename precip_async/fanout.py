"""One operation on many instances: one after the other, or many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from precip_async.errors import CommandFailed, FleetError, RemoteError
from precip_async.results import CommandResult, RunResults
from precip_async.ssh.batch import Watch
from precip_async.ssh.tasks import in_child_task, task_group

if TYPE_CHECKING:
    from collections.abc import Iterable

    from precip_async.ssh.batch import Batch
    from precip_async.ssh.remote import Remote

__all__ = ["Work", "fan_out", "in_child_task", "results_of", "task_group"]

Value = TypeVar("Value")


class Work(Watch, Generic[Value]):
    """A batch, and what is made of its outcomes. Subclasses say what that is.

    Attributes:
        batch: What is done.
        count: At how many places.
        outcomes: What has come of each so far.
    """

    def __init__(self, batch: Batch, count: int) -> None:
        self.batch, self.count = batch, count
        self.outcomes: dict[int, Value | RemoteError] = {}

    def ended(self, place: int, outcome: Any) -> None:
        """See `Watch.ended`."""
        try:
            self.outcomes[place] = self.made_of(place, outcome)
        except RemoteError as error:
            self.outcomes[place] = error

    def made_of(self, place: int, outcome: Any) -> Value | RemoteError:
        """What an outcome means to the user.

        Raises:
            RemoteError: That it is a failure.
        """
        made: Value | RemoteError = outcome
        return made

    def close(self) -> None:
        """Nothing more comes, also of what has begun."""


async def fan_out(
    work: Work[Value], remote: Remote, *, width: int, results: bool = False
) -> list[Value]:
    """Do `work` by `remote` and return what came of it, in the order of its places.

    Args:
        work: What; what it raises other than a `RemoteError` ends everything.
        remote: Who does it.
        width: How many at once; 0: one after the other, and the first failure ends the series.
        results: Whether an error carries the `CommandResult` of all that came so far.

    Raises:
        RemoteError: The first failure of a series.
        FleetError: Some failed; all were tried.

    If cancelled, so are the operations under way, and each is awaited: also when the cancellation
    is asyncio's own, which knows no shields, since all is done in tasks of its own.
    """

    async def do() -> None:
        if width:
            await remote.each(work.batch, range(work.count), work, width=width)
            return
        for place in range(work.count):
            await remote.each(work.batch, (place,), work, width=1)
            if isinstance(work.outcomes[place], RemoteError):
                return

    if work.count:
        try:
            await in_child_task(do)
        finally:
            work.close()
    ordered = [work.outcomes[place] for place in sorted(work.outcomes)]
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
