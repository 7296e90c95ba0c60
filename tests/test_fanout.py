"""One operation on many: order, bounds, failures and cancellation, with nothing but tasks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from precip_async import fanout
from precip_async.errors import CommandFailed, ConnectionLost, FleetError, RemoteError
from precip_async.fanout import Jobs, in_child_task, task_group
from precip_async.results import CommandResult
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence


async def fan_out(
    items: Sequence[int], call: Callable[[int], Awaitable[Any]], **how: Any
) -> list[Any]:
    """Call something for each item."""
    return await fanout.fan_out(Jobs([partial(call, item) for item in items]), **how)


def result(number: int, exit_code: int = 0) -> CommandResult:
    """What instance `number` answered."""
    return CommandResult(
        instance_id=f"i-{number}",
        index=number,
        host="h",
        command="c",
        user="root",
        exit_code=exit_code,
        started_at=datetime.now(UTC),
        duration=0.1,
    )


def lost(number: int) -> RemoteError:
    """The loss of instance `number`."""
    return ConnectionLost(instance_id=f"i-{number}", host="h", problem="lost")


def answering(*failing: int) -> Callable[[int], Awaitable[CommandResult]]:
    """An operation that fails on some, and whose later items are done sooner."""

    async def operation(number: int) -> CommandResult:
        await anyio.sleep(0.02 / (number + 1))
        if number in failing:
            raise CommandFailed(result=result(number, 1))
        return result(number)

    return operation


class Meter:
    """An operation that counts how many of it are under way."""

    def __init__(self, go: anyio.Event | None = None) -> None:
        self.now = self.most = self.done = 0
        self.go = go

    async def __call__(self, number: int) -> int:
        """Be under way until told to go."""
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await (self.go.wait() if self.go else anyio.lowlevel.checkpoint())
        finally:
            self.now -= 1
            self.done += 1
        return number


@pytest.mark.parametrize("width", [0, 1, 3, 100])
async def test_values_are_in_the_order_of_the_items(width: int) -> None:
    """However long each takes."""
    values = await fan_out(range(8), answering(), width=width)

    assert [value.index for value in values] == [*range(8)]


@pytest.mark.parametrize(("width", "most"), [(0, 1), (1, 1), (3, 3), (100, 8)])
async def test_no_more_than_the_width_are_under_way(width: int, most: int) -> None:
    """And no fewer, as long as there is something to do."""
    go = anyio.Event()
    meter = Meter(go)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: fan_out(range(8), meter, width=width))
        await eventually(lambda: meter.now == most)
        await anyio.wait_all_tasks_blocked()
        go.set()

    assert (meter.most, meter.done) == (most, 8)


@pytest.mark.parametrize("width", [0, 5])
async def test_nothing_to_do_is_done_at_once(width: int) -> None:
    """No items, no values."""
    assert await fan_out([], answering(), width=width) == []


async def test_a_slow_one_blocks_no_other() -> None:
    """A worker that waits for one item leaves the rest to the others."""
    go = anyio.Event()
    done: list[int] = []

    async def operation(number: int) -> None:
        if number == 0:
            await go.wait()
        done.append(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: fan_out(range(50), operation, width=2))
        await eventually(lambda: len(done) == 49)
        go.set()

    assert done == [*range(1, 50), 0]


async def test_a_series_ends_at_the_first_failure() -> None:
    """What came before is in its results, its own result included; the rest is not begun."""
    with pytest.raises(CommandFailed) as caught:
        await fan_out(range(5), answering(2), width=0, results=True)

    assert caught.value.results is not None
    assert caught.value.results[0] == [0, 0, 1]


async def test_many_at_once_are_all_tried() -> None:
    """None is cancelled because another failed, and each has its outcome, in order."""
    with pytest.raises(FleetError) as caught:
        await fan_out(range(5), answering(1, 3), width=5, results=True)

    outcomes = caught.value.outcomes
    assert [isinstance(outcome, CommandFailed) for outcome in outcomes] == [0, 1, 0, 1, 0]
    assert [error.instance_id for error in caught.value.failed] == ["i-1", "i-3"]
    assert caught.value.results is not None
    assert caught.value.results[0] == [0, 1, 0, 1, 0]


async def test_a_failure_without_a_result_has_none_in_the_results() -> None:
    """A lost connection is an outcome, and no exit code."""

    async def operation(number: int) -> CommandResult:
        if number == 1:
            raise lost(number)
        return result(number)

    with pytest.raises(FleetError) as caught:
        await fan_out(range(3), operation, width=2, results=True)

    assert caught.value.results is not None
    assert [one.index for one in caught.value.results.by_instance] == [0, 2]
    assert isinstance(caught.value.outcomes[1], ConnectionLost)


@pytest.mark.parametrize("width", [0, 2])
async def test_transfers_have_no_results(width: int) -> None:
    """An error has results only when it ended a run."""

    async def operation(number: int) -> None:
        raise lost(number)

    with pytest.raises((FleetError, ConnectionLost)) as caught:
        await fan_out(range(2), operation, width=width)

    assert caught.value.results is None


@pytest.mark.parametrize("width", [0, 3])
async def test_what_is_no_failure_of_an_instance_ends_everything(width: int) -> None:
    """A bug, or what a callback raises, is raised as it is, and nothing goes on behind it."""
    meter = Meter(anyio.Event())

    async def operation(number: int) -> None:
        if number == 1:
            raise KeyError(number)
        if number > 1:
            await meter(number)

    with pytest.raises(KeyError):
        await fan_out(range(10), operation, width=width)

    assert meter.now == 0
    assert meter.done <= 2


async def test_of_several_such_errors_the_first_is_raised_and_names_the_others() -> None:
    """A callback that fails once fails often: its own class is what the caller catches."""

    async def operation(number: int) -> None:
        try:
            await anyio.sleep(0 if number == 0 else 60)
        finally:
            raise ValueError(f"number {number}")

    with pytest.raises(ValueError, match="number 0") as caught:
        await fan_out(range(2), operation, width=2)

    assert caught.value.__notes__ == ["and at the same time: ValueError: number 1"]


async def test_a_cause_survives_the_task_group() -> None:
    """The chain of an error is as it was where it was raised."""

    async def operation() -> None:
        raise KeyError from OSError("disk")

    with pytest.raises(KeyError) as caught:
        await in_child_task(operation)

    assert isinstance(caught.value.__cause__, OSError)


async def test_a_child_task_gives_its_value_back() -> None:
    """As if it had been awaited here."""

    async def operation() -> int:
        return 5

    assert await in_child_task(operation) == 5


async def test_asyncios_own_cancellation_leaves_shielded_work_to_end() -> None:
    """Which it would not in the caller's own task: anyio's shields mean nothing to it."""
    begun, ended = anyio.Event(), anyio.Event()

    async def operation() -> None:
        with anyio.CancelScope(shield=True):
            begun.set()
            await anyio.sleep(0.05)
            ended.set()

    task = asyncio.create_task(in_child_task(operation))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended.is_set()


async def test_a_failing_cleanup_goes_before_the_cancellation() -> None:
    """That something may have been left running must be heard."""

    async def operation() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise RuntimeError("left running")

    async def run() -> None:
        await in_child_task(operation)

    task = asyncio.create_task(run())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(RuntimeError, match="left running"):
        await task


async def test_a_task_group_raises_what_its_task_raised() -> None:
    """No group of one for the caller to take apart, however deep it was."""

    async def fail() -> None:
        raise KeyError

    async def nested() -> None:
        async with task_group() as tasks, task_group() as inner:
            tasks.start_soon(anyio.sleep_forever)
            inner.start_soon(fail)

    with pytest.raises(KeyError):
        await nested()
