"""One worker as its parent sees it: a process, what it was told, and what it is at."""

from __future__ import annotations

import asyncio
import logging
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from precip_async.errors import ConnectionLost, ExperimentClosed, ExperimentException
from precip_async.ssh.batch import Column
from precip_async.ssh.workers.briefing import Briefing
from precip_async.ssh.workers.process import WorkerProcess
from precip_async.ssh.workers.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precip_async.ssh.batch import Debt
    from precip_async.ssh.source import Source
    from precip_async.ssh.transport import Target, Trust
    from precip_async.ssh.workers.portion import Portion
    from precip_async.ssh.workers.wire import Beginning

__all__ = ["Shard"]

logger = logging.getLogger(__name__)

START_TIMEOUT = 60.0  # seconds for a worker to stand ready, of which it needs about 0.5
PATIENCE = 10.0  # seconds of silence at least: where much is going on, a process waits its turn


class Shard:
    """A worker, started when it is first needed, and anew when it has died.

    Attributes:
        servers: How many SSH servers are its to speak to.
        ended: How its latest process has ended, in words, once that is known.
    """

    def __init__(self, beginning: Beginning, trust: Trust) -> None:
        self._beginning, self._limits, self._trust = beginning, beginning.limits, trust
        self.servers = 0
        self._starting = anyio.Lock()
        self._closed = False
        self._process: WorkerProcess | None = None
        self._begun: Briefing | None = None  # of the present process
        self._briefing: Briefing | None = None  # likewise, once that stands ready
        self._gone, self._ready = anyio.Event(), anyio.Event()  # of the present process
        self._beat: asyncio.TimerHandle | None = None
        self._asked, self._packets = 0, 0  # since it last said something
        self._portions: dict[int, Portion] = {}
        self._number = 0
        self.ended = ""
        # What ends what dead processes may have left running, by where; and what the present one
        # will have to end as soon as it has a connection there.
        self._debts: dict[Target, list[Debt]] = {}
        self._owed: dict[Target, tuple[Debt, ...]] = {}

    @property
    def pid(self) -> int | None:
        """The id of the process, where there is one at work."""
        return None if self._briefing is None else self._briefing.process.pid

    async def do(self, portion: Portion) -> None:
        """Have the worker do a portion of a batch, which is told of what comes of it.

        What is cut off by the worker's death is `ConnectionLost`; what it may have left is ended
        as soon as there is a connection again.

        Raises:
            InvalidArgument: So many at once don't fit into the worker, which has begun none.
            ExperimentException: There is no worker.
            Exception: What ends all of it.
        """
        briefing = self._briefing or await self.started()
        for source in portion.batch.sources:
            if source.shared:
                await briefing.show(source)
        if briefing is self._briefing:
            await self._hand_over(portion, briefing)
        else:  # it has died meanwhile
            self._cut_off(portion)
        if portion.trouble is not None:
            raise portion.trouble

    async def _hand_over(self, portion: Portion, briefing: Briefing) -> None:
        """Have the worker begin a portion, and wait until it is over."""
        briefing.follow()
        wire, self._number = briefing.wire, self._number + 1
        number = self._number
        self._portions[number] = portion
        numbers = [self._introduced(briefing, target) for target in portion.targets]
        portion.widen = lambda more: wire.say(("widen", number, more))
        batch = portion.batch.at(Column(())).sending(_reference)
        width = portion.granted, portion.most
        wire.say(("do", number, batch, numbers, width, portion.keen))
        try:
            await portion.over.wait()
        except anyio.get_cancelled_exc_class():
            if number in self._portions:
                portion.deaf = True
                wire.say(("cancel", number))
                await self._ended(portion)
            raise

    def _introduced(self, briefing: Briefing, target: Target) -> int:
        """By which number the worker knows `target`; what it owes there, it knows as well."""
        number = briefing.number_of(target)
        if debts := self._debts.pop(target, None):
            self._owed[target] = (*self._owed.get(target, ()), *debts)
            briefing.wire.say(("owe", number, debts))
        return number

    def forget(self, target: Target) -> None:
        """Owe nothing to an instance that is about to end."""
        for debts in (self._debts, self._owed):
            for one in [one for one in debts if one.instance_id == target.instance_id]:
                del debts[one]

    async def aclose(self) -> None:
        """Have the worker close its connections and end, in bounded time."""
        self._closed = True
        self._ready.set()
        async with self._starting:
            if self._begun is not None:
                self._begun.wire.say(("close",))
                with anyio.move_on_after(4 * self._limits.close_grace, shield=True):
                    await self._gone.wait()
                if self._begun is not None:  # it does not end: we do
                    self._begun.wire.close()
            await self._reap()

    # -- a process ---------------------------------------------------------------------------

    async def started(self) -> Briefing:
        """The worker's, which is started where there is none.

        Raises:
            ExperimentException: It can't be; the error says why.
        """
        async with self._starting:
            if self._briefing is None:
                self._briefing = await self._stand_ready(await self._begin())
                self._watch(self._briefing.wire)
            return self._briefing

    async def _begin(self) -> Briefing:
        if self._closed:
            raise _closed()
        if self._begun is not None:
            return self._begun
        if self._process is not None:
            said = await self._reap()
            logger.warning("a worker process has ended (%s) and is replaced", said)
        try:
            with anyio.CancelScope(shield=True):  # takes milliseconds
                self._process = process = await anyio.to_thread.run_sync(WorkerProcess)
        except OSError as error:
            raise _not_started(str(error)) from error
        self._gone, self._ready = anyio.Event(), anyio.Event()
        self._asked = self._packets = 0
        with anyio.CancelScope(shield=True):  # it is a socket that is connected
            wire = await Wire.over(process.line, self._hear, partial(self._lost, self._gone))
        wire.say((self._beginning,))
        bastion = self._beginning.login.bastion
        self._begun = Briefing(process, wire, self._trust, bastion)
        return self._begun

    async def _stand_ready(self, briefing: Briefing) -> Briefing:
        with anyio.move_on_after(START_TIMEOUT):
            await self._ready.wait()
        if self._closed:
            raise _closed()
        if self._gone.is_set():
            raise _not_started(await self._reap())
        if not self._ready.is_set():
            briefing.wire.close()
            await self._reap()
            raise _not_started(f"it was not ready within {START_TIMEOUT:g} s")
        return briefing

    async def _reap(self) -> str:
        """See that the process has ended, if there was one; how it has, in words."""
        process, self._process = self._process, None
        if process is None:
            return ""
        with anyio.CancelScope(shield=True):  # bounded by itself
            self.ended = await anyio.to_thread.run_sync(process.reap)
        return self.ended

    def _watch(self, wire: Wire) -> None:
        """Ask a worker that says nothing whether it lives, and end it where it never answers.

        Questions are counted and no time: a process that was stopped has let much of it pass.
        """
        if wire.heard != self._packets:
            self._asked, self._packets = 0, wire.heard
        elif self._asked >= self._limits.keepalive_count:
            if self._process is not None:
                self._process.kill()  # the rest follows from that
            return
        else:
            self._asked += 1
            wire.say(("ask",))
        pause = self._patience / self._limits.keepalive_count
        self._beat = asyncio.get_running_loop().call_later(pause, self._watch, wire)

    @property
    def _patience(self) -> float:
        """Seconds of silence after which the worker is taken for one that hangs."""
        return max(self._limits.keepalive * self._limits.keepalive_count, PATIENCE)

    def _lost(self, gone: anyio.Event) -> None:
        """The line has ended, and with it the process."""
        gone.set()
        if gone is not self._gone:
            return
        if self._beat is not None:
            self._beat.cancel()
        self._ready.set()
        self._briefing = self._begun = None
        owed, self._owed = self._owed, {}
        for target, debts in owed.items():
            self._debts.setdefault(target, []).extend(debts)
        portions, self._portions = self._portions, {}
        for portion in portions.values():
            self._cut_off(portion)

    def _cut_off(self, portion: Portion) -> None:
        if self._closed and portion.left:
            portion.trouble = portion.trouble or _closed()
        else:
            for number in [*portion.left]:
                target = portion.batch.targets[number]
                if debts := portion.batch.debts(number, self._limits):
                    self._debts.setdefault(target, []).extend(debts)
                portion.lost.append(number)
                self._tell(portion, portion.failed, number, self._died(target))
        portion.over.set()

    def _died(self, target: Target) -> ConnectionLost:
        how = "has died"
        if self._asked >= self._limits.keepalive_count:
            how = f"said nothing for {self._patience:g} s and was ended"
        return ConnectionLost(
            instance_id=target.instance_id,
            host=target.host,
            problem=f"the worker process that held the connection "
            f"({self._process.pid if self._process else 'gone'}) {how}, and nobody knows how "
            "this ended; what is left of it is ended at the next connection",
        )

    # -- what it says ------------------------------------------------------------------------

    async def _ended(self, portion: Portion) -> None:
        """Wait until the worker has ended what was cancelled, in bounded time."""
        limits = self._limits
        bound = limits.connect_timeout + 2 * (2 * limits.kill_grace + limits.close_grace)
        with anyio.move_on_after(bound, shield=True) as scope:
            await portion.over.wait()
        if scope.cancelled_caught:
            names = ", ".join(portion.batch.targets[one].instance_id for one in portion.left)
            logger.warning("%s: the worker process does not say what was ended", names)

    def _hear(self, message: tuple[Any, ...]) -> None:
        getattr(self, f"_on_{message[0]}")(*message[1:])

    def _on_done(self, number: int, place: int, value: Any) -> None:
        portion = self._portions[number]
        self._tell(portion, portion.done, place, value)

    def _on_failed(self, number: int, place: int, error: bytes) -> None:
        portion = self._portions[number]
        self._tell(portion, portion.failed, place, pickle.loads(error))  # noqa: S301 - see `Wire`

    def _on_began(self, number: int, place: int) -> None:
        portion = self._portions[number]
        self._tell(portion, portion.began, place)

    def _on_heard(self, number: int, place: int, *what: Any) -> None:
        portion = self._portions[number]
        self._tell(portion, portion.heard, place, *what)

    def _on_warned(self, number: int, place: int, text: str) -> None:
        portion = self._portions[number]
        self._tell(portion, portion.warned, place, text)

    def _tell(self, portion: Portion, tell: Callable[..., None], *what: Any) -> None:
        """Tell a portion; what its watch raises ends it, once all of it is ended over there."""
        try:
            tell(*what)
        except Exception as trouble:  # noqa: BLE001 - the verb raises it
            if portion.trouble is None:
                portion.trouble, portion.deaf = trouble, True
                self._cancel(portion)

    def _cancel(self, portion: Portion) -> None:
        for number, one in self._portions.items():
            if one is portion and self._briefing is not None:
                self._briefing.wire.say(("cancel", number))

    def _on_over(self, number: int, error: bytes | None) -> None:
        portion = self._portions.pop(number)
        if error is not None and portion.trouble is None:
            portion.trouble = pickle.loads(error)  # noqa: S301 - see `Wire`
        portion.over.set()

    def _on_broken(self, number: int, text: str) -> None:
        portion = self._portions.pop(number)
        portion.trouble = portion.trouble or RuntimeError(f"a bug, in a worker process:\n{text}")
        portion.over.set()

    def _on_owing(self, target: Target, debts: tuple[Debt, ...]) -> None:
        self._owed[target] = debts
        if not debts:
            del self._owed[target]

    def _on_learned(self, number: int, target: int, key: str) -> None:
        if self._begun is not None:
            self._begun.wire.say(("verdict", number, self._begun.learns(target, key)))

    def _on_logged(self, name: str, level: int, text: str) -> None:
        logging.getLogger(name).log(level, "%s", text)

    def _on_alive(self) -> None:
        """That it has said something is all there is to know."""

    def _on_ready(self) -> None:
        self._ready.set()


def _reference(source: Source) -> tuple[int | None, Path]:
    """What the worker is told of a source in a batch."""
    return source.number if source.shared else None, source.path


def _closed() -> ExperimentClosed:
    return ExperimentClosed("the experiment's connections are closed")


def _not_started(why: str) -> ExperimentException:
    return ExperimentException(
        f"a worker process for SSH connections can't be started ({why}); limits.ssh_workers=0 does "
        "without"
    )
