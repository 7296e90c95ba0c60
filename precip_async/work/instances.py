"""What all that the verbs do on instances has in common."""

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from precip_async.errors import InvalidArgument, RemoteError
from precip_async.fanout import Work
from precip_async.ssh.batch import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from precip_async.fleet import Instance
    from precip_async.ssh.batch import Batch
    from precip_async.stage import Stage

__all__ = ["OnInstances", "check_there", "text_of", "texts_of", "whereto"]


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


def texts_of(what: str, given: object, instances: Sequence[Instance]) -> list[str]:
    """The text for each instance, asked for once where it does not depend on them."""
    if callable(given) or not instances:
        return [text_of(what, given, instance) for instance in instances]
    return [text_of(what, given, instances[0])] * len(instances)


def _marks(count: int) -> Column[str]:
    drawn = secrets.token_hex(8 * count)  # at once: a thousand draws of eight bytes take longer
    return Column([drawn[start : start + 16] for start in range(0, 16 * count, 16)])


def whereto(stage: Stage, instances: Sequence[Instance], user: str | None) -> dict[str, Any]:
    """The columns of a batch that say where, and as whom."""
    ways = [stage.reach.target(instance, user) for instance in instances]
    return {
        "targets": Column([target for target, _ in ways]),
        "sudo_user": Column([sudo_user for _, sudo_user in ways]),
        "user": Column([stage.reach.shown_user(one, user) for one in instances]),
        "mark": _marks(len(instances)),
    }


class OnInstances(Work[Any]):
    """Work on instances, for an experiment: who watches it hears of it."""

    def __init__(self, stage: Stage, instances: Sequence[Instance], batch: Batch) -> None:
        super().__init__(batch, stage.remote, len(instances))
        self._stage, self._instances = stage, instances
        self._began: dict[int, float] = {}  # when each did that is under way
        self.keen = bool(stage.announce)

    def _facts(self, place: int) -> dict[str, Any]:
        return {"experiment": self._stage.name, "instance_id": self._instances[place].id}

    def began(self, place: int) -> None:
        """See `Watch.began`."""
        self._began[place] = time.monotonic()

    def warned(self, place: int, text: str) -> None:
        """See `Watch.warned`."""
        self._stage.warn(f"{self._instances[place].id}: {text}")

    def made_of(self, place: int, outcome: Any) -> Any:
        """See `Work.made_of`."""
        if isinstance(outcome, RemoteError):
            self._stage.told(outcome)
        return outcome


async def check_there(
    name: str, what: str, paths: Iterable[Path], is_there: Callable[[Path], bool]
) -> None:
    """Raise `InvalidArgument` for the first of `paths` that is not there."""
    missing = await anyio.to_thread.run_sync(
        lambda: next((path for path in paths if not is_there(path)), None)
    )
    if missing is not None:
        raise InvalidArgument(f"{name}: there is no {what} {missing}")
