"""Ending machines: asked of the cloud, confirmed by it, and written down."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import anyio
import anyio.to_thread

from precip_async.errors import (
    CloudError,
    EndpointUnreachable,
    ExperimentException,
    HomeError,
    Throttled,
)
from precip_async.events import Warned
from precip_async.fanout import task_group
from precip_async.home.journal import Journal
from precip_async.steps import reached

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from precip_async.clouds.base import Cloud, Machine
    from precip_async.events import Announcer
    from precip_async.limits import Limits
    from precip_async.reach import Reach
    from precip_async.ssh.remote import Remote

__all__ = ["Books", "Ender", "not_ended"]

P = ParamSpec("P")
R = TypeVar("R")

ENDING = ("shutting-down", "terminated", "failed")  # what a cloud may say once asked for the end
TOGETHER = 2  # times that a cloud in trouble is asked for the end of all
NOT_HEARD = (Throttled, EndpointUnreachable)  # refusals whatever it is that is asked for


class Books:
    """The journal, for an event loop: written in a thread, one at a time."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._one_at_a_time = anyio.CapacityLimiter(1)

    @property
    def machine(self) -> str:
        """The name of this computer, as the journal has it."""
        return self._journal.machine

    async def write(
        self, method: Callable[Concatenate[Journal, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call a method of the journal; once begun it is not cancelled."""
        return await anyio.to_thread.run_sync(
            lambda: method(self._journal, *args, **kwargs), limiter=self._one_at_a_time
        )


class Ender:
    """Ends machines: of one `experiment`, or of several where each has ids of its own."""

    def __init__(
        self,
        cloud: Cloud,
        books: Books,
        remote: Remote,
        reach: Reach,
        limits: Limits,
        announce: Announcer,
        experiment: str | None = None,
    ) -> None:
        self._cloud, self._books, self._remote, self._reach = cloud, books, remote, reach
        self._experiment = experiment
        self._limits, self._announce = limits, announce

    async def end(
        self, ids: Sequence[str], ended: Callable[[str], None], *, interval: float
    ) -> dict[str, str]:
        """End the machines `ids`, each on its own: what befalls one spoils no other.

        Args:
            ids: Which.
            ended: Is told of each as soon as the cloud confirms it.
            interval: Seconds between two looks.

        Returns:
            Those that are not known to have ended within ``limits.terminate_timeout``, and why.
        """
        if not ids:
            return {}
        limit = self._limits.terminate_timeout
        problems = dict.fromkeys(ids, f"the cloud did not confirm it within {limit:g} s")
        try:
            await self._write(Journal.ending, ids)
        except HomeError as error:  # machines that nobody wants come before the books
            self._warn(error)
        reached("end.noted")
        with anyio.move_on_after(limit):
            async with task_group() as tasks:
                for one in ids:
                    tasks.start_soon(self._remote.forget, one)
                await self._until_ended(problems, ended, interval)
        return problems

    async def _until_ended(
        self, problems: dict[str, str], ended: Callable[[str], None], interval: float
    ) -> None:
        """Ask for the end of `problems`, and take out of them what has ended."""
        asking, waiting = [*problems], list[str]()
        for attempt in itertools.count(1):
            seen, refusals = await self._ask(asking, patient=attempt <= TOGETHER)
            reached("end.asked")
            problems |= {one: str(error) for one, error in refusals.items()}
            waiting += [one for one in asking if one not in refusals]
            asking = [one for one, error in refusals.items() if error.passing]
            gone = {one for one in waiting if one in seen and seen[one].state in ENDING}
            gone |= await self._gone([one for one in waiting if one not in gone])
            waiting = [one for one in waiting if one not in gone]
            await self._forget(gone)  # the journal first: who is told of it writes nothing more
            for one in [one for one in problems if one in gone]:
                del problems[one]
                ended(one)
            if not asking and not waiting:
                return
            await anyio.sleep(interval)

    async def _ask(
        self, ids: Sequence[str], *, patient: bool
    ) -> tuple[Mapping[str, Machine], dict[str, CloudError]]:
        """Ask for the end of all at once and, where that is refused, of ever fewer.

        Trouble that passes is no reason for that while we are `patient`; one machine that a cloud
        can never end is.
        """
        if not ids:
            return {}, {}
        try:
            return await self._cloud.terminate(ids), {}
        except CloudError as error:
            whole = isinstance(error, NOT_HEARD) or (patient and error.passing)
            if len(ids) == 1 or whole:
                return {}, dict.fromkeys(ids, error)
        half = len(ids) // 2
        seen, refusals = await self._ask(ids[:half], patient=patient)
        more_seen, more_refusals = await self._ask(ids[half:], patient=patient)
        return {**seen, **more_seen}, refusals | more_refusals

    async def _gone(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids`, whose end was asked for, that end or are gone."""
        if not ids:
            return set()
        try:
            machines = await self._cloud.describe(ids)
        except CloudError as error:  # asked again until the timeout
            self._warn(error)
            return set()
        return {one for one in ids if one not in machines or machines[one].state in ENDING}

    async def _forget(self, ids: Collection[str]) -> None:
        if not ids:
            return
        reached("end.confirmed")
        try:
            await self._write(Journal.ended, ids)
            reached("end.written")
            await self._reach.forget(ids)
        except HomeError as error:  # they have ended all the same: the next experiment sees it
            self._warn(error)

    async def _write(self, method: Callable[..., None], ids: Collection[str]) -> None:
        where = self._cloud.traits.endpoint
        await self._books.write(method, ids, endpoint=where, experiment=self._experiment)

    def _warn(self, error: ExperimentException) -> None:
        self._announce(Warned(experiment=self._announce.experiment, text=str(error)))


def not_ended(problems: Mapping[str, str]) -> ExperimentException:
    """What is raised when machines are not known to have ended: which, and why."""
    reasons = "; ".join(dict.fromkeys(problems.values()))
    return ExperimentException(
        f"not known to have ended: {', '.join(problems)}: {reasons}; look at the cloud itself"
    )
