"""One host's connection: opened once for all who wait, replaced when lost, shared by channels."""

from __future__ import annotations

import asyncio
import copy
import logging
import random
import time
from typing import TYPE_CHECKING

import anyio

from precip_async.errors import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    ExperimentClosed,
    ExperimentException,
    RemoteError,
)
from precip_async.ssh.room import Room

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from precip_async.events import Stream
    from precip_async.limits import Limits
    from precip_async.ssh.transport import Channel, Connector, Receiver, Target, Transport

__all__ = ["Lease", "Slot", "backoff"]

logger = logging.getLogger(__name__)

SPARE_CHANNELS = 2  # sshd's MaxSessions is 10 and max_channels 8: these end commands
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between attempts


def backoff(attempt: int) -> float:
    """Seconds to pause after the `attempt`-th failure, from 1: doubling, and jittered by half."""
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (attempt - 1))
    return pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter is no secret


class Slot:
    """A place for one target's connection. It outlives the connection.

    All state is changed synchronously; I/O follows. `debts` are what the next new connection does
    before it is used: command lines that end what a lost connection left behind, each to be run
    where the one before it failed.
    """

    # Most slots are idle most of the time: no dictionary each, and locks of asyncio's, which make
    # their queue when somebody has to wait; anyio's have one of 600 bytes from the beginning.
    __slots__ = (
        *("_connecting", "_connector", "_failure", "_failures", "_leases", "_room", "_limits"),
        *("_transport", "_turn", "channels", "closed", "debts", "spare", "target"),
    )

    def __init__(
        self,
        target: Target,
        connector: Connector,
        turn: Callable[[Target], AbstractAsyncContextManager[None]],
        limits: Limits,
        room: Room | None = None,
    ) -> None:
        self.target = target
        self.channels = asyncio.Semaphore(limits.max_channels)
        self.spare = asyncio.Semaphore(SPARE_CHANNELS)
        self.debts: list[tuple[str, ...]] = []
        self.closed = False
        self._connector, self._turn, self._limits = connector, turn, limits
        self._room = Room() if room is None else room
        self._connecting = asyncio.Lock()
        self._transport: Transport | None = None
        self._leases: dict[Transport, int] = {}
        self._failures = 0
        self._failure: ExperimentException | None = None

    @property
    def connected(self) -> bool:
        """Whether it holds a connection that is open, as far as anybody knows."""
        return self._transport is not None and self._transport.alive

    @property
    def idle(self) -> bool:
        """Whether nobody uses it."""
        return not self._leases and not self._connecting.locked()

    async def ready(self, timeout: float | None = None) -> Transport:
        """The connection, opened first where there is none: one attempt for all who wait.

        Args:
            timeout: Seconds for a single attempt, as a boot probe wants; ``None``: attempts go on
                for ``limits.connect_timeout`` while they are worth it.

        Raises:
            ConnectError: The verdict, shared by all who waited for it.
        """
        if self._transport is not None and self._transport.alive:
            return self._transport
        seen = self._failures
        async with self._connecting:
            if self.closed:
                raise ExperimentClosed(f"the connections of {self.target.instance_id} are closed")
            if self._transport is not None and self._transport.alive:
                return self._transport
            if self._failure is not None and self._failures != seen:
                shared = copy.copy(self._failure)  # one of its own for each: tracebacks are
                raise shared from self._failure
            if self._transport is not None:  # it has died, and takes no room any more
                self._room.closed(self._transport)
            try:
                transport = await self._connect(timeout)
            except ExperimentException as error:
                self._failures, self._failure = self._failures + 1, error
                raise
            stale, self._transport = self._transport, transport
            if stale is not None:
                self._leases.pop(stale, None)
            if self.closed:  # aclose() came by while we connected
                await self._retire(transport)
                raise ExperimentClosed(f"the connections of {self.target.instance_id} are closed")
            return transport

    async def _connect(self, timeout: float | None) -> Transport:
        limit = self._limits.connect_timeout if timeout is None else timeout
        spent, attempt = 0.0, 0
        known: ConnectError | None = None
        while True:
            transport = None
            await self._room.enter(
                self.target, self._limits.connect_timeout, urgent=bool(self._leases)
            )
            try:
                async with self._turn(self.target):  # waiting for it costs none of the time
                    began = time.monotonic()
                    transport = await self._connector.connect(self.target, limit - spent)
                    break
            except ConnectError as error:
                # A last attempt that had little time left knows less than the one before.
                hasty = isinstance(error, ConnectTimeout) and limit - spent < limit / 2
                known = error if known is None or not hasty else known
                attempt += 1
                pause = backoff(attempt)
                spent += time.monotonic() - began + pause
                if timeout is not None or spent >= min(limit, error.patience):
                    if attempt > 1:
                        known.add_note(f"{attempt} attempts in {spent - pause:.1f} s")
                    raise known from known.__cause__
            finally:
                self._room.left(transport)
            await anyio.sleep(pause)
        try:
            await self._pay(transport)
        except BaseException:
            await self._retire(transport)
            raise
        return transport

    async def _pay(self, transport: Transport) -> None:
        """Settle the debts; one that can't be settled now is kept for the next connection."""
        name = self.target.instance_id
        while self.debts:
            code: int | None = None
            try:
                with anyio.move_on_after(2 * self._limits.kill_grace + self._limits.close_grace):
                    for line in self.debts[0]:
                        code = await _run(transport, line)
                        if code == 0:
                            break
            except RemoteError as error:
                logger.warning("%s: what was left behind is not ended yet: %s", name, error)
                return
            if code is None:
                logger.warning("%s: what was left behind is not ended yet", name)
                return
            if code:
                logger.warning("%s: not all that was left behind could be ended", name)
            self.debts.pop(0)

    def take(self, transport: Transport) -> None:
        """Count a lease of `transport`."""
        self._leases[transport] = self._leases.get(transport, 0) + 1
        self._room.works(self)

    async def give_back(self, transport: Transport) -> None:
        """End a lease of `transport`; one that is no longer current is closed after its last."""
        left = self._leases.get(transport, 0) - 1
        if left > 0:
            self._leases[transport] = left
            return
        self._leases.pop(transport, None)
        if self._transport is not None and not self._leases:
            self._room.rests(self)
        if transport is not self._transport:
            await self._retire(transport)

    def drop(self, transport: Transport) -> None:
        """Use `transport` for nothing new: a channel of it could not be freed."""
        if self._transport is transport:
            self._transport = None

    async def aclose(self) -> None:
        """Close the connection; who still waits for it gets `ExperimentClosed`."""
        self.closed = True
        await self.give_way()

    async def give_way(self) -> None:
        """Close the connection; the next who wants one has another opened."""
        self._room.works(self)
        transport, self._transport = self._transport, None
        if transport is not None:
            await self._retire(transport)

    async def _retire(self, transport: Transport) -> None:
        try:
            with anyio.move_on_after(2 * self._limits.close_grace, shield=True):
                await transport.aclose()
        finally:
            self._room.closed(transport)


class Lease:
    """The right to one channel of a slot's connection.

    Attributes:
        doubtful: Whether it is not known if the last command asked for was started.
    """

    __slots__ = ("_limits", "doubtful", "slot", "transport")

    def __init__(self, slot: Slot, transport: Transport, limits: Limits) -> None:
        self.slot, self.transport, self._limits = slot, transport, limits
        self.doubtful = False

    async def start(self, line: str, receiver: Receiver, *, patient: bool = True) -> Channel:
        """Have the login shell run `line`, over a new connection where the old one had died.

        A command is asked for again only when it is certain that it was never started, and unless
        `patient` not even then. Shielded against cancellation, for at most
        ``limits.connect_timeout`` once a request is on its way, so that no command is started
        without anybody knowing.

        Raises:
            ConnectionLost: The connection was lost; the command may have been started.
            ConnectError: No connection, or no further session.
        """
        spent, attempt = 0.0, 0
        while True:
            began = time.monotonic()
            try:
                with anyio.CancelScope(
                    shield=True, deadline=anyio.current_time() + self._limits.connect_timeout
                ) as scope:
                    return await self.transport.start(line, receiver)
            except anyio.get_cancelled_exc_class():  # by a bare Task.cancel, which passes shields
                self.doubtful = True
                self.drop()
                raise
            except ConnectError as error:
                attempt += 1
                pause = backoff(attempt)
                spent += time.monotonic() - began + pause
                if not patient or spent >= error.patience:
                    raise
            else:
                assert scope.cancelled_caught
                raise self._silent()
            await anyio.sleep(pause)
            await self.renew()

    async def echo(self) -> None:
        """Wait for an answer of the server, which comes behind all that it has to send.

        No answer is needed where the connection is lost, or has no session for it.
        """
        async with self.slot.spare:
            try:
                await _run(self.transport, ":")
            except RemoteError as error:
                logger.debug("no echo: %s", error)
            except BaseException:
                self.drop()  # the server may count a session that we know nothing of
                raise

    def _silent(self) -> ConnectionLost:
        """The peer answers nothing: give the connection up."""
        self.slot.drop(self.transport)
        target = self.slot.target
        return ConnectionLost(
            instance_id=target.instance_id,
            host=target.host,
            problem="the SSH server does not answer a request for a session "
            f"({self._limits.connect_timeout:.0f} s)",
        )

    async def renew(self) -> None:
        """Lease from the slot's present connection, if ours has died."""
        if self.transport.alive:
            return
        transport = await self.slot.ready()
        self.slot.take(transport)
        stale, self.transport = self.transport, transport
        await self.slot.give_back(stale)

    def drop(self) -> None:
        """Let nobody else use this connection."""
        self.slot.drop(self.transport)


async def _run(transport: Transport, line: str) -> int | None:
    """Run `line` over `transport`; its exit code, ``None`` when that will never be known."""
    end = _End()
    channel = await transport.start(line, end)
    try:
        await end.event.wait()
    finally:
        channel.close()
    return end.code


class _End:
    """A receiver that waits for the exit only."""

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.code: int | None = None

    def received(self, stream: Stream, data: bytes) -> None:
        """Nobody wants it."""

    def exited(self, code: int) -> None:
        self.code = code
        self.event.set()

    def writable(self, ready: bool) -> None:
        """Nothing is written."""

    def closed(self) -> None:
        self.event.set()
