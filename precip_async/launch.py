"""Launching and ending instances, with the journal told before and after."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import anyio
import anyio.to_thread

from precip_async.errors import CapacityUnavailable, CloudError, ExperimentException
from precip_async.events import Deprovisioned, Deprovisioning, InstanceReplaced, Launched, Warned
from precip_async.fleet import Instance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from precip_async.clouds.base import Cloud, LaunchRequest, Machine
    from precip_async.events import Announcer
    from precip_async.home.journal import Journal
    from precip_async.limits import Limits
    from precip_async.reach import Reach
    from precip_async.ssh.pool import Pool

__all__ = ["Launcher", "Plan"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True, kw_only=True)
class Plan:
    """How an instance is to boot, and to be replaced.

    Attributes:
        request: What it was launched by, for one instance.
        boot_timeout: Seconds after which it is replaced when it is not ready.
        boot_max_tries: Launches at most.
        lock: Held by whoever sees to its boot.
    """

    request: LaunchRequest
    boot_timeout: float | None
    boot_max_tries: int
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class Launcher:
    """Starts and ends the instances of one experiment.

    Attributes:
        instances: All that were ever provisioned, in their order, the ended ones included.
        plans: How each is to boot.
    """

    def __init__(
        self,
        cloud: Cloud,
        journal: Journal,
        pool: Pool,
        reach: Reach,
        limits: Limits,
        announce: Announcer,
    ) -> None:
        self.instances: list[Instance] = []
        self.plans: dict[Instance, Plan] = {}
        self._cloud, self._journal, self._pool, self._reach = cloud, journal, pool, reach
        self._limits, self._announce = limits, announce
        self._launched = 0
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def write(self, method: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a method of the journal in a thread, one at a time; not cancelled half-way."""
        return await anyio.to_thread.run_sync(
            lambda: method(*args, **kwargs), limiter=self._one_at_a_time
        )

    async def provision(
        self, request: LaunchRequest, *, boot_timeout: float | None, boot_max_tries: int
    ) -> list[Instance]:
        """Launch `request`, whose ``token`` and ``first`` are set here.

        The reply is awaited, also when this is cancelled, for at most ``limits.launch_timeout``.

        Raises:
            CloudError: The cloud refused, or gave fewer than ``min_count``; nothing is left.
        """
        asked = datetime.now(UTC)
        with anyio.CancelScope(shield=True):  # bounded by _launch; what it starts is ours at once
            machines = await self._launch(request)
            instances = [
                Instance(
                    id=machine.id,
                    index=len(self.instances) + place,
                    image_id=request.image_id,
                    instance_type=request.instance_type,
                    launched_at=asked,
                    user_tags=request.tags,
                    isolation=self._cloud.traits.isolation,
                )
                for place, machine in enumerate(machines)
            ]
            self.instances += instances
            one = replace(request, count=1, min_count=1)
            for instance, machine in zip(instances, machines, strict=True):
                self.plans[instance] = Plan(
                    request=one, boot_timeout=boot_timeout, boot_max_tries=boot_max_tries
                )
                self.saw(instance, machine)
            for instance in instances:
                self._announce(
                    Launched(
                        experiment=self._announce.experiment,
                        instance_id=instance.id,
                        image_id=instance.image_id,
                        instance_type=instance.instance_type,
                        tags=instance.user_tags,
                    )
                )
            if len(instances) < request.min_count:
                await self.terminate(instances)
                raise CapacityUnavailable(
                    f"{request.min_count} asked for, {len(instances)} started, and ended again",
                    cloud=self._cloud.traits.name,
                    operation="provision",
                    hint="ask for fewer, or with a lower min_count=",
                )
        return instances

    async def _launch(self, request: LaunchRequest) -> list[Machine]:
        token = str(uuid.uuid4())
        request = replace(request, token=token, first=self._launched)
        self._launched += request.count
        await self.write(
            self._journal.intend,
            token=token,
            experiment=self._announce.experiment,
            cloud=self._cloud.traits.name,
            image_id=request.image_id,
            instance_type=request.instance_type,
            count=request.count,
            first=request.first,
            tags=request.tags,
        )
        machines: list[Machine] | None = None
        try:
            with anyio.move_on_after(self._limits.launch_timeout):
                machines = await self._cloud.launch(request)
            if machines is None:  # the reply is lost, and what it started must not be
                with anyio.move_on_after(self._limits.launch_timeout):
                    machines = await self._cloud.find(token)
        except CloudError as error:
            await self.write(self._journal.refused, token, str(error))
            raise
        if not machines:
            found = (
                "nothing was started" if machines is not None else "nobody knows what it started"
            )
            raise CloudError(
                f"no answer within {self._limits.launch_timeout:.0f} s, and {found}",
                cloud=self._cloud.traits.name,
                operation="provision",
                hint=f"the launch is in the journal as {token}",
            )
        await self.write(self._journal.answered, token, [machine.id for machine in machines])
        return machines

    async def replace(self, instance: Instance, seen: str) -> None:
        """End the machine of `instance` and launch another in its place.

        Raises:
            CloudError: The cloud refused; the instance has failed.
        """
        plan, old = self.plans[instance], instance.id
        await self.terminate([instance], announce=False)
        instance.state = "failed"
        asked = datetime.now(UTC)
        with anyio.CancelScope(shield=True):  # bounded by _launch
            machine = (await self._launch(plan.request))[0]
            instance.id, instance.state = machine.id, "pending"
            instance.launched_at, instance.ready_at = asked, None
            instance.public_address = instance.private_address = None
            instance.host_keys, instance.diagnosis = (), None
            instance.launches += 1
            self.saw(instance, machine)
        self._announce(
            InstanceReplaced(
                experiment=self._announce.experiment,
                instance_id=instance.id,
                replaced_id=old,
                seen=seen,
                launches=instance.launches,
            )
        )

    def saw(self, instance: Instance, machine: Machine) -> None:
        """Take over what the cloud says of an instance. Its state only ever moves on from here."""
        instance.public_address = machine.public_address or instance.public_address
        instance.private_address = machine.private_address or instance.private_address
        if machine.ssh_port is not None:
            instance.ssh_port = machine.ssh_port
        if machine.host_keys and machine.host_keys != instance.host_keys:
            instance.host_keys = machine.host_keys
            self._reach.told(instance)
        if not instance.alive:
            return
        if machine.state in ("failed", "terminated", "shutting-down"):
            instance.state = "failed"
        elif instance.state in ("pending", "running") and machine.state == "running":
            instance.state = "addressed" if machine.public_address else "running"

    async def terminate(self, instances: Sequence[Instance], *, announce: bool = True) -> None:
        """End `instances` and wait until the cloud confirms it, each on its own.

        Raises:
            ExperimentException: Some may still be running; the rest has ended.
        """
        ids = [instance.id for instance in instances]
        if not ids:
            return
        by_id = dict(zip(ids, instances, strict=True))
        for instance in instances:
            instance.state = "terminating"
            if announce:
                self._announce(
                    Deprovisioning(experiment=self._announce.experiment, instance_id=instance.id)
                )
        await self.write(self._journal.ending, ids)
        async with anyio.create_task_group() as tasks:
            for one in ids:
                tasks.start_soon(self._pool.forget, one)
        left = dict.fromkeys(ids, "")
        with anyio.move_on_after(self._limits.terminate_timeout):
            left = await self._ask_for_the_end(ids)
            pending = [one for one in ids if one not in left]
            while pending:
                machines = await self._described(pending)
                gone = [one for one in pending if machines is not None and _ends(machines.get(one))]
                pending = [one for one in pending if one not in gone]
                await self._ended([by_id[one] for one in gone], announce=announce)
                if pending:
                    await anyio.sleep(self._limits.poll_interval)
        still = [instance.id for instance in instances if instance.state != "terminated"]
        if still:
            why = "; ".join({text for text in left.values() if text}) or (
                f"the cloud did not confirm it within {self._limits.terminate_timeout:.0f} s"
            )
            raise ExperimentException(
                f"not known to have ended: {', '.join(still)}: {why}; look at the cloud itself"
            )

    async def _ask_for_the_end(self, ids: list[str]) -> dict[str, str]:
        """Ask for all at once, and where that fails for each alone; return the failures."""
        try:
            await self._cloud.terminate(ids)
        except CloudError as error:
            if len(ids) == 1:
                return {ids[0]: str(error)}
            left: dict[str, str] = {}
            for one in ids:
                left |= await self._ask_for_the_end([one])
            return left
        return {}

    async def _described(self, ids: list[str]) -> Mapping[str, Machine] | None:
        try:
            return await self._cloud.describe(ids)
        except CloudError as error:  # asked again until the timeout
            self._announce(Warned(experiment=self._announce.experiment, text=str(error)))
            return None

    async def _ended(self, instances: Sequence[Instance], *, announce: bool) -> None:
        if not instances:
            return
        for instance in instances:
            instance.state = "terminated"
            if announce:
                self._announce(
                    Deprovisioned(experiment=self._announce.experiment, instance_id=instance.id)
                )
        ids = [instance.id for instance in instances]
        await self.write(self._journal.ended, ids)
        await self._reach.forget(ids)


def _ends(machine: Machine | None) -> bool:
    return machine is None or machine.state in ("shutting-down", "terminated", "failed")
