"""The blocking twin of `precip_async.reap`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precip_async import portal
from precip_async import reaping as asynchronous
from precip_async.limits import Limits

if TYPE_CHECKING:
    from precip_async.clouds.hosts import Hosts
    from precip_async.events import Observer
    from precip_async.reaping import Leftover
    from precip_async.settings import AnyPath

__all__ = ["reap"]


def reap(
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
    """The blocking twin of `precip_async.reap`: list what is still running, and end it."""
    return portal.call_within(
        portal.unwind_time(limits or Limits()),
        asynchronous.reap,
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
