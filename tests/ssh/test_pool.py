"""The pool by itself, over connections in memory: who connects, who waits, who shares what."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from precip_async.errors import (
    AuthenticationFailed,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    ExperimentClosed,
    InvalidArgument,
)
from precip_async.limits import Limits
from precip_async.ssh.pool import Pool, PoolStatistics
from precip_async.ssh.slot import LONGEST_PAUSE, Lease, backoff
from tests.ssh.fakes import FakeConnector, FakeTransport, NoReceiver, refused, target

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from precip_async.ssh.transport import Target

NOBODY = PoolStatistics(connected=0, idle=0, connecting=0)


@pytest.fixture
def connector() -> FakeConnector:
    return FakeConnector()


@pytest.fixture
def pool(connector: FakeConnector) -> Pool:
    return Pool(connector, Limits(max_channels=3, connect_timeout=0.3))


async def hold(
    pool: Pool,
    where: Target,
    seen: list[object] | None = None,
    *,
    spare: bool = False,
    task_status: TaskStatus[Lease] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Lease a channel for ever; note the transport, or why there is none."""
    try:
        async with pool.lease(where, spare=spare) as lease:
            task_status.started(lease)
            if seen is not None:
                seen.append(lease.transport)
            await anyio.sleep_forever()
    except (ConnectError, ExperimentClosed) as error:
        if seen is None:
            raise
        seen.append(error)


# -- one connect for all ---------------------------------------------------------------------


async def test_many_who_want_one_host_share_one_connect(
    pool: Pool, connector: FakeConnector
) -> None:
    """The first connects, the others wait, and all lease the same connection."""
    seen: list[object] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(hold, pool, target(), seen)
        await wait_all_tasks_blocked()
        assert repr(pool) == "<Pool 0 connected, 0 idle, 1 connecting>"
        connector.gate.set()
        await wait_all_tasks_blocked()
        assert pool.statistics() == PoolStatistics(connected=1, idle=0, connecting=0)
        assert pool.connected(target())
        tasks.cancel_scope.cancel()

    assert connector.attempts == 1
    assert set(seen) == set(connector.made)
    assert pool.statistics() == PoolStatistics(connected=1, idle=1, connecting=0)


async def test_many_who_want_one_host_share_its_verdict(
    pool: Pool, connector: FakeConnector
) -> None:
    """A failure is told to all who waited for it, each an error of its own, and not repeated."""
    connector.failures = [AuthenticationFailed(instance_id="i-1", host="h", problem="no key")]
    seen: list[object] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(hold, pool, target(), seen)
        await wait_all_tasks_blocked()
        connector.gate.set()

    assert connector.attempts == 1
    assert [type(error) for error in seen] == [AuthenticationFailed] * 3
    assert len({id(error) for error in seen}) == 3
    assert pool.statistics() == NOBODY


async def test_a_verdict_is_for_those_who_waited_only(pool: Pool, connector: FakeConnector) -> None:
    """Who comes later makes an attempt of its own."""
    connector.failures = [refused()]
    connector.gate.set()
    with pytest.raises(ConnectError):
        async with pool.lease(target()):
            pytest.fail("refused")

    async with pool.lease(target()) as lease:
        assert lease.transport is connector.made[0]


async def test_bad_input_is_shared_like_any_verdict(pool: Pool, connector: FakeConnector) -> None:
    """A key that can't be read is not read again for each who waits."""
    connector.failures = [InvalidArgument("no such key")]
    connector.gate.set()
    with pytest.raises(InvalidArgument):
        async with pool.lease(target()):
            pytest.fail("there is no key")

    assert connector.attempts == 1


async def test_a_cancelled_leader_hands_over(pool: Pool, connector: FakeConnector) -> None:
    """When who connects is cancelled, the next in line connects, and nobody sees an error."""
    seen: list[object] = []
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as leader:
            leader.start_soon(hold, pool, target())
            await wait_all_tasks_blocked()
            tasks.start_soon(hold, pool, target(), seen)
            await wait_all_tasks_blocked()
            leader.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        assert connector.attempts == 2
        connector.gate.set()
        await wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert seen == connector.made


async def test_a_cancelled_waiter_leaves_the_pool_as_it_was(
    pool: Pool, connector: FakeConnector
) -> None:
    """A task cancelled while connecting holds nothing afterwards."""
    with anyio.move_on_after(0):
        async with pool.lease(target()):
            pytest.fail("the gate is shut")

    assert pool.statistics() == NOBODY
    assert connector.now == 0


# -- limits ----------------------------------------------------------------------------------


async def test_handshakes_are_bounded_over_all(connector: FakeConnector) -> None:
    """However many hosts are wanted, `max_connects` handshakes are in flight."""
    pool = Pool(connector, Limits(max_connects=5))
    async with anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(hold, pool, target(number, f"h{number}"))
        await wait_all_tasks_blocked()
        assert connector.now == 5
        assert pool.statistics().connecting == 5
        connector.gate.set()
        await wait_all_tasks_blocked()
        assert pool.statistics().connected == 40
        tasks.cancel_scope.cancel()

    assert connector.most == 5


@pytest.mark.parametrize("bastion", [False, True])
async def test_handshakes_with_one_server_are_bounded(
    connector: FakeConnector, bastion: bool
) -> None:
    """Behind one address, or behind one jump host, `max_connects_per_server` are in flight."""
    pool = Pool(connector, Limits(max_connects_per_server=4), bastion=bastion)
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            host = f"h{number}" if bastion else "h"
            tasks.start_soon(hold, pool, target(number, host))
        await wait_all_tasks_blocked()
        assert connector.now == 4
        connector.gate.set()
        await wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert connector.most == 4
    assert connector.attempts == 20


async def test_a_host_that_pauses_between_attempts_holds_no_turn(
    connector: FakeConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two attempts the right to a handshake is somebody else's."""
    monkeypatch.setattr("precip_async.ssh.slot.backoff", lambda _attempt: 100)
    connector.gate.set()
    connector.failures = [refused(float("inf"))]
    pool = Pool(connector, Limits(max_connects=1, connect_timeout=1000))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold, pool, target(1, "a"))
        await wait_all_tasks_blocked()
        assert connector.attempts == 1
        assert pool.statistics() == NOBODY
        await tasks.start(hold, pool, target(2, "b"))
        tasks.cancel_scope.cancel()


async def test_channels_are_bounded_and_two_are_kept_for_ending(
    pool: Pool, connector: FakeConnector
) -> None:
    """Commands wait for each other's channels; what ends commands does not wait for them."""
    connector.gate.set()
    seen: list[object] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(hold, pool, target(), seen)
        await wait_all_tasks_blocked()
        assert len(seen) == 3
        await tasks.start(partial(hold, pool, target(), spare=True))
        tasks.cancel_scope.cancel()

    assert connector.attempts == 1


async def test_waiting_for_a_turn_costs_nothing_of_the_time_to_connect(
    connector: FakeConnector,
) -> None:
    """A queue as long as the timeout is no reason to give up."""
    pool = Pool(connector, Limits(max_connects=1, connect_timeout=0.1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold, pool, target(1, "a"))
        await wait_all_tasks_blocked()
        tasks.start_soon(hold, pool, target(2, "b"))
        await anyio.sleep(0.15)
        connector.gate.set()
        await wait_all_tasks_blocked()
        assert pool.connected(target(2, "b"))
        tasks.cancel_scope.cancel()


# -- retries ---------------------------------------------------------------------------------


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses as they are on average, and a hundred times shorter."""
    monkeypatch.setattr("precip_async.ssh.slot.backoff", lambda attempt: 0.001 * attempt)


@pytest.mark.usefixtures("no_jitter")
async def test_what_is_worth_it_is_tried_again(pool: Pool, connector: FakeConnector) -> None:
    """Errors with patience are followed by another attempt, until one succeeds."""
    connector.gate.set()
    connector.failures = [refused(5), refused(5), refused(5)]

    async with pool.lease(target()):
        assert connector.attempts == 4


@pytest.mark.usefixtures("no_jitter")
async def test_patience_ends_with_the_time_to_connect(pool: Pool, connector: FakeConnector) -> None:
    """Endless patience is bounded by `connect_timeout`, and the error says what was tried."""
    connector.gate.set()
    connector.failures = [refused(float("inf")) for _ in range(1000)]

    with anyio.fail_after(5), pytest.raises(ConnectError) as caught:
        async with pool.lease(target()):
            pytest.fail("refused")

    assert connector.attempts > 5
    assert f"{connector.attempts} attempts in" in caught.value.__notes__[0]


@pytest.mark.parametrize("pause", [0.2, 0.001])
async def test_a_last_attempt_without_time_does_not_hide_what_was_seen(
    pool: Pool, connector: FakeConnector, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    """Where it had most of the time, its verdict counts; else that of the one before."""
    pauses = iter([pause, 1.0])
    monkeypatch.setattr("precip_async.ssh.slot.backoff", lambda _attempt: next(pauses))
    hasty = ConnectTimeout(instance_id="i-1", host="h", problem="no answer")
    hasty.patience = float("inf")
    connector.gate.set()
    connector.failures = [refused(float("inf")), hasty]

    with pytest.raises(ConnectError) as caught:
        async with pool.lease(target()):
            pytest.fail("refused")

    assert isinstance(caught.value, ConnectTimeout) == (pause == 0.001)
    assert caught.value.__notes__[0].startswith("2 attempts in")


@pytest.mark.usefixtures("no_jitter")
async def test_what_is_not_worth_it_is_not_tried_again(
    pool: Pool, connector: FakeConnector
) -> None:
    """An error without patience is final; so is any, where a single attempt was asked for."""
    connector.gate.set()
    connector.failures = [refused(0), refused(5)]

    for timeout in (None, 0.5):
        with pytest.raises(ConnectError):
            async with pool.lease(target(), timeout=timeout):
                pytest.fail("refused")

    assert connector.attempts == 2


def test_pauses_double_and_are_jittered() -> None:
    """Many clients that are refused at once do not come back at once."""
    random.seed(7)
    first = [backoff(1) for _ in range(200)]
    later = [backoff(50) for _ in range(200)]

    assert 0.05 <= min(first) < max(first) <= 0.15
    assert max(first) - min(first) > 0.05
    assert LONGEST_PAUSE / 2 <= min(later) < max(later) <= LONGEST_PAUSE * 1.5


# -- connections that die, and commands asked for ----------------------------------------------


async def test_a_dead_connection_is_replaced(pool: Pool, connector: FakeConnector) -> None:
    """The next lease connects anew."""
    connector.gate.set()
    async with pool.lease(target()) as lease:
        first = lease.transport
    connector.made[0].alive = False
    assert not pool.connected(target())

    async with pool.lease(target()) as lease:
        assert lease.transport is not first


async def test_a_dropped_connection_is_closed_after_its_last_lease(
    pool: Pool, connector: FakeConnector
) -> None:
    """Others go on with what they have; nobody new gets it."""
    connector.gate.set()
    async with pool.lease(target()) as one:
        async with pool.lease(target()) as two:
            two.drop()
        assert connector.made[0].alive
        async with pool.lease(target()) as three:
            assert three.transport is not one.transport
    assert not connector.made[0].alive
    assert connector.made[1].alive


async def test_a_command_that_was_not_started_is_asked_for_again(
    pool: Pool, connector: FakeConnector
) -> None:
    """No session, or a connection that had died: another try, perhaps over another connection."""
    connector.gate.set()
    async with pool.lease(target()) as lease:
        connector.made[0].failures = [refused(5)]
        connector.made[0].alive = False
        await lease.start("true", NoReceiver())

    assert connector.made[1].started == ["true"]
    assert not connector.made[0].started


async def test_a_command_that_may_have_been_started_is_not_asked_for_again(
    pool: Pool, connector: FakeConnector
) -> None:
    """Once is enough: the connection's end is an error."""
    connector.gate.set()
    async with pool.lease(target()) as lease:
        connector.made[0].failures = [ConnectionLost(instance_id="i-1", host="h", problem="lost")]
        with pytest.raises(ConnectionLost):
            await lease.start("true", NoReceiver())

    assert connector.attempts == 1


async def test_debts_are_settled_before_a_new_connection_is_used(
    pool: Pool, connector: FakeConnector
) -> None:
    """Each is tried in its ways until one does; what was settled is not settled again."""
    connector.gate.set()
    async with pool.lease(target()) as lease:
        lease.slot.debts += [("one", "other one"), ("two",)]
        connector.made[0].alive = False

    async with pool.lease(target()) as lease:
        assert connector.made[1].started == ["one", "two"]
        assert lease.slot.debts == []


async def test_a_debt_that_can_not_be_settled_now_is_kept(
    pool: Pool, connector: FakeConnector
) -> None:
    """A connection that breaks over it is no verdict, and the next one tries again."""
    connector.gate.set()
    async with pool.lease(target()) as lease:
        lease.slot.debts.append(("one",))
        connector.made[0].alive = False
    connect = connector.connect

    async def broken(where: Target, timeout: float) -> FakeTransport:
        transport = await connect(where, timeout)
        transport.failures = [ConnectionLost(instance_id="i-1", host="h", problem="lost")]
        return transport

    connector.connect = broken  # type: ignore[assignment,method-assign] # this once
    async with pool.lease(target()) as lease:
        assert lease.slot.debts == [("one",)]


# -- the end ---------------------------------------------------------------------------------


async def test_forgetting_an_instance_closes_its_connections(
    pool: Pool, connector: FakeConnector
) -> None:
    """Whoever the user was; others stay, and the instance can be connected to again."""
    connector.gate.set()
    for where in (target(1), replace(target(1), user="bob"), target(2)):
        async with pool.lease(where):
            pass

    await pool.forget("i-1")

    assert [made.alive for made in connector.made] == [False, False, True]
    async with pool.lease(target(1)):
        assert connector.attempts == 4


async def test_a_closed_pool_gives_nothing_more(pool: Pool, connector: FakeConnector) -> None:
    """Every connection is closed, and whoever comes later, or waited, is told."""
    connector.gate.set()
    seen: list[object] = []
    async with pool.lease(target(1)):
        pass
    connector.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold, pool, target(2), seen)  # connects
        tasks.start_soon(hold, pool, target(2), seen)  # waits for it
        await wait_all_tasks_blocked()
        await pool.aclose()
        connector.gate.set()

    assert [type(error) for error in seen] == [ExperimentClosed] * 2
    assert connector.closed
    assert not any(made.alive for made in connector.made)
    with pytest.raises(ExperimentClosed):
        async with pool.lease(target(1)):
            pytest.fail("it is closed")


async def test_a_connection_that_does_not_close_is_left_in_the_end(
    connector: FakeConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing is bounded by `close_grace`, whatever the connection does."""
    pool = Pool(connector, Limits(close_grace=0.05))
    connector.gate.set()
    async with pool.lease(target()):
        pass
    monkeypatch.setattr(connector.made[0], "aclose", anyio.sleep_forever)

    with anyio.fail_after(5):
        await pool.aclose()
