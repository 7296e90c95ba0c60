"""How an instance is to boot, and to be replaced."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from precip_async.clock import now

if TYPE_CHECKING:
    from datetime import datetime

    from precip_async.clouds.base import LaunchRequest

__all__ = ["SETTLED", "Plan"]

# Seconds after which a launch that was asked for and never answered is not under way any more, nor
# too young to be seen.
SETTLED: Final = 900.0


@dataclass(slots=True, kw_only=True)
class Plan:
    """How an instance is to boot, and to be replaced.

    Attributes:
        request: What it was launched by, for one instance.
        boot_timeout: Seconds after which it is replaced when it is not ready.
        boot_max_tries: Launches at most.
        cloud_init: Whether it is ready only once its cloud-init is done.
        asked_at: When its latest launch was asked for.
        asked: Likewise, on the monotonic clock.
        lock: Held by whoever sees to its boot.
    """

    request: LaunchRequest
    boot_timeout: float | None
    boot_max_tries: int
    cloud_init: bool = False
    asked_at: datetime = field(default_factory=now)
    asked: float = field(default_factory=time.monotonic)
    # asyncio's: mostly nobody waits for it, and anyio's takes a scope and a turn all the same
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    @property
    def overdue(self) -> bool:
        """Whether it should have been ready by now."""
        return self.boot_timeout is not None and time.monotonic() - self.asked > self.boot_timeout
