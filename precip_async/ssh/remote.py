"""What is done on instances, whoever holds the connections: the protocol, and the usual way.

Verbs and boot speak to a `Remote`. `PooledRemote` does what they ask on a pool of this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import anyio

from precip_async.errors import RemoteError
from precip_async.ssh.batch import Watch
from precip_async.ssh.share import Share

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from precip_async.events import Stream
    from precip_async.limits import Limits
    from precip_async.ssh.batch import Batch
    from precip_async.ssh.pool import Pool

__all__ = ["PooledRemote", "Remote", "one"]


class Remote(Protocol):
    """Works on instances over connections that it opens when they are needed, and keeps."""

    async def expect(self, instances: int) -> None:
        """Prepare for so many instances, which are worked on soon.

        Raises:
            ExperimentException: They can't be.
        """

    def working(self, hosts: int, *, here: bool = False) -> AbstractAsyncContextManager[None]:
        """Have what it takes to work on `hosts` at once; see `Room.working`.

        Args:
            hosts: How many.
            here: Whether this process opens the files, whoever holds the connections.

        Raises:
            InvalidArgument: There are too few descriptors.
        """
        ...

    async def each(self, batch: Batch, places: Sequence[int], watch: Watch, *, width: int) -> None:
        """Do `batch` at `places`, at most `width` of them at once.

        A `RemoteError` is an outcome of its place, of which `watch` is told as of any other.

        Raises:
            InvalidArgument: A worker process has too few descriptors. It has begun none of its
                places, and what others have begun is ended.
            ExperimentClosed: `aclose` has begun.
            Exception: Whatever else an operation, or `watch`, raises; it ends all of them.

        If cancelled, so are the operations under way; each ends first what it has started.
        """
        ...

    async def forget(self, instance_id: str) -> None:
        """Close the connections to an instance, which is about to end."""

    async def aclose(self) -> None:
        """Close every connection, in bounded time. Operations under way are cut off."""


class _Single(Watch):
    """Keeps the one outcome, and hands on the rest."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.keen, self.room = watch.keen, watch.room
        self.outcomes: list[Any] = []

    def began(self, place: int) -> None:
        self._watch.began(place)

    def heard(self, place: int, stream: Stream, text: str) -> None:
        self._watch.heard(place, stream, text)

    def warned(self, place: int, text: str) -> None:
        self._watch.warned(place, text)

    def ended(self, place: int, outcome: Any) -> None:
        self.outcomes.append(outcome)


async def one(remote: Remote, batch: Batch, watch: Watch | None = None) -> Any:
    """Do `batch`, which has one place, and return what came of it.

    Raises:
        RemoteError: That did.

    If cancelled when it can't be stopped any more, it is as if it had been sooner.
    """
    single = _Single(watch or Watch())
    try:
        await remote.each(batch, (0,), single, width=1)
    except anyio.get_cancelled_exc_class():
        if not single.outcomes:
            raise
    (outcome,) = single.outcomes
    if isinstance(outcome, RemoteError):
        raise outcome from outcome.__cause__
    return outcome


class PooledRemote:
    """Works over the connections of one pool, in this process."""

    def __init__(self, pool: Pool, limits: Limits) -> None:
        self.pool, self._limits = pool, limits

    async def expect(self, instances: int) -> None:
        """See `Remote.expect`: few or many, it is all one."""

    def working(self, hosts: int, *, here: bool = False) -> AbstractAsyncContextManager[None]:
        """See `Remote.working`: all is here."""
        return self.pool.working(hosts)

    async def each(self, batch: Batch, places: Sequence[int], watch: Watch, *, width: int) -> None:
        """See `Remote.each`."""

        async def do(place: int) -> Any:
            return await batch.do(place, self.pool, self._limits, watch)

        await Share(places, do, watch.ended, width=width).run()

    async def forget(self, instance_id: str) -> None:
        """See `Remote.forget`."""
        await self.pool.forget(instance_id)

    async def aclose(self) -> None:
        """See `Remote.aclose`."""
        await self.pool.aclose()
