"""What an open experiment stands on, built up as one transaction and taken down in reverse."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from precip_async.boot import Boot
from precip_async.clouds.base import Access, Cloud
from precip_async.clouds.hosts import HostsCloud
from precip_async.errors import ExperimentException, NameInUse
from precip_async.events import Announcer, Opened, Warned
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.home.names import hold_name
from precip_async.launch import Launcher
from precip_async.reach import Reach
from precip_async.work import command_jobs, get_jobs, put_jobs, script_jobs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precip_async.settings import Settings
    from precip_async.ssh.pool import Pool

__all__ = ["Stage"]

logger = logging.getLogger(__name__)


class Stage:
    """Made by `open`; its parts are what the verbs work with."""

    command_jobs, script_jobs = command_jobs, script_jobs  # what the verbs do: see `work`
    put_jobs, get_jobs = put_jobs, get_jobs

    cloud: Cloud
    pool: Pool
    reach: Reach
    launcher: Launcher
    boot: Boot
    output: Path

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self.announce = Announcer(name, settings.observers)
        self._undo = AsyncExitStack()
        self._sequence = 0

    @classmethod
    async def open(
        cls, name: str, cloud: Cloud | Callable[[Home], Cloud], settings: Settings
    ) -> Stage:
        """Take the name, open the home, and have the cloud accept us; or nothing of it."""
        stage = cls(name, settings)
        async with AsyncExitStack() as undo:
            await stage._build(undo, cloud)
            stage._undo = undo.pop_all()
        return stage

    async def _build(self, undo: AsyncExitStack, cloud: Cloud | Callable[[Home], Cloud]) -> None:
        in_thread = anyio.to_thread.run_sync
        settings, limits = self.settings, self.settings.limits
        home = await in_thread(Home.open, settings.path("home"))
        for warning in home.warnings:
            self.warn(warning)
        hold = await in_thread(hold_name, home, self.name)
        undo.callback(hold.release)
        journal = await in_thread(Journal.open, home)
        undo.callback(journal.close)
        self.output = (await in_thread(home.runtime, "output")) / self.name
        self.cloud = cloud if isinstance(cloud, Cloud) else cloud(home)
        user_of = self.cloud.user_of if isinstance(self.cloud, HostsCloud) else _nobody
        self.reach = Reach(settings, self.cloud.traits, user_of)
        public_key, self.pool = await self.reach.open(home)
        undo.push_async_callback(self.pool.aclose)
        undo.push_async_callback(self._close_cloud)
        await self.cloud.prepare(
            Access(
                experiment=self.name,
                owner=home.account_id,
                public_key=public_key,
                keep=settings.keep,
            )
        )
        self.launcher = Launcher(self.cloud, journal, self.pool, self.reach, limits, self.announce)
        self.boot = Boot(self.cloud, self.launcher, self.pool, self.reach, limits, self.announce)
        await self._settle(journal)
        traits = self.cloud.traits
        self.announce(Opened(experiment=self.name, cloud=traits.name, isolation=traits.isolation))

    async def _settle(self, journal: Journal) -> None:
        """See what an earlier experiment of this name has left, which died or kept it.

        Raises:
            NameInUse: Some of it still runs.
        """
        write = self.launcher.write
        rows = await write(journal.alive, self.name)
        machines = await self.cloud.describe([row.instance_id for row in rows if row.instance_id])
        for row in rows:
            if not row.instance_id:
                found = await self.cloud.find(row.token)
                if found:
                    await write(journal.answered, row.token, [machine.id for machine in found])
                else:
                    await write(journal.refused, row.token, "its experiment died; none was found")
                machines = {**machines, **{machine.id: machine for machine in found}}
        ended = {row.instance_id for row in rows if row.instance_id} - {
            machine.id for machine in machines.values() if machine.state != "terminated"
        }
        await write(journal.ended, ended)
        left = sorted(one.id for one in machines.values() if one.state != "terminated")
        if left:
            raise NameInUse(
                name=self.name,
                holder=f"instances that an earlier experiment left running: {', '.join(left)}",
            )

    def warn(self, text: str) -> None:
        """Announce something that is no error and should be known."""
        self.announce(Warned(experiment=self.name, text=text))

    def output_stem(self, instance_id: str) -> Path:
        """Where the next output goes that does not fit into memory."""
        self._sequence += 1
        safe = instance_id.replace("/", "_").replace(":", "_")
        return self.output / f"{self._sequence:06d}.{safe}"

    async def aclose(self) -> None:
        """End the instances unless they are to be kept, and let go of everything.

        Raises:
            ExperimentException: Some may still be running; the rest was closed all the same.
        """
        limits = self.settings.limits
        try:
            if not self.settings.keep:
                bound = limits.launch_timeout + limits.terminate_timeout
                with anyio.move_on_after(bound, shield=True) as scope:
                    await self._end_all()
                if scope.cancelled_caught:
                    raise ExperimentException(
                        f"experiment {self.name!r}: its instances could not be ended in "
                        f"{bound:.0f} s; look at the cloud itself"
                    )
        finally:
            with anyio.move_on_after(4 * limits.close_grace, shield=True):
                await self._undo.aclose()

    async def _end_all(self) -> None:
        # also the failed ones: a cloud that says so may charge for them all the same
        alive = [one for one in self.launcher.instances if one.state != "terminated"]
        await self.launcher.terminate(alive)

    async def _close_cloud(self) -> None:
        with anyio.move_on_after(self.settings.limits.terminate_timeout, shield=True):
            await self.cloud.aclose()


def _nobody(instance_id: str) -> str | None:  # noqa: ARG001 - the signature of `user_of`
    return None
