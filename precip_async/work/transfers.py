"""Transfers to and from instances."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precip_async.errors import RemoteError
from precip_async.events import TransferEnded, TransferStarted
from precip_async.ssh.batch import Column
from precip_async.ssh.source import Source
from precip_async.ssh.transfers import Gets, Puts
from precip_async.work.instances import OnInstances, check_there, texts_of, whereto

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from precip_async.fanout import Work
    from precip_async.fleet import Instance
    from precip_async.how import How, PathOf, TextOf
    from precip_async.stage import Stage

__all__ = ["get_work", "put_work"]


class _Moving(OnInstances):
    """A transfer to or from each of some instances."""

    def __init__(
        self,
        stage: Stage,
        instances: Sequence[Instance],
        batch: Puts | Gets,
        ends: Callable[[int], tuple[str, str]],
        size_of: Callable[[Any], tuple[Any, int]],
    ) -> None:
        super().__init__(stage, instances, batch)
        self._ends, self._size_of = ends, size_of

    def began(self, place: int) -> None:
        """See `Watch.began`."""
        super().began(place)
        source, target = self._ends(place)
        self._stage.announce(TransferStarted(**self._facts(place), source=source, target=target))

    def made_of(self, place: int, outcome: Any) -> Any:
        """See `Work.made_of`."""
        if isinstance(outcome, RemoteError):
            return super().made_of(place, outcome)
        value, size = self._size_of(outcome)
        if place in self._began:
            source, target = self._ends(place)
            self._stage.announce(
                TransferEnded(
                    **self._facts(place),
                    source=source,
                    target=target if value is None else str(value),
                    size=size,
                    duration=time.monotonic() - self._began[place],
                )
            )
        return value


@asynccontextmanager
async def put_work(
    stage: Stage, instances: Sequence[Instance], how: How, local_path: PathOf, remote_path: TextOf
) -> AsyncIterator[Work[None]]:
    """What copies `local_path` to `remote_path` on each instance.

    What goes to several is read once, and forgotten at the end of ``async with``.

    Raises:
        InvalidArgument: Something local is missing.
    """
    locals_ = [Path(text) for text in texts_of("local_path", local_path, instances)]
    remotes = texts_of("remote_path", remote_path, instances)
    users = Counter(locals_)
    await check_there("local_path", "file or directory", users, Path.exists)
    limits = stage.settings.limits
    with ExitStack() as opened:
        sources = {
            local: opened.enter_context(Source(local, limits, users=count))
            for local, count in users.items()
        }
        batch = Puts(
            **whereto(stage, instances, how.user),
            source=Column([sources[local] for local in locals_]),
            remote=Column(remotes),
            timeout=how.timeout,
        )

        def ends(place: int) -> tuple[str, str]:
            return str(locals_[place]), f"{instances[place].id}:{remotes[place]}"

        yield _Moving(stage, instances, batch, ends, lambda size: (None, size))


async def get_work(
    stage: Stage, instances: Sequence[Instance], how: How, remote_path: TextOf, local_path: PathOf
) -> Work[Path]:
    """What copies `remote_path` of each instance to `local_path`.

    Raises:
        InvalidArgument: The local directory is missing.
    """
    remotes = texts_of("remote_path", remote_path, instances)
    locals_ = texts_of("local_path", local_path, instances)
    needed = dict.fromkeys(
        Path(local) if local.endswith("/") else Path(local).parent for local in locals_
    )
    await check_there("local_path", "directory", needed, Path.is_dir)
    batch = Gets(
        **whereto(stage, instances, how.user),
        remote=Column(remotes),
        local=Column(locals_),
        suffix=Column([f".{one.id}" if len(instances) > 1 else "" for one in instances]),
        timeout=how.timeout,
    )

    def ends(place: int) -> tuple[str, str]:
        return f"{instances[place].id}:{remotes[place]}", locals_[place]

    return _Moving(stage, instances, batch, ends, lambda got: got)
