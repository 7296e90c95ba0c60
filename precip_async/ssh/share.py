"""Places of a batch that are worked on in this process, so many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precip_async.errors import RemoteError
from precip_async.ssh.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import TaskGroup

    from precip_async.limits import Limits
    from precip_async.ssh.batch import Batch, Watch
    from precip_async.ssh.pool import Pool

__all__ = ["Share"]


class Share:
    """Does a batch at some of its places, each begun in its turn.

    Args:
        batch: What.
        places: Where.
        watch: Is told of it.
        pool: Whose connections are used.
        limits: The graces and bounds.
        width: How many at once.
    """

    def __init__(
        self,
        batch: Batch,
        places: Sequence[int],
        watch: Watch,
        pool: Pool,
        limits: Limits,
        *,
        width: int,
    ) -> None:
        self._batch, self._watch, self._pool, self._limits = batch, watch, pool, limits
        self._rest, self._left = iter(places), len(places)  # not begun yet
        self._width = width
        self._tasks: TaskGroup | None = None

    async def run(self) -> None:
        """Do it all.

        If cancelled, so are the operations under way, and each is awaited: also when the
        cancellation is asyncio's own, which knows no shields, since several run in tasks of
        their own.
        """
        if self._left == 1:
            await self._work()
            return
        async with task_group() as self._tasks:
            self._employ(self._width)

    def widen(self, more: int) -> None:
        """Do so many more at once."""
        self._width += more
        if self._tasks is not None:
            self._employ(more)

    def _employ(self, workers: int) -> None:
        assert self._tasks is not None
        for _ in range(min(workers, self._left)):
            self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        for place in self._rest:  # one iterator for all who work: each takes the next
            self._left -= 1
            try:
                outcome = await self._batch.do(place, self._pool, self._limits, self._watch)
            except RemoteError as error:
                outcome = error
            self._watch.ended(place, outcome)
