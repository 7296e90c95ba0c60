"""Commands of our own on an instance: run like the user's, and told to nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precip_async.ssh.command import Order
from precip_async.ssh.output import Budget, OutputFiles

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
    target, sudo_user = stage.reach.target(instance, user)
    order = Order(
        command=command,
        user=stage.reach.shown_user(instance, user),
        sudo_user=sudo_user,
        timeout=timeout,
    )
    return await stage.remote.run(
        target,
        order,
        index=instance.index,
        budget=Budget(stage.settings.limits.output_limit),
        files=OutputFiles(stage.output_stem(instance.id), always=False),
    )
