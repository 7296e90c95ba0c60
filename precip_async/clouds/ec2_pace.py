"""How fast a cloud may be asked: a token bucket for each kind of call, and backoff.

Amazon publishes how many requests it takes (``clouds.md``, section 6, "request buckets"). Asking no
faster means that it never has to refuse; when it does all the same, because others share the
account, the kind of call that it refused slows down, and comes back to speed as it succeeds.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from precip_async.clouds.dialects import Dialect

__all__ = ["Bucket", "Pace", "backoff"]

MOST_WAIT: Final = 20.0  # seconds; an account may be allowed more than what is published
AT_ONCE: Final = 10  # requests in flight to one cloud
SLOWEST: Final = 1 / 4  # of the published pace
RECOVERY: Final = 1.2  # by how much the pace rises with each success after a refusal
JITTER: Final = 0.3  # seconds by which requests may arrive closer together than they were sent

FIRST_BACKOFF: Final = 0.4  # seconds
LONGEST_BACKOFF: Final = 8.0

# Requests: burst, and refill a second; section 6, "request buckets".
_REQUESTS: Final[dict[str, tuple[float, float]]] = {
    "RunInstances": (5, 2),
    "TerminateInstances": (100, 5),
    "CreateTags": (100, 10),
    "AuthorizeSecurityGroupIngress": (50, 5),
}
_READING: Final = (100.0, 20.0)
_CHANGING: Final = (50.0, 5.0)
# Likewise, instances; section 6, "resource buckets".
_INSTANCES: Final[dict[str, tuple[float, float]]] = {
    "RunInstances": (1000, 2),
    "TerminateInstances": (1000, 20),
}


class Bucket:
    """Tokens that refill over time; whoever takes more than there are waits for the rest."""

    def __init__(self, size: float, refill: float, now: float) -> None:
        self._size, self._refill = size, refill
        self._tokens, self._at = size, now
        self._speed = 1.0

    @property
    def speed(self) -> float:
        """The pace in parts of the published one."""
        return self._speed

    def take(self, count: float, now: float) -> float:
        """Take `count` tokens; return the seconds to wait before using them."""
        self._refill_until(now)
        self._tokens -= count
        if self._tokens >= 0:
            return 0.0
        # The first request of a burst is the slowest, its connection being opened: what follows
        # just in time by our clock would be early by the cloud's.
        wait = -self._tokens / (self._refill * self._speed) + JITTER
        if wait > MOST_WAIT:  # the cloud may know better, and says so if not
            self._tokens += (wait - MOST_WAIT) * self._refill * self._speed
            return MOST_WAIT
        return wait

    def give_back(self, count: float) -> None:
        """Put `count` tokens back that were taken for nothing."""
        self._tokens = min(self._size, self._tokens + count)

    def refused(self, now: float) -> None:
        """The cloud says that this was too fast."""
        self._refill_until(now)
        self._speed = max(SLOWEST, self._speed / 2)
        self._tokens = min(self._tokens, 0.0)

    def accepted(self) -> None:
        """The cloud did as it was asked."""
        self._speed = min(1.0, self._speed * RECOVERY)

    def _refill_until(self, now: float) -> None:
        gained = (now - self._at) * self._refill * self._speed
        self._tokens, self._at = min(self._size, self._tokens + gained), now


class Pace:
    """The buckets of one cloud, and the requests in flight.

    Args:
        dialect: Which cloud. Those that publish no limits have only what is in flight bounded, and
            are slowed down when they refuse.
        clock: Seconds, for tests.
    """

    def __init__(self, dialect: Dialect, clock: Callable[[], float] = time.monotonic) -> None:
        self._published = dialect.published_pace
        self._clock = clock
        self._requests: dict[str, Bucket] = {}
        self._instances: dict[str, Bucket] = {}
        self.in_flight = anyio.Semaphore(AT_ONCE)

    def delay(self, operation: str, instances: int = 0) -> float:
        """Take what a request needs; return the seconds to wait before it is sent."""
        now = self._clock()
        waits = [self._bucket(operation).take(1, now)]
        if instances and self._published and operation in _INSTANCES:
            bucket = self._instances.setdefault(operation, Bucket(*_INSTANCES[operation], now))
            waits.append(bucket.take(instances, now))
        return max(waits)

    def refused(self, operation: str, instances: int = 0) -> None:
        """The cloud refused for the pace; it is the requests that were too many, not what for."""
        self._bucket(operation).refused(self._clock())
        if instances and operation in self._instances:
            self._instances[operation].give_back(instances)

    def accepted(self, operation: str) -> None:
        """The cloud answered, and not with a refusal for the pace."""
        self._bucket(operation).accepted()

    def _bucket(self, operation: str) -> Bucket:
        """What `operation` draws from; calls of one kind share a bucket."""
        reads = operation.startswith(("Describe", "Get"))
        size, refill = _READING if reads else _CHANGING
        kind = "reading" if reads else "changing"
        if self._published and operation in _REQUESTS:
            size, refill = _REQUESTS[operation]
            kind = operation
        if not self._published:
            # no limit to begin with: a refusal halves what could never be reached until it can
            size, refill = 1e6, _READING[1]
        return self._requests.setdefault(kind, Bucket(size, refill, self._clock()))


def backoff(attempt: int) -> float:
    """Seconds to wait after the `attempt`-th refusal, from 1: twice as long each time, jittered."""
    longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** (attempt - 1))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is no secret
