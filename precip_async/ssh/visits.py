"""A `Site` over whoever holds the connection to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from precip_async.ssh.batch import Batch, Column
from precip_async.ssh.detached import Site
from precip_async.ssh.remote import one

if TYPE_CHECKING:
    from precip_async.limits import Limits
    from precip_async.ssh.batch import Watch
    from precip_async.ssh.command import Order
    from precip_async.ssh.detached import Found, Offsets, Piece
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.remote import Remote
    from precip_async.ssh.transport import Target

__all__ = ["RemoteSite"]


@dataclass(frozen=True, kw_only=True)
class _Visits(Batch):
    """Calls a method of a `Site` at each place.

    Attributes:
        order: See `Site`.
        method: Its name.
        given: What it is given.
    """

    order: Order
    method: str
    given: tuple[Any, ...]

    async def do(self, place: int, pool: Pool, limits: Limits, watch: Watch) -> Any:
        """See `Batch.do`."""
        site = Site(pool=pool, target=self.targets[place], order=self.order, limits=limits)
        return await getattr(site, self.method)(*self.given)


class RemoteSite:
    """See `Site`, for the methods as well.

    Attributes:
        target: Where it is.
        order: As whom commands run there.
    """

    def __init__(self, remote: Remote, target: Target, order: Order) -> None:
        self._remote, self.target, self.order = remote, target, order

    async def begin(self, order: Order) -> tuple[int, int]:
        """See `Site.begin`."""
        return cast("tuple[int, int]", await self._visit("begin", order))

    async def found(self, experiment: str) -> list[Found]:
        """See `Site.found`."""
        return cast("list[Found]", await self._visit("found", experiment))

    async def read(self, job_id: str, offsets: Offsets, patience: float) -> Piece:
        """See `Site.read`."""
        return cast("Piece", await self._visit("read", job_id, offsets, patience))

    async def end(self, job_id: str) -> str:
        """See `Site.end`."""
        return cast("str", await self._visit("end", job_id))

    async def remove(self, job_id: str) -> None:
        """See `Site.remove`."""
        await self._visit("remove", job_id)

    async def _visit(self, method: str, *given: Any) -> Any:
        targets = Column([self.target])
        visits = _Visits(targets=targets, order=self.order, method=method, given=given)
        return await one(self._remote, visits)
