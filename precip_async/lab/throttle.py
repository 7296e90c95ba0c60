"""Token buckets: how many calls an account may make, by what they do (§6 "request buckets")."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from precip_async.lab.parameters import Parameters

__all__ = ["Buckets"]

# §6 "request buckets": the most tokens a bucket holds, and how many a second it gains.
READING: Final = (100, 20)
READING_ALL: Final = (50, 10)  # neither filtered nor paged
CHANGING: Final = (50, 5)
OWN: Final[Mapping[str, tuple[float, float]]] = {
    "AuthorizeSecurityGroupIngress": (50, 5),
    "RevokeSecurityGroupIngress": (50, 5),
    "CreateTags": (100, 10),
    "RunInstances": (5, 2),
    "TerminateInstances": (100, 5),
}
# §6 "resource buckets": a token an instance.
RESOURCES: Final[Mapping[str, tuple[float, float]]] = {
    "RunInstances": (1000, 2),
    "TerminateInstances": (1000, 20),
}
_COUNTED_WHOLE: Final = ("DescribeInstances", "DescribeSecurityGroups")
_NARROWED: Final = ("Filter", "MaxResults", "InstanceId", "GroupId", "GroupName")


@dataclass(slots=True)
class _Bucket:
    most: float
    gain: float
    left: float = field(init=False)
    seen: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.left = self.most

    def has(self, wanted: float) -> bool:
        now = time.monotonic()
        self.left = min(self.most, self.left + (now - self.seen) * self.gain)
        self.seen = now
        return self.left >= wanted


class Buckets:
    """One account's buckets."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def take(self, action: str, p: Parameters) -> bool:
        """Take what a call costs; whether there was enough. What is refused costs nothing."""
        wanted = [(self._of(*_request_bucket(action, p)), 1.0)]
        if action in RESOURCES:
            wanted.append((self._of(f"{action} resources", RESOURCES[action]), _instances(p)))
        enough = all(bucket.has(tokens) for bucket, tokens in wanted)
        for bucket, tokens in wanted if enough else ():
            bucket.left -= tokens
        return enough

    def _of(self, name: str, size: tuple[float, float]) -> _Bucket:
        return self._buckets.setdefault(name, _Bucket(*size))


def _request_bucket(action: str, p: Parameters) -> tuple[str, tuple[float, float]]:
    if action in OWN:
        return action, OWN[action]
    if action.startswith(("Describe", "Get", "List")):
        whole = action in _COUNTED_WHOLE and not any(name in p for name in _NARROWED)
        return ("reading all", READING_ALL) if whole else ("reading", READING)
    return "changing", CHANGING


def _instances(p: Parameters) -> float:
    count = p.part("InstanceId").flat()
    return float(len(count)) if count else float(p.whole("MaxCount", 1))
