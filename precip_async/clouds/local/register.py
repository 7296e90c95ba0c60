"""The warden's register: what each machine's state is, as a cloud would tell it.

``pending`` → ``running`` → ``shutting-down`` → ``terminated``, or ``failed``: it could not be
started. State changes are synchronous; the work that goes with them is one task for each machine
and direction.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from precip_async.clouds.local.yard import MachineSpec, Placement, Yard, YardError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from precip_async.clouds.base import MachineState

__all__ = ["MAX_CROWD", "MAX_MACHINES", "Full", "Register"]

MAX_MACHINES: Final = 1000  # a bridge has 1023 ports
LOOK_AGAIN: Final = 30.0  # seconds between two looks at a clock that does not stop
TIME_IS_UP: Final = "its time was up (max_lifetime)"
MAX_CROWD: Final = 10_000  # a descriptor or two each, of the 20,000 and more that systems give


class Full(Exception):
    """There is no room for so many machines; the text is a sentence for the user."""


@dataclass(slots=True)
class _Entry:
    """A machine.

    Attributes:
        delay: Seconds that its boot takes.
        dies_after: Seconds, after these, that its boot ends in; negative when it doesn't.
        ssh_late_by: Seconds that the fault ``ssh_late`` costs.
        expires: When it is ended, by `_now`.
    """

    spec: MachineSpec
    token: str
    public_key: str
    delay: float = 0.0
    never_boots: bool = False
    dies_after: float = -1.0
    ssh_late_by: float = 0.0
    expires: float = math.inf
    state: MachineState = "pending"
    reason: str = ""
    placement: Placement | None = None
    booting: asyncio.Task[None] | None = None
    ending: asyncio.Task[None] | None = None
    expiring: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self.state in ("pending", "running", "shutting-down")

    def view(self) -> dict[str, Any]:
        place = self.placement
        return {
            "id": self.spec.id,
            "state": self.state,
            "reason": self.reason,
            "host_keys": [self.public_key],
            "public_address": place.public_address if place else None,
            "private_address": place.private_address if place else None,
            "ssh_port": place.ssh_port if place else None,
        }


class Register:
    """All machines of an experiment, dead ones included.

    Args:
        yard: Where they stand.
        room: How many may be alive at once.
    """

    def __init__(self, yard: Yard, *, room: int = MAX_MACHINES) -> None:
        self._yard = yard
        self._room = room
        self._entries: dict[str, _Entry] = {}

    def room_for(self, machines: list[dict[str, Any]], least: int) -> list[dict[str, Any]]:
        """As many of `machines` as there is room for.

        Raises:
            Full: These are fewer than `least`.
        """
        self._notice_deaths()
        alive = sum(entry.alive for entry in self._entries.values())
        room = self._room - alive
        if room < least:
            raise Full(
                f"an experiment can have {self._room} local instances at once;"
                f" {alive} are there, so {least} more can't be"
            )
        return machines[:room]

    def launch(
        self, token: str, machines: Iterable[dict[str, Any]], lifetime: float | None = None
    ) -> list[dict[str, Any]]:
        """Begin to start `machines`: the facts of an entry each, its specification as ``spec``.

        They are ended `lifetime` seconds from now; ``None``: when that is asked for.
        """
        for facts in machines:
            spec = MachineSpec.from_json(facts.pop("spec"))
            entry = _Entry(spec=spec, token=token, **facts)
            self._entries[spec.id] = entry
            entry.booting = self._work(entry, self._boot(entry))
            if lifetime is not None:
                entry.expires = _now() + lifetime
                entry.expiring = self._work(entry, self._expire(entry))
        return self.find(token)

    def extend(self, ids: list[str], lifetime: float) -> None:
        """Have those of `ids` that are to end by themselves do so `lifetime` seconds from now.

        One that is to end later stays as it is.
        """
        expires = _now() + lifetime
        for one in ids:
            if (entry := self._entries.get(one)) is not None and entry.expiring is not None:
                entry.expires = max(entry.expires, expires)

    def find(self, token: str) -> list[dict[str, Any]]:
        """The machines of the launch named `token`, in order."""
        return [entry.view() for entry in self._entries.values() if entry.token == token]

    def describe(self, ids: list[str]) -> list[dict[str, Any]]:
        """Those of `ids` that there ever were."""
        self._notice_deaths()
        return [self._entries[one].view() for one in ids if one in self._entries]

    def terminate(self, ids: list[str]) -> list[dict[str, Any]]:
        """Begin to end those of `ids` that have not ended."""
        self._notice_deaths()
        for one in ids:
            entry = self._entries.get(one)
            if entry is None or entry.state == "terminated":
                continue
            entry.state = "shutting-down"
            if entry.ending is None or entry.ending.done():
                entry.ending = self._work(entry, self._end(entry))
        return self.describe(ids)

    def any_alive(self) -> bool:
        """Whether a machine has not ended yet."""
        self._notice_deaths()
        return any(entry.alive for entry in self._entries.values())

    async def abandon(self) -> None:
        """Stop working on machines, in order to end all of them at once."""
        tasks = [
            task
            for entry in self._entries.values()
            for task in (entry.booting, entry.ending, entry.expiring)
            if task is not None
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _notice_deaths(self) -> None:
        for one in self._yard.died():
            entry = self._entries[one]
            if entry.alive:
                entry.state, entry.reason = "terminated", "it ended by itself"
                entry.ending = self._work(entry, self._yard.stop(one))  # what it may have left

    async def _boot(self, entry: _Entry) -> None:
        await asyncio.sleep(entry.delay)
        if entry.never_boots:
            return
        if entry.dies_after >= 0:
            await asyncio.sleep(entry.dies_after)
            entry.state = "terminated"
            entry.reason = "Server.InternalError: Internal error on launch (a fault asked for)"
            return
        try:
            entry.placement = await self._yard.start(entry.spec)
        except YardError as error:
            entry.state, entry.reason = "failed", str(error)
            return
        entry.state = "running"
        if entry.spec.fault == "ssh_late":
            await asyncio.sleep(entry.ssh_late_by)
            await self._yard.release_ssh(entry.spec.id)

    async def _expire(self, entry: _Entry) -> None:
        """End it when its time is up, which may be put off meanwhile."""
        while entry.state in ("pending", "running"):
            left = entry.expires - _now()
            if left <= 0:
                entry.reason = TIME_IS_UP
                self.terminate([entry.spec.id])
                return
            await asyncio.sleep(min(left, LOOK_AGAIN))  # the loop's clock stops in a sleep

    async def _end(self, entry: _Entry) -> None:
        if entry.booting is not None:
            entry.booting.cancel()
            await asyncio.gather(entry.booting, return_exceptions=True)
        entry.state = "shutting-down"  # its boot may have had a last word
        try:
            await self._yard.stop(entry.spec.id)
        except YardError as error:
            entry.reason = str(error)  # and it stays so: asking again tries again
        else:
            entry.state, entry.placement = "terminated", None
            entry.reason = entry.reason or "ended as asked"

    def _work(self, entry: _Entry, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)

        def account(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                traceback.print_exception(error, file=sys.stderr)
                entry.state, entry.reason = "failed", f"the warden failed: {error!r}"

        task.add_done_callback(account)
        return task


def _now() -> float:
    """Seconds, those counted in which the computer slept, whatever its clock is set to."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
