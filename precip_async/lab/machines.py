"""The machines behind the instances: this computer's, kept by a warden that outlives nobody."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import anyio

from precip_async.clouds.base import Access, LaunchRequest, Machine
from precip_async.clouds.local.cloud import Isolation, LocalCloud
from precip_async.clouds.local.hostkeys import make_host_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from precip_async.clouds.local.faults import Orders

__all__ = ["Machines"]


class Machines:
    """All machines of one lab.

    Args:
        directory: Where their state is kept.
        isolation: See `LocalCloud`.
    """

    def __init__(self, directory: Path, isolation: Isolation) -> None:
        self._cloud = LocalCloud(directory, isolation=isolation)
        self._name = f"lab-{secrets.token_hex(4)}"
        self._nobodys_key = ""
        self._launched = 0

    @property
    def isolation(self) -> str:
        """How they are kept apart."""
        return self._cloud.traits.isolation

    @property
    def ssh_port(self) -> int:
        """Where their SSH servers listen."""
        return 22 if self.isolation == "namespace" else 2222

    @property
    def nobodys_key(self) -> str:
        """A public key whose private half nobody has: for machines launched without one."""
        return self._nobodys_key

    async def open(self) -> None:
        """Start their warden.

        Raises:
            CloudError: The isolation can't be had.
        """
        _, self._nobodys_key = await anyio.to_thread.run_sync(make_host_key)
        await self._cloud.prepare(
            Access(experiment=self._name, owner="lab", public_key=self._nobodys_key)
        )

    async def start(self, orders: Sequence[Orders], *, disk: int | None) -> list[str]:
        """Begin to start machines; their ids, in order.

        Raises:
            CloudError: They can't be started; none was.
        """
        first, self._launched = self._launched, self._launched + len(orders)
        launched = await self._cloud.launch(
            LaunchRequest(
                token=f"{self._name}-{first}",
                image_id="local",
                instance_type="local",
                count=len(orders),
                min_count=len(orders),
                first=first,
                ebs_size=disk,
            ),
            orders=orders,
        )
        return [machine.id for machine in launched]

    async def look(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """What became of them."""
        return await self._cloud.describe(ids)

    async def end(self, ids: Sequence[str]) -> None:
        """Begin to end them."""
        await self._cloud.terminate(ids)

    async def console(self, machine_id: str) -> str:
        """The end of what a machine said."""
        return await self._cloud.console(machine_id)

    async def aclose(self) -> None:
        """End all of them; they are gone on return."""
        await self._cloud.aclose()
