"""What is to go wrong on this computer's cloud: for tests, and for rehearsing what clouds do.

A fault is meant for some launches, named by their ordinals: the experiment's launches are counted
from 0, replacements included. So ``never_boots=[0]`` spoils the first machine and not the one that
takes its place.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from precip_async.errors import InvalidArgument

if TYPE_CHECKING:
    from precip_async.clouds.local.metadata import Metadata

__all__ = ["SSH_FAULTS", "Faults", "Launches", "Orders"]

Launches = Collection[int] | Literal[True]
"""Ordinals of launches, or ``True`` for all."""

SSH_FAULTS = ("ssh_late", "ssh_refuses_key", "ssh_hangs", "root_refused")
_LAUNCHES = ("never_boots", "dies_booting", *SSH_FAULTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is to go wrong, and for which launches.

    Attributes:
        boot_delay: Seconds between a launch and the machine running: a number, or a range to draw
            from.
        seed: Of what is drawn: the same seed draws the same delay for the same launch.
        never_boots: They stay pending.
        dies_booting: The cloud ends them `dies_after` seconds into their boot, with a reason.
        ssh_late: Their SSH server starts `ssh_late_by` seconds after they run.
        ssh_refuses_key: Their SSH server does not accept our key.
        ssh_hangs: Their SSH port accepts connections, and nobody ever speaks.
        root_refused: Their root login says what stock images say and ends; ``ubuntu`` is let in.
        ssh_late_by: Seconds.
        dies_after: Seconds.

    Raises:
        InvalidArgument: A value is none of these.
    """

    boot_delay: float | tuple[float, float] = 0.0
    seed: int = 0
    never_boots: Launches = ()
    dies_booting: Launches = ()
    ssh_late: Launches = ()
    ssh_refuses_key: Launches = ()
    ssh_hangs: Launches = ()
    root_refused: Launches = ()
    ssh_late_by: float = 3.0
    dies_after: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _LAUNCHES:
                _check_launches(field.name, value)
            elif field.name == "seed":
                if not _is_whole(value):
                    raise InvalidArgument(f"faults: seed must be a whole number, not {value!r}")
            elif field.name == "boot_delay" and isinstance(value, tuple):
                if len(value) != 2 or not all(map(_is_seconds, value)) or value[0] > value[1]:  # noqa: PLR2004 - a range has two ends
                    raise InvalidArgument(
                        f"faults: boot_delay must be seconds or (least, most), not {value!r}"
                    )
            elif not _is_seconds(value):
                raise InvalidArgument(
                    f"faults: {field.name} must be a number of seconds, 0 or more, not {value!r}"
                )

    def delay(self, ordinal: int) -> float:
        """Seconds that launch `ordinal` takes to boot."""
        if isinstance(self.boot_delay, tuple):
            return random.Random(f"{self.seed}:{ordinal}").uniform(*self.boot_delay)  # noqa: S311 - repeatable on purpose
        return self.boot_delay

    def of(self, ordinal: int) -> str:
        """The fault that is meant for launch `ordinal`; the first in the order above, or empty."""
        for name in _LAUNCHES:
            launches: Launches = getattr(self, name)
            if launches is True or ordinal in launches:
                return name
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What one machine is to be, where it isn't as `Faults` say: the lab's own way to say it.

    Attributes:
        authorized_key: As in `yard.MachineSpec`, and so are the last five.
        fault: One of those above; empty: none.
        boot_delay: Seconds.
        dies_after: Seconds.
        ssh_late_by: Seconds.
    """

    authorized_key: str
    fault: str = ""
    boot_delay: float = 0.0
    dies_after: float = 1.0
    ssh_late_by: float = 3.0
    default_user: str = ""
    root_login: bool = True
    cloud_init: str = ""
    power: str = ""
    metadata: Metadata | None = None


def _check_launches(name: str, value: object) -> None:
    if value is True:
        return
    if not isinstance(value, Collection) or isinstance(value, str | bytes):
        raise InvalidArgument(
            f"faults: {name} must be a collection of launch ordinals or True, not {value!r}"
        )
    for ordinal in value:
        if not _is_whole(ordinal) or ordinal < 0:
            raise InvalidArgument(
                f"faults: {name} holds launch ordinals, counted from 0, not {ordinal!r}"
            )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_seconds(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < float("inf")  # type: ignore[operator] # a number, by the line above
