"""Commands, scripts and questions, on many targets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import anyio

from precip_async.errors import ConnectError, ExperimentException
from precip_async.results import CommandResult
from precip_async.shell import script
from precip_async.ssh import upload
from precip_async.ssh.answer import ask
from precip_async.ssh.batch import Batch, Column
from precip_async.ssh.command import Order, endings
from precip_async.ssh.output import Budget, OutputFiles, run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from precip_async.limits import Limits
    from precip_async.ssh.answer import Answer
    from precip_async.ssh.batch import Debt, Watch
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.source import Source
    from precip_async.ssh.transport import Target

__all__ = ["Asks", "Commands", "Errands", "Scripts"]


@dataclass(frozen=True, kw_only=True)
class Asks(Batch):
    """Puts a question to each target; see `ask`.

    Attributes:
        order: What is run.
        limits: The graces with which it is ended.
    """

    order: Column[Order]
    limits: Limits

    async def do(self, place: int, pool: Pool, limits: Limits, watch: Watch) -> Answer:
        """See `Batch.do`."""
        return await ask(pool, self.targets[place], self.order[place], self.limits)

    def debts(self, place: int, limits: Limits) -> list[Debt]:
        """See `Batch.debts`."""
        return [endings(self.order[place], self.limits)]


@dataclass(frozen=True, kw_only=True)
class Commands(Batch):
    """Runs a command on each target; see `run_command`.

    Attributes:
        command: Read by the user's login shell.
        user: Who runs it, for messages.
        sudo_user: See `Order`, as for the next ones.
        env: Likewise.
        mark: Likewise.
        cwd: Likewise.
        timeout: Likewise.
        index: The instance's place in the experiment, for the result.
        shown: What the result calls the command; ``None``: what it is.
        stdin: Its input; ``None``: none.
        stem: See `OutputFiles`, as for the next one.
        always: Likewise.
        budget: What all together may keep in memory.
    """

    command: Column[str]
    user: Column[str]
    sudo_user: Column[str | None]
    env: Column[Mapping[str, str]]
    mark: Column[str]
    index: Column[int]
    stem: Column[str]
    budget: Budget
    always: bool = False
    shown: Column[str] | None = None
    cwd: str | None = None
    timeout: float | None = None
    stdin: bytes | None = field(default=None, repr=False)
    takes_files: ClassVar[bool] = True

    def order(self, place: int) -> Order:
        """What is run at `place`."""
        return Order(
            command=self.command[place],
            user=self.user[place],
            sudo_user=self.sudo_user[place],
            env=self.env[place],
            cwd=self.cwd,
            timeout=self.timeout,
            mark=self.mark[place],
        )

    def check(self, places: Iterable[int]) -> None:
        """See that what is for `places` can be sent.

        Raises:
            InvalidArgument: See `command_line`.
        """
        for place in places:
            self.order(place).line(stdin=self.stdin is not None)

    async def do(self, place: int, pool: Pool, limits: Limits, watch: Watch) -> CommandResult:
        """See `Batch.do`."""
        if watch.keen:
            watch.began(place)
        result = await run_command(
            pool,
            self.targets[place],
            self.order(place),
            limits,
            index=self.index[place],
            budget=self.budget,
            files=OutputFiles(self.stem[place], always=self.always),
            stdin=self.stdin,
            listener=partial(watch.heard, place) if watch.keen else None,
            room=watch.room,
        )
        return result if self.shown is None else replace(result, command=self.shown[place])

    def part(self, places: Sequence[int], parts: int = 1) -> Self:
        """See `Batch.part`: of what may be kept in memory each gets the same."""
        return replace(super().part(places), budget=Budget(self.budget.left // parts))

    def debts(self, place: int, limits: Limits) -> list[Debt]:
        """See `Batch.debts`."""
        return [endings(self.order(place), limits)]

    def packed(self, value: CommandResult) -> tuple[Any, ...]:
        """See `Batch.packed`: what is not known over there."""
        return (
            value.exit_code,
            value.started_at,
            value.duration,
            value.stdout_bytes,
            value.stderr_bytes,
            value.stdout_path,
            value.stderr_path,
        )

    def unpacked(self, place: int, value: tuple[Any, ...]) -> CommandResult:
        """See `Batch.unpacked`."""
        exit_code, started_at, duration, out, err, out_path, err_path = value
        self.budget.take(len(out) + len(err))
        target = self.targets[place]
        return CommandResult(
            instance_id=target.instance_id,
            index=self.index[place],
            host=target.host,
            command=(self.shown or self.command)[place],
            user=self.user[place],
            exit_code=exit_code,
            started_at=started_at,
            duration=duration,
            stdout_bytes=out,
            stderr_bytes=err,
            stdout_path=out_path,
            stderr_path=err_path,
        )


@dataclass(frozen=True, kw_only=True)
class Errands(Commands):
    """Commands of our own, which say too little for a file."""

    takes_files: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Scripts(Batch):
    """Copies a script to each target, runs a command that calls it, and removes it.

    Attributes:
        source: The script.
        path: Where it is copied to.
        commands: What is run then.
    """

    source: Source
    path: Column[str]
    commands: Commands
    takes_files: ClassVar[bool] = True

    async def do(self, place: int, pool: Pool, limits: Limits, watch: Watch) -> CommandResult:
        """See `Batch.do`."""
        target, path, there = self.targets[place], self.path[place], True
        copy, remove = self._helpers(place)
        try:
            try:
                await upload.put(pool, target, copy, limits, self.source, path)
            except ConnectError:
                there = False
                raise
            return await self.commands.do(place, pool, limits, watch)
        finally:
            if there and (trouble := await self._removed(place, remove, pool, limits)):
                watch.warned(place, f"{path} could not be removed: {trouble}")

    def _helpers(self, place: int) -> tuple[Order, Order]:
        """What copies the script, and what removes it."""
        run = self.commands.order(place)
        copy = replace(run, env={}, cwd=None, mark=f"{run.mark}c")
        removing = script('rm -f -- "$1" 2>&1', self.path[place])
        remove = replace(copy, command=removing, mark=f"{run.mark}r")
        return copy, replace(remove, timeout=None)

    async def _removed(self, place: int, order: Order, pool: Pool, limits: Limits) -> str:
        """Remove the script, in bounded time; why that failed, or nothing."""
        with anyio.move_on_after(limits.close_grace, shield=True):
            try:
                removed = await ask(pool, self.targets[place], order, limits)
            except ExperimentException as error:
                return str(error)
            said = removed.said.decode(errors="replace").strip()
            return said or f"rm says {removed.exit_code}" if removed.exit_code else ""
        return f"not in {limits.close_grace:g} s"

    def part(self, places: Sequence[int], parts: int = 1) -> Self:
        """See `Batch.part`."""
        return replace(super().part(places), commands=self.commands.part(places, parts))

    def at(self, targets: Column[Target]) -> Self:
        """See `Batch.at`."""
        return replace(self, targets=targets, commands=self.commands.at(targets))

    def debts(self, place: int, limits: Limits) -> list[Debt]:
        """See `Batch.debts`."""
        copy, remove = self._helpers(place)
        removing = remove.line(stdin=False)
        return [endings(copy, limits), *self.commands.debts(place, limits), (removing,)]

    @property
    def sources(self) -> list[Source]:
        """See `Batch.sources`."""
        return [self.source]

    def sending(self, change: Callable[[Any], Any]) -> Self:
        """See `Batch.sending`."""
        return replace(self, source=change(self.source))

    def packed(self, value: CommandResult) -> tuple[Any, ...]:
        """See `Batch.packed`."""
        return self.commands.packed(value)

    def unpacked(self, place: int, value: tuple[Any, ...]) -> CommandResult:
        """See `Batch.unpacked`."""
        return self.commands.unpacked(place, value)
