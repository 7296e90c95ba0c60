"""From launched to ready: poll, probe, diagnose, replace.

One describe call a round serves the whole experiment, however many instances are waited for and
by however many ``wait``s. No task outlives the call that started it: of the ``wait``s under way one
makes the rounds, and when that one is over another does.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from precip_async.clock import now
from precip_async.errors import (
    AuthenticationFailed,
    BootError,
    BootTimeout,
    CloudError,
    ExperimentException,
    HostKeyMismatch,
    RemoteError,
    Throttled,
)
from precip_async.events import InstanceReady, StateChanged, Waiting, Warned
from precip_async.fanout import task_group
from precip_async.fleet import BootDiagnosis, tail_of
from precip_async.probe import Findings, Tried, explained, probe
from precip_async.ssh.batch import Column, Reaches
from precip_async.ssh.remote import one
from precip_async.ssh.slot import backoff
from precip_async.steps import reached

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from precip_async.clouds.base import Cloud, Machine
    from precip_async.events import Announcer
    from precip_async.fleet import Instance
    from precip_async.launch import Launcher, Plan
    from precip_async.limits import Limits
    from precip_async.reach import Reach
    from precip_async.ssh.remote import Remote

__all__ = ["Boot"]

CONSOLE_TAIL = 600  # characters of a console that a diagnosis shows
CONSOLES = 8  # instances whose console is asked for, and at once
CONSOLE_TIMEOUT = 3.0  # seconds: the wait's own time is up by then
CLOUD_INIT_ADVICE = (
    "it does what user_data asks for, and tells of it in /var/log/cloud-init-output.log there; "
    'options={"WaitForCloudInit": False} does not wait for it'
)


class Boot:
    """Drives the instances of one experiment to ready."""

    def __init__(
        self,
        cloud: Cloud,
        launcher: Launcher,
        remote: Remote,
        reach: Reach,
        limits: Limits,
        announce: Announcer,
    ) -> None:
        self._cloud, self._launcher, self._remote, self._reach = cloud, launcher, remote, reach
        self._limits, self._announce = limits, announce
        # What a probe leaves behind is harmless: ending it must not hold up what has no time left.
        self._brief = replace(
            limits, kill_grace=min(0.5, limits.kill_grace), close_grace=min(0.5, limits.close_grace)
        )
        self._leading = anyio.Lock()  # held by the wait that makes the rounds
        self._round = anyio.Event()  # set when a round is over, and made anew
        self._machines: Mapping[str, Machine] = {}
        self._trouble: CloudError | None = None  # why the last round brought nothing
        self._given_up: set[Instance] = set()  # by the latest wait for them
        self._asked_at = self._changed_at = float("-inf")

    async def wait(self, instances: Sequence[Instance], timeout: float | None) -> None:
        """Wait until all of `instances` are ready, but for those that are ended meanwhile.

        Args:
            instances: Which.
            timeout: Seconds for the whole; ``None``: for ever.

        Raises:
            BootTimeout: Some are not ready in time; calling again resumes.
            BootError: Some have failed for good.

        If cancelled, instances go on booting and stay the experiment's.
        """
        began = time.monotonic()
        await self._reach.recall(instances)
        missing = [instance for instance in instances if instance.state != "ready"]
        self._given_up.difference_update(missing)
        pending, total = set(missing), len(instances)
        self._announce_waiting(pending, total)
        with anyio.move_on_after(timeout) as scope:
            await self._remote.expect(len(instances))
            async with task_group() as poller:
                poller.start_soon(self._poll)
                driven = missing
                while driven:
                    pending.update(driven)
                    await self._drive_all(driven, pending, total)
                    # one that was ready may have been seen to end while the others booted
                    lapsed = [one for one in missing if one.state == "failed"]
                    driven = [one for one in lapsed if one not in self._given_up]
                poller.cancel_scope.cancel()
        await self._reach.pin()
        await self._launcher.states.record(self._launcher.instances)
        if missing := [one for one in missing if one.alive and one.state != "ready"]:
            kind = BootTimeout if scope.cancelled_caught else BootError
            diagnoses = {one.id: one.diagnosis or _unseen(one) for one in missing}
            await self._add_consoles(diagnoses)
            raise kind(diagnoses=diagnoses, waited=time.monotonic() - began)

    async def _drive_all(
        self, driven: Sequence[Instance], pending: set[Instance], total: int
    ) -> None:
        """Drive each; machines that are no newcomers are tried all at once first, as one batch."""
        async with task_group() as tasks:
            if self._cloud.traits.ends_machines:
                for instance in driven:
                    tasks.start_soon(self._drive_one, instance, pending, total)
                return

            def tried(instance: Instance, error: RemoteError | None) -> None:
                if self._judge(instance, error) and not self._is_final(error):
                    tasks.start_soon(self._drive_one, instance, pending, total, backoff(1))
                else:
                    pending.discard(instance)
                self._announce_waiting(pending, total)

            reaches = Reaches(
                targets=Column([self._reach.probed(instance) for instance in driven]),
                timeout=self._limits.probe_timeout,
            )
            watch = Tried(driven, tried)
            await self._remote.each(reaches, range(len(driven)), watch, width=len(driven))

    async def _drive_one(
        self, instance: Instance, pending: set[Instance], total: int, pause: float = 0.0
    ) -> None:
        plan, before = self._launcher.plans[instance], instance.state
        if pause:
            await anyio.sleep(pause)
        async with plan.lock:  # another wait may be at it, and bring it to its end
            if instance.state != "failed" or before == "failed":
                try:
                    await self._drive(instance, plan)
                except ExperimentException as error:
                    if instance.alive:
                        self._fail(instance, _seen(instance), f"it can't be replaced: {error}")
        pending.discard(instance)
        self._announce_waiting(pending, total)

    async def _drive(self, instance: Instance, plan: Plan) -> None:
        """See `instance` to ready, to having failed for good, or to its end."""
        attempt = 0
        while instance.alive and instance.state != "ready":
            if instance.state == "failed":
                if not await self._replaced(instance, plan, _seen(instance)):
                    return
                attempt = 0
                continue
            if self._reach.address(instance) is None:
                self._look_at(instance)
            else:
                attempt += 1
                error = await self._probe(instance, plan)
                if error is not None and self._is_final(error):
                    return
            if instance.state in ("ready", "failed") or not instance.alive:
                continue
            if plan.overdue:  # judged after a look, so that time between the calls does not count
                if not await self._replaced(
                    instance, plan, f"not ready in time: {_seen(instance)}"
                ):
                    return
                attempt = 0
            elif attempt:
                await anyio.sleep(min(1.0, backoff(attempt)))
            else:
                await self._round.wait()

    def _is_final(self, error: RemoteError | None) -> bool:
        """Whether trying again makes no sense: a machine that is no newcomer says no for good."""
        refused = isinstance(error, AuthenticationFailed | HostKeyMismatch)
        return refused and not self._cloud.traits.ends_machines

    async def _replaced(self, instance: Instance, plan: Plan, seen: str) -> bool:
        """Replace `instance`, unless it was launched often enough: then it has failed."""
        if instance.launches >= plan.boot_max_tries:
            self._fail(instance, seen, f"launched {instance.launches} time(s): look at the image")
            return False
        await self._launcher.replace(instance, seen)
        return True

    # -- describing --------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Make the rounds; while another wait makes them, be ready to go on when it is over."""
        async with self._leading:
            while True:
                await anyio.sleep(max(0.0, self._asked_at + self._interval() - time.monotonic()))
                await self._make_round()
                self._round.set()
                self._round = anyio.Event()

    def _interval(self) -> float:
        limits = self._limits
        idle = time.monotonic() - self._changed_at > limits.poll_idle_after
        free = self._cloud.traits.poll_interval is not None  # asking costs nothing
        if isinstance(self._trouble, Throttled) or (idle and not free):
            return limits.poll_interval_idle
        return self._launcher.interval

    async def _make_round(self) -> None:
        booting = [
            one
            for one in self._launcher.instances
            if one.alive and one.state not in ("ready", "failed")
        ]
        machines: Mapping[str, Machine] = {}
        trouble, self._trouble = self._trouble, None
        try:
            if booting:
                machines = await self._cloud.describe([one.id for one in booting])
        except CloudError as error:  # asked again: the timeout is the caller's
            self._trouble = error
            if str(error) != str(trouble):
                self._warn(f"the cloud can't be asked, and is asked again: {error}")
        reached("boot.seen")
        self._asked_at = time.monotonic()
        if self._changed_at == float("-inf") or (machines and machines != self._machines):
            self._changed_at = self._asked_at
        known, self._machines = self._machines, machines or self._machines
        for instance in booting:
            machine = machines.get(instance.id)
            if machine is not None and machine != known.get(instance.id):  # mostly there is no news
                before = instance.state
                self._launcher.saw(instance, machine)
                if instance.state != before:
                    self._announce_state(instance)
        await self._launcher.states.record(self._launcher.instances)

    def _look_at(self, instance: Instance) -> None:
        """Diagnose an instance that can't be probed yet."""
        if self._trouble is not None:
            seen, advice = f"the cloud can't be asked: {self._trouble}", ""
        elif instance.state == "pending":
            known = self._machines.get(instance.id)
            reason = known.reason if known is not None else ""
            seen, advice = reason or "the cloud says that it is pending", "give it more time"
        else:
            seen, advice = (
                "it runs, and has no address",
                'give it more time, or see address="private"',
            )
        self._diagnose(instance, seen, advice)

    # -- probing -----------------------------------------------------------------------------

    async def _probe(self, instance: Instance, plan: Plan) -> RemoteError | None:
        """Try once to reach `instance`; take down why it can't be, or what it is still at."""
        target, found, error = self._reach.probed(instance), Findings(), None
        reaches = Reaches(targets=Column([target]), timeout=self._limits.probe_timeout)
        try:
            await one(self._remote, reaches)
            if self._cloud.traits.ends_machines:
                if instance.state in ("pending", "running", "addressed"):
                    instance.state = "reachable"
                    reached("boot.reachable")
                    self._announce_state(instance)
                found = await probe(self._remote, target, self._brief, cloud_init=plan.cloud_init)
        except RemoteError as failure:
            error = failure
        return self._judge(instance, error, found)

    def _judge(
        self, instance: Instance, error: RemoteError | None, found: Findings | None = None
    ) -> RemoteError | None:
        """Take down what a probe has met with, or has found; its error."""
        if error is not None:
            self._diagnose(instance, *explained(error, self._reach.mending))
            return error
        if not instance.alive or instance.state in ("ready", "failed"):  # somebody was faster
            return None
        found = found or Findings()
        if found.busy:
            self._diagnose(instance, _waiting_for_cloud_init(found), CLOUD_INIT_ADVICE)
            return None
        if found.error:
            self._warn(
                f"{instance.id} is ready, and its cloud-init finished with errors: {found.error}; "
                "see /var/log/cloud-init.log and /var/log/cloud-init-output.log there"
            )
        self._is_ready(instance)
        return None

    def _is_ready(self, instance: Instance) -> None:
        instance.state, instance.diagnosis = "ready", None
        reached("boot.ready")
        instance.ready_at = now()
        if self._announce:
            self._announce(
                InstanceReady(
                    experiment=self._announce.experiment,
                    instance_id=instance.id,
                    address=instance.public_address or "",
                    seconds=time.monotonic() - self._launcher.plans[instance].asked,
                )
            )

    # -- telling -----------------------------------------------------------------------------

    def _diagnose(self, instance: Instance, seen: str, advice: str) -> None:
        instance.diagnosis = BootDiagnosis(stage=instance.state, seen=seen, advice=advice)

    def _fail(self, instance: Instance, seen: str, advice: str) -> None:
        known, stage = instance.diagnosis, instance.state
        if stage == "failed" and known is not None:
            stage = known.stage  # how far it came before that
        instance.diagnosis = BootDiagnosis(stage=stage, seen=seen, advice=advice)
        instance.state = "failed"
        self._given_up.add(instance)
        self._announce_state(instance)

    def _warn(self, text: str) -> None:
        self._announce(Warned(experiment=self._announce.experiment, text=text))

    def _announce_state(self, instance: Instance) -> None:
        self._announce(
            StateChanged(
                experiment=self._announce.experiment,
                instance_id=instance.id,
                state=instance.state,
                seen=_seen(instance) if instance.state == "failed" else "",
            )
        )

    def _announce_waiting(self, pending: set[Instance], total: int) -> None:
        if self._announce:
            self._announce(
                Waiting(experiment=self._announce.experiment, pending=len(pending), total=total)
            )

    async def _add_consoles(self, diagnoses: dict[str, BootDiagnosis]) -> None:
        """Add the end of the consoles, of the first few; the error must not wait long for them."""

        async def add(instance_id: str, diagnosis: BootDiagnosis) -> None:
            try:
                console = await self._cloud.console(instance_id)
            except ExperimentException as error:
                console = f"(not to be had: {error})"
            diagnoses[instance_id] = replace(diagnosis, console=tail_of(console, CONSOLE_TAIL))

        with anyio.move_on_after(CONSOLE_TIMEOUT):
            async with task_group() as tasks:
                for instance_id, diagnosis in list(diagnoses.items())[:CONSOLES]:
                    tasks.start_soon(add, instance_id, diagnosis)


def _seen(instance: Instance) -> str:
    return instance.diagnosis.seen if instance.diagnosis else f"it was {instance.state}"


def _waiting_for_cloud_init(found: Findings) -> str:
    return "waiting for cloud-init" + (f", at its stage {found.stage}" if found.stage else "")


def _unseen(instance: Instance) -> BootDiagnosis:
    return BootDiagnosis(stage=instance.state, seen=f"it was {instance.state} when last looked at")
