"""Commands of our own on an instance: run like the user's, and told to nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precip_async.ssh.batch import Column
from precip_async.ssh.commands import Errands
from precip_async.ssh.output import Budget
from precip_async.ssh.remote import one
from precip_async.work import whereto

if TYPE_CHECKING:
    from precip_async.fleet import Instance
    from precip_async.results import CommandResult
    from precip_async.stage import Stage

__all__ = ["run_errand"]


async def run_errand(
    stage: Stage, instance: Instance, command: str, *, user: str | None, timeout: float
) -> CommandResult:
    """Run `command` on `instance` and return what came of it, whatever its exit code.

    Raises:
        CommandTimeout: It had not ended after `timeout` seconds, and was ended.
        RemoteError: See `run_command`.
    """
    errands = Errands(
        **whereto(stage, [instance], user),
        command=Column([command]),
        env=Column([{}]),
        index=Column([instance.index]),
        stem=Column(stage.output_stems([instance])),
        budget=Budget(stage.settings.limits.output_limit),
        timeout=timeout,
    )
    result: CommandResult = await one(stage.remote, errands)
    return result
