"""What is to go wrong in the lab: everything that clouds do to experiments, to order.

What happens is drawn from the seed and the number of the call or launch it happens to, so the same
scenario does the same to the same calls, whatever else is going on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from precip_async.errors import InvalidArgument

__all__ = ["Fate", "Often", "Scenario", "Seconds"]

Often = float | Collection[int] | Literal[True]
"""A share of all, from 0 to 1; or which ones, counted from 0; or ``True`` for all."""

Seconds = float | tuple[float, float] | Callable[[random.Random], float]
"""A number, a range to draw from, or a function that draws."""

_BOOT: Final = ("never_boots", "dies_booting", "ssh_late", "ssh_refuses_key", "ssh_hangs")
_CALLS: Final = ("throttled", "errors", "resets", "lost_launches", "lost_replies", "slow")
_OFTEN: Final = (*_BOOT, *_CALLS, "root_refused", "vanishes", "cloud_init_errors")
_SECONDS: Final = (
    *("boot", "visible", "dies_after", "ssh_late_by", "vanishes_after", "slow_by", "cloud_init"),
)


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one call.

    Attributes:
        slow: Seconds before anything is done.
        reset: The connection is reset, and nothing was done.
        error: It is answered with trouble of the cloud's own, and nothing was done.
        throttled: It is answered with the cloud's word for too many calls.
        lost: It is done, and the connection is cut before the reply.
    """

    slow: float = 0.0
    reset: bool = False
    error: bool = False
    throttled: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is to go wrong; the default is a cloud on a good day, faster than any.

    Shares and ordinals of machines count all that the lab ever launches, those of calls all calls
    (for ``lost_launches``: the launch calls only).

    Attributes:
        seed: Of everything that is drawn.
        boot: Seconds from a launch to the machine running.
        visible: Seconds after a launch for which the cloud may deny the instance, where clouds do.
        never_boots: These stay pending.
        dies_booting: The cloud ends these `dies_after` seconds into their boot, with a reason.
        ssh_late: Their SSH server starts `ssh_late_by` seconds after they run.
        ssh_refuses_key: Their SSH server does not accept the key.
        ssh_hangs: Their SSH port accepts connections, and nobody ever speaks.
        root_refused: Their images go on refusing root, whatever their user data says; ``ubuntu``
            is let in.
        vanishes: The cloud loses these `vanishes_after` seconds after they run: their ids are
            unknown from then on.
        cloud_init: Seconds from a machine running to its cloud-init being done with user data; at
            least, where that is the real one.
        cloud_init_errors: These finish their cloud-init with an error.
        quota: How many the account may have at once; ``None`` sets no bound.
        capacity: How many the cloud has room for at once; likewise.
        throttled: Calls refused as too many, beside those that the cloud's own buckets refuse.
        buckets: Whether a cloud that has token buckets applies them.
        errors: Calls answered as the cloud does when it has trouble of its own: with a 500, on the
            oldest OpenStack with a 400.
        resets: Calls whose connection is reset before anything is done.
        lost_launches: Launch calls that are done and never answered.
        lost_replies: Calls of any kind that are done and never answered.
        slow: Calls that wait `slow_by` seconds first.
        clock_skew: Seconds by which the cloud's clock is ahead.
        expired_token: Whether the session token has expired.
        default_vpc: Whether an account has a default network, where clouds have such.
        images: The ids of all images; ``None``: any id of the right shape is one.
        wrong_host: Whether the certificate is for another host.

    Raises:
        InvalidArgument: A value is none of these.
    """

    seed: int = 0
    boot: Seconds = 0.0
    visible: Seconds = (0.0, 0.3)
    never_boots: Often = 0.0
    dies_booting: Often = 0.0
    ssh_late: Often = 0.0
    ssh_refuses_key: Often = 0.0
    ssh_hangs: Often = 0.0
    root_refused: Often = 0.0
    vanishes: Often = 0.0
    cloud_init_errors: Often = 0.0
    dies_after: Seconds = 1.0
    ssh_late_by: Seconds = 3.0
    vanishes_after: Seconds = 0.0
    cloud_init: Seconds = 0.0
    quota: int | None = None
    capacity: int | None = None
    throttled: Often = 0.0
    buckets: bool = True
    errors: Often = 0.0
    resets: Often = 0.0
    lost_launches: Often = 0.0
    lost_replies: Often = 0.0
    slow: Often = 0.0
    slow_by: Seconds = 1.0
    clock_skew: float = 0.0
    expired_token: bool = False
    default_vpc: bool = True
    images: Collection[str] | None = None
    wrong_host: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _OFTEN:
                _check_often(field.name, value)
            elif field.name in _SECONDS:
                _check_seconds(field.name, value)
            elif field.name in ("quota", "capacity"):
                if value is not None and (not _is_whole(value) or value < 0):
                    raise _wrong(field.name, "a whole number, 0 or more, or None", value)
            elif isinstance(field.default, bool) and not isinstance(value, bool):
                raise _wrong(field.name, "True or False", value)
        if not _is_whole(self.seed):
            raise _wrong("seed", "a whole number", self.seed)
        if not _is_number(self.clock_skew):
            raise _wrong("clock_skew", "a number of seconds", self.clock_skew)

    @classmethod
    def parse(cls, text: str) -> Scenario:
        """The scenario that ``"boot=2..20 throttled=0.5 lost_launches=0,3"`` stands for.

        Shares have a point, ordinals have none: ``errors=1.0`` is all calls, ``errors=1`` the
        second.

        Raises:
            InvalidArgument: It stands for none.
        """
        given: dict[str, Any] = {}
        names = {field.name: field.default for field in fields(cls)}
        for word in text.split():
            name, _, value = word.partition("=")
            if name not in names:
                raise InvalidArgument(
                    f"scenario: there is no {name!r}; there are {', '.join(sorted(names))}"
                )
            given[name] = _parsed(name, value, several=name in _OFTEN)
        return cls(**given)

    def fault(self, ordinal: int) -> str:
        """What is wrong with the boot of a launched machine: the first in the order above."""
        return next((name for name in _BOOT if self.happens(name, ordinal)), "")

    def fate(self, number: int, *, launches: int | None = None) -> Fate:
        """What becomes of a call.

        Args:
            number: How many calls there were before it.
            launches: How many launch calls, if it is one.
        """
        lost = launches is not None and self.happens("lost_launches", launches)
        return Fate(
            slow=self.seconds("slow_by", number) if self.happens("slow", number) else 0.0,
            reset=self.happens("resets", number),
            error=self.happens("errors", number),
            throttled=self.happens("throttled", number),
            lost=lost or self.happens("lost_replies", number),
        )

    def happens(self, name: str, number: int) -> bool:
        """Whether what is called `name` happens to the one that is counted `number`."""
        often: Often = getattr(self, name)
        if isinstance(often, bool):  # `True`
            return often
        if isinstance(often, int | float):
            return self._random(name, number).random() < often
        return number in often

    def seconds(self, name: str, number: int) -> float:
        """What the time called `name` is for the one that is counted `number`."""
        value: Seconds = getattr(self, name)
        if isinstance(value, tuple):
            return self._random(name, number).uniform(*value)
        return value(self._random(name, number)) if callable(value) else value

    def _random(self, name: str, number: int) -> random.Random:
        return random.Random(f"{self.seed}:{name}:{number}")  # noqa: S311 - repeatable on purpose


def _parsed(name: str, text: str, *, several: bool) -> Any:
    words = {"true": True, "yes": True, "": True, "false": False, "no": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        if ".." in text:
            least, most = text.split("..")
            return float(least), float(most)
        if name == "images":
            return tuple(text.split(","))
        if several and ("," in text or "." not in text):
            return tuple(int(one) for one in text.split(","))
        return float(text) if "." in text else int(text)
    except ValueError as error:
        raise _wrong(name, "a number, least..most, a list of ordinals, or true", text) from error


def _check_often(name: str, value: object) -> None:
    if value is True:
        return
    if _is_number(value):
        good = 0 <= value <= 1  # type: ignore[operator] # a number, by the line above
    else:
        good = (
            isinstance(value, Collection)
            and not isinstance(value, str | bytes)
            and all(_is_whole(one) and one >= 0 for one in value)
        )
    if not good:
        raise _wrong(name, "a share from 0 to 1, a collection of ordinals, or True", value)


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, tuple):
        good = (
            len(value) == 2  # noqa: PLR2004 - a range has two ends
            and all(_is_number(one) and one >= 0 for one in value)
            and value[0] <= value[1]
        )
    else:
        good = callable(value) or (_is_number(value) and value >= 0)  # type: ignore[operator] # likewise
    if not good:
        raise _wrong(name, "seconds, (least, most), or a function that draws them", value)


def _wrong(name: str, wanted: str, value: object) -> InvalidArgument:
    return InvalidArgument(f"scenario: {name} must be {wanted}, not {value!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < float("inf")  # type: ignore[arg-type] # a number, by the line above
