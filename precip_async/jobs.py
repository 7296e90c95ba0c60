"""What becomes of detached commands on one instance each: started, found, read, ended."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from precip_async.detached import LONG, Job
from precip_async.errors import (
    AuthenticationFailed,
    CommandFailed,
    CommandTimeout,
    ConnectError,
    ConnectionLost,
    HostKeyMismatch,
    RemoteError,
    TransferError,
)
from precip_async.events import JobEnded, JobStarted, Output
from precip_async.how import How
from precip_async.results import CommandResult
from precip_async.ssh.command import Order
from precip_async.ssh.detached import Found, starting
from precip_async.ssh.output import Budget, Collector, OutputFiles, Unwritable
from precip_async.ssh.visits import RemoteSite
from precip_async.work import environments, text_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from precip_async.events import Stream
    from precip_async.fleet import Instance
    from precip_async.how import TextOf
    from precip_async.ssh.detached import Ended, Offsets, Piece
    from precip_async.stage import Stage

__all__ = [
    "end_jobs",
    "end_left",
    "list_jobs",
    "read_job",
    "remove_jobs",
    "start_jobs",
    "wait_jobs",
]

PERSISTENCE: Final = 120.0  # seconds for which a lost connection is made again
GIVING_BACK: Final = 30.0  # seconds for ending what was started on a host
PAUSE: Final = (0.2, 5.0)  # seconds between two attempts: at first, and at most
FINAL: Final = (AuthenticationFailed, HostKeyMismatch)  # trying again changes nothing

Value = TypeVar("Value")


def start_jobs(
    stage: Stage, instances: Sequence[Instance], how: How, cmd: TextOf, name: str
) -> list[Callable[[], Awaitable[Job]]]:
    """A job an instance that starts `cmd` there.

    Raises:
        InvalidArgument: Something of it can't be run.
    """
    run = secrets.token_hex(8)
    jobs: list[Callable[[], Awaitable[Job]]] = []
    for instance, env in zip(instances, environments(stage, instances, how), strict=True):
        command = text_of("cmd", cmd, instance)
        order = replace(_site(stage, instance, how).order, env=env, cwd=how.cwd)
        about = {
            "run": run,
            "name": name,
            "experiment": stage.name,
            "instance": instance.id,
            "command": command,
            "user": order.user,
            "at": datetime.now(UTC).isoformat(),
        }
        job_id = secrets.token_hex(8)
        order = replace(order, command=starting(job_id, about, command))
        order.line(stdin=False)  # refuses what can't be sent
        jobs.append(partial(_start, stage, instance, how, order, job_id, about))
    return jobs


async def _start(
    stage: Stage, instance: Instance, how: How, order: Order, job_id: str, about: dict[str, str]
) -> Job:
    stage.detached.setdefault(instance.id, set()).add(how.user)
    site = _site(stage, instance, how)
    group, began = await _persistently(lambda: site.begin(order))
    stage.announce(
        JobStarted(
            experiment=stage.name,
            instance_id=instance.id,
            command=about["command"],
            user=order.user,
        )
    )
    return _job(stage, instance, how, Found(id=job_id, group=group, began=began, about=about))


def _job(stage: Stage, instance: Instance, how: How, found: Found) -> Job:
    about = found.about
    return Job(
        id=found.id,
        run=about["run"],
        name=about["name"],
        instance=instance,
        command=about["command"],
        user=about["user"],
        started_at=datetime.fromisoformat(about["at"]),
        exit_code=found.ended.exit_code if found.ended else None,
        found=found,
        stage=stage,
        how=how,
    )


def list_jobs(
    stage: Stage, instances: Sequence[Instance], how: How
) -> list[Callable[[], Awaitable[list[Job]]]]:
    """A job an instance that says what was started there, by whichever process of ours."""

    async def found(instance: Instance) -> list[Job]:
        site = _site(stage, instance, how)
        listed = await _persistently(lambda: site.found(stage.name))
        stage.detached.setdefault(instance.id, set()).add(how.user)
        return [
            _job(stage, instance, how, one)
            for one in listed
            if (one.about["experiment"], one.about["instance"]) == (stage.name, instance.id)
        ]

    return [partial(found, instance) for instance in instances]


async def read_job(stage: Stage, job: Job, offsets: Offsets, patience: float) -> Piece:
    """What has come behind `offsets`, over a new connection where the one that was is lost.

    Raises:
        RemoteError: There is none for `PERSISTENCE` seconds, or nobody knows how it ended.
    """
    site = _site(stage, job.instance, job.how)
    piece = await _persistently(lambda: site.read(job.id, offsets, patience))
    if piece.lost:
        raise RemoteError(
            instance_id=job.instance.id,
            host=site.target.host,
            problem=f"nobody knows how {job.command!r} ended: neither it nor the shell that waited "
            "for it runs any more; did the instance reboot?",
        )
    if piece.ended is not None:
        _ended(stage, job, piece.ended)
        if piece.ended.full and any(piece.data.values()):
            return replace(piece, ended=None)  # what there is comes first
        if piece.ended.full:
            raise TransferError(
                instance_id=job.instance.id,
                host=site.target.host,
                problem=f"the disk there was full when {job.command!r} ended with exit code "
                f"{piece.ended.exit_code}: output may be missing; what there is, is in "
                f"~/.precip-jobs/{job.id} of user {job.user}",
            )
    return piece


def wait_jobs(
    stage: Stage, jobs: Sequence[Job], how: How
) -> list[Callable[[], Awaitable[CommandResult]]]:
    """A job each that waits for its end and has its whole output."""
    budget = Budget(stage.settings.limits.output_total)
    return [partial(_wait, stage, job, how, budget) for job in jobs]


async def _wait(stage: Stage, job: Job, how: How, budget: Budget) -> CommandResult:
    instance, base = job.instance, how.output_base_name
    if base is None:
        (stem,) = stage.output_stems([instance])
        files = OutputFiles(stem, always=False)
    else:
        files = OutputFiles(f"{os.fspath(base)}.{instance.id}", always=True)

    def heard(stream: Stream, text: str) -> None:
        stage.announce(
            Output(experiment=stage.name, instance_id=instance.id, stream=stream, text=text)
        )
        if how.on_output is not None:
            how.on_output(instance, stream, text)

    listener = heard if stage.announce or how.on_output else None
    kept = Collector("", stage.settings.limits, budget, files, listener)
    began, ended = time.monotonic(), None
    try:
        with anyio.move_on_after(how.timeout):
            ended = await _collect(stage, job, kept)
    except Unwritable as error:
        raise TransferError(
            instance_id=instance.id,
            host=instance.public_address or "",
            problem=f"{error}; the command goes on",
        ) from error.__cause__
    finally:
        kept.close()
    out, err = kept.streams["stdout"], kept.streams["stderr"]
    waited = time.monotonic() - began
    result = CommandResult(
        instance_id=instance.id,
        index=instance.index,
        host=stage.reach.address(instance) or "",
        command=job.command,
        user=job.user,
        exit_code=ended.exit_code if ended else None,
        started_at=job.started_at,
        duration=float(ended.at - job.found.began) if ended else waited,
        stdout_bytes=bytes(out.head),
        stderr_bytes=bytes(err.head),
        stdout_path=out.path,
        stderr_path=err.path,
    )
    if ended is None:
        raise CommandTimeout(result=result, running=True)
    if ended.exit_code and how.check_exit_code:
        raise CommandFailed(result=result)
    return result


async def _collect(stage: Stage, job: Job, kept: Collector) -> Ended:
    """Read all of it, to its end."""
    offsets = (0, 0)
    while True:
        piece = await read_job(stage, job, offsets, LONG)
        for stream, data in piece.data.items():
            if data:
                kept.output(stream, data)
        await kept.flush()
        offsets = (
            offsets[0] + len(piece.data["stdout"]),
            offsets[1] + len(piece.data["stderr"]),
        )
        if piece.ended is not None:
            return piece.ended


def end_jobs(stage: Stage, jobs: Sequence[Job]) -> list[Callable[[], Awaitable[None]]]:
    """A job each that ends it, unless it is known to have ended."""

    async def end(job: Job) -> None:
        site = _site(stage, job.instance, job.how)
        left = await _persistently(lambda: site.end(job.id))
        if left:
            raise RemoteError(
                instance_id=job.instance.id,
                host=site.target.host,
                problem=f"not everything of {job.command!r} could be ended: {left}",
            )
        for one in await _persistently(lambda: site.found(stage.name)):
            if one.id == job.id and one.ended is not None:
                _ended(stage, job, one.ended)

    return [partial(end, job) for job in jobs if job.exit_code is None]


def remove_jobs(stage: Stage, jobs: Sequence[Job]) -> list[Callable[[], Awaitable[None]]]:
    """A job each that removes what is kept of it."""

    async def remove(job: Job) -> None:
        site = _site(stage, job.instance, job.how)
        await _persistently(lambda: site.remove(job.id))

    return [partial(remove, job) for job in jobs]


def _ended(stage: Stage, job: Job, ended: Ended) -> None:
    """Take note of an end, and tell of it once."""
    if job.exit_code is None:
        job.exit_code = ended.exit_code
        stage.announce(
            JobEnded(
                experiment=stage.name,
                instance_id=job.instance.id,
                command=job.command,
                exit_code=ended.exit_code,
            )
        )


def _site(stage: Stage, instance: Instance, how: How) -> RemoteSite:
    target, sudo_user = stage.reach.target(instance, how.user)
    user = stage.reach.shown_user(instance, how.user)
    order = Order(command="", user=user, sudo_user=sudo_user)
    return RemoteSite(stage.remote, target, order)


async def _persistently(work: Callable[[], Awaitable[Value]]) -> Value:
    """Do `work`, which may be done twice, over as many connections as it takes.

    Raises:
        RemoteError: It failed; for want of a connection, after `PERSISTENCE` seconds.
    """
    until, (pause, most) = time.monotonic() + PERSISTENCE, PAUSE
    while True:
        try:
            return await work()
        except (ConnectionLost, ConnectError) as error:
            if isinstance(error, FINAL) or time.monotonic() + pause > until:
                raise
        await anyio.sleep(pause)
        pause = min(2 * pause, most)


async def end_left(stage: Stage, instances: Sequence[Instance], *, known: bool = False) -> None:
    """End what the experiment has started on hosts that are about to be given back, unless kept.

    What can't be ended in `GIVING_BACK` seconds is warned of.

    Args:
        stage: Whose they are.
        instances: Which.
        known: Only where this process has started or listed some: nobody else is asked.
    """
    if stage.cloud.traits.ends_machines or stage.settings.keep:
        return
    sites = [(one, How(user=user)) for one in instances for user in stage.detached.get(one.id, ())]
    if not known:
        sites += [(one, How()) for one in instances if None not in stage.detached.get(one.id, ())]

    async def end(instance: Instance, how: How) -> None:
        if instance.state != "ready":
            return
        trouble = f"the host did not answer within {GIVING_BACK:g} s"
        with anyio.move_on_after(GIVING_BACK):
            try:
                for list_job in list_jobs(stage, [instance], how):
                    for end_job in end_jobs(stage, await list_job()):
                        await end_job()
                trouble = ""
            except RemoteError as error:
                trouble = str(error)
        if trouble:
            stage.warn(f"what was started on {instance.id} may go on: {trouble}")

    await stage.each([partial(end, *site) for site in sites], parallel=True)
