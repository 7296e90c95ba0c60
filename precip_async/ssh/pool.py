"""All connections of an experiment. It leases channels, never connections."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from precip_async.errors import ExperimentClosed
from precip_async.ssh.room import Room
from precip_async.ssh.slot import Lease, Slot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from precip_async.limits import Limits
    from precip_async.ssh.transport import Connector, Target

__all__ = ["Pool", "PoolStatistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """One instant of a pool, in connections.

    Attributes:
        connected: Open ones.
        idle: Those of them that nobody uses.
        connecting: Handshakes in flight.
    """

    connected: int
    idle: int
    connecting: int


class Pool:
    """Connections by target, each opened when first needed.

    Three limits, three names: ``limits.max_connects`` handshakes in flight (and
    ``max_connects_per_server`` to one server or through one bastion), ``max_channels`` commands
    a connection; how many hosts are worked on at once is the fan-out's.

    Args:
        connector: Opens them.
        limits: See above.
        bastion: Whether all pass through one jump host: over its one connection, which takes the
            one descriptor.
        room: Which other connections they share descriptors with; default: there are enough.
    """

    def __init__(
        self,
        connector: Connector,
        limits: Limits,
        *,
        bastion: bool = False,
        room: Room | None = None,
    ) -> None:
        self._connector, self._limits, self._bastion = connector, limits, bastion
        self._room = Room() if room is None or bastion else room
        self._slots: dict[str, dict[Target, Slot]] = {}  # by instance: forgetting one is cheap
        self.handshakes = asyncio.Semaphore(limits.max_connects)
        self.gates: dict[tuple[str, int | None], _Gate] = {}  # by server, while there are turns
        self.connecting = 0
        self._turns = self._turn  # one bound method for all slots
        self._closed = False

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<Pool {now.connected} connected, {now.idle} idle, {now.connecting} connecting>"

    def statistics(self) -> PoolStatistics:
        """What it holds at this instant."""
        connected = [slot for slot in self._all() if slot.connected]
        return PoolStatistics(
            connected=len(connected),
            idle=sum(slot.idle for slot in connected),
            connecting=self.connecting,
        )

    def lease(
        self, target: Target, *, spare: bool = False, timeout: float | None = None
    ) -> AbstractAsyncContextManager[Lease]:
        """A channel of the connection to `target`, which is opened where there is none.

        Args:
            target: Where to.
            spare: Take one of the channels that are kept free for ending commands.
            timeout: See `Slot.ready`.

        Raises:
            ConnectError: There is no connection, and won't be.
            ExperimentClosed: `aclose` has begun.
        """
        return _Leasing(self._slot(target), spare, timeout, self._limits)

    def owe(self, target: Target, debt: tuple[str, ...]) -> None:
        """Have the next new connection to `target` pay `debt`: see `Slot`."""
        self._slot(target).debts.append(debt)

    def debts(self, target: Target) -> tuple[tuple[str, ...], ...]:
        """What the next new connection to `target` has to pay."""
        slot = self._slots.get(target.instance_id, {}).get(target)
        return () if slot is None else tuple(slot.debts)

    def working(self, hosts: int) -> AbstractAsyncContextManager[None]:
        """Have descriptors for `hosts` that are worked on at once; idle connections give way.

        Raises:
            InvalidArgument: They don't fit, by the limit of this process.
        """
        return self._room.working(hosts)

    def connected(self, target: Target) -> bool:
        """Whether a connection to `target` is open."""
        slot = self._slots.get(target.instance_id, {}).get(target)
        return slot is not None and slot.connected

    async def forget(self, instance_id: str) -> None:
        """Close the connections to an instance, which is about to end."""
        for slot in self._slots.pop(instance_id, {}).values():
            await slot.aclose()

    async def aclose(self) -> None:
        """Close every connection, in bounded time. Leases still held are cut off."""
        self._closed = True
        slots, self._slots = list(self._all()), {}
        with anyio.move_on_after(2 * self._limits.close_grace, shield=True):
            async with anyio.create_task_group() as tasks:
                for slot in slots:
                    tasks.start_soon(slot.aclose)
            await self._connector.aclose()

    def _slot(self, target: Target) -> Slot:
        if self._closed:
            raise ExperimentClosed("the experiment's connections are closed")
        slots = self._slots.setdefault(target.instance_id, {})
        slot = slots.get(target)
        if slot is None:
            slot = slots[target] = Slot(
                target, self._connector, self._turns, self._limits, self._room
            )
        return slot

    def _all(self) -> Iterator[Slot]:
        return (slot for slots in self._slots.values() for slot in slots.values())

    def _turn(self, target: Target) -> AbstractAsyncContextManager[None]:
        """The right to one handshake with `target`."""
        server = ("", None) if self._bastion else (target.host, target.port)
        return _Turn(self, server, self._limits.max_connects_per_server)


# Classes and no generators: each host passes through them several times.


class _Leasing:
    """A lease that is taken and given back."""

    __slots__ = ("_channels", "_lease", "_limits", "_slot", "_timeout")

    def __init__(self, slot: Slot, spare: bool, timeout: float | None, limits: Limits) -> None:
        self._slot, self._timeout, self._limits = slot, timeout, limits
        self._channels = slot.spare if spare else slot.channels

    async def __aenter__(self) -> Lease:
        await anyio.lowlevel.checkpoint_if_cancelled()  # nothing below need wait
        await self._channels.acquire()
        try:
            transport = await self._slot.ready(self._timeout)
        except BaseException:
            self._channels.release()
            raise
        self._slot.take(transport)
        self._lease = Lease(self._slot, transport, self._limits)
        return self._lease

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._slot.give_back(self._lease.transport)
        finally:
            self._channels.release()


class _Gate(asyncio.Semaphore):
    """What the handshakes with one server pass through; `users` are in it, or wait."""

    users = 0


class _Turn:
    """One handshake, counted."""

    __slots__ = ("_gate", "_most", "_pool", "_server")

    def __init__(self, pool: Pool, server: tuple[str, int | None], most: int) -> None:
        self._pool, self._server, self._most = pool, server, most

    async def __aenter__(self) -> None:
        gates = self._pool.gates
        if self._server not in gates:
            gates[self._server] = _Gate(self._most)
        self._gate = gates[self._server]
        self._gate.users += 1
        try:
            await self._gate.acquire()
            try:
                await self._pool.handshakes.acquire()
            except BaseException:
                self._gate.release()
                raise
        except BaseException:
            self._leave()
            raise
        self._pool.connecting += 1

    async def __aexit__(self, *exc_info: object) -> None:
        self._pool.connecting -= 1
        self._pool.handshakes.release()
        self._gate.release()
        self._leave()

    def _leave(self) -> None:
        self._gate.users -= 1
        if not self._gate.users:  # a fleet of a thousand would keep a thousand of them
            del self._pool.gates[self._server]
