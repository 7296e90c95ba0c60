"""The room that descriptors leave for connections, over connections in memory."""

from __future__ import annotations

import re

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from precip_async import descriptors
from precip_async.errors import ConnectError, InvalidArgument
from precip_async.limits import Limits
from precip_async.ssh.pool import Pool
from precip_async.ssh.room import FILES, RESERVE, Room
from tests.ssh.fakes import FakeConnector, NoReceiver, target

OPEN = 4 * RESERVE  # descriptors that are not ours: so many that the reserve is a whole one
QUICK = Limits(connect_timeout=0.2)


rooms: list[Room] = []


@pytest.fixture(autouse=True)
def only_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the connections of the test's rooms nothing is opened or closed under a test."""
    rooms.clear()
    monkeypatch.setattr(descriptors, "in_use", lambda: OPEN + sum(len(one.held) for one in rooms))


@pytest.fixture
def connector() -> FakeConnector:
    made = FakeConnector()
    made.gate.set()
    return made


def room_for(connections: int) -> Room:
    """A room for so many connections, of hosts that nobody works on."""
    rooms.append(Room(RESERVE + OPEN + connections))
    return rooms[-1]


async def visit(pool: Pool, number: int) -> None:
    """Lease a channel to a host and give it back."""
    async with pool.lease(target(number, f"h{number}")):
        pass


async def stay(pool: Pool, number: int) -> None:
    """Lease a channel to a host for ever."""
    async with pool.lease(target(number, f"h{number}")):
        await anyio.sleep_forever()


def connected(pool: Pool, count: int) -> list[int]:
    """The hosts from 1 to `count` to which there is a connection."""
    return [one for one in range(1, count + 1) if pool.connected(target(one, f"h{one}"))]


# -- giving way ------------------------------------------------------------------------------


async def test_the_longest_idle_connection_gives_way(connector: FakeConnector) -> None:
    """Where there is room for three, a fourth takes the place of the one used longest ago."""
    pool = Pool(connector, QUICK, room=room_for(3))
    for number in (1, 2, 3, 1, 4):
        await visit(pool, number)

    assert connected(pool, 4) == [1, 3, 4]
    assert [made.alive for made in connector.made] == [True, False, True, True]


async def test_what_gave_way_is_connected_again_when_it_is_wanted(
    connector: FakeConnector,
) -> None:
    """Nobody sees that a connection is another one."""
    pool = Pool(connector, QUICK, room=room_for(1))
    await visit(pool, 1)
    await visit(pool, 2)

    async with pool.lease(target(1, "h1")) as lease:
        await lease.start("true", NoReceiver())

    assert connector.made[2].started == ["true"]


async def test_more_hosts_than_fit_are_served_in_turn(connector: FakeConnector) -> None:
    """However many want a connection at once, no more are open, and each gets one."""
    room = room_for(4)
    pool, most = Pool(connector, Limits(), room=room), 0

    async def one(number: int) -> None:
        nonlocal most
        async with pool.lease(target(number, f"h{number}")):
            most = max(most, sum(made.alive for made in connector.made))

    async with anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(one, number)

    assert connector.attempts == 40
    assert most == 4
    assert (room.free, len(room.held)) == (0, 4)


async def test_a_connection_in_use_does_not_give_way(connector: FakeConnector) -> None:
    """Who finds all in use waits until one is given back."""
    pool = Pool(connector, Limits(), room=room_for(1))
    async with anyio.create_task_group() as tasks, pool.lease(target(1, "h1")):
        tasks.start_soon(visit, pool, 2)
        await wait_all_tasks_blocked()
        assert connected(pool, 2) == [1]

    assert connected(pool, 2) == [2]


async def test_who_waits_goes_before_who_comes_later(connector: FakeConnector) -> None:
    """Room that becomes free is for the first in line, also when somebody else is quicker."""
    pool, order = Pool(connector, Limits(), room=room_for(1)), list[int]()

    async def come(number: int) -> None:
        async with pool.lease(target(number, f"h{number}")):
            order.append(number)

    async with anyio.create_task_group() as tasks, pool.lease(target(1, "h1")):
        tasks.start_soon(come, 2)
        await wait_all_tasks_blocked()
        await pool.forget("i-1")
        await come(3)

    assert order == [2, 3]


async def test_pools_share_the_room(connector: FakeConnector) -> None:
    """An idle connection of one experiment gives way to what another one needs."""
    room, theirs = room_for(1), FakeConnector()
    theirs.gate.set()
    pool, other = Pool(connector, QUICK, room=room), Pool(theirs, QUICK, room=room)
    await visit(pool, 1)
    await visit(other, 2)

    assert connected(pool, 1) == []
    assert connected(other, 2) == [2]


async def test_a_jump_host_takes_all_the_descriptors_there_are(connector: FakeConnector) -> None:
    """Connections through it are channels of the one to it: any number fits."""
    pool = Pool(connector, QUICK, bastion=True, room=room_for(1))
    for number in range(1, 6):
        await visit(pool, number)

    assert connected(pool, 5) == [1, 2, 3, 4, 5]


async def test_closing_the_pool_leaves_the_room_empty(connector: FakeConnector) -> None:
    """What is closed takes no room, whether it was in use or not."""
    room = room_for(5)
    pool = Pool(connector, QUICK, room=room)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stay, pool, 1)
        await visit(pool, 2)
        await pool.aclose()
        tasks.cancel_scope.cancel()

    assert repr(room) == "<Room for 5 more, 0 held, 0 resting>"


# -- no room ---------------------------------------------------------------------------------


async def test_where_nothing_is_given_back_the_error_names_the_limit(
    connector: FakeConnector,
) -> None:
    """After `connect_timeout` in which no connection was given back, all who wait are told."""
    room = room_for(1)
    pool = Pool(connector, QUICK, room=room)
    errors: list[ConnectError] = []

    async def refused(number: int) -> None:
        with pytest.raises(ConnectError) as caught:
            await visit(pool, number)
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stay, pool, 1)
        await wait_all_tasks_blocked()
        with anyio.fail_after(10 * QUICK.connect_timeout):  # one wait is for all of them
            async with anyio.create_task_group() as others:
                for number in range(2, 40):
                    others.start_soon(refused, number)
        tasks.cancel_scope.cancel()

    assert f"this process may have {room.limit}, and 1 connections are in use" in str(errors[0])
    assert errors[0].host == "h2"
    await visit(pool, 2)  # it was given back: there is room again


async def test_who_has_a_lease_needs_no_room_to_renew_it(connector: FakeConnector) -> None:
    """Others may wait for what it brings to an end."""
    pool = Pool(connector, QUICK, room=room_for(1))
    async with pool.lease(target(1, "h1")) as lease, pool.lease(target(1, "h1")) as other:
        other.drop()  # it is open still: the room is full

        async with pool.lease(target(1, "h1"), spare=True) as ending:
            assert ending.transport is not lease.transport


async def test_a_connection_that_died_takes_no_room(connector: FakeConnector) -> None:
    """It has no descriptor any more, and the next to the same host takes its place."""
    room = room_for(2)
    pool = Pool(connector, QUICK, room=room)
    await visit(pool, 1)
    connector.made[0].alive = False
    await visit(pool, 1)

    assert room.free == 1


async def test_a_failed_attempt_takes_no_room(connector: FakeConnector) -> None:
    """However it fails, and also when it is cancelled."""
    room = room_for(2)
    pool = Pool(connector, QUICK, room=room)
    connector.failures = [ConnectError(instance_id="i-1", host="h1", problem="no")]
    with pytest.raises(ConnectError):
        await visit(pool, 1)
    connector.gate = anyio.Event()
    with anyio.move_on_after(0):
        await visit(pool, 1)

    assert room.free == 2


# -- work ------------------------------------------------------------------------------------


async def test_work_has_room_for_its_files(connector: FakeConnector) -> None:
    """Idle connections give way to the files of hosts that are worked on, and no more of them."""
    pool = Pool(connector, QUICK, room=room_for(10))
    for number in range(1, 11):
        await visit(pool, number)

    async with pool.working(3):
        assert connected(pool, 10) == list(range(1 + 3 * FILES, 11))


async def test_work_that_can_not_fit_is_refused_with_the_number_it_needs() -> None:
    """With the limit that the error names it fits, and with one less it does not."""
    room = room_for(10)
    with pytest.raises(InvalidArgument) as caught:
        async with room.working(4):
            pytest.fail("it takes 12")

    assert str(caught.value).startswith(
        f"4 host(s) at once take more file descriptors than this process may have: it may have "
        f"{room.limit}, and needs {room.limit + 2};"
    )
    needed = int(re.findall(r"ulimit -n (\d+)", str(caught.value))[0])
    for limit in (needed, needed - 1):
        room.limit = limit
        try:
            async with room.working(4):
                assert limit == needed
        except InvalidArgument:
            assert limit == needed - 1
    room.limit = RESERVE + OPEN + 10
    fewer = int(re.findall(r"parallel=(\d+)", str(caught.value))[0])
    async with room.working(fewer):
        assert fewer == 10 // (1 + FILES)


async def test_work_under_way_is_counted() -> None:
    """What fits alone does not fit beside other work, and fits again after it."""
    room = room_for(10)
    async with room.working(2):
        with pytest.raises(InvalidArgument):
            async with room.working(2):
                pytest.fail("it takes 12")

    async with room.working(3):
        assert room.free == 10 - 3 * FILES


async def test_files_of_work_under_way_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are set aside, so that being open makes them nobody else's."""
    room = room_for(12)
    async with room.working(2):
        monkeypatch.setattr(descriptors, "in_use", lambda: OPEN + 2 * FILES)  # they are open now
        async with room.working(2):
            assert room.free == 12 - 4 * FILES


async def test_files_of_what_is_connected_elsewhere_are_all_that_it_takes() -> None:
    """Work over connections of other processes needs no room for them, and no more of its kind."""
    room = room_for(2 * FILES)
    async with room.working(1, connected=False):
        async with room.working(1, connected=False):
            assert room.free == 0
        with pytest.raises(InvalidArgument, match=r"parallel=1\b"):
            async with room.working(2, connected=False):
                pytest.fail("it takes six")


async def test_a_loop_has_one_room() -> None:
    """All experiments on an event loop share it, and its limit is the one that was raised."""
    assert Room.here() is Room.here()
    assert Room.here().limit == descriptors.raised()
