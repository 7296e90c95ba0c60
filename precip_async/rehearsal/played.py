"""A cloud as the lab plays it, in the place of the one that the script speaks to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from precip_async.clouds.base import Access, Cloud, LaunchRequest, Machine, Traits
    from precip_async.clouds.ec2 import EC2Cloud
    from precip_async.rehearsal.casting import Role

__all__ = ["Played", "Stranger"]


class Played:
    """A `Cloud`: one that speaks to the lab, whose machines listen where the lab's do.

    Args:
        cloud: What speaks to the lab.
        ssh_port: Where the lab's machines listen.
    """

    def __init__(self, cloud: EC2Cloud, *, ssh_port: int) -> None:
        self._cloud, self._ssh_port = cloud, ssh_port

    @property
    def traits(self) -> Traits:
        """Those of the cloud that is played."""
        return self._cloud.traits

    async def prepare(self, access: Access) -> None:
        """See `Cloud.prepare`."""
        await self._cloud.prepare(access)

    async def launch(self, request: LaunchRequest) -> list[Machine]:
        """See `Cloud.launch`."""
        return [self._placed(machine) for machine in await self._cloud.launch(request)]

    async def describe(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """See `Cloud.describe`."""
        seen = await self._cloud.describe(ids)
        return {one: self._placed(machine) for one, machine in seen.items()}

    async def terminate(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """See `Cloud.terminate`."""
        ended = await self._cloud.terminate(ids)
        return {one: self._placed(machine) for one, machine in ended.items()}

    async def find(self, token: str) -> list[Machine]:
        """See `Cloud.find`."""
        return [self._placed(machine) for machine in await self._cloud.find(token)]

    async def console(self, instance_id: str) -> str:
        """See `Cloud.console`."""
        return await self._cloud.console(instance_id)

    async def aclose(self) -> None:
        """See `Cloud.aclose`."""
        await self._cloud.aclose()

    def _placed(self, machine: Machine) -> Machine:
        return replace(machine, ssh_port=self._ssh_port)


class Stranger(Played):
    """A cloud that plays another make than the script was written for.

    Images and types of instances that it can't have are replaced by some that it has, and the
    report says so. Where the script names hosts, an instance stands in for each, with its tags.

    Args:
        cloud: What speaks to the lab.
        ssh_port: Where the lab's machines listen.
        role: What is played.
        written_for: What the script speaks to, as far as that is a cloud that gives out tags.
        remark: Told what has been replaced.
    """

    def __init__(
        self,
        cloud: EC2Cloud,
        *,
        ssh_port: int,
        role: Role,
        written_for: Cloud | None,
        remark: Callable[[str], None],
    ) -> None:
        super().__init__(cloud, ssh_port=ssh_port)
        self._role, self._written_for, self._remark = role, written_for, remark
        self._seats: dict[str, Machine] = {}  # by the id of what stands in

    @property
    def traits(self) -> Traits:
        """With an image for scripts that name none, as hosts and local instances need none."""
        return replace(super().traits, default_image=self._role.family.image)

    async def launch(self, request: LaunchRequest) -> list[Machine]:
        """See `Cloud.launch`."""
        title, image = self._role.family.title, self._role.image_for(request.image_id)
        kind = self._role.kind_for(request.instance_type)
        if image != request.image_id:
            self._remark(f"{title} has no image {request.image_id!r}: {image} stood in")
        elif image == self._role.family.image:
            self._remark(f"{title} must be told an image: {image} stands in where none is named")
        if kind != request.instance_type:
            self._remark(f"{title} has no type {request.instance_type!r}: {kind} stood in")
        seats: list[Machine] = []
        if self._written_for is not None:
            seats = await self._written_for.launch(request)
            request = replace(request, count=len(seats))
        try:
            machines = await super().launch(replace(request, image_id=image, instance_type=kind))
        except BaseException:
            await self._leave(seats)
            raise
        self._seats |= {one.id: seat for one, seat in zip(machines, seats, strict=False)}
        await self._leave(seats[len(machines) :])
        return [replace(one, tags=self._tags(one.id)) for one in machines]

    async def terminate(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """See `Cloud.terminate`."""
        ended = await super().terminate(ids)
        await self._leave([self._seats.pop(one) for one in ids if one in self._seats])
        return ended

    def _tags(self, instance_id: str) -> tuple[str, ...]:
        seat: Any = self._seats.get(instance_id)
        return seat.tags if seat else ()

    async def _leave(self, seats: Sequence[Machine]) -> None:
        if seats and self._written_for is not None:
            await self._written_for.terminate([seat.id for seat in seats])
