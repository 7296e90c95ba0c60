"""What the verbs do on one instance: commands, scripts and transfers, each as a job.

All jobs of a call are made before any is done, so that bad input is refused before anything runs.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from precip_async.errors import CommandFailed, ConnectError, ExperimentException, InvalidArgument
from precip_async.events import (
    CommandEnded,
    CommandStarted,
    Output,
    TransferEnded,
    TransferStarted,
)
from precip_async.shell import MARK, join
from precip_async.ssh.command import Order
from precip_async.ssh.output import Budget, OutputFiles
from precip_async.ssh.source import Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from precip_async.events import Stream
    from precip_async.fleet import Instance
    from precip_async.how import ArgsOf, How, PathOf, TextOf
    from precip_async.results import CommandResult
    from precip_async.settings import AnyPath
    from precip_async.ssh.transport import Target
    from precip_async.stage import Stage

__all__ = ["command_jobs", "get_jobs", "order_of", "put_jobs", "script_jobs", "text_of"]


def text_of(what: str, given: object, instance: Instance) -> str:
    """What `given`, which may be a callable of the instance, is for `instance`.

    Raises:
        InvalidArgument: It is no text, or an empty one.
    """
    value = given(instance) if callable(given) else given
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InvalidArgument(f"{what} must be text with something in it, not {value!r}")
    return value


# -- commands --------------------------------------------------------------------------------


class _Command:
    """One command on one instance, ready to be run."""

    def __init__(
        self,
        stage: Stage,
        instance: Instance,
        how: How,
        command: str,
        *,
        budget: Budget,
        place: int,
        count: int,
    ) -> None:
        self.stage, self.instance, self.how, self.command = stage, instance, how, command
        self.budget = budget
        self.target, self.order = order_of(stage, instance, how, command, place=place, count=count)
        self.order.line(stdin=how.input is not None)  # refuses what can't be sent
        base = how.output_base_name
        if base is None:
            self.files = OutputFiles(stage.output_stem(instance.id), always=False)
        else:
            stem = Path(f"{os.fspath(base)}.{instance.id}")
            self.files = OutputFiles(stem, always=True)

    async def run(self) -> CommandResult:
        """Run it.

        Raises:
            CommandFailed: Its exit code is not 0, and that is to be an error.
            RemoteError: See `Remote.run`.
        """
        stage, instance, order = self.stage, self.instance, self.order
        facts: dict[str, Any] = {"experiment": stage.name, "instance_id": instance.id}
        if stage.announce:
            stage.announce(CommandStarted(**facts, command=self.command, user=order.user))
        exit_code, began = None, time.monotonic()
        try:
            result = await stage.remote.run(
                self.target,
                order,
                index=instance.index,
                budget=self.budget,
                files=self.files,
                stdin=self.how.input,
                listener=self._heard if stage.announce or self.how.on_output else None,
            )
            exit_code = result.exit_code
        finally:
            if stage.announce:
                stage.announce(
                    CommandEnded(
                        **facts,
                        command=self.command,
                        exit_code=exit_code,
                        duration=time.monotonic() - began,
                    )
                )
        if self.command != result.command:
            result = replace(result, command=self.command)
        if exit_code != 0 and self.how.check_exit_code:
            raise CommandFailed(result=result)
        return result

    def _heard(self, stream: Stream, text: str) -> None:
        if self.stage.announce:
            self.stage.announce(
                Output(
                    experiment=self.stage.name,
                    instance_id=self.instance.id,
                    stream=stream,
                    text=text,
                )
            )
        if self.how.on_output is not None:
            self.how.on_output(self.instance, stream, text)


def order_of(
    stage: Stage, instance: Instance, how: How, command: str, *, place: int, count: int
) -> tuple[Target, Order]:
    """Where and how `command` is to be run; its environment tells it where it is.

    Raises:
        InvalidArgument: Its environment or its user can't be.
    """
    given = how.env(instance) if callable(how.env) else how.env or {}
    if not isinstance(given, Mapping) or not all(
        isinstance(text, str) for pair in given.items() for text in pair
    ):
        raise InvalidArgument(f"env must map strings to strings, not {given!r}")
    if MARK in given:
        raise InvalidArgument(f"{MARK} is how a command is found again: env can't set it")
    target, sudo_user = stage.reach.target(instance, how.user)
    order = Order(
        command=command,
        user=stage.reach.shown_user(instance, how.user),
        sudo_user=sudo_user,
        env={
            **given,
            "PRECIP_EXPERIMENT": stage.name,
            "PRECIP_OWNER": stage.owner,  # so that who shares a host can tell whose these are
            "PRECIP_INSTANCE_ID": instance.id,
            "PRECIP_INDEX": str(place),
            "PRECIP_COUNT": str(count),
        },
        cwd=how.cwd,
        timeout=how.timeout,
    )
    return target, order


def command_jobs(
    stage: Stage, instances: Sequence[Instance], how: How, cmd: TextOf
) -> list[Callable[[], Awaitable[CommandResult]]]:
    """A job an instance that runs `cmd`.

    Raises:
        InvalidArgument: Something of it can't be run.
    """
    budget = Budget(stage.settings.limits.output_total)
    return [
        _Command(
            stage,
            instance,
            how,
            text_of("cmd", cmd, instance),
            budget=budget,
            place=place,
            count=len(instances),
        ).run
        for place, instance in enumerate(instances)
    ]


@asynccontextmanager
async def script_jobs(
    stage: Stage,
    instances: Sequence[Instance],
    how: How,
    local_script: AnyPath,
    args: ArgsOf,
) -> AsyncIterator[list[Callable[[], Awaitable[CommandResult]]]]:
    """A job an instance that copies `local_script` there, runs it with `args` and removes it.

    The script is read once, and forgotten at the end of ``async with``.

    Raises:
        InvalidArgument: There is no such file, or something of it can't be run.
    """
    if not isinstance(local_script, str | os.PathLike) or not os.fspath(local_script):
        raise InvalidArgument(f"local_script must be the path of a file, not {local_script!r}")
    local = Path(local_script)
    await _check_there("local_script", "file", [local], Path.is_file)
    limits = stage.settings.limits
    budget = Budget(limits.output_total)
    source = Source(local, limits, users=len(instances))
    jobs: list[Callable[[], Awaitable[CommandResult]]] = []
    for place, instance in enumerate(instances):
        words = args(instance) if callable(args) else args
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise InvalidArgument(f"args must be a list of strings, not {words!r}")
        remote = f"/tmp/precip-{secrets.token_hex(8)}"  # noqa: S108 - 64 random bits, mode 0700
        run = _Command(
            stage,
            instance,
            replace(how, cwd=how.cwd or "/tmp"),  # noqa: S108 - as documented in 2012
            f"chmod 700 {remote} && {join(remote, *words)}",
            budget=budget,
            place=place,
            count=len(instances),
        )
        run.command = join(str(local), *words)  # what the user asked for
        jobs.append(partial(_run_script, run, source, remote))
    with source:
        yield jobs


async def _run_script(run: _Command, source: Source, remote: str) -> CommandResult:
    stage = run.stage
    bare = replace(run.order, env={}, cwd=None)
    there = True
    try:
        copy = replace(bare, mark=f"{bare.mark}c")
        try:
            await stage.remote.put(run.target, copy, source, remote)
        except ConnectError:
            there = False
            raise
        return await run.run()
    finally:
        if there:
            bare = replace(bare, command=f"rm -f {remote}", mark=f"{bare.mark}r", timeout=None)
            await _remove(run, bare, remote)


async def _remove(run: _Command, order: Order, remote: str) -> None:
    """Remove a script, in bounded time; where that fails, say so."""
    stage, limits = run.stage, run.stage.settings.limits
    trouble = f"not in {limits.close_grace:g} s"
    with anyio.move_on_after(limits.close_grace, shield=True):
        try:
            removed = await stage.remote.run(
                run.target,
                order,
                index=0,
                budget=Budget(limits.output_limit),
                files=OutputFiles(stage.output_stem("unseen"), always=False),
            )
            trouble = "" if removed.ok else removed.stderr.strip() or f"rm says {removed.exit_code}"
        except ExperimentException as error:
            trouble = str(error)
    if trouble:
        stage.warn(f"{run.instance.id}: {remote} could not be removed: {trouble}")


# -- transfers -------------------------------------------------------------------------------


def _transfer_order(stage: Stage, instance: Instance, how: How) -> tuple[Target, Order]:
    target, sudo_user = stage.reach.target(instance, how.user)
    user = stage.reach.shown_user(instance, how.user)
    return target, Order(command="", user=user, sudo_user=sudo_user, timeout=how.timeout)


@asynccontextmanager
async def put_jobs(
    stage: Stage, instances: Sequence[Instance], how: How, local_path: PathOf, remote_path: TextOf
) -> AsyncIterator[list[Callable[[], Awaitable[None]]]]:
    """A job an instance that copies `local_path` to `remote_path`.

    What goes to several is read once, and forgotten at the end of ``async with``.

    Raises:
        InvalidArgument: Something local is missing.
    """
    ways = [
        (
            Path(text_of("local_path", local_path, instance)),
            text_of("remote_path", remote_path, instance),
        )
        for instance in instances
    ]
    users = Counter(local for local, _ in ways)
    await _check_there("local_path", "file or directory", users, Path.exists)
    limits = stage.settings.limits
    with ExitStack() as opened:
        sources = {
            local: opened.enter_context(Source(local, limits, users=count))
            for local, count in users.items()
        }
        yield [
            partial(_put, stage, instance, how, sources[local], remote)
            for instance, (local, remote) in zip(instances, ways, strict=True)
        ]


async def _check_there(
    name: str, what: str, paths: Iterable[Path], is_there: Callable[[Path], bool]
) -> None:
    """Raise `InvalidArgument` for the first of `paths` that is not there."""
    missing = await anyio.to_thread.run_sync(
        lambda: next((path for path in paths if not is_there(path)), None)
    )
    if missing is not None:
        raise InvalidArgument(f"{name}: there is no {what} {missing}")


async def _put(stage: Stage, instance: Instance, how: How, source: Source, remote: str) -> None:
    target, order = _transfer_order(stage, instance, how)
    facts: dict[str, Any] = {
        "experiment": stage.name,
        "instance_id": instance.id,
        "source": str(source.path),
        "target": f"{instance.id}:{remote}",
    }
    stage.announce(TransferStarted(**facts))
    began = time.monotonic()
    size = await stage.remote.put(target, order, source, remote)
    duration = time.monotonic() - began
    stage.announce(TransferEnded(**facts, size=size, duration=duration))


async def get_jobs(
    stage: Stage, instances: Sequence[Instance], how: How, remote_path: TextOf, local_path: PathOf
) -> list[Callable[[], Awaitable[Path]]]:
    """A job an instance that copies `remote_path` to `local_path`.

    Raises:
        InvalidArgument: The local directory is missing.
    """
    jobs: list[Callable[[], Awaitable[Path]]] = []
    needed: dict[Path, None] = {}
    for instance in instances:
        remote = text_of("remote_path", remote_path, instance)
        local = text_of("local_path", local_path, instance)
        needed[Path(local) if local.endswith("/") else Path(local).parent] = None
        suffix = f".{instance.id}" if len(instances) > 1 else ""
        jobs.append(partial(_get, stage, instance, how, remote, local, suffix))
    await _check_there("local_path", "directory", needed, Path.is_dir)
    return jobs


async def _get(
    stage: Stage, instance: Instance, how: How, remote: str, local: str, suffix: str
) -> Path:
    target, order = _transfer_order(stage, instance, how)
    facts: dict[str, Any] = {"experiment": stage.name, "instance_id": instance.id}
    there = f"{instance.id}:{remote}"
    stage.announce(TransferStarted(**facts, source=there, target=local))
    began = time.monotonic()
    path, size = await stage.remote.get(target, order, remote, local, suffix)
    duration = time.monotonic() - began
    stage.announce(
        TransferEnded(**facts, source=there, target=str(path), size=size, duration=duration)
    )
    return path
