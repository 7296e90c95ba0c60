"""One worker as its parent sees it: a process, what it was told, and what it is at."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from precip_async.errors import ConnectionLost, ExperimentClosed, ExperimentException
from precip_async.ssh.command import endings
from precip_async.ssh.workers.process import WorkerProcess
from precip_async.ssh.workers.wire import Wire

if TYPE_CHECKING:
    from precip_async.events import Stream
    from precip_async.ssh.command import Order
    from precip_async.ssh.output import Listener
    from precip_async.ssh.source import Content, Source
    from precip_async.ssh.transport import Target, Trust
    from precip_async.ssh.workers.wire import Beginning

__all__ = ["Shard"]

logger = logging.getLogger(__name__)

START_TIMEOUT = 60.0  # seconds for a worker to stand ready, of which it needs about 0.5
PATIENCE = 10.0  # seconds of silence at least: where much is going on, a process waits its turn
GOING = 5.0  # seconds for a process to go whose work is done


class _Call:
    """One operation under way in the worker.

    Attributes:
        trouble: What its listener has raised: it is what comes of the operation.
    """

    __slots__ = ("future", "listener", "order", "target", "trouble")

    def __init__(
        self, target: Target, order: Order | None = None, listener: Listener | None = None
    ) -> None:
        self.target, self.order, self.listener = target, order, listener
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.trouble: Exception | None = None

    def done(self, value: Any = None, error: Exception | None = None) -> None:
        """Tell who waits for it, if anybody still does."""
        error = self.trouble or error
        if self.future.done():
            return
        if error is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(error)


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
        self._wire: Wire | None = None  # to a worker that stands ready
        self._process: WorkerProcess | None = None
        self._begun: Wire | None = None  # to the present process
        self._gone, self._ready = anyio.Event(), anyio.Event()  # of the present process
        self._beat: asyncio.TimerHandle | None = None
        self._asked, self._packets = 0, 0  # since it last said something
        self._calls: dict[int, _Call] = {}
        self._number = 0
        self._known: dict[str, tuple[str, ...]] = {}  # what the present process was told
        self._cwd = ""
        self._showing = anyio.Lock()
        self._shown: set[int] = set()  # sources, by their numbers; of the present process
        self.ended = ""
        # What ends what dead processes may have left running, by where; and what the present one
        # will have to end as soon as it has a connection there.
        self._debts: dict[Target, list[tuple[str, ...]]] = {}
        self._owed: dict[Target, tuple[tuple[str, ...], ...]] = {}

    @property
    def pid(self) -> int | None:
        """The id of the process, where there is one at work."""
        return None if self._wire is None or self._process is None else self._process.pid

    async def do(
        self,
        name: str,
        target: Target,
        order: Order | None,
        *args: Any,
        listener: Listener | None = None,
        **how: Any,
    ) -> Any:
        """Have the worker do the operation `name` of a `Remote`, and return what comes of it.

        Raises:
            ConnectionLost: The worker died; what it may have left of `order` is ended as soon as
                there is a connection again.
            ExperimentException: There is no worker; or see `Remote`.
        """
        wire = self._wire or await self.started()
        self._introduce(wire, target)
        if (bastion := self._beginning.login.bastion) is not None:
            self._introduce(wire, bastion)
        if debts := self._debts.pop(target, None):
            self._owed[target] = (*self._owed.get(target, ()), *debts)
            wire.say(("owe", target, debts))
        given = (target, *args) if order is None else (target, order, *args)
        return await self._outcome(wire, _Call(target, order, listener), name, given, how)

    def _introduce(self, wire: Wire, target: Target) -> None:
        """Tell the worker the keys that `target` is known by, if it does not know them yet."""
        keys = self._trust.known(target)
        if keys != self._known.get(target.alias, ()):
            self._known[target.alias] = keys
            wire.say(("known", target.alias, keys))

    def tell(self, *message: Any) -> None:
        """Tell the worker something, if there is one."""
        if self._wire is not None:
            self._wire.say(message)

    def follow(self) -> None:
        """Have what comes next find relative paths where this process does."""
        try:
            here = os.getcwd()  # noqa: PTH109 - a path of it is not needed, and this is for each
        except OSError:  # it was removed: who needs it says so
            return
        if here != self._cwd and self._wire is not None:
            self._cwd = here
            self._wire.say(("cwd", here))

    async def show(self, target: Target, source: Source, content: Content) -> None:
        """Have the worker send what `source` holds, `content`, whenever it is to put it.

        Raises:
            ConnectionLost: The worker died.
            ExperimentException: There is no worker.
        """
        wire = self._wire or await self.started()
        async with self._showing:
            if source.number in self._shown:
                return
            process, descriptor = self._process, content.body.descriptor
            if descriptor is not None and process is not None:
                try:  # in a thread: a worker that hangs takes nothing until it is ended
                    await anyio.to_thread.run_sync(process.send_file, source.number, descriptor)
                except OSError as error:
                    raise self._died(target) from error
            if wire is not self._wire:
                raise self._died(target)
            is_file = descriptor is not None
            wire.say(("source", source.number, source.path, content, is_file))
            self._shown.add(source.number)
            source.closing.append(partial(self._hide, source.number))

    def _hide(self, number: int) -> None:
        self._shown.discard(number)
        self.tell("sent", number)

    async def forget(self, target: Target) -> None:
        """Close the connections to the instance of `target`."""
        for debts in (self._debts, self._owed):
            for one in [one for one in debts if one.instance_id == target.instance_id]:
                del debts[one]
        if self._wire is not None:
            await self._outcome(self._wire, _Call(target), "forget", (target.instance_id,), {})

    async def aclose(self) -> None:
        """Have the worker close its connections and end, in bounded time."""
        self._closed = True
        self._ready.set()
        async with self._starting:
            if self._begun is not None:
                self._begun.say(("close",))
                with anyio.move_on_after(4 * self._limits.close_grace, shield=True):
                    await self._gone.wait()
                if self._begun is not None:  # it does not end: we do
                    self._begun.close()
            await self._reap()

    # -- a process ---------------------------------------------------------------------------

    async def started(self) -> Wire:
        """The line to the worker, which is started where there is none.

        Raises:
            ExperimentException: It can't be; the error says why.
        """
        async with self._starting:
            if self._wire is None:
                self._wire = await self._stand_ready(await self._begin())
                self._watch(self._wire)
            return self._wire

    async def _begin(self) -> Wire:
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
        self._known.clear()
        self._shown.clear()
        self._cwd = ""
        self._asked = self._packets = 0
        with anyio.CancelScope(shield=True):  # it is a socket that is connected
            wire = await Wire.over(process.line, self._hear, partial(self._lost, self._gone))
        self._begun = wire
        wire.say((self._beginning,))
        return wire

    async def _stand_ready(self, wire: Wire) -> Wire:
        with anyio.move_on_after(START_TIMEOUT):
            await self._ready.wait()
        if self._closed:
            raise _closed()
        if self._gone.is_set():
            raise _not_started(await self._reap())
        if not self._ready.is_set():
            wire.close()
            await self._reap()
            raise _not_started(f"it was not ready within {START_TIMEOUT:g} s")
        return wire

    async def _reap(self) -> str:
        """See that the process has ended, if there was one; how it has, in words."""
        process, self._process = self._process, None
        if process is None:
            return ""
        with anyio.CancelScope(shield=True):  # bounded by itself
            self.ended = await anyio.to_thread.run_sync(process.reap, GOING)
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
        self._wire = self._begun = None
        owed, self._owed = self._owed, {}
        for target, lines in owed.items():
            self._debts.setdefault(target, []).extend(lines)
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if call.order is not None:
                debts = self._debts.setdefault(call.target, [])
                debts.append(endings(call.order, self._limits))
            call.done(error=_closed() if self._closed else self._died(call.target))

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

    # -- operations --------------------------------------------------------------------------

    async def _outcome(
        self, wire: Wire, call: _Call, name: str, args: tuple[Any, ...], how: dict[str, Any]
    ) -> Any:
        self._number = number = self._number + 1
        self._calls[number] = call
        wire.say(("do", number, name, args, how))
        try:
            return await call.future
        except anyio.get_cancelled_exc_class():
            if number in self._calls:
                wire.say(("cancel", number))
                await self._ended(call)
            raise

    async def _ended(self, call: _Call) -> None:
        """Wait until the worker has ended what was cancelled, in bounded time."""
        limits = self._limits
        call.future = asyncio.get_running_loop().create_future()
        # Whatever comes of it now is no news: the cancellation goes before it.
        call.future.add_done_callback(lambda future: future.cancelled() or future.exception())
        bound = limits.connect_timeout + 2 * (2 * limits.kill_grace + limits.close_grace)
        with anyio.move_on_after(bound, shield=True) as scope:
            await asyncio.wait([call.future])
        if scope.cancelled_caught:
            name = call.target.instance_id
            logger.warning("%s: the worker process does not say what was ended", name)

    def _hear(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("done", number, value):
                self._calls.pop(number).done(value)
            case ("cancelled", number):
                self._calls.pop(number).done()
            case ("failed", number, error):
                self._calls.pop(number).done(error=pickle.loads(error))  # noqa: S301 - see `Wire`
            case ("broken", number, text):
                bug = RuntimeError(f"a bug, in a worker process:\n{text}")
                self._calls.pop(number).done(error=bug)
            case ("heard", number, stream, text):
                self._heard(number, stream, text)
            case ("learned", number, target, key):
                self.tell("verdict", number, self._believed(target, key))
            case ("logged", name, level, text):
                logging.getLogger(name).log(level, "%s", text)
            case ("owing", target, debts):
                self._owed[target] = debts
                if not debts:
                    del self._owed[target]
            case ("ready",):
                self._ready.set()

    def _heard(self, number: int, stream: Stream, text: str) -> None:
        call = self._calls[number]
        if call.listener is None or call.trouble is not None or call.future.done():
            return
        try:
            call.listener(stream, text)
        except Exception as trouble:  # noqa: BLE001 - the verb raises it, once the command is ended
            call.trouble = trouble
            self.tell("cancel", number)

    def _believed(self, target: Target, key: str) -> bool:
        """Whether a key that the worker has seen at first sight is `target`'s."""
        known = self._trust.known(target)
        if known:  # since then
            return key.split()[:2] in [line.split()[:2] for line in known]
        return self._trust.learned(target, key)


def _closed() -> ExperimentClosed:
    return ExperimentClosed("the experiment's connections are closed")


def _not_started(why: str) -> ExperimentException:
    return ExperimentException(
        f"a worker process for SSH connections can't be started ({why}); limits.ssh_workers=0 does "
        "without"
    )
