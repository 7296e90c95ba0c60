"""From launched to ready: poll, probe, diagnose, replace.

One describe call a round serves the whole experiment, however many instances are waited for and
by however many ``wait``s. No task outlives the call that started it: of those who wait for a round,
one makes it, and when that one is cancelled another does.
"""

from __future__ import annotations

import logging
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from precip_async.errors import (
    AuthenticationFailed,
    BootError,
    BootTimeout,
    CloudError,
    ConnectTimeout,
    ExperimentException,
    HostKeyMismatch,
    RemoteError,
)
from precip_async.events import InstanceReady, StateChanged, Waiting
from precip_async.fleet import BootDiagnosis
from precip_async.ssh.command import Conversation, Order, converse
from precip_async.ssh.slot import backoff

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from precip_async.clouds.base import Cloud, Machine
    from precip_async.events import Announcer
    from precip_async.fleet import Instance
    from precip_async.launch import Launcher
    from precip_async.limits import Limits
    from precip_async.reach import Reach
    from precip_async.ssh.pool import Pool

__all__ = ["Boot"]

logger = logging.getLogger(__name__)

CONSOLE_TAIL = 600  # characters of a console that a diagnosis shows
CONSOLES = 8  # instances whose console is asked for, and at once
CONSOLE_TIMEOUT = 10.0  # seconds

_OTHER_USER = re.compile(r"login as the user\s+\"?([a-z_][\w.-]*)\"?")


class Boot:
    """Drives the instances of one experiment to ready."""

    def __init__(
        self,
        cloud: Cloud,
        launcher: Launcher,
        pool: Pool,
        reach: Reach,
        limits: Limits,
        announce: Announcer,
    ) -> None:
        self._cloud, self._launcher, self._pool, self._reach = cloud, launcher, pool, reach
        self._limits, self._announce = limits, announce
        self._machines: Mapping[str, Machine] = {}
        self._round: anyio.Event | None = None  # set when the round under way is over
        self._asked_at = self._changed_at = float("-inf")

    async def wait(self, instances: Sequence[Instance], timeout: float | None) -> None:
        """Wait until all of `instances` are ready.

        Args:
            instances: Which.
            timeout: Seconds for the whole; ``None``: for ever.

        Raises:
            BootTimeout: Some are not ready in time; calling again resumes.
            BootError: Some have failed for good.

        If cancelled, instances go on booting and stay the experiment's.
        """
        began = time.monotonic()
        missing = [instance for instance in instances if instance.state != "ready"]
        self._announce_waiting(len(missing), len(instances))
        with anyio.move_on_after(timeout) as scope:
            async with anyio.create_task_group() as tasks:
                for instance in missing:
                    tasks.start_soon(self._drive_one, instance, instances)
        await self._reach.pin()
        missing = [instance for instance in missing if instance.state != "ready"]
        if missing:
            kind = BootTimeout if scope.cancelled_caught else BootError
            diagnoses = {one.id: one.diagnosis or _unseen(one) for one in missing}
            await self._add_consoles(diagnoses)
            raise kind(diagnoses=diagnoses, waited=time.monotonic() - began)

    async def _drive_one(self, instance: Instance, selected: Sequence[Instance]) -> None:
        async with self._launcher.plans[instance].lock:  # another wait may be at it, and finish it
            if instance.state == "ready" or not instance.alive:
                return
            try:
                await self._drive(instance)
            except ExperimentException as error:
                self._diagnose(instance, f"it can't be replaced: {error}", "see the cloud's limits")
                self._moved(instance, "failed")
        left = sum(one.state not in ("ready", "failed") for one in selected)
        self._announce_waiting(left, len(selected))

    async def _drive(self, instance: Instance) -> None:
        """See `instance` to ready, or to having failed for good."""
        attempt = 0
        probed = False
        while True:
            machine = await self._describe(instance, fresh=instance.state == "pending")
            if instance.state == "failed":
                seen = f"the cloud ended it: {machine.reason or 'no reason given'}"
                self._diagnose(instance, seen, "")
                if not await self._replaced(instance, seen):
                    return
                attempt, probed = 0, False
                continue
            if machine.public_address is None and machine.private_address is None:
                known = "pending" if machine.state == "pending" else "running, but has no address"
                self._diagnose(instance, f"the cloud says that it is {known}", "give it more time")
                probed = True  # nothing more can be looked at
            else:
                attempt += 1
                probed = True
                if await self._probe(instance):
                    return
            if probed and self._overdue(instance):
                seen = instance.diagnosis.seen if instance.diagnosis else "nothing"
                if not await self._replaced(instance, f"not ready in time: {seen}"):
                    return
                attempt, probed = 0, False
            elif attempt:
                await anyio.sleep(min(1.0, backoff(attempt)))

    def _overdue(self, instance: Instance) -> bool:
        limit = self._launcher.plans[instance].boot_timeout
        age = (datetime.now(UTC) - instance.launched_at).total_seconds()
        return limit is not None and age > limit

    async def _replaced(self, instance: Instance, seen: str) -> bool:
        """Replace `instance`, unless it was launched often enough: then it has failed."""
        if instance.launches >= self._launcher.plans[instance].boot_max_tries:
            launches = f"launched {instance.launches} times"
            self._diagnose(instance, f"{seen} ({launches})", "try another image or type")
            self._moved(instance, "failed")
            return False
        await self._launcher.replace(instance, seen)
        return True

    # -- describing --------------------------------------------------------------------------

    async def _describe(self, instance: Instance, *, fresh: bool) -> Machine:
        """What the cloud says of `instance`, in a round not older than the interval."""
        interval = self._interval()
        while True:
            machine = self._machines.get(instance.id)
            recent = time.monotonic() - self._asked_at < interval
            if machine is not None and recent and not fresh:
                return machine
            fresh = False
            await self._next_round(interval)

    def _interval(self) -> float:
        limits = self._limits
        if time.monotonic() - self._changed_at > limits.poll_idle_after:
            return limits.poll_interval_idle
        return self._cloud.traits.poll_interval or limits.poll_interval

    async def _next_round(self, interval: float) -> None:
        """Wait for the round under way, or make one when none is."""
        if self._round is not None:
            await self._round.wait()
            return
        done = self._round = anyio.Event()
        try:
            await anyio.sleep(max(0.0, self._asked_at + interval - time.monotonic()))
            booting = [
                one
                for one in self._launcher.instances
                if one.alive and one.state not in ("ready", "failed")
            ]
            try:
                machines = await self._cloud.describe([one.id for one in booting])
            except CloudError as error:  # asked again: the timeout is the caller's
                logger.warning("describe failed: %s", error)
                machines = {}
            self._asked_at = time.monotonic()
            self._take(booting, machines)
        finally:
            self._round = None
            done.set()

    def _take(self, booting: Sequence[Instance], machines: Mapping[str, Machine]) -> None:
        if self._changed_at == float("-inf") or machines != self._machines:
            self._changed_at = time.monotonic()
        self._machines = machines
        for instance in booting:
            if (machine := machines.get(instance.id)) is not None:
                before = instance.state
                self._launcher.saw(instance, machine)
                if instance.state != before:
                    self._moved(instance, instance.state)

    # -- probing -----------------------------------------------------------------------------

    async def _probe(self, instance: Instance) -> bool:
        """Try once to reach `instance`; take down why it can't be."""
        target = self._reach.probed(instance)
        timeout = self._limits.probe_timeout
        try:
            async with self._pool.lease(target, timeout=timeout):
                pass
            if self._cloud.traits.ends_machines:
                self._moved(instance, "reachable")
                user = target.user or ""
                order = Order(command="true", user=user, timeout=timeout)
                talk = Conversation(order.mark)
                await converse(self._pool, target, order, talk, self._limits, None)
        except RemoteError as error:
            self._diagnose(instance, *_explained(error))
            return False
        instance.state = "ready"
        instance.ready_at = datetime.now(UTC)
        instance.diagnosis = None
        seconds = (instance.ready_at - instance.launched_at).total_seconds()
        self._announce(
            InstanceReady(
                experiment=self._announce.experiment,
                instance_id=instance.id,
                address=instance.public_address or "",
                seconds=seconds,
            )
        )
        return True

    # -- telling -----------------------------------------------------------------------------

    def _diagnose(self, instance: Instance, seen: str, advice: str) -> None:
        instance.diagnosis = BootDiagnosis(stage=instance.state, seen=seen, advice=advice)

    def _moved(self, instance: Instance, state: str) -> None:
        instance.state = state  # type: ignore[assignment] # the callers pass states
        seen = instance.diagnosis.seen if instance.diagnosis and state == "failed" else ""
        self._announce(
            StateChanged(
                experiment=self._announce.experiment,
                instance_id=instance.id,
                state=instance.state,
                seen=seen,
            )
        )

    def _announce_waiting(self, pending: int, total: int) -> None:
        self._announce(Waiting(experiment=self._announce.experiment, pending=pending, total=total))

    async def _add_consoles(self, diagnoses: dict[str, BootDiagnosis]) -> None:
        """Add the end of the consoles, of the first few; the error must not wait long for them."""

        async def add(instance_id: str, diagnosis: BootDiagnosis) -> None:
            try:
                console = await self._cloud.console(instance_id)
            except ExperimentException as error:
                console = f"(not to be had: {error})"
            diagnoses[instance_id] = BootDiagnosis(
                stage=diagnosis.stage,
                seen=diagnosis.seen,
                advice=diagnosis.advice,
                console=console[-CONSOLE_TAIL:],
            )

        with anyio.move_on_after(CONSOLE_TIMEOUT):
            async with anyio.create_task_group() as tasks:
                for instance_id, diagnosis in list(diagnoses.items())[:CONSOLES]:
                    tasks.start_soon(add, instance_id, diagnosis)


def _unseen(instance: Instance) -> BootDiagnosis:
    return BootDiagnosis(stage=instance.state, seen=f"it was {instance.state} when last looked at")


def _explained(error: RemoteError) -> tuple[str, str]:
    """What an error while probing means for the boot, and what to do about it."""
    match error:
        case AuthenticationFailed() if other := _OTHER_USER.search(error.problem):
            user = other.group(1)
            return (
                f"root login is disabled, this image wants user {user}",
                f'give login_user="{user}"; other users are then reached by sudo',
            )
        case AuthenticationFailed():
            return (
                f"key refused: {error.problem}",
                "the key may not be installed yet, or belongs to another user: see login_user=",
            )
        case HostKeyMismatch():
            return f"host key refused: {error.problem}", "find out who answers there"
        case ConnectTimeout():
            return (
                f"port filtered, or silent: {error.problem}",
                "see the security group, ssh_cidr= and bastion=",
            )
        case _:
            return f"refused: {error.problem}", "the SSH server may not be up yet"
