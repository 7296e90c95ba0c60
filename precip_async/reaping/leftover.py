"""What was left: a value for each, and which of them are meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from precip_async import clock

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Kind", "Leftover", "Selection"]

Kind = Literal["instance", "launch", "address", "host", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that may be running, or may cost. Text from a cloud is as the cloud gave it.

    Attributes:
        kind: An ``instance``; a ``launch`` of which it is not known yet what it started; an elastic
            ``address``; a ``host`` that is taken; or a ``run``: processes on a host.
        id: The cloud's id; of a launch its token, of a run its mark.
        experiment: Whose it is; empty where nobody can tell.
        owner: The account id of the home that it was launched from; empty likewise.
        mine: Whether that is this home's.
        cloud: The cloud's name.
        endpoint: Where it was spoken to; of a run, its host.
        instance_type: What it was launched as.
        zone: Where.
        state: What the cloud says of it; in the journal's words where it can't be asked.
        known_by: What it is known by: the journal, or a mark.
        launched_at: When, an aware UTC time; ``None``: not known.
        expires: When it is to end by itself; ``None``: never, or not known.
        holder: The living process that answers for it; empty: nobody does.
        ended: Whether it was ended now.
        problem: What is wrong, or not certain; empty: nothing.
    """

    kind: Kind
    id: str
    experiment: str = ""
    owner: str = ""
    mine: bool = True
    cloud: str
    endpoint: str = ""
    instance_type: str = ""
    zone: str = ""
    state: str = ""
    known_by: str = "the journal"
    launched_at: datetime | None = None
    expires: datetime | None = None
    holder: str = ""
    ended: bool = False
    problem: str = ""

    @property
    def age(self) -> float | None:
        """Seconds since its launch, where that is known."""
        if self.launched_at is None:
            return None
        return (clock.now() - self.launched_at).total_seconds()

    @property
    def expired(self) -> bool:
        """Whether it should have ended by itself."""
        return self.expires is not None and self.expires <= clock.now()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which leftovers are meant; see `reap`."""

    end: bool = False
    experiment: str | None = None
    older_than: float | None = None
    owner: str | None = None
    expired: bool = False
    everyone: bool = False
    force: bool = False
    unsure: bool = False

    def takes(self, one: Leftover) -> bool:
        """Whether `one` is listed."""
        if self.experiment is not None and one.experiment != self.experiment:
            return False
        if self.owner is not None and one.owner != self.owner:
            return False
        if self.expired and not one.expired:
            return False
        if self.older_than is not None and (one.age is None or one.age < self.older_than):
            return False
        return one.mine or self.everyone or self.owner is not None

    def ends(self, one: Leftover) -> bool:
        """Whether `one`, which is listed, is to be ended."""
        allowed = one.mine or (self.owner is not None and one.owner == self.owner)
        return self.end and allowed and (self.force or not one.holder)
