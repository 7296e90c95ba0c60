"""One operation on many instances: one after the other, or many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from precip_async.errors import CommandFailed, FleetError, RemoteError
from precip_async.results import CommandResult, RunResults
from precip_async.ssh.batch import Watch
from precip_async.ssh.share import Share
from precip_async.ssh.tasks import in_child_task, task_group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from precip_async.ssh.batch import Batch
    from precip_async.ssh.remote import Remote

__all__ = ["Jobs", "Work", "fan_out", "in_child_task", "results_of", "task_group"]

Value = TypeVar("Value")


class Work(Watch, Generic[Value]):
    """A batch, and what is made of its outcomes. Subclasses say what that is.

    Args:
        batch: What is done.
        remote: Who does it.

    Attributes:
        count: At how many places.
        takes_files: Whether it opens files here at each, for which there is to be room.
        is_here: Whether that is this process, whoever holds the connections.
        outcomes: What has come of each so far.
    """

    is_here = False

    def __init__(self, batch: Batch, remote: Remote, count: int) -> None:
        self._batch, self._remote, self.count = batch, remote, count
        self.takes_files = batch.takes_files
        self.outcomes: dict[int, Value | RemoteError] = {}

    async def each(self, places: Sequence[int], width: int) -> None:
        """Do it at `places`, at most `width` of them at once; see `Remote.each`."""
        await self._remote.each(self._batch, places, self, width=width)

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


class Jobs(Work[Value]):
    """What is no batch, but some jobs of this process.

    Args:
        jobs: The jobs.
        told: Is shown what fails.
        takes_files: See `Work`.
    """

    is_here = True

    def __init__(
        self,
        jobs: Sequence[Callable[[], Awaitable[Value]]],
        told: Callable[[RemoteError], object] | None = None,
        *,
        takes_files: bool = False,
    ) -> None:
        self._jobs, self._told, self.count = jobs, told, len(jobs)
        self.takes_files = takes_files
        self.outcomes = {}

    async def each(self, places: Sequence[int], width: int) -> None:
        """See `Work.each`."""

        async def do(place: int) -> Value:
            return await self._jobs[place]()

        await Share(places, do, self.ended, width=width).run()

    def made_of(self, place: int, outcome: Any) -> Value | RemoteError:
        """See `Work.made_of`."""
        if isinstance(outcome, RemoteError) and self._told is not None:
            self._told(outcome)
        return super().made_of(place, outcome)


async def fan_out(work: Work[Value], *, width: int, results: bool = False) -> list[Value]:
    """Do `work` and return what came of it, in the order of its places.

    Args:
        work: What; what it raises other than a `RemoteError` ends everything.
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
            await work.each(range(work.count), width)
            return
        for place in range(work.count):
            await work.each((place,), 1)
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
