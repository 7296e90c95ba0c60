"""The same operation on many targets, as one value: it goes to another process as it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from precip_async.errors import RemoteError
    from precip_async.events import Stream
    from precip_async.limits import Limits
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.source import Source
    from precip_async.ssh.transport import Target

__all__ = ["Batch", "Column", "Debt", "Forgets", "Reaches", "Watch"]

Value = TypeVar("Value")
Debt = tuple[str, ...]  # lines that end something, each to be run where the one before fails


class Column(Generic[Value]):
    """A value for each place of a batch; what is the same for all is kept once.

    Attributes:
        same: Whether it is.
    """

    __slots__ = ("_values", "same")

    def __init__(self, values: Sequence[Value]) -> None:
        first = values[:1]
        self.same = all(one is first[0] or one == first[0] for one in values)
        self._values = first if self.same else values

    def __getitem__(self, place: int) -> Value:
        return self._values[0 if self.same else place]

    def part(self, places: Sequence[int]) -> Column[Value]:
        """The values for `places`."""
        return self if self.same else Column([self._values[place] for place in places])

    def all(self) -> list[Value]:
        """Each of the values, what is the same for all once."""
        return [*self._values]

    def mapped(self, change: Callable[[Value], Any]) -> Column[Any]:
        """What `change` makes of each value."""
        return Column([change(one) for one in self._values])


class Watch:
    """Is told how a batch comes along, on the event loop; here it does nothing about it.

    Attributes:
        keen: Whether it wants to know more than what has come of each.
        room: Waits until it takes more; ``None``: it always does.
    """

    keen = False
    room: Callable[[], Awaitable[object]] | None = None

    def began(self, place: int) -> None:
        """It is about to be done."""

    def heard(self, place: int, stream: Stream, text: str) -> None:
        """Its output has come. What this raises ends everything."""

    def warned(self, place: int, text: str) -> None:
        """Something of it should be known that is no error."""

    def ended(self, place: int, outcome: Any | RemoteError) -> None:
        """This has come of it."""


@dataclass(frozen=True, kw_only=True)
class Batch(ABC):
    """An operation on each of `targets`, whose places count from 0.

    Attributes:
        targets: On what.
    """

    targets: Column[Target]
    takes_files: ClassVar[bool] = False  # beside a connection, at each place

    @abstractmethod
    async def do(self, place: int, pool: Pool, limits: Limits, watch: Watch) -> Any:
        """Do it at `place`, over a connection of `pool`.

        Raises:
            RemoteError: That failed.
        """

    def part(self, places: Sequence[int], parts: int = 1) -> Self:
        """What is to be done at `places`, which are counted anew.

        Args:
            places: Which.
            parts: By how many such parts what all share is divided.
        """
        columns = {
            field.name: column.part(places)
            for field in fields(self)
            if isinstance(column := getattr(self, field.name), Column)
        }
        return replace(self, **columns)

    def at(self, targets: Column[Target]) -> Self:
        """The same on other targets: a process knows them by other means than a pickle."""
        return replace(self, targets=targets)

    def debts(self, place: int, limits: Limits) -> list[Debt]:
        """What ends all that may be left on the instance where this was cut off."""
        return []

    def clear(self, place: int) -> None:  # noqa: B027 - most leave nothing
        """Remove what a process that was killed has left of it on this machine. Blocks."""

    @property
    def sources(self) -> list[Source]:
        """What it sends."""
        return []

    def sending(self, change: Callable[[Any], Any]) -> Self:
        """The same with what `change` makes of its sources, which go by other means as well."""
        return self

    def packed(self, value: Any) -> Any:
        """What has come of a place, for another process that has this batch as well."""
        return value

    def unpacked(self, place: int, value: Any) -> Any:
        """The same over there; what it takes of what all share is taken."""
        return value


@dataclass(frozen=True, kw_only=True)
class Reaches(Batch):
    """Sees that there are connections.

    Attributes:
        timeout: Seconds for the one attempt that is made at each.
    """

    timeout: float

    async def do(self, place: int, pool: Pool, limits: Limits, watch: Watch) -> None:
        """See `Batch.do`."""
        async with pool.lease(self.targets[place], timeout=self.timeout):
            pass


@dataclass(frozen=True, kw_only=True)
class Forgets(Batch):
    """Closes the connections to instances, which are about to end."""

    async def do(self, place: int, pool: Pool, limits: Limits, watch: Watch) -> None:
        """See `Batch.do`."""
        await pool.forget(self.targets[place].instance_id)
