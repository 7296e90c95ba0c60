"""Commands and scripts on instances."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precip_async.errors import CommandFailed, InvalidArgument
from precip_async.events import CommandEnded, CommandStarted, Output
from precip_async.results import CommandResult
from precip_async.shell import MARK, join
from precip_async.ssh.batch import Column
from precip_async.ssh.commands import Commands, Scripts
from precip_async.ssh.output import Budget
from precip_async.ssh.source import Source
from precip_async.work.instances import OnInstances, check_there, texts_of, whereto

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from precip_async.events import Stream
    from precip_async.fanout import Work
    from precip_async.fleet import Instance
    from precip_async.how import ArgsOf, How, TextOf
    from precip_async.settings import AnyPath
    from precip_async.stage import Stage

__all__ = ["command_work", "environments", "script_work"]


class _Running(OnInstances):
    """A command on each of some instances."""

    def __init__(
        self,
        stage: Stage,
        instances: Sequence[Instance],
        how: How,
        batch: Commands | Scripts,
        commands: Commands,
    ) -> None:
        super().__init__(stage, instances, batch)
        self._how, self._commands = how, commands
        self.keen = self.keen or how.on_output is not None

    def _shown(self, place: int) -> str:
        return (self._commands.shown or self._commands.command)[place]

    def began(self, place: int) -> None:
        """See `Watch.began`."""
        super().began(place)
        if self._stage.announce:
            user = self._commands.user[place]
            self._stage.announce(
                CommandStarted(**self._facts(place), command=self._shown(place), user=user)
            )

    def heard(self, place: int, stream: Stream, text: str) -> None:
        """See `Watch.heard`."""
        if self._stage.announce:
            self._stage.announce(Output(**self._facts(place), stream=stream, text=text))
        if self._how.on_output is not None:
            self._how.on_output(self._instances[place], stream, text)

    def made_of(self, place: int, outcome: Any) -> Any:
        """See `Work.made_of`."""
        exit_code = outcome.exit_code if isinstance(outcome, CommandResult) else None
        self._announce_end(place, exit_code)
        if exit_code and self._how.check_exit_code:
            raise CommandFailed(result=outcome)
        return super().made_of(place, outcome)

    def close(self) -> None:
        """See `Work.close`."""
        for place in [*self._began]:
            self._announce_end(place, None)

    def _announce_end(self, place: int, exit_code: int | None) -> None:
        began = self._began.pop(place, None)
        if began is not None and self._stage.announce:
            self._stage.announce(
                CommandEnded(
                    **self._facts(place),
                    command=self._shown(place),
                    exit_code=exit_code,
                    duration=time.monotonic() - began,
                )
            )


def _commands(
    stage: Stage,
    instances: Sequence[Instance],
    how: How,
    texts: Sequence[str],
    *,
    varied: bool,
    **settings: Any,
) -> Commands:
    """The batch that runs `texts`.

    Args:
        stage: Of which experiment.
        instances: On which.
        how: How.
        texts: What on each.
        varied: Whether they differ by more than the lengths of names.
        settings: See `Commands`.

    Raises:
        InvalidArgument: Something of it can't be run.
    """
    base = how.output_base_name
    if base is None:
        stems = stage.output_stems(instances)
    else:
        stems = [f"{os.fspath(base)}.{instance.id}" for instance in instances]
    commands = Commands(
        **whereto(stage, instances, how.user),
        command=Column(texts),
        env=Column(environments(stage, instances, how)),
        index=Column([instance.index for instance in instances]),
        stem=Column(stems),
        always=base is not None,
        budget=Budget(stage.settings.limits.output_total),
        cwd=how.cwd,
        timeout=how.timeout,
        stdin=how.input,
        **settings,
    )
    places: Iterable[int] = range(len(instances))
    if not varied and not callable(how.env):  # the longest of them stands for all
        places = sorted(places, key=lambda place: len(instances[place].id))[-1:]
    commands.check(places)  # refuses what can't be sent
    return commands


def environments(stage: Stage, instances: Sequence[Instance], how: How) -> list[Mapping[str, str]]:
    """The variables that each command finds, those included by which it knows where it is."""
    given = how.env
    common: Mapping[str, str] = {} if callable(given) else _checked_env(given or {})
    ours = {
        "PRECIP_EXPERIMENT": stage.name,
        "PRECIP_OWNER": stage.owner,  # so that who shares a host can tell whose these are
        "PRECIP_COUNT": str(len(instances)),
    }
    return [
        {
            **(_checked_env(given(instance)) if callable(given) else common),
            **ours,
            "PRECIP_INSTANCE_ID": instance.id,
            "PRECIP_INDEX": str(place),
        }
        for place, instance in enumerate(instances)
    ]


def _checked_env(env: object) -> Mapping[str, str]:
    if not isinstance(env, Mapping) or not all(
        isinstance(text, str) for pair in env.items() for text in pair
    ):
        raise InvalidArgument(f"env must map strings to strings, not {env!r}")
    if MARK in env:
        raise InvalidArgument(f"{MARK} is how a command is found again: env can't set it")
    return env


def command_work(
    stage: Stage, instances: Sequence[Instance], how: How, cmd: TextOf
) -> Work[CommandResult]:
    """What runs `cmd` on each instance.

    Raises:
        InvalidArgument: Something of it can't be run.
    """
    texts = texts_of("cmd", cmd, instances)
    commands = _commands(stage, instances, how, texts, varied=callable(cmd))
    return _Running(stage, instances, how, commands, commands)


@asynccontextmanager
async def script_work(
    stage: Stage,
    instances: Sequence[Instance],
    how: How,
    local_script: AnyPath,
    args: ArgsOf,
) -> AsyncIterator[Work[CommandResult]]:
    """What copies `local_script` to each instance, runs it there with `args` and removes it.

    The script is read once, and forgotten at the end of ``async with``.

    Raises:
        InvalidArgument: There is no such file, or something of it can't be run.
    """
    if not isinstance(local_script, str | os.PathLike) or not os.fspath(local_script):
        raise InvalidArgument(f"local_script must be the path of a file, not {local_script!r}")
    local = Path(local_script)
    await check_there("local_script", "file", [local], Path.is_file)
    paths = [f"/tmp/precip-{secrets.token_hex(8)}" for _ in instances]  # noqa: S108 - 64 random bits, mode 0700
    calls = [_checked_args(args(one) if callable(args) else args) for one in instances]
    commands = _commands(
        stage,
        instances,
        replace(how, cwd=how.cwd or "/tmp"),  # noqa: S108 - as documented in 2012
        [
            f"chmod 700 {path} && {join(path, *call)}"
            for path, call in zip(paths, calls, strict=True)
        ],
        varied=callable(args),
        shown=Column([join(str(local), *call) for call in calls]),  # what the user asked for
    )
    with Source(local, stage.settings.limits, users=len(instances)) as source:
        batch = Scripts(
            targets=commands.targets, source=source, path=Column(paths), commands=commands
        )
        yield _Running(stage, instances, how, batch, commands)


def _calling(path: str, words: Sequence[str]) -> str:
    return f"chmod 700 {path} && {join(path, *words)}"


def _checked_args(words: object) -> Sequence[str]:
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise InvalidArgument(f"args must be a list of strings, not {words!r}")
    return words
