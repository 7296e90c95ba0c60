"""Places that are worked on in this process, so many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from precip_async.errors import RemoteError
from precip_async.ssh.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anyio.abc import TaskGroup

__all__ = ["Share"]


class Share:
    """Does an operation at each of some places, begun in their order.

    Args:
        places: Where.
        operation: What.
        ended: Is told of each what came of it: a value or a `RemoteError`.
        width: How many at once.
    """

    def __init__(
        self,
        places: Sequence[int],
        operation: Callable[[int], Awaitable[Any]],
        ended: Callable[[int, Any], object],
        *,
        width: int,
    ) -> None:
        self._operation, self._ended = operation, ended
        self._rest, self._left = iter(places), len(places)  # not begun yet
        self._width = width
        self._tasks: TaskGroup | None = None

    async def run(self) -> None:
        """Do it all; what is raised that is no `RemoteError` ends everything.

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
                outcome = await self._operation(place)
            except RemoteError as error:
                outcome = error
            self._ended(place, outcome)
