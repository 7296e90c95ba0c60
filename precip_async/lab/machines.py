"""The machines behind the instances: this computer's, kept by a warden that outlives nobody."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import anyio

from precip_async.clouds.base import Access, LaunchRequest, Machine
from precip_async.clouds.local.cloud import Isolation, LocalCloud
from precip_async.clouds.local.hostkeys import make_host_key
from precip_async.clouds.local.namespace_probe import obstacle
from precip_async.errors import CloudError
from precip_async.lab.cloud_init import what_is_here

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from precip_async.clouds.local.faults import Orders

__all__ = ["Machines", "choose_cloud_init", "choose_isolation", "port_of"]


def port_of(isolation: Isolation) -> int:
    """Where machines' SSH servers listen."""
    return 22 if isolation == "namespace" else 2222


async def choose_isolation(wanted: Isolation) -> Isolation:
    """How machines are to be kept apart here.

    Raises:
        CloudError: Not as wanted.
    """
    if wanted == "process":
        return wanted
    reason = await anyio.to_thread.run_sync(obstacle)
    if not reason:
        return "namespace"
    if wanted == "namespace":
        raise CloudError(
            f"machines in namespaces can't be had here: {reason}",
            cloud="lab",
            operation="open",
            hint="isolation='process' works anywhere",
        )
    return "process"


async def choose_cloud_init(wanted: bool | None, isolation: Isolation) -> str:
    """The script that runs the real cloud-init on machines of this isolation; empty: none is run.

    Raises:
        CloudError: None can be, and one is wanted.
    """
    script, missing = "", "only machines in namespaces can"
    if wanted is not False and isolation == "namespace":
        script = await anyio.to_thread.run_sync(what_is_here)
        missing = "there is no `cloud-init` here (the package is called so)"
    if wanted and not script:
        raise CloudError(
            f"machines can't run the real cloud-init: {missing}",
            cloud="lab",
            operation="open",
            hint="without cloud_init=True the lab does of it what it can",
        )
    return script


class Machines:
    """All machines of one lab; their warden is started with the first of them.

    Args:
        directory: Where their state is kept.
        isolation: How they are kept apart: ``"namespace"`` or ``"process"``.
        fleet: Whether they are many, and less apart.
        cloud_init: The script that runs the real one at their boot; empty: they run none.
    """

    def __init__(
        self,
        directory: Path,
        isolation: Isolation,
        *,
        fleet: bool = False,
        cloud_init: str = "",
    ) -> None:
        self.isolation, self.cloud_init = isolation, cloud_init
        self._cloud = LocalCloud(directory, isolation=isolation, crowd=fleet)
        self._name = f"lab-{secrets.token_hex(4)}"
        self._opening = anyio.Lock()
        self._is_open = False
        self._launched = 0

    @property
    def ssh_port(self) -> int:
        """Where their SSH servers listen."""
        return port_of(self.isolation)

    async def start(self, orders: Sequence[Orders], *, disk: int | None) -> list[str]:
        """Begin to start machines; their ids, in order.

        Raises:
            QuotaExceeded: There is no room for so many; none was started.
            CloudError: There can't be any here.
        """
        async with self._opening:
            if not self._is_open:
                await self._open()
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
        return await self._cloud.describe(ids) if ids else {}

    async def end(self, ids: Sequence[str]) -> None:
        """Begin to end them."""
        if ids:
            await self._cloud.terminate(ids)

    async def console(self, machine_id: str) -> str:
        """The end of what a machine said."""
        return await self._cloud.console(machine_id)

    async def aclose(self) -> None:
        """End all of them; they are gone on return."""
        await self._cloud.aclose()

    async def _open(self) -> None:
        # Every machine is ordered with keys of its own; nobody has the private half of this one.
        _, public = await anyio.to_thread.run_sync(make_host_key)
        await self._cloud.prepare(Access(experiment=self._name, owner="lab", public_key=public))
        self._is_open = True
