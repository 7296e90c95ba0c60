"""What is tried: each trial is drawn from the seed and its number, and can be had again alone."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from precip_async.steps import STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["DIALECTS", "KINDS", "Fault", "Kind", "Trial", "drawn", "trials"]

Kind = Literal["kill", "moment", "attach", "signal", "cancel", "api", "ssh", "lost", "home", "none"]
Fault = Literal["cut", "delay", "garble", "freeze"]

#: Where trials take place.
DIALECTS: Final = (
    *("amazon", "ec2-api", "eucalyptus-3", "eucalyptus-4"),
    *("nova-essex", "nova-havana", "nova-kilo", "nimbus"),
)

#: How often each kind is drawn, of all.
KINDS: Final[Mapping[Kind, int]] = {
    "kill": 40,
    "moment": 12,
    "attach": 8,
    "signal": 12,
    "cancel": 20,
    "api": 6,
    "ssh": 6,
    "lost": 2,
    "home": 4,
}
FAULTS: Final[tuple[Fault, ...]] = ("cut", "delay", "garble", "freeze")
SIGNALS: Final = ("INT", "TERM", "INT, INT")
HOME: Final = ("removed", "full", "clock back")
LEFT: Final = ("launch.answered", "boot.ready", "command.started", "end.asked")

ELASTIC: Final = ("ec2-api", "nova-essex", "nova-havana", "nova-kilo")
KEYED: Final = ("eucalyptus-3", *ELASTIC)
LATEST: Final = 2.5  # seconds in which a trial's script is done, on an idle computer
SUSPENSIONS: Final = 900  # of such a script, about


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One script, and what befalls it.

    Attributes:
        number: Which; with the seed it is all that is needed to have it again.
        seed: Of everything that is drawn.
        kind: What befalls it: it is killed at a step or at a moment, so is who then attaches to its
            experiment, it gets a signal, its scope is cancelled, its connections to the cloud or to
            the instances suffer, no launch is ever answered, its home suffers, or nothing does.
        point: Which step, signal or fault; of one that attaches, the step at which whoever it
            comes after was killed.
        dialect: Which cloud.
        blocking: Whether it uses the blocking twins.
        time: How often the step is passed by before it counts, the number of the suspension, or of
            the piece of data that suffers.
        after: Seconds until it is killed, or gets its signal.
        broken: Which protection is taken away first; see `breaking`.
    """

    number: int
    seed: int
    kind: Kind
    point: str
    dialect: str
    blocking: bool = False
    time: int = 0
    after: float = 0.0
    broken: str = ""

    def __str__(self) -> str:
        face = "blocking" if self.blocking else "async"
        when = f"after {self.after:.2f} s" if self.after else f"number {self.time}"
        return f"trial {self.number}: {self.kind}: {self.point}, {when}, {face}, {self.dialect}"

    @property
    def row(self) -> str:
        """Which row of the table it counts in."""
        if self.kind == "home":
            return f"home: {self.point.partition(' at ')[0]}"
        return self.point if self.kind == "moment" else f"{self.kind}: {self.point}"

    @property
    def stage(self) -> tuple[str, str]:
        """Which lab it is played on: trials of one stage share one."""
        return self.dialect, self.kind if self.kind in ("api", "lost") else ""

    @property
    def fault(self) -> Fault:
        """What happens to its connections."""
        return next(fault for fault in FAULTS if fault == self.point)

    @property
    def needs_root(self) -> bool:
        """Whether it needs a disk of its own."""
        return self.kind == "home" and self.point.startswith("full")

    @property
    def dies(self) -> bool:
        """Whether it is given no chance to clean up."""
        return self.kind in ("kill", "moment", "attach")

    @property
    def first(self) -> Trial | None:
        """The one that leaves what this one attaches to."""
        return replace(self, kind="kill", after=0.0) if self.kind == "attach" else None

    def to_json(self) -> dict[str, Any]:
        """As what crosses a pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Self:
        """The other way round."""
        return cls(**given)


def drawn(seed: int, number: int) -> Trial:
    """The trial of that number."""
    rng = random.Random(f"{seed}:{number}")
    kind = rng.choices([*KINDS], [*KINDS.values()])[0]
    dialect = rng.choice(DIALECTS)
    blocking = rng.random() < 0.3
    match kind:
        case "kill":
            point = rng.choice([step for step in STEPS if _is_passed(step, dialect)])
            often = rng.choice([0, 0, 1]) if point in OFTEN else 0
            facts: dict[str, Any] = {"point": point, "time": often, "blocking": blocking}
        case "moment":
            facts = {"point": "kill: any moment", "after": rng.uniform(0.05, LATEST)}
            facts["blocking"] = blocking
        case "attach":
            facts = {"point": rng.choice(LEFT), "after": rng.uniform(0.05, LATEST)}
        case "signal":
            facts = {"point": rng.choice(SIGNALS), "after": rng.uniform(0.3, LATEST)}
            facts["blocking"] = blocking
        case "cancel":
            facts = {"point": "any suspension", "time": rng.randint(1, SUSPENSIONS)}
        case "api":
            facts = {"point": rng.choice(FAULTS), "time": rng.randint(1, 40)}
        case "ssh":
            facts = {"point": rng.choice(FAULTS), "time": rng.randint(1, 30)}
        case "lost":
            facts = {"point": "every answer to a launch", "blocking": blocking}
        case _:
            step = rng.choice([step for step in STEPS if _is_passed(step, dialect)])
            facts = {"point": f"{rng.choice(HOME)} at {step}"}
    return Trial(number=number, seed=seed, kind=kind, dialect=dialect, **facts)


#: Steps that an experiment passes several times.
OFTEN: Final = frozenset(
    {"boot.reachable", "boot.ready", "address.allocated", "address.given", "address.released"}
    | {"end.noted", "end.asked", "end.confirmed", "end.written"}
    | {"command.leased", "command.started", "command.exited"}
)


def _is_passed(step: str, dialect: str) -> bool:
    """Whether the script passes by `step` on that cloud."""
    if step.startswith("address."):
        return dialect in ELASTIC
    if step == "launch.keyed":
        return dialect in KEYED
    return step != "replace.ended"  # the lab's machines boot; see the cases in memory


def trials(seed: int, count: int) -> Iterator[Trial]:
    """The first `count` trials."""
    return (drawn(seed, number) for number in range(count))
