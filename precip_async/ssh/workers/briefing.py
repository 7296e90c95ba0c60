"""What one worker process has been told of the things that its work refers to."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from precip_async.ssh.source import Source
    from precip_async.ssh.transport import Target, Trust
    from precip_async.ssh.workers.process import WorkerProcess
    from precip_async.ssh.workers.wire import Wire

__all__ = ["Briefing"]


class Briefing:
    """Tells a worker of targets, of their keys, of directories and of sources, each of them once.

    Args:
        process: The worker.
        wire: The line to it.
        trust: Who knows keys.
        bastion: The jump host, whose keys it needs as well.
    """

    def __init__(
        self, process: WorkerProcess, wire: Wire, trust: Trust, bastion: Target | None
    ) -> None:
        self.process, self.wire = process, wire
        self._trust, self._bastion = trust, bastion
        self._targets: list[Target] = []
        self._numbers: dict[Target, int] = {}
        self._known: dict[str, tuple[str, ...]] = {}
        self._cwd = ""
        self._showing = anyio.Lock()
        self._shown: set[int] = set()

    def number_of(self, target: Target) -> int:
        """By which number it knows `target`; by which keys, it knows as well."""
        number = self._numbers.get(target)
        if number is None:
            if self._bastion not in (None, target):
                self.number_of(self._bastion)
            number = self._numbers[target] = len(self._targets)
            self._targets.append(target)
            self.wire.say(("target", target))
        self._tell_keys(target)
        return number

    def learns(self, number: int, key: str) -> bool:
        """Whether a key that it has seen at first sight is that of the target `number`."""
        target = self._targets[number]
        known = self._trust.known(target)
        if known:  # since then
            return key.split()[:2] in [line.split()[:2] for line in known]
        if believed := self._trust.learned(target, key):
            self._known[target.alias] = self._trust.known(target)
        return believed

    def _tell_keys(self, target: Target) -> None:
        keys = self._trust.known(target)
        if keys != self._known.get(target.alias, ()):
            self._known[target.alias] = keys
            self.wire.say(("known", target.alias, keys))

    def follow(self) -> None:
        """Have what comes next find relative paths where this process does."""
        try:
            here = os.getcwd()  # noqa: PTH109 - a path of it is not needed
        except OSError:  # it was removed: who needs it says so
            return
        if here != self._cwd:
            self._cwd = here
            self.wire.say(("cwd", here))

    async def show(self, source: Source) -> None:
        """Have it send what `source` holds, unless it has ended."""
        async with self._showing:
            if source.number in self._shown:
                return
            content = await source.show()
            descriptor = None if isinstance(content, Exception) else content.body.descriptor
            if descriptor is not None:
                send = partial(self.process.send_file, source.number, descriptor)
                try:  # in a thread: a worker that hangs takes nothing until it is ended
                    await anyio.to_thread.run_sync(send)
                except OSError:  # it has ended, as will be seen soon
                    return
            is_file = descriptor is not None
            self.wire.say(("source", source.number, source.path, content, is_file))
            self._shown.add(source.number)
            source.closing.append(partial(self._hide, source.number))

    def _hide(self, number: int) -> None:
        self._shown.discard(number)
        self.wire.say(("hide", number))
