"""What a rehearsal has seen, as values: what the labs know, and what the script's side told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from precip_async.lab.lab import LabInstance
    from precip_async.lab.service import LabCall
    from precip_async.rehearsal.labs import Scene

LOCAL: Final = "instances on this computer"

__all__ = ["LOCAL", "Calls", "Place", "Record", "Started", "local_place", "recorded"]

End = Literal["ended", "kept", "left"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """One instance that was launched.

    Attributes:
        experiment: Whose it is; empty: of none that knew of it.
        tags: The script's.
        fault: What the scenario did to its boot; empty: nothing.
        running: Seconds from its launch until it ran; ``None``: it never did, or nobody knows.
        ready: Seconds until commands ran on it, as `wait` saw it; likewise.
        end: Whether it was ``"ended"``; else it went on running as the script ended, because the
            script said ``keep=True`` (``"kept"``), or although it did not (``"left"``).
    """

    id: str
    experiment: str
    image_id: str
    instance_type: str
    tags: tuple[str, ...]
    state: str
    fault: str
    running: float | None
    ready: float | None
    end: End


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """The calls of one action.

    Attributes:
        count: How many were made.
        throttled: How many of them were refused as too many.
        refused: How many were refused otherwise, by the cloud's word or the lab's.
        lost: How many were never answered.
    """

    action: str
    count: int
    throttled: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One cloud, and what was done there.

    Attributes:
        dialect: What the lab played; ``"local"``: nothing, for local instances stay local.
        stands_for: What the script speaks to.
        isolation: How the machines were kept apart.
        addresses: The elastic addresses that were still taken as the script ended, but for those
            of instances that were to be kept.
    """

    dialect: str
    stands_for: str
    isolation: str = ""
    instances: tuple[Started, ...] = ()
    calls: tuple[Calls, ...] = ()
    addresses: tuple[str, ...] = ()

    @property
    def left(self) -> list[str]:
        """What went on running, or was held on to, that nobody wanted to keep."""
        return [*(one.id for one in self.instances if one.end == "left"), *self.addresses]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A whole rehearsal.

    Attributes:
        script: As the user named it.
        exit_code: The script's; negative: the signal that ended it.
        seconds: How long the script ran.
        remarks: What was replaced for the rehearsal's sake.
        unplayed: What the script spoke to and the lab could not play, and why.
    """

    script: str
    exit_code: int
    seconds: float
    scenario: str
    places: tuple[Place, ...]
    remarks: tuple[str, ...] = ()
    unplayed: tuple[str, ...] = ()

    @property
    def verdict(self) -> int:
        """The rehearsal's exit code: the script's, but where that did well and we can't say so."""
        if self.exit_code < 0:
            return 128 - self.exit_code
        return self.exit_code or int(bool(self.left or self.unplayed))

    @property
    def left(self) -> list[str]:
        """What went on running that nobody wanted to keep."""
        return [one for place in self.places for one in place.left]


class Told:
    """What the script's side told of the instances at one place; ids by their lower case."""

    def __init__(self, told: Iterable[Mapping[str, Any]], lab: int | None) -> None:
        self.keep: dict[str, bool] = {}
        self.launched: dict[str, Mapping[str, Any]] = {}
        self.ready: dict[str, float] = {}
        self.ended: set[str] = set()
        for one in told:
            if one["tell"] != "Remark" and one["lab"] == lab:
                self._take(one)

    def _take(self, one: Mapping[str, Any]) -> None:
        instance = one["instance_id"].lower()
        match one["tell"]:
            case "Opened":
                self.keep[one["experiment"]] = one["keep"]
            case "Launched":
                self.launched[instance] = one
            case "InstanceReady":
                self.ready[instance] = one["seconds"]
            case "InstanceReplaced":
                old = one["replaced_id"].lower()
                self.ended.add(old)
                if old in self.launched:
                    self.launched[instance] = {
                        **self.launched[old],
                        "instance_id": one["instance_id"],
                    }
            case "Deprovisioned":
                self.ended.add(instance)

    def end(self, instance_id: str, *, alive: bool) -> End:
        """How it went on with an instance."""
        if not alive:
            return "ended"
        return "kept" if self.keep.get(self.experiment(instance_id)) else "left"

    def experiment(self, instance_id: str) -> str:
        """Whose it is; where nobody has heard of it, the only experiment's that there is."""
        if known := self.launched.get(instance_id.lower()):
            return str(known["experiment"])
        return next(iter(self.keep)) if len(self.keep) == 1 else ""

    def tags(self, instance_id: str) -> tuple[str, ...]:
        """The script's tags."""
        return tuple(self.launched.get(instance_id.lower(), {}).get("tags", ()))


async def recorded(scene: Scene, number: int, told: Sequence[Mapping[str, Any]]) -> Place:
    """What was done in one lab."""
    lab, heard = scene.lab, Told(told, number)
    instances = tuple(_started(one, heard) for one in await lab.instances())
    kept = {one.id for one in instances if one.end == "kept"}
    return Place(
        dialect=lab.dialect,
        stands_for=scene.stands_for,
        isolation=lab.isolation,
        instances=instances,
        calls=counted(lab.calls),
        addresses=tuple(one.public for one in lab.addresses() if one.instance_id not in kept),
    )


def _started(one: LabInstance, heard: Told) -> Started:
    return Started(
        id=one.id,
        experiment=heard.experiment(one.id),
        image_id=one.image_id,
        instance_type=one.instance_type,
        tags=heard.tags(one.id),
        state=one.state,
        fault=one.fault,
        running=None if one.ran is None else one.ran - one.launched,
        ready=heard.ready.get(one.id.lower()),
        end=heard.end(one.id, alive=one.alive),
    )


def local_place(told: Sequence[Mapping[str, Any]]) -> Place | None:
    """What was done with local instances that stayed local; ``None``: there were none.

    Those that were not to be kept end with the script, whatever becomes of it.
    """
    heard = Told(told, None)
    if not heard.keep:
        return None
    instances = []
    for name, one in heard.launched.items():
        kept = name not in heard.ended and heard.keep.get(one["experiment"], False)
        instances.append(
            Started(
                id=one["instance_id"],
                experiment=one["experiment"],
                image_id=one["image_id"],
                instance_type=one["instance_type"],
                tags=tuple(one["tags"]),
                state="running" if kept else "terminated",
                fault="",
                running=None,
                ready=heard.ready.get(name),
                end="kept" if kept else "ended",
            )
        )
    return Place(dialect="local", stands_for=LOCAL, instances=tuple(instances))


def counted(calls: Iterable[LabCall]) -> tuple[Calls, ...]:
    """The calls by action, the most frequent first."""
    by_action: dict[str, list[LabCall]] = {}
    for call in calls:
        by_action.setdefault(call.action or "(unreadable)", []).append(call)
    found = [
        Calls(
            action=action,
            count=len(some),
            throttled=sum(call.throttled for call in some),
            refused=dict(Counter(one.code for one in some if one.code and not one.throttled)),
            lost=sum(not call.answered for call in some),
        )
        for action, some in by_action.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.count, one.action)))
