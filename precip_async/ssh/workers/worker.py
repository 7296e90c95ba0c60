"""A worker: the process in which a share of an experiment's connections is held.

Started by `WorkerProcess` with the descriptors of its ends of two lines and the parent's id as
arguments, in a session of its own: Ctrl-C in a terminal is its parent's to deal with. What it is
told, secrets included, comes over that line; when that ends, so does the worker, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import socket
import sys
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any

import anyio

from precip_async.errors import ExperimentException, HostKeyMismatch, RemoteError
from precip_async.ssh.batch import Column, Watch
from precip_async.ssh.openssh import AsyncsshConnector
from precip_async.ssh.pool import Pool
from precip_async.ssh.room import Room
from precip_async.ssh.share import Share
from precip_async.ssh.source import Source
from precip_async.ssh.workers.process import received_file
from precip_async.ssh.workers.wire import Wire, packed

if TYPE_CHECKING:
    from pathlib import Path

    from anyio.abc import TaskGroup

    from precip_async.events import Stream
    from precip_async.ssh.batch import Batch, Debt
    from precip_async.ssh.openssh_session import AsyncsshTransport
    from precip_async.ssh.source import Content
    from precip_async.ssh.transport import Target
    from precip_async.ssh.workers.wire import Beginning

__all__ = ["main"]

FEW = 8  # places at most of which nobody has reason to tell together
# Seconds that more may wait for each other, since each packet costs the parent a wake-up: where
# somebody watches or waits, and where only the results count.
OFTEN, SELDOM = 0.005, 0.05


class Told:
    """The host keys that the parent knows; the worker's `Trust`.

    Attributes:
        known_by: Keys by alias.
        news: Keys that were seen at first sight, and are the parent's to believe.
    """

    def __init__(self, *, learns: bool) -> None:
        self.learns = learns
        self.known_by: dict[str, tuple[str, ...]] = {}
        self.news: dict[Target, str] = {}

    def known(self, target: Target) -> tuple[str, ...]:
        """See `Trust.known`."""
        return self.known_by.get(target.alias, ())

    def learned(self, target: Target, key: str) -> bool:
        """See `Trust.learned`: until the parent has said so, nothing is done with it."""
        if self.learns:
            self.news[target] = key
        return self.learns


class _Confirming(AsyncsshConnector):
    """Has the parent believe a key at first sight before anybody uses the connection."""

    def __init__(self, worker: _Worker, beginning: Beginning) -> None:
        super().__init__(beginning.login, worker.told, beginning.limits)
        self._worker, self._close_grace = worker, beginning.limits.close_grace

    async def dial(self, target: Target, timeout: float, **how: Any) -> AsyncsshTransport:
        """See `AsyncsshConnector.dial`."""
        news = self._worker.told.news
        try:
            transport = await super().dial(target, timeout, **how)
        except BaseException:
            if key := news.pop(target, None):  # learned all the same, as it would be over there
                self._worker.confirm(target, key).cancel()
            raise
        if key := news.pop(target, None):
            try:
                await self._worker.confirmed(target, key)
            except BaseException:
                with anyio.move_on_after(self._close_grace, shield=True):
                    await transport.aclose()
                raise
        return transport


class _Telling(Watch):
    """Tells the parent what comes of its portion."""

    def __init__(
        self, worker: _Worker, number: int, batch: Batch, places: int, *, keen: bool
    ) -> None:
        self._worker, self._wire = worker, worker.wire
        self._number, self._batch = number, batch
        self.keen = keen
        self._within = 0.0 if places <= FEW else OFTEN if keen else SELDOM
        self.room = self._wire.room if keen else None

    def began(self, place: int) -> None:
        """See `Watch.began`."""
        self._wire.say(("began", self._number, place), self._within)

    def heard(self, place: int, stream: Stream, text: str) -> None:
        """See `Watch.heard`."""
        self._wire.say(("heard", self._number, place, stream, text), self._within)

    def warned(self, place: int, text: str) -> None:
        """See `Watch.warned`."""
        self._wire.say(("warned", self._number, place, text))

    def ended(self, place: int, outcome: Any) -> None:
        """See `Watch.ended`."""
        self._worker.tell_debts(self._batch.targets[place])
        if isinstance(outcome, RemoteError):
            self._wire.say(("failed", self._number, place, _portable(outcome)), self._within)
        else:
            self._wire.say(("done", self._number, place, self._batch.packed(outcome)), self._within)


class _Worker:
    """What one worker has: its line, its pool, and what is under way."""

    wire: Wire

    def __init__(self) -> None:
        self._heard: deque[tuple[Any, ...]] = deque()
        self._news = asyncio.Event()
        self._under_way: dict[int, tuple[anyio.CancelScope, Share]] = {}
        self._verdicts: dict[int, asyncio.Future[bool]] = {}
        self._targets: list[Target] = []
        self._numbers: dict[Target, int] = {}
        self._sources: dict[int, Source] = {}
        self._owing: dict[Target, tuple[Debt, ...]] = {}  # as the parent knows it
        self._asked = 0

    async def serve(self, line: socket.socket, files: socket.socket, parent: int) -> None:
        """Do what the parent asks for, until it says that this is all; the process ends with it."""
        _watch(parent)
        self._files = files
        self.wire = await Wire.over(line, self._hear, _leave)
        beginning: Beginning
        (beginning,) = await self._next()
        self._limits = beginning.limits
        self.told = Told(learns=beginning.learns)
        connector = _Confirming(self, beginning)
        bastion = beginning.login.bastion is not None
        self._pool = Pool(connector, self._limits, bastion=bastion, room=Room.here())
        logging.getLogger().addHandler(_Forwarding(self.wire))
        self.wire.say(("ready",))
        async with anyio.create_task_group() as tasks:
            while (message := await self._next())[0] != "close":
                getattr(self, f"_on_{message[0]}")(tasks, *message[1:])
            await self._pool.aclose()  # what is under way sees that, and ends
            tasks.cancel_scope.deadline = anyio.current_time() + self._limits.close_grace
        self.wire.close()
        await anyio.sleep_forever()  # until all of it is sent

    def _hear(self, message: tuple[Any, ...]) -> None:
        if message[0] == "verdict":  # somebody waits for it
            _, number, verdict = message
            waiting = self._verdicts.pop(number)
            if not waiting.done():
                waiting.set_result(verdict)
            return
        if message[0] == "ask":  # whether we live
            self.wire.say(("alive",))
            return
        self._heard.append(message)
        self._news.set()

    async def _next(self) -> tuple[Any, ...]:
        while not self._heard:
            self._news.clear()
            await self._news.wait()
        return self._heard.popleft()

    def tell_debts(self, target: Target) -> None:
        """Have the parent know what is to be ended there, should we die before it is."""
        debts = self._pool.debts(target)
        if debts != self._owing.get(target, ()):
            self._owing[target] = debts
            self.wire.say(("owing", target, debts))

    # -- host keys ---------------------------------------------------------------------------

    def confirm(self, target: Target, key: str) -> asyncio.Future[bool]:
        """Tell the parent of a key at first sight; whether it believes it."""
        self._asked += 1
        verdict = self._verdicts[self._asked] = asyncio.get_running_loop().create_future()
        self.wire.say(("learned", self._asked, self._numbers[target], key), OFTEN)
        return verdict

    async def confirmed(self, target: Target, key: str) -> None:
        """Raise `HostKeyMismatch` unless the parent believes a key at first sight."""
        if not await self.confirm(target, key):
            raise HostKeyMismatch(
                instance_id=target.instance_id,
                host=target.host,
                problem=f"another host key has just been seen for {target.alias}: one of the two "
                "was an impostor's",
            )
        self.told.known_by[target.alias] = (key,)

    # -- what the parent says ----------------------------------------------------------------

    def _on_target(self, _tasks: TaskGroup, target: Target) -> None:
        self._numbers[target] = len(self._targets)
        self._targets.append(target)

    def _on_known(self, _tasks: TaskGroup, alias: str, keys: tuple[str, ...]) -> None:
        self.told.known_by[alias] = keys

    def _on_owe(self, _tasks: TaskGroup, number: int, debts: list[Debt]) -> None:
        target = self._targets[number]
        for debt in debts:
            self._pool.owe(target, debt)
        self.tell_debts(target)

    def _on_cwd(self, _tasks: TaskGroup, path: str) -> None:
        with contextlib.suppress(OSError):  # what needs it says so
            os.chdir(path)

    def _on_source(
        self,
        _tasks: TaskGroup,
        number: int,
        path: Path,
        content: Content | Exception,
        is_file: bool,
    ) -> None:
        descriptor = None
        while is_file and descriptor is None:  # it was sent before this was said
            sent, received = received_file(self._files)
            if sent == number:
                descriptor = received
            else:  # for one whose sending was given up
                os.close(received)
        self._sources[number] = Source.shown(path, content, descriptor, self._limits)

    def _on_hide(self, _tasks: TaskGroup, number: int) -> None:
        self._sources.pop(number).close()

    def _on_widen(self, _tasks: TaskGroup, number: int, more: int) -> None:
        if number in self._under_way:
            self._under_way[number][1].widen(more)

    def _on_cancel(self, _tasks: TaskGroup, number: int) -> None:
        if number in self._under_way:
            self._under_way[number][0].cancel()

    def _on_do(
        self,
        tasks: TaskGroup,
        number: int,
        batch: Batch,
        targets: list[int],
        width: tuple[int, int],
        keen: bool,
    ) -> None:
        batch = batch.at(Column([self._targets[one] for one in targets])).sending(self._source)
        places = range(len(targets))
        telling = _Telling(self, number, batch, len(places), keen=keen)

        async def do(place: int) -> Any:
            return await batch.do(place, self._pool, self._limits, telling)

        granted, most = width
        share = Share(places, do, telling.ended, width=granted)
        scope = anyio.CancelScope()
        self._under_way[number] = scope, share
        room = self._pool.working(most) if batch.takes_files else contextlib.nullcontext()
        tasks.start_soon(self._do, number, scope, share, room)

    async def _do(
        self,
        number: int,
        scope: anyio.CancelScope,
        share: Share,
        room: contextlib.AbstractAsyncContextManager[None],
    ) -> None:
        """A portion of a batch, and the telling of its end."""
        last: tuple[Any, ...] = ("over", number, None)
        try:
            with scope:
                async with room:
                    await share.run()
        except ExperimentException as error:
            last = ("over", number, _portable(error))
        except Exception:  # noqa: BLE001 - a bug, which is for the parent's user to see
            last = ("broken", number, traceback.format_exc())
        del self._under_way[number]
        self.wire.say(last)

    def _source(self, reference: tuple[int | None, Path]) -> Source:
        number, path = reference
        return Source(path, self._limits) if number is None else self._sources[number]


class _Forwarding(logging.Handler):
    """Hands log records to the parent, whose user has said what becomes of them."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(logging.WARNING)
        self._wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        """Hand it on, as text."""
        self._wire.say(("logged", record.name, record.levelno, self.format(record)))


def _portable(error: ExperimentException) -> bytes:
    """`error` as a pickle; without its cause where that can't be one."""
    try:
        pickle.loads(data := packed(error))  # noqa: S301 - made in this line
    except Exception as trouble:  # noqa: BLE001 - whatever a foreign cause raises
        error.add_note(f"caused by {error.__cause__!r}, which can't be shown ({trouble})")
        error.__cause__ = None
        data = packed(error)
    return data


def _leave() -> None:
    """End at once: the parent has, or has hung up."""
    os._exit(0)


def _watch(parent: int) -> None:
    """Leave when `parent` ends, also where a fork of it keeps its end of the line open."""
    with contextlib.suppress(AttributeError, OSError):  # not on this system
        ended = os.pidfd_open(parent)
        asyncio.get_running_loop().add_reader(ended, _leave)
    if os.getppid() != parent:
        _leave()


def main() -> None:
    """Serve the parent that the command line names."""
    line, files, parent = map(int, sys.argv[1:])
    ends = socket.socket(fileno=line), socket.socket(fileno=files)
    anyio.run(_Worker().serve, *ends, parent)


if __name__ == "__main__":
    main()
