"""Finding and ending what experiments left running that nobody answers for any more."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread

from precip_async.reaping.leftover import Leftover
from precip_async.ssh.tasks import in_child_task

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from precip_async.clouds.hosts import Hosts
    from precip_async.events import Observer
    from precip_async.limits import Limits
    from precip_async.settings import AnyPath

__all__ = ["Leftover", "reap"]


async def reap(
    *,
    end: bool = False,
    experiment: str | None = None,
    older_than: float | None = None,
    owner: str | None = None,
    expired: bool = False,
    everyone: bool = False,
    force: bool = False,
    unsure: bool = False,
    cloud: str | None = None,
    endpoint: str | None = None,
    region: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    session_token: str | None = None,
    profile: str | None = None,
    verify: bool | AnyPath = True,
    hosts: Hosts | None = None,
    login_user: str | None = None,
    ssh_key: AnyPath | None = None,
    ssh_port: int = 22,
    home: AnyPath | None = None,
    limits: Limits | None = None,
    observer: Observer | None = None,
) -> list[Leftover]:
    """List what is still running, and with ``end=True`` end what nobody answers for.

    What the journal knows is looked for at its clouds and on this machine; a `cloud` that is named
    is looked through for our marks as well, which needs no journal. What bears no mark of ours and
    is not in the journal is never touched, whatever the arguments. What a living process answers
    for, here or on another computer, is listed, and ended with `force` only.

    Args:
        end: End them. Otherwise nothing is changed at any cloud.
        experiment: Only this experiment's.
        older_than: Only what was launched that many seconds ago.
        owner: Only this account's, by the id in its home; others' are ended only so.
        expired: Only what should have ended by itself.
        everyone: Show others' as well; they are not ended.
        force: End also what a living process answers for.
        unsure: Release also addresses that may be somebody else's; see ``docs/leaks.md``.
        cloud: Only ``"ec2"``, ``"openstack"``, ``"eucalyptus"``, ``"nimbus"``, or ``"local"``.
        endpoint: Where that is; not needed for Amazon, nor where the journal knows.
        region: Its region, for Amazon.
        access_key: Who asks; default: ``EC2_ACCESS_KEY``, on Amazon the standard AWS chain.
        secret_key: Goes with it; default: ``EC2_SECRET_KEY``, likewise.
        session_token: Goes with temporary keys.
        profile: A profile of the AWS configuration to find keys in.
        verify: How TLS certificates are checked: True, False, or a file of authorities.
        hosts: End what bears the mark of a run on these hosts, and look at nothing else.
        login_user: Who logs in there; default: the current user.
        ssh_key: The private key to log in with; default: the home's own.
        ssh_port: Where their SSH servers listen.
        home: Which home; ``None``: ``$PRECIP_HOME``, else ``~/.precip``.
        limits: How long is waited, and how much is done at once.
        observer: A callable given every event.

    Returns:
        What was found, and of each whether it was ended now, and what went wrong.

    Raises:
        InvalidArgument: These do not go together.
        HomeError: The home or its journal can't be used.
        CloudError: The `cloud` that was named can't be asked. One that the journal names is no
            error: what it has is listed with the problem.

    If cancelled, what was asked to end may be ending, and calling again finds the rest.
    """
    wanted = await anyio.to_thread.run_sync(_reaper)
    work = partial(
        wanted,
        end=end,
        experiment=experiment,
        older_than=older_than,
        owner=owner,
        expired=expired,
        everyone=everyone,
        force=force,
        unsure=unsure,
        cloud=cloud,
        endpoint=endpoint,
        region=region,
        access_key=access_key,
        secret_key=secret_key,
        session_token=session_token,
        profile=profile,
        verify=verify,
        hosts=hosts,
        login_user=login_user,
        ssh_key=ssh_key,
        ssh_port=ssh_port,
        home=home,
        limits=limits,
        observer=observer,
    )
    return await in_child_task(work)  # so that whatever cancels it lets go of what it holds


def _reaper() -> Callable[..., Coroutine[Any, Any, list[Leftover]]]:
    """What it takes is much to import: only when it is used, and not on the loop."""
    from precip_async.reaping.reaper import reaped

    return reaped
