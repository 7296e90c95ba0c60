"""Launching and ending instances, with the journal told before and after."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio

from precip_async.clock import now
from precip_async.ending import Ender, not_ended
from precip_async.errors import (
    CapacityUnavailable,
    CloudError,
    EndpointUnreachable,
    ExperimentClosed,
    ExperimentException,
    HomeError,
)
from precip_async.events import Deprovisioned, Deprovisioning, InstanceReplaced, Launched, Warned
from precip_async.fleet import BootDiagnosis, Instance
from precip_async.home.journal import Journal
from precip_async.ledger import States
from precip_async.plan import Plan
from precip_async.steps import reached

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from precip_async.clouds.base import Cloud, LaunchRequest, Machine
    from precip_async.ending import Books
    from precip_async.events import Announcer
    from precip_async.limits import Limits
    from precip_async.reach import Reach
    from precip_async.ssh.remote import Remote

__all__ = ["Launcher", "Plan"]

SWEEP = 10.0  # seconds for which a launch is looked for at least whose reply was lost


class Launcher:
    """Starts and ends the instances of one experiment.

    Args:
        lifetime: Seconds after which they end by themselves; ``None``: never.

    Attributes:
        instances: All that were ever provisioned, in their order, the ended ones included.
        plans: How each is to boot.
        closed: Whether nothing is launched any more.
        states: Tells the journal how far they are.
    """

    def __init__(
        self,
        cloud: Cloud,
        books: Books,
        remote: Remote,
        reach: Reach,
        limits: Limits,
        announce: Announcer,
        lifetime: float | None = None,
    ) -> None:
        self.instances: list[Instance] = []
        self.plans: dict[Instance, Plan] = {}
        self.closed = False
        self._cloud, self._books, self._remote, self._reach = cloud, books, remote, reach
        self._limits, self._announce, self._lifetime = limits, announce, lifetime
        self._ender = Ender(cloud, books, remote, reach, limits, announce, announce.experiment)
        self.states = States(books, announce, cloud)
        self._launched = self._in_flight = 0
        self._landed = anyio.Event()
        self._lost: dict[str, Plan] = {}  # by token: launches of which nobody knows the outcome
        self._longest = 0.0  # seconds that a launch has taken

    @property
    def interval(self) -> float:
        """Seconds between two describe rounds."""
        most = self._limits.poll_interval
        return min(most, self._cloud.traits.poll_interval or most)

    # -- launching ---------------------------------------------------------------------------

    async def provision(
        self,
        request: LaunchRequest,
        *,
        boot_timeout: float | None,
        boot_max_tries: int,
        cloud_init: bool = True,
    ) -> list[Instance]:
        """Launch `request`, whose ``token`` and ``first`` are set here.

        Args:
            request: What.
            boot_timeout: See `Plan`, and for the next.
            boot_max_tries: Launches of one instance at most.
            cloud_init: Whether to wait for cloud-init where it is sent user data.

        The reply is awaited, also when this is cancelled, for at most ``limits.launch_timeout``.

        Raises:
            CloudError: The cloud refused, or gave fewer than ``min_count``; nothing is left.
            HomeError: The journal can't be written; nothing is left.
        """
        plan = Plan(
            request=self._numbered(request),
            boot_timeout=boot_timeout,
            boot_max_tries=boot_max_tries,
            cloud_init=cloud_init and self._is_read(request),
        )
        await self._remote.expect(request.count + sum(one.alive for one in self.instances))
        with self._launching():
            instances = self._adopt(plan, await self._launch(plan))
            try:
                await self._answered(plan, {one.id: one.index for one in instances})
            except HomeError:
                await self.terminate(instances)
                raise
            if len(instances) < request.min_count:
                await self.terminate(instances)
                raise self._too_few(request, len(instances))
        return instances

    async def replace(self, instance: Instance, seen: str) -> None:
        """End the machine of `instance` and launch another in its place.

        Raises:
            ExperimentException: The old one may still be running, or the cloud refused a new one.

        If cancelled in between, the instance has failed, and can be replaced.
        """
        old, instance.state = instance.id, "failed"
        if problems := await self._ender.end([old], _unannounced, interval=self.interval):
            raise not_ended(problems)
        reached("replace.ended")
        plan = self.plans[instance]
        again = replace(plan, request=self._numbered(plan.request))
        with self._launching():
            machines = await self._launch(again)
            for machine in machines[:1]:
                instance.id, instance.state = machine.id, "pending"
                instance.launched_at, instance.ready_at = again.asked_at, None
                instance.public_address = instance.private_address = None
                instance.host_keys, instance.diagnosis = (), None
                instance.expires_at = again.request.expires
                instance.user_tags = _tags(again.request, machine)
                instance.launches += 1
                plan.asked, plan.asked_at = again.asked, again.asked_at
                self.saw(instance, machine)
            places = {machine.id: instance.index for machine in machines}
            await self._answered(again, places, launches=instance.launches)
            if not machines:
                raise self._too_few(again.request, 0)
        self._announce(
            InstanceReplaced(
                experiment=self._announce.experiment,
                instance_id=instance.id,
                replaced_id=old,
                seen=seen,
                launches=instance.launches,
            )
        )

    @contextmanager
    def _launching(self) -> Iterator[None]:
        """Shield a launch, which bounds itself, and let `close` know of it."""
        if self.closed:
            raise ExperimentClosed(f"experiment {self._announce.experiment!r} was closed")
        self._in_flight += 1
        try:
            with anyio.CancelScope(shield=True):
                yield
        finally:
            self._in_flight -= 1
            self._landed.set()
            self._landed = anyio.Event()

    def _is_read(self, request: LaunchRequest) -> bool:
        """Whether user data is sent to a cloud-init."""
        whose = self._cloud.traits.cloud_init
        return whose == "all" or (whose == "gave" and bool(request.user_data))

    def _numbered(self, request: LaunchRequest) -> LaunchRequest:
        first, self._launched = self._launched, self._launched + request.count
        expires = None
        if self._lifetime is not None:
            expires = now() + timedelta(seconds=self._lifetime)
        return replace(request, token=str(uuid.uuid4()), first=first, expires=expires)

    async def _launch(self, plan: Plan) -> list[Machine]:
        """Ask for a launch that was written down, and search for it where the reply is lost."""
        request, limits = plan.request, self._limits
        reached("launch.numbered")
        await self._books.write(
            Journal.intend,
            token=request.token,
            experiment=self._announce.experiment,
            cloud=self._cloud.traits.name,
            endpoint=self._cloud.traits.endpoint,
            region=self._cloud.traits.region,
            zone=self._cloud.traits.zone,
            image_id=request.image_id,
            instance_type=request.instance_type,
            count=request.count,
            first=request.ordinal,
            tags=request.tags,
            expires=request.expires,
            cloud_init=plan.cloud_init,
            **self._reach.way,
        )
        reached("launch.intended")
        self._lost[request.token] = plan
        plan.asked, plan.asked_at = time.monotonic(), now()
        try:
            with anyio.fail_after(limits.launch_timeout):
                machines = await self._cloud.launch(request)
        except (TimeoutError, EndpointUnreachable) as error:
            if found := await self._sweep(request):
                return found
            said, why = f"no answer within {limits.launch_timeout:g} s", ""
            if isinstance(error, CloudError):
                said, why = error.message, f"{error.hint}; " * bool(error.hint)
            raise CloudError(
                said,
                cloud=self._cloud.traits.name,
                operation="provision",
                hint=f"{why}nothing that it may have started was found so far; it is looked for "
                f"again when the experiment is closed (in the journal it is {request.token})",
            ) from error
        except ExperimentException as error:
            del self._lost[request.token]
            try:
                await self._books.write(Journal.refused, request.token, str(error))
            except HomeError as failure:  # the refusal comes first, and the journal's word is safe
                error.add_note(f"and the journal could not be told: {failure}")
            raise
        reached("launch.accepted")
        self._longest = max(self._longest, time.monotonic() - plan.asked)
        return machines

    async def _sweep(self, request: LaunchRequest) -> list[Machine]:
        """Search for what a launch has started whose reply was lost."""
        found: list[Machine] = []
        with anyio.move_on_after(min(self._limits.launch_timeout, max(SWEEP, self._longest))):
            while len(found) < request.count:
                try:
                    found = await self._cloud.find(request.token)
                except CloudError as error:  # asked again
                    self._warn(str(error))
                if len(found) < request.count:  # the rest may be on its way
                    await anyio.sleep(self.interval)
        return found

    def _adopt(self, plan: Plan, machines: Sequence[Machine]) -> list[Instance]:
        """Make what was launched the experiment's."""
        instances = []
        for ordinal, machine in enumerate(machines, plan.request.ordinal):
            one = replace(plan.request, count=1, min_count=1, instead=ordinal)
            instance = Instance(
                id=machine.id,
                index=self.instances[-1].index + 1 if self.instances else 0,
                image_id=one.image_id,
                instance_type=one.instance_type,
                launched_at=plan.asked_at,
                expires_at=one.expires,
                user_tags=_tags(one, machine),
                isolation=self._cloud.traits.isolation,
            )
            self.instances.append(instance)
            self.plans[instance] = replace(plan, request=one)
            self.saw(instance, machine)
            instances.append(instance)
            self._announce(
                Launched(
                    experiment=self._announce.experiment,
                    instance_id=instance.id,
                    image_id=instance.image_id,
                    instance_type=instance.instance_type,
                    tags=instance.user_tags,
                )
            )
        return instances

    def take_over(self, instance: Instance, plan: Plan, machine: Machine, *, launched: int) -> None:
        """Make the experiment's what an earlier process launched, as one of `launched` so far."""
        self.instances.append(instance)
        self.plans[instance] = plan
        self._launched = max(self._launched, launched)
        self.saw(instance, machine)

    def seek(self, plan: Plan) -> None:
        """See to it that what a launch may have started, which nobody answered, is ended."""
        self._lost[plan.request.token] = plan

    async def _answered(self, plan: Plan, places: dict[str, int], *, launches: int = 1) -> None:
        self._lost.pop(plan.request.token, None)
        await self._books.write(
            Journal.answered,
            plan.request.token,
            [*places],
            places=[*places.values()],
            launches=launches,
        )
        reached("launch.answered")

    def saw(self, instance: Instance, machine: Machine) -> None:
        """Take over what the cloud says of an instance. Its state only ever moves on from here."""
        instance.public_address = machine.public_address or instance.public_address
        instance.private_address = machine.private_address or instance.private_address
        self._reach.told(instance, machine)
        if not instance.alive:
            return
        if machine.state in ("failed", "terminated", "shutting-down"):
            if instance.state != "failed":
                why = f"the cloud ended it: {machine.reason or 'it gave no reason'}"
                instance.diagnosis = BootDiagnosis(stage=instance.state, seen=why)
            instance.state = "failed"
        elif instance.state in ("pending", "running") and machine.state == "running":
            instance.state = "running" if self._reach.address(instance) is None else "addressed"

    # -- ending ------------------------------------------------------------------------------

    async def close(self, *, keep: bool) -> None:
        """Launch nothing any more, wait for what is being launched, and end all unless `keep`.

        Raises:
            ExperimentException: Something may still be running.
        """
        self.closed = True
        reached("close.begun")
        while self._in_flight:
            await self._landed.wait()
        if keep:
            return
        problems: dict[str, str] = {}
        for token, plan in self._lost.copy().items():
            try:
                found = self._adopt(plan, await self._cloud.find(token))
                await self._answered(plan, {one.id: one.index for one in found})
            except ExperimentException as error:
                problems[f"what the launch {token} may have started"] = str(error)
        # also the failed ones: a cloud that says so may charge for them all the same
        alive = [instance for instance in self.instances if instance.state != "terminated"]
        if problems := problems | await self._terminate(alive):
            raise not_ended(problems)

    async def terminate(self, instances: Sequence[Instance]) -> None:
        """End `instances` and wait until the cloud confirms it, each on its own.

        Raises:
            ExperimentException: Some may still be running; the rest has ended.
        """
        if problems := await self._terminate(instances):
            raise not_ended(problems)

    async def _terminate(self, instances: Sequence[Instance]) -> dict[str, str]:
        by_id = {instance.id: instance for instance in instances}

        def ended(one: str) -> None:
            if by_id[one].state != "terminated":
                by_id[one].state = "terminated"
                self._announce(Deprovisioned(experiment=self._announce.experiment, instance_id=one))

        for instance in instances:
            known, instance.state = instance.state, "terminating"
            if known != "terminating":
                self._announce(
                    Deprovisioning(experiment=self._announce.experiment, instance_id=instance.id)
                )
        return await self._ender.end([*by_id], ended, interval=self.interval)

    # -- telling -----------------------------------------------------------------------------

    def _warn(self, text: str) -> None:
        self._announce(Warned(experiment=self._announce.experiment, text=text))

    def _too_few(self, request: LaunchRequest, started: int) -> CloudError:
        ended = ", and ended again" if started else ""
        return CapacityUnavailable(
            f"{request.min_count} asked for, {started} started{ended}",
            cloud=self._cloud.traits.name,
            operation="provision",
            hint="ask for fewer, or with a lower min_count=",
        )


def _unannounced(instance_id: str) -> None:
    """The end of a machine that is replaced is not the end of its instance."""


def _tags(request: LaunchRequest, machine: Machine) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*request.tags, *machine.tags)))
