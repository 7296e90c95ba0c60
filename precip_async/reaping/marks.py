"""Runs that were left on hosts that exist already: processes that bear a run's mark."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import anyio

from precip_async import clock
from precip_async.clouds.base import LaunchRequest
from precip_async.clouds.hosts import HostsCloud
from precip_async.errors import ExperimentException, RemoteError
from precip_async.fanout import task_group
from precip_async.fleet import Instance
from precip_async.reach import Reach
from precip_async.reaping.leftover import Leftover
from precip_async.shell import MARK, ending_line, script
from precip_async.ssh.answer import MOST
from precip_async.ssh.batch import Column
from precip_async.ssh.command import Order
from precip_async.ssh.commands import Asks
from precip_async.ssh.remote import one

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from precip_async.clouds.hosts import Hosts
    from precip_async.home.directory import Home
    from precip_async.home.rows import Row
    from precip_async.reaping.holders import Holders
    from precip_async.reaping.leftover import Selection
    from precip_async.settings import Settings
    from precip_async.ssh.answer import Answer
    from precip_async.ssh.remote import Remote
    from precip_async.ssh.transport import Target

__all__ = ["Process", "processes_in", "reaped_on_hosts"]

LOOK: Final = 30.0  # seconds that looking for marks may take on a host
SHOWN: Final = 60  # characters of a command line
NO_PROC: Final = 64  # the exit code where processes can't be looked at so

# Who bears a mark, one a line: process, mark, experiment, owner, seconds since it began, command;
# what is not known is "-". On one line and without an exclamation mark, so that csh can hand it on.
# Not this command itself, whose own mark is in its environment like everybody's.
_LOOK: Final = (
    f"[ -d /proc/self ] || exit {NO_PROC}; "
    f"for f in $(grep -ls {MARK}= /proc/[0-9]*/environ 2>/dev/null); do "
    "p=${f#/proc/}; p=${p%/environ}; "
    "e=$(tr '\\000' '\\n' <$f 2>/dev/null); "
    'v() { echo "$e" | sed -n "s/^$1=//p" | head -n 1; }; '
    f"m=$(v {MARK}); x=$(v PRECIP_EXPERIMENT); o=$(v PRECIP_OWNER); "
    f'[ -n "$m" ] || continue; [ "$m" = "${MARK}" ] && continue; '
    "t=$(ps -o etimes= -p $p 2>/dev/null) || t=-; "
    "c=$(tr '\\000\\n' '  ' </proc/$p/cmdline 2>/dev/null | cut -c 1-80); "
    'echo $p "$m" "${x:--}" "${o:--}" ${t:--} "$c"; done; exit 0'
)
_LINE: Final = re.compile(
    r"(\d{1,10}) ([0-9a-f]{16}) ([A-Za-z0-9._-]{1,64}) (-|[0-9a-f]{32}) (-|\d{1,12}) (.*)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that bears a mark; what is not known is empty."""

    pid: int
    mark: str
    experiment: str
    owner: str
    began: datetime | None
    command: str


def processes_in(text: str) -> list[Process]:
    """The processes that a host tells of; a line that makes no sense is passed over."""
    now = clock.now()
    found = []
    for line in text.splitlines():
        if (match := _LINE.fullmatch(line)) is None:
            continue
        pid, mark, experiment, owner, seconds, command = match.groups()
        began = None if seconds == "-" else now - timedelta(seconds=int(seconds))
        found.append(
            Process(
                pid=int(pid),
                mark=mark,
                experiment="" if experiment == "-" else experiment,
                owner="" if owner == "-" else owner,
                began=began,
                command=command.strip(),
            )
        )
    return found


async def reaped_on_hosts(
    hosts: Hosts,
    home: Home,
    rows: Sequence[Row],
    settings: Settings,
    holders: Holders,
    selection: Selection,
) -> list[Leftover]:
    """The runs that were left on `hosts`, each with what became of it.

    Args:
        hosts: Where to look.
        home: Whose keys are taken.
        rows: What the journal has, which knows of experiments on other computers.
        settings: How hosts are reached.
        holders: Who answers for what.
        selection: What is meant.
    """
    cloud = HostsCloud(hosts)
    reach = Reach(settings, cloud.traits)
    _, remote = await reach.open(home)
    try:
        request = LaunchRequest(
            token="reap",  # noqa: S106 - it names a launch, and is no secret
            image_id="",
            instance_type="",
            count=len(hosts),
            min_count=len(hosts),
            first=0,
        )
        instances = []
        for index, machine in enumerate(await cloud.launch(request)):
            one = Instance(
                id=machine.id,
                index=index,
                image_id="",
                instance_type="",
                launched_at=clock.now(),
                public_address=machine.public_address,
                private_address=machine.private_address,
            )
            reach.told(one, machine)
            instances.append(one)
        await reach.recall(instances)
        reaper = _OnHosts(remote, home.account_id, rows, settings, holders, selection)
        found: list[list[Leftover]] = [[] for _ in instances]

        async def look(one: Instance, limiter: anyio.Semaphore) -> None:
            async with limiter:
                found[one.index] = await reaper.reap(one.id, reach.probed(one))

        limiter = anyio.Semaphore(settings.limits.max_hosts)
        async with task_group() as tasks:
            for one in instances:
                tasks.start_soon(look, one, limiter)
        await reach.pin()
        return [left for part in found for left in part]
    finally:
        with anyio.move_on_after(settings.limits.close_grace, shield=True):
            await remote.aclose()


class _OnHosts:
    """What is done on each host."""

    def __init__(
        self,
        remote: Remote,
        owner: str,
        rows: Sequence[Row],
        settings: Settings,
        holders: Holders,
        selection: Selection,
    ) -> None:
        self._remote, self._owner, self._limits = remote, owner, settings.limits
        self._holders, self._selection = holders, selection
        here = socket.gethostname()
        self._away = {row.experiment: row for row in rows if row.machine != here}

    async def reap(self, host: str, target: Target) -> list[Leftover]:
        """The runs on one host; that it can't be asked is one of them."""
        try:
            text = await self._said(target, script(_LOOK), what="looking for marks")
            runs: dict[str, list[Process]] = {}
            for process in processes_in(text):
                runs.setdefault(process.mark, []).append(process)
            found = [await self._of_run(host, of_one) for of_one in runs.values()]
            listed = [one for one in found if self._selection.takes(one)]
            done = [await self._ended(target, one) for one in listed]
        except ExperimentException as error:
            return [
                Leftover(kind="host", id=host, cloud="hosts", problem=f"not looked at: {error}")
            ]
        if len(text) >= MOST:
            more = "more processes there bear a mark than are read at once: reap it again"
            done.append(Leftover(kind="host", id=host, cloud="hosts", problem=more))
        return done

    async def _of_run(self, host: str, processes: Iterable[Process]) -> Leftover:
        first, *others = sorted(processes, key=lambda one: one.pid)
        more = f" and {len(others)} more" if others else ""
        return Leftover(
            kind="run",
            id=first.mark,
            experiment=first.experiment,
            owner=first.owner,
            mine=first.owner == self._owner,
            cloud="hosts",
            endpoint=host,
            state=f"process {first.pid}{more}: {first.command[:SHOWN]}",
            known_by="its mark",
            launched_at=first.began,
            holder=await self._holder(first.experiment) if first.experiment else "",
        )

    async def _holder(self, experiment: str) -> str:
        return await self._holders.of(experiment, self._away.get(experiment))

    async def _ended(self, target: Target, one: Leftover) -> Leftover:
        if not self._selection.ends(one):
            return one
        try:
            line = ending_line(one.id, 0, self._limits.kill_grace)
            left = await self._said(target, line, what="ending them")
        except ExperimentException as error:
            return replace(one, problem=str(error))
        if left.strip():
            return replace(one, problem=f"still running: processes {left.strip()}")
        return replace(one, ended=True)

    async def _said(self, target: Target, command: str, *, what: str) -> str:
        """What a command of ours says on a host; that some could not be ended is no error."""
        order = Order(command=command, user=target.user or "", timeout=LOOK)
        asks = Asks(targets=Column([target]), order=Column([order]), limits=self._limits)
        answer: Answer = await one(self._remote, asks)
        problem = ""
        if answer.exit_code is None:
            problem = f"{what} took longer than {LOOK:g} s"
        elif answer.exit_code == NO_PROC:
            problem = "it has no /proc, where marks could be seen"
        elif answer.exit_code and not answer.said:
            problem = f"{what} failed with exit code {answer.exit_code}"
        if problem:
            raise RemoteError(instance_id=target.instance_id, host=target.host, problem=problem)
        return answer.said.decode(errors="replace")
