"""What an open experiment stands on, built up as one transaction and taken down in reverse."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from precip_async.boot import Boot
from precip_async.clouds.base import Access, Cloud
from precip_async.ending import Books
from precip_async.errors import ExperimentException, NameInUse
from precip_async.events import Announcer, Opened, Warned
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.home.names import hold_name
from precip_async.launch import Launcher
from precip_async.reach import Reach
from precip_async.work import command_work, get_work, put_work, script_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from precip_async.fleet import Instance
    from precip_async.settings import Settings
    from precip_async.ssh.remote import Remote

__all__ = ["Stage"]


class Stage:
    """Made by `open`; its parts are what the verbs work with."""

    command_work, script_work = command_work, script_work  # what the verbs do: see `work`
    put_work, get_work = put_work, get_work

    cloud: Cloud
    remote: Remote
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
        await in_thread(settings.check_files)
        home = await in_thread(Home.open, settings.path("home"))
        for warning in home.warnings:
            self.warn(warning)
        hold = await in_thread(hold_name, home, self.name)
        undo.push_async_callback(self._in_thread_for_sure, hold.release)
        journal = await in_thread(Journal.open, home)
        undo.push_async_callback(self._in_thread_for_sure, journal.close)
        self._books = Books(journal)
        self.output = (await in_thread(home.runtime, "output")) / self.name
        self.cloud = cloud if isinstance(cloud, Cloud) else await in_thread(cloud, home)
        self.reach = Reach(settings, self.cloud.traits)
        undo.push_async_callback(self._close_cloud)  # after the remote: no connects to what is gone
        public_key, self.remote = await self.reach.open(home)
        undo.push_async_callback(self.remote.aclose)
        await self.cloud.prepare(
            Access(
                experiment=self.name,
                owner=home.account_id,
                public_key=public_key,
                keep=settings.keep,
            )
        )
        shared = (self.remote, self.reach, limits, self.announce)
        self.launcher = Launcher(self.cloud, self._books, *shared)
        self.boot = Boot(self.cloud, self.launcher, *shared)
        await self._settle()
        traits = self.cloud.traits
        self.announce(
            Opened(
                experiment=self.name,
                cloud=traits.name,
                isolation=traits.isolation,
                reason=traits.isolation_reason,
            )
        )

    async def _settle(self) -> None:
        """See what an earlier experiment of this name has left here, which died or kept it.

        Raises:
            NameInUse: Some of it still runs.
        """
        write, traits = self._books.write, self.cloud.traits
        rows = [
            row
            for row in await write(Journal.alive, self.name)
            if (row.cloud, row.endpoint) == (traits.name, traits.endpoint)  # ids mean nothing else
        ]
        known = [row.instance_id for row in rows if row.instance_id]
        machines = dict(await self.cloud.describe(known)) if known else {}
        for token in [row.token for row in rows if not row.instance_id]:
            found = await self.cloud.find(token)
            if found:
                await write(Journal.answered, token, [machine.id for machine in found])
            else:
                await write(Journal.refused, token, "its experiment died; none was found")
            machines |= {machine.id: machine for machine in found}
        left = {one.id for one in machines.values() if one.state != "terminated"}
        await write(Journal.ended, {*known, *machines} - left)
        if left:
            raise NameInUse(
                name=self.name,
                holder="instances that an earlier experiment left running: "
                + ", ".join(sorted(left)),
            )

    def warn(self, text: str) -> None:
        """Announce something that is no error and should be known."""
        self.announce(Warned(experiment=self.name, text=text))

    def output_stems(self, instances: Iterable[Instance]) -> list[str]:
        """Where output of the next command goes that does not fit into memory, by instance."""
        self._sequence += 1
        beginning = f"{self.output}/{self._sequence:06d}."
        return [beginning + one.id.replace("/", "_").replace(":", "_") for one in instances]

    async def aclose(self) -> None:
        """End the instances unless they are to be kept, and let go of everything.

        Raises:
            ExperimentException: Some may still be running; the rest was closed all the same.
        """
        limits = self.settings.limits
        bound = 3 * limits.launch_timeout + limits.terminate_timeout  # launches in flight as well
        try:
            with anyio.move_on_after(bound, shield=True) as scope:
                await self.launcher.close(keep=self.settings.keep)
            if scope.cancelled_caught:
                raise ExperimentException(
                    f"experiment {self.name!r}: its instances could not be ended in "
                    f"{bound:g} s; look at the cloud itself"
                )
        finally:
            with anyio.move_on_after(4 * limits.close_grace, shield=True):
                await self._undo.aclose()

    async def _close_cloud(self) -> None:
        with anyio.move_on_after(self.settings.limits.terminate_timeout, shield=True):
            await self.cloud.aclose()

    async def _in_thread_for_sure(self, function: Callable[[], None]) -> None:
        with anyio.move_on_after(self.settings.limits.close_grace, shield=True):
            await anyio.to_thread.run_sync(function)
