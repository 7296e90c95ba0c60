"""What an open experiment stands on, built up as one transaction and taken down in reverse."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from precip_async import clock
from precip_async.attaching import as_before, attach_to
from precip_async.boot import Boot
from precip_async.clouds.base import Access, Attachable, Cloud, Keeping, Reapable
from precip_async.ending import Books, not_ended
from precip_async.errors import (
    ExperimentException,
    HostKeyMismatch,
    InvalidArgument,
    NameInUse,
    RemoteError,
)
from precip_async.events import Announcer, Closed, Opened, Warned
from precip_async.fanout import Jobs, fan_out
from precip_async.fleet import checked_tags, select
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.home.names import hold_name
from precip_async.jobs import (
    end_jobs,
    end_left,
    list_jobs,
    read_job,
    remove_jobs,
    start_jobs,
    wait_jobs,
)
from precip_async.launch import Launcher
from precip_async.ledger import JournalLedger
from precip_async.lifetime import arm, extend
from precip_async.plan import SETTLED
from precip_async.reach import Reach
from precip_async.reaping import reap
from precip_async.settings import checked_parallel
from precip_async.steps import reached
from precip_async.work import command_work, get_work, put_work, script_work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from precip_async.fanout import Work
    from precip_async.fleet import Instance, Tags
    from precip_async.settings import Parallel, Settings
    from precip_async.ssh.remote import Remote

__all__ = ["Stage"]

Value = TypeVar("Value")


class Stage:
    """Made by `open`; its parts are what the verbs work with."""

    command_work, script_work = command_work, script_work  # what the verbs do: see `work`
    put_work, get_work = put_work, get_work
    arm, extend = arm, extend  # see `lifetime`
    start_jobs, list_jobs, read_job = start_jobs, list_jobs, read_job  # see `jobs`
    wait_jobs, end_jobs, end_left, remove_jobs = wait_jobs, end_jobs, end_left, remove_jobs

    cloud: Cloud
    remote: Remote
    reach: Reach
    launcher: Launcher
    boot: Boot
    output: Path
    owner: str

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self.announce = Announcer(name, settings.observers)
        self.armed: set[str] = set()  # the machines that were seen to end by themselves
        self.detached: dict[str, set[str | None]] = {}  # by instance: whose commands go on there
        self._undo = AsyncExitStack()
        self._loop = asyncio.get_running_loop()
        self._sequence = 0

    @classmethod
    async def open(
        cls,
        name: str,
        cloud: Cloud | Callable[[Home], Cloud],
        settings: Settings,
        *,
        attach: bool = False,
    ) -> Stage:
        """Take the name, open the home, and have the cloud accept us; or nothing of it.

        With `attach` the instances of that name are taken over, instead of being in the way.
        """
        stage = cls(name, settings)
        async with AsyncExitStack() as undo:
            await stage._build(undo, cloud, attach=attach)
            stage._undo = undo.pop_all()
        return stage

    async def _build(
        self, undo: AsyncExitStack, cloud: Cloud | Callable[[Home], Cloud], *, attach: bool
    ) -> None:
        in_thread = anyio.to_thread.run_sync
        settings, limits = self.settings, self.settings.limits
        await in_thread(settings.check_files)
        home = await in_thread(Home.open, settings.path("home"))
        for warning in home.warnings:
            self.warn(warning)
        self.owner = home.account_id
        hold = await in_thread(hold_name, home, self.name)
        undo.push_async_callback(self._in_thread_for_sure, hold.release)
        journal = await in_thread(Journal.open, home)
        undo.push_async_callback(self._in_thread_for_sure, journal.close)
        self._of_no_loop = (journal.close, hold.release)
        self.books = Books(journal)
        self.output = (await in_thread(home.runtime, "output")) / self.name
        self.cloud = cloud if isinstance(cloud, Cloud) else await in_thread(cloud, home)
        if attach:
            self.settings = settings = await as_before(
                self.books, self.name, self.cloud.traits, settings
            )
        settings.check_lifetime(self.cloud)
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
                purpose="attach" if attach else "launch",
                ledger=JournalLedger(self.books, self.announce, lambda: self.cloud.traits),
            )
        )
        reached("cloud.prepared")
        shared = (self.remote, self.reach, limits, self.announce)
        self.launcher = Launcher(self.cloud, self.books, *shared, settings.max_lifetime)
        self.boot = Boot(self.cloud, self.launcher, *shared)
        if attach:
            await attach_to(self, home)
        else:
            await self._settle()
        traits = self.cloud.traits
        self.announce(
            Opened(
                experiment=self.name,
                cloud=traits.name,
                isolation=traits.isolation,
                reason=traits.isolation_reason,
                attached=len(self.launcher.instances) if attach else None,
            )
        )

    async def _settle(self) -> None:
        """See what an earlier experiment of this name has left here, which died or kept it.

        Raises:
            NameInUse: Some of it still runs.
        """
        write, traits = self.books.write, self.cloud.traits
        rows = [
            row
            for row in await write(Journal.alive, self.name)
            if (row.cloud, row.endpoint) == (traits.name, traits.endpoint)  # ids mean nothing else
        ]
        if traits.isolation or not traits.ends_machines:  # known under the home that has them only
            rows = [row for row in rows if row.owner == self.owner]
        known = [row.instance_id for row in rows if row.instance_id]
        if traits.ends_machines and isinstance(self.cloud, Attachable):
            # a young one may not be seen yet
            await self.cloud.remember({one.instance_id: one.age for one in rows if one.instance_id})
        machines = dict(await self.cloud.describe(known)) if known else {}
        for row in [row for row in rows if not row.instance_id]:
            found = await self.cloud.find(row.token)
            if found:
                await write(Journal.answered, row.token, [machine.id for machine in found])
            elif row.age > SETTLED or not traits.region:  # what is near has seen it, or will never
                await write(Journal.refused, row.token, "its experiment died; none was found")
            machines |= {machine.id: machine for machine in found}
        left = {one.id for one in machines.values() if one.state != "terminated"}
        gone = {*known, *machines} - left
        await write(Journal.ended, gone, endpoint=traits.endpoint, experiment=self.name)
        if left:
            raise NameInUse(
                name=self.name,
                holder="instances that an earlier experiment left running: "
                + ", ".join(sorted(left)),
                left=True,
            )

    def warn(self, text: str) -> None:
        """Announce something that is no error and should be known."""
        self.announce(Warned(experiment=self.name, text=text))

    def output_stems(self, instances: Iterable[Instance]) -> list[str]:
        """Where output of the next command goes that does not fit into memory, by instance."""
        self._sequence += 1
        beginning = f"{self.output}/{self._sequence:06d}."
        return [beginning + one.id.replace("/", "_").replace(":", "_") for one in instances]

    # -- what the verbs share ----------------------------------------------------------------

    def selected(self, tags: Tags) -> list[Instance]:
        """The instances that bear all of `tags` and have not been ended."""
        return select(self.launcher.instances, tags)

    def ready(self, tags: Tags) -> list[Instance]:
        """Likewise; all of them can be worked on.

        Raises:
            InvalidArgument: One is not ready, or its time was up.
        """
        chosen, now = self.selected(tags), clock.now()
        unready = [f"{one.id} is {one.state}" for one in chosen if one.state != "ready"]
        if unready:
            raise InvalidArgument(f"not ready: {', '.join(unready)}; call wait() first")
        over = [one for one in chosen if one.expires_at is not None and one.expires_at < now]
        if over:
            raise InvalidArgument(
                f"the time of {', '.join(one.id for one in over)} was up "
                f"{(now - min(one.expires_at or now for one in over)).total_seconds():.0f} s ago "
                "(max_lifetime); deprovision what has ended, and call extend() earlier next time"
            )
        if not chosen:
            wanted = ", ".join(map(repr, checked_tags(tags)))
            self.warn(
                f"no instance bears the tags {wanted}" if wanted else "there are no instances"
            )
        return chosen

    async def do(
        self, work: Work[Value], parallel: Parallel | None, *, results: bool = False
    ) -> list[Value]:
        """Do it on one instance after the other or on many at once, as `parallel` says.

        Raises:
            InvalidArgument: So many at once don't fit into this process; nothing was done.
        """
        given = self.settings.parallel if parallel is None else parallel
        checked_parallel(given)
        width = self.settings.limits.max_hosts if given is True else int(given)
        if not work.takes_files:  # connections alone make room for each other
            return await fan_out(work, width=width, results=results)
        async with self.remote.working(min(width or 1, work.count), here=work.is_here):
            return await fan_out(work, width=width, results=results)

    async def each(
        self,
        jobs: Sequence[Callable[[], Awaitable[Value]]],
        parallel: Parallel | None,
        *,
        results: bool = False,
        takes_files: bool = False,
    ) -> list[Value]:
        """Do the jobs; see `do`, and `Work` for `takes_files`."""
        work = Jobs(jobs, self.told, takes_files=takes_files)
        return await self.do(work, parallel, results=results)

    def told(self, error: RemoteError) -> None:
        """Say what to do about an error."""
        if isinstance(error, HostKeyMismatch):
            error.add_note(self.reach.mending)

    async def aclose(self) -> None:
        """End the instances unless they are to be kept, and let go of everything.

        Raises:
            ExperimentException: Some may still be running; the rest was closed all the same.
        """
        limits = self.settings.limits
        bound = 3 * limits.launch_timeout + limits.terminate_timeout  # launches in flight as well
        try:
            with anyio.move_on_after(bound, shield=True) as scope:
                await self.end_left(self.selected(()), known=True)
                await self.launcher.close(keep=self.settings.keep)
            if scope.cancelled_caught:
                raise ExperimentException(
                    f"experiment {self.name!r}: its instances could not be ended in "
                    f"{bound:g} s; look at the cloud itself"
                )
            reached("close.ended")
            states = [one.state for one in self.launcher.instances]
            ended = states.count("terminated")
            self.announce(Closed(experiment=self.name, ended=ended, kept=len(states) - ended))
        finally:
            with anyio.move_on_after(4 * limits.close_grace, shield=True):
                await self._undo.aclose()

    async def let_go(self) -> None:
        """Let go of everything, and leave the instances as they were attached to."""
        if isinstance(self.cloud, Keeping):
            self.cloud.keep()
        with anyio.move_on_after(4 * self.settings.limits.close_grace, shield=True):
            await self._undo.aclose()

    @property
    def stranded(self) -> bool:
        """Whether the event loop that it was opened on is closed: nothing it holds works then."""
        return self._loop.is_closed()

    async def aclose_afresh(self) -> None:
        """`aclose` for one that is stranded: by the journal, with a client of this loop.

        Raises:
            ExperimentException: Some may still be running.
        """
        for let_go in self._of_no_loop:
            await self._in_thread_for_sure(let_go)
        traits = self.cloud.traits
        if self.settings.keep or not traits.ends_machines or traits.isolation:
            return  # there is nothing to end, or it ends with this process
        if not isinstance(self.cloud, Reapable):
            raise ExperimentException(
                f"experiment {self.name!r}: its event loop was closed, and only a script knows "
                "how this cloud is asked: look at it yourself"
            )
        left = await reap(
            end=True,
            experiment=self.name,
            home=self.settings.home,
            limits=self.settings.limits,
            **self.cloud.for_reaping,
        )
        if problems := {one.id: one.problem for one in left if not one.ended}:
            raise not_ended(problems)
        for instance in self.launcher.instances:
            instance.state = "terminated"

    async def _close_cloud(self) -> None:
        with anyio.move_on_after(self.settings.limits.terminate_timeout, shield=True):
            await self.cloud.aclose()
            reached("cloud.closed")

    async def _in_thread_for_sure(self, function: Callable[[], None]) -> None:
        with anyio.move_on_after(self.settings.limits.close_grace, shield=True):
            await anyio.to_thread.run_sync(function)
