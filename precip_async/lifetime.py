"""Instances that end by themselves: that they will, and when."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from precip_async.clouds.base import Expiring
from precip_async.errand import run_errand
from precip_async.errors import RemoteError
from precip_async.events import Extended
from precip_async.home.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from precip_async.fleet import Instance
    from precip_async.stage import Stage

__all__ = ["arm", "extend"]

BEGINNING: Final = 10.0  # seconds for an image that lets us in before it begins to count
PATIENCE: Final = 30.0  # seconds for an instance to take note, of which it needs some hundredths


async def extend(stage: Stage, instances: Sequence[Instance], expires: datetime) -> None:
    """Have `instances` end by themselves at `expires`, and not earlier; see `Experiment.extend`."""
    # Whoever ends what is over reads the books and the marks: they are told first.
    ids = [one.id for one in instances]
    assert isinstance(stage.cloud, Expiring)  # or the experiment would not have been opened
    where = stage.cloud.traits.endpoint
    await stage.books.write(Journal.renewed, ids, expires, endpoint=where, experiment=stage.name)
    await stage.cloud.extend(ids, expires)

    async def one(instance: Instance) -> None:
        await _renew(stage, instance, expires)
        instance.expires_at = expires
        stage.announce(Extended(experiment=stage.name, instance_id=instance.id, until=expires))

    await stage.each([partial(one, instance) for instance in instances], parallel=True)


async def arm(stage: Stage, instances: Sequence[Instance]) -> None:
    """See that instances that are ready and are to end by themselves will.

    Raises:
        RemoteError: One would not; of several `FleetError`.
    """
    new = [
        one
        for one in instances
        if one.state == "ready" and one.expires_at is not None and one.id not in stage.armed
    ]

    async def check(instance: Instance) -> None:
        assert instance.expires_at is not None
        until = time.monotonic() + BEGINNING
        while True:
            try:
                await _renew(stage, instance, instance.expires_at)
                break
            except RemoteError:
                if time.monotonic() > until:
                    raise
            await anyio.sleep(1)
        stage.armed.add(instance.id)

    await stage.each([partial(check, one) for one in new], parallel=True)


async def _renew(stage: Stage, instance: Instance, expires: datetime) -> None:
    """Have an instance itself know that it is to end at `expires`, and not earlier."""
    assert isinstance(stage.cloud, Expiring)
    if not (command := stage.cloud.renewal(expires)):
        return
    result = await run_errand(stage, instance, command, user="root", timeout=PATIENCE)
    if not result.ok:
        said = (
            result.stderr.strip() or f"what counts its time down is not there ({result.exit_code})"
        )
        raise RemoteError(
            instance_id=instance.id,
            host=result.host,
            problem=f"it may not end by itself at {expires:%H:%M:%S} UTC, as max_lifetime= has it: "
            f"{said}; does its image run cloud-init?",
        )
