"""Instances that end by themselves, and the verb that puts their end off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from precip_async.clouds.base import Expiring
from precip_async.errand import run_errand
from precip_async.errors import InvalidArgument, RemoteError
from precip_async.events import Extended
from precip_async.fanout import in_child_task
from precip_async.home.journal import Journal
from precip_async.life import Life
from precip_async.settings import checked_number

if TYPE_CHECKING:
    import builtins
    from collections.abc import Sequence

    from precip_async.fleet import Instance, Tags
    from precip_async.stage import Stage

__all__ = ["Expires", "arm"]

PATIENCE: Final = 30.0  # seconds for an instance to take note, of which it needs some hundredths


class Expires(Life):
    """What holds for instances that were given a ``max_lifetime``."""

    async def extend(
        self, seconds: float | None = None, tags: Tags = ()
    ) -> builtins.list[Instance]:
        """Put off the end of the selected instances, which end by themselves.

        Nothing else does: an experiment that is at work ends when its time is up, as one does
        whose script has died. An instance that is to end later than that already is left alone.

        Args:
            seconds: How long they may live from now on; default: ``max_lifetime`` once more.
            tags: Which.

        Returns:
            Those whose end was put off; ``expires_at`` says until when.

        Raises:
            InvalidArgument: They are not ready, their time was up, or they have no end.
            CloudError: The cloud did not take note; nothing was put off.
            RemoteError: One ends when it was to end before; `FleetError` for several.

        If cancelled, some may live longer, and none shorter.
        """
        stage, lifetime = self._stage, self._settings.max_lifetime
        if lifetime is None:
            raise InvalidArgument(
                "instances of this experiment do not end by themselves: it has no max_lifetime="
            )
        checked_number("seconds", seconds)
        expires = datetime.now(UTC) + timedelta(seconds=lifetime if seconds is None else seconds)
        chosen = [
            one for one in stage.ready(tags) if one.expires_at is None or one.expires_at < expires
        ]
        if chosen:
            await in_child_task(partial(_extend, stage, chosen, expires))
        return chosen


async def _extend(stage: Stage, instances: Sequence[Instance], expires: datetime) -> None:
    # Whoever ends what is over reads the books and the marks: they are told first.
    ids = [one.id for one in instances]
    assert isinstance(stage.cloud, Expiring)  # or the experiment would not have been opened
    await stage.books.write(Journal.extended, ids, expires)
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
        if instance.expires_at is not None:
            await _renew(stage, instance, instance.expires_at)
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
