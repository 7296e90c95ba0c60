"""Files and trees to and from many targets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from precip_async.ssh import download, upload
from precip_async.ssh.batch import Batch
from precip_async.ssh.command import Order, endings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precip_async.limits import Limits
    from precip_async.ssh.batch import Column, Debt, Watch
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.source import Source

__all__ = ["Gets", "Puts"]


@dataclass(frozen=True, kw_only=True)
class _Transfers(Batch):
    """Moves something between here and each target.

    Attributes:
        remote: Where it is there, or is to be.
        user: As whom, for messages.
        sudo_user: See `Order`, as for the next ones.
        mark: Likewise.
        timeout: Likewise.
    """

    remote: Column[str]
    user: Column[str]
    sudo_user: Column[str | None]
    mark: Column[str]
    timeout: float | None = None
    takes_files: ClassVar[bool] = True

    def order(self, place: int) -> Order:
        """As whom and for how long; the command is the transfer's."""
        return Order(
            command="",
            user=self.user[place],
            sudo_user=self.sudo_user[place],
            timeout=self.timeout,
            mark=self.mark[place],
        )

    def debts(self, place: int, limits: Limits) -> list[Debt]:
        """See `Batch.debts`."""
        return [endings(self.order(place), limits)]


@dataclass(frozen=True, kw_only=True)
class Puts(_Transfers):
    """Copies a source to each target; see `upload.put`.

    Attributes:
        source: What is sent.
    """

    source: Column[Source]

    async def do(self, place: int, pool: Pool, limits: Limits, watch: Watch) -> int:
        """See `Batch.do`."""
        if watch.keen:
            watch.began(place)
        order, remote = self.order(place), self.remote[place]
        return await upload.put(
            pool, self.targets[place], order, limits, self.source[place], remote
        )

    @property
    def sources(self) -> list[Source]:
        """See `Batch.sources`."""
        return self.source.all()

    def sending(self, change: Callable[[Any], Any]) -> Self:
        """See `Batch.sending`."""
        return replace(self, source=self.source.mapped(change))


@dataclass(frozen=True, kw_only=True)
class Gets(_Transfers):
    """Copies something from each target; see `download.get`.

    Attributes:
        local: Where to, here.
        suffix: What is added to the name here.
    """

    local: Column[str]
    suffix: Column[str]

    async def do(self, place: int, pool: Pool, limits: Limits, watch: Watch) -> tuple[Path, int]:
        """See `Batch.do`."""
        if watch.keen:
            watch.began(place)
        return await download.get(
            pool,
            self.targets[place],
            self.order(place),
            limits,
            self.remote[place],
            self.local[place],
            self.suffix[place],
        )

    def clear(self, place: int) -> None:
        """See `Batch.clear`."""
        download.sweep(self.local[place], self.mark[place])
