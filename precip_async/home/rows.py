"""What the journal says, as values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from precip_async import clock

__all__ = ["AddressRow", "Row", "as_address", "as_row", "as_text", "now", "public"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An instance that has not ended as far as the journal knows, or a launch without an answer.

    Attributes:
        token: Names the launch, here and at the cloud.
        experiment: The experiment's name.
        owner: The account id of the home it was launched from.
        machine: The host name of the computer it was launched from.
        pid: The process that launched it, on that computer.
        cloud: The cloud's name.
        endpoint: What tells two clouds of one name apart: see `Traits`.
        region: What requests were signed for; empty where that means nothing.
        zone: Where it was placed; empty: the cloud's choice.
        image_id: What was launched.
        instance_type: Likewise.
        count: How many the launch asked for.
        first: The ordinal of the launch's first instance in its experiment.
        tags: The user's tags.
        expires: When its dead-man's switch ends it, as last renewed; ``None``: never.
        asked_at: When the launch was written down, just before it was asked for.
        answered_at: When the cloud answered; ``None``: it is not known what the launch started.
        instance_id: The cloud's id; empty where the launch has no answer.
        ordinal: Its own ordinal; that of the first where the launch has no answer.
        state: What was last seen of it; empty where the launch has no answer.
        seen_at: When that was.
        terminate_asked_at: When its end was asked for.
        place: Its index among the experiment's instances.
        launches: Launches of this instance so far, of which the ended ones had other ids.
        login_user: Who logs in; empty where that was not written down.
        ssh_port: Where its SSH server listens, unless its cloud says otherwise.
        address: Which of its addresses it is reached at.
        cloud_init: Whether it is ready only once its cloud-init is done.
    """

    token: str
    experiment: str
    owner: str
    machine: str
    pid: int
    cloud: str
    endpoint: str
    region: str
    zone: str
    image_id: str
    instance_type: str
    count: int
    first: int
    tags: tuple[str, ...]
    expires: datetime | None
    asked_at: datetime
    answered_at: datetime | None
    instance_id: str
    ordinal: int
    state: str
    seen_at: datetime | None
    terminate_asked_at: datetime | None
    place: int
    launches: int
    login_user: str
    ssh_port: int
    address: str
    cloud_init: bool

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return (clock.now() - self.asked_at).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRow:
    """An elastic address that was not given back as far as the journal knows.

    Attributes:
        key: Names it here.
        experiment: Whose instances it was for.
        owner: See `Row`, and for the next.
        machine: Where it was asked for.
        pid: By which process there.
        cloud: Of which cloud.
        endpoint: See `Traits`.
        region: What requests were signed for.
        others: The addresses that the account had when it was asked for.
        asked_at: When it was written down, just before it was asked for.
        taken_at: When the cloud answered; ``None``: it is not known which was taken, if any.
        ip: The address; empty where there was no answer.
        allocation: The cloud's id for it; empty where it has none.
    """

    key: str
    experiment: str
    owner: str
    machine: str
    pid: int
    cloud: str
    endpoint: str
    region: str
    others: tuple[str, ...]
    asked_at: datetime
    taken_at: datetime | None
    ip: str
    allocation: str

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return (clock.now() - self.asked_at).total_seconds()


def now() -> str:
    """The present, as the journal has it."""
    return as_text(clock.now())


def as_text(time: datetime) -> str:
    """An aware time, as the journal has it."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def public(endpoint: str) -> str:
    """`endpoint` without the user and the password that it may hold."""
    return re.sub(r"//[^/]*@", "//", endpoint)


def as_row(values: dict[str, Any]) -> Row:
    """What the journal has of an instance, as a value."""
    values = _with_times(values, "expires", "asked_at", "answered_at", "seen_at")
    values = _with_times(values, "terminate_asked_at")
    tags = tuple(json.loads(values["tags"]))
    return Row(**{**values, "tags": tags, "cloud_init": bool(values["cloud_init"])})


def as_address(values: dict[str, Any]) -> AddressRow:
    """Likewise of an address."""
    values = _with_times(values, "asked_at", "taken_at")
    return AddressRow(**{**values, "others": tuple(json.loads(values["others"]))})


def _with_times(values: dict[str, Any], *names: str) -> dict[str, Any]:
    given = {one: values[one] for one in names}
    return values | {one: datetime.fromisoformat(at) if at else None for one, at in given.items()}
