"""Everything that happens, each as one frozen value.

An observer is a callable that is given every event of an experiment, in order, on its event loop;
it must not block. Each event can say itself in one line: ``str(event)``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from precip_async.errors import shortened

if TYPE_CHECKING:
    from precip_async.fleet import State

__all__ = [
    "Announcer",
    "Closed",
    "CommandEnded",
    "CommandStarted",
    "Deprovisioned",
    "Deprovisioning",
    "Event",
    "Extended",
    "InstanceReady",
    "InstanceReplaced",
    "JobEnded",
    "JobStarted",
    "Launched",
    "Observer",
    "Opened",
    "Output",
    "StateChanged",
    "Stream",
    "TransferEnded",
    "TransferStarted",
    "Waiting",
    "Warned",
]

logger = logging.getLogger(__name__)
Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened.

    Attributes:
        experiment: The experiment's name.
        at: When, an aware UTC time.
        instance_id: The instance it concerns; empty where it concerns none or all.
    """

    experiment: str
    instance_id: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __str__(self) -> str:
        return type(self).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Event):
    """The experiment is open: its cloud has accepted us; ``reason``: why not a better isolation.

    ``attached``: how many instances of an earlier process it goes on with; ``None``: it is new.
    """

    cloud: str
    isolation: str = ""
    reason: str = ""
    attached: int | None = None

    def __str__(self) -> str:
        kept = f", isolation: {self.isolation}" if self.isolation else ""
        if self.reason:
            kept += f" ({self.reason})"
        if self.attached is not None:
            kept += f", attached to {self.attached} instance(s)"
        return f"Experiment '{self.experiment}' on {self.cloud}{kept}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched(Event):
    """The cloud has accepted to start an instance."""

    image_id: str
    instance_type: str
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        tagged = f", tags {', '.join(self.tags)}" if self.tags else ""
        return f"Started instance {self.instance_id}, type {self.instance_type}{tagged}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Event):
    """An instance came a step further, or fell."""

    state: State
    seen: str = ""

    def __str__(self) -> str:
        return f"Instance {self.instance_id} is {self.state}" + (f": {self.seen}" * bool(self.seen))


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Event):
    """A ``wait`` has that many instances still to see ready; sent when the number changes."""

    pending: int
    total: int

    def __str__(self) -> str:
        if not self.pending:
            return f"All {self.total} instances are ready"
        return f"Still waiting for {self.pending} of {self.total} instances to finish booting"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReady(Event):
    """Commands run on an instance; ``seconds`` since its launch was asked for."""

    address: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"Instance {self.instance_id} has booted in {self.seconds:.1f} s, "
            f"public hostname: {self.address}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReplaced(Event):
    """An instance that did not boot was ended; ``instance_id`` is the new one in its place."""

    replaced_id: str
    seen: str
    launches: int

    def __str__(self) -> str:
        return (
            f"Instance {self.replaced_id} did not boot ({self.seen}); "
            f"replaced by {self.instance_id}, launch {self.launches}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandStarted(Event):
    """A command is about to run on an instance."""

    command: str
    user: str

    def __str__(self) -> str:
        return f"Running on {self.instance_id} as {self.user}: {shortened(self.command)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Event):
    """A command wrote something: whole lines, or what there was when it ended or paused."""

    stream: Stream
    text: str

    def __str__(self) -> str:
        return f"  {self.stream}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnded(Event):
    """A command has ended; ``exit_code`` is ``None`` when it was ended by us."""

    command: str
    exit_code: int | None
    duration: float

    def __str__(self) -> str:
        how = "was ended" if self.exit_code is None else f"exited with {self.exit_code}"
        return f"Command on {self.instance_id} {how} after {self.duration:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStarted(Event):
    """A file or tree is about to be moved."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"Copying {self.source} to {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferEnded(Event):
    """A file or tree has been moved; ``size`` counts bytes of content."""

    source: str
    target: str
    size: int
    duration: float

    def __str__(self) -> str:
        return f"Copied {self.source} to {self.target} ({self.size} bytes, {self.duration:.1f} s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted(Event):
    """A detached command was started on an instance."""

    command: str
    user: str

    def __str__(self) -> str:
        return f"Started on {self.instance_id} as {self.user}: {shortened(self.command)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded(Event):
    """A detached command is known to have ended; ``-n``: by signal ``n``."""

    command: str
    exit_code: int

    def __str__(self) -> str:
        said = f"exited with {self.exit_code}"
        return f"Command on {self.instance_id} {said}: {shortened(self.command)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended(Event):
    """The end of an instance that ends by itself was put off."""

    until: datetime

    def __str__(self) -> str:
        return f"Instance {self.instance_id} ends by itself at {self.until:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deprovisioning(Event):
    """An instance is about to be ended."""

    def __str__(self) -> str:
        return f"Deprovisioning instance: {self.instance_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deprovisioned(Event):
    """The cloud has confirmed that an instance is ending or gone."""

    def __str__(self) -> str:
        return f"Instance {self.instance_id} is gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed(Event):
    """All that the experiment had to end has ended; so many instances did, and so many run on."""

    ended: int
    kept: int = 0

    def __str__(self) -> str:
        kept = f", {self.kept} kept running" * bool(self.kept)
        plural = "" if self.ended == 1 else "s"
        return f"Experiment '{self.experiment}' closed: {self.ended} instance{plural} ended{kept}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """Something that is not an error and should be known."""

    text: str

    def __str__(self) -> str:
        return f"WARNING: {self.text}"


Observer = Callable[[Event], object]


class Announcer:
    """Gives each event to every observer; one that raises is logged, and the rest go on."""

    __slots__ = ("_observers", "experiment")

    def __init__(self, experiment: str, observers: Iterable[Observer] = ()) -> None:
        self.experiment = experiment
        self._observers = tuple(observers)

    def __bool__(self) -> bool:
        """Whether anybody listens: what only observers need is not made otherwise."""
        return bool(self._observers)

    def __call__(self, event: Event) -> None:
        """Announce `event`."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:  # an observer's fault must not cost the experiment
                logger.exception("observer %r failed at %r", observer, event)
