"""Cancelled by whatever means, a verb leaves nothing behind and the experiment usable."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from precip_async import Faults, Limits, LocalExperiment
from tests.polling import eventually
from tests.scripts import script
from tests.ssh.rig import Nap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    Work = Callable[[], Coroutine[Any, Any, Any]]

ROADS = ["scope", "deadline", "native", "wait_for", "timeout", "sibling"]
roads = pytest.mark.parametrize("road", ROADS)


@pytest.fixture(scope="module")
async def exp(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalExperiment]:
    """Two instances that are ready. Tests leave them as they were."""
    async with LocalExperiment(
        isolation="process", home=tmp_path_factory.mktemp("cancelled") / "home"
    ) as made:
        await made.provision(count=2)
        await made.wait()
        yield made


async def cancelled(road: str, work: Work, reached: Work) -> None:
    """Do `work` until `reached` returns, and cancel it by the `road`."""
    if road == "scope":
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await reached()
            tasks.cancel_scope.cancel()
    elif road == "native":
        task = asyncio.create_task(work())
        await reached()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif road == "sibling":
        with pytest.raises(ExceptionGroup) as caught:
            await beside_a_failure(work, reached)
        assert caught.group_contains(LookupError)
    else:
        with pytest.raises(TimeoutError):
            await DEADLINES[road](work)


async def beside_a_failure(work: Work, reached: Work) -> None:
    """Do `work` in asyncio's task group, where another task fails once `reached` returns."""

    async def fail() -> None:
        await reached()
        raise LookupError

    async with asyncio.TaskGroup() as group:
        group.create_task(work())
        group.create_task(fail())


async def anyios_deadline(work: Work) -> None:
    """Give `work` a second, by anyio."""
    with anyio.fail_after(1):
        await work()


async def asyncios_deadline(work: Work) -> None:
    """Give `work` a second, by asyncio."""
    async with asyncio.timeout(1):
        await work()


async def wait_for(work: Work) -> None:
    """Give `work` a second, by asyncio's older means."""
    await asyncio.wait_for(work(), 1)


DEADLINES = {"deadline": anyios_deadline, "timeout": asyncios_deadline, "wait_for": wait_for}


@roads
async def test_a_run_is_ended_on_the_instances(exp: LocalExperiment, road: str) -> None:
    """Its children too, also those in sessions of their own; then the next run works."""
    nap = Nap()

    async def running() -> None:
        await eventually(lambda: len(nap.sleepers()) == 4)

    await cancelled(
        road, lambda: exp.run([], f"setsid {nap} & echo x; {nap}", parallel=True), running
    )

    assert nap.sleepers() == []
    assert (await exp.run([], "echo on", parallel=True))[1] == ["on\n"] * 2


@pytest.mark.parametrize("road", ["scope", "native"])
async def test_a_series_that_is_cancelled_begins_nothing_more(
    exp: LocalExperiment, road: str
) -> None:
    """What had not begun never does."""
    nap = Nap()

    async def running() -> None:
        await eventually(lambda: len(nap.sleepers()) == 1)

    await cancelled(road, lambda: exp.run([], f"touch begun; {nap}"), running)

    listed = await exp.run([], "ls begun", check_exit_code=False)
    await exp.run([], "rm -f begun")
    assert listed[0] == [0, 2]
    assert nap.sleepers() == []


@pytest.mark.parametrize("road", ["scope", "native"])
@pytest.mark.parametrize("verb", ["put", "get"])
async def test_a_transfer_leaves_no_half_of_a_file(
    exp: LocalExperiment, tmp_path: Path, verb: str, road: str
) -> None:
    """Neither here nor there, under whatever name; what was there is as it was."""
    big, target = tmp_path / "big", tmp_path / "got"
    with big.open("wb") as file:
        file.truncate(10**11)
    target.mkdir()
    first = exp.instances()[0].id
    await exp.run(first, "mkdir got; truncate -s 100G big; echo old > got/big")

    async def under_way() -> None:
        if verb == "get":
            await eventually(lambda: any(path.stat().st_size for path in target.rglob("*")))
            return
        await exp.run(first, "until ls -A got | grep -q ^.precip; do sleep 0.02; done")

    async def move() -> None:
        if verb == "put":
            await exp.put(first, big, "got/big")
        else:
            await exp.get(first, "big", target / "big")

    with anyio.fail_after(30):
        await cancelled(road, move, under_way)

    there = await exp.run(first, "ls -A got; cat got/big; rm -r got big")
    assert there[1] == ["big\nold\n"]
    assert [path.name for path in target.iterdir()] == []


@pytest.mark.parametrize("road", ["scope", "native"])
async def test_a_wait_can_be_taken_up_again(tmp_path: Path, road: str) -> None:
    """Instances go on booting, whoever stops looking."""
    exp = LocalExperiment(
        isolation="process",
        home=tmp_path / "home",
        limits=Limits(poll_interval=0.05),
        faults=Faults(boot_delay=0.6),
    )
    async with exp:
        (instance,) = await exp.provision()
        await cancelled(road, exp.wait, lambda: anyio.sleep(0.1))
        assert instance.state == "pending"

        await exp.wait(timeout=20)

        assert (instance.state, instance.launches) == ("ready", 1)


@pytest.mark.parametrize("road", ["scope", "native"])
async def test_what_is_being_started_is_the_experiments(tmp_path: Path, road: str) -> None:
    """Cancelled in the middle of it, and ended when the experiment is closed."""
    async with LocalExperiment(isolation="process", home=tmp_path / "home") as exp:
        await cancelled(road, lambda: exp.provision(count=20), anyio.lowlevel.checkpoint)
        instances = exp.instances()

    assert len(instances) in (0, 20)  # cancelled before it had begun, or not half-way
    assert {one.state for one in instances} <= {"terminated"}


@pytest.mark.parametrize("road", ["scope", "native"])
async def test_an_end_that_was_asked_for_comes(tmp_path: Path, road: str) -> None:
    """Cancelled while it deprovisions, closing does what is left of it."""
    async with LocalExperiment(isolation="process", home=tmp_path / "home") as exp:
        instances = await exp.provision(count=3)
        await exp.wait()
        await cancelled(road, exp.deprovision, anyio.lowlevel.checkpoint)

    assert {one.state for one in instances} == {"terminated"}


@pytest.mark.parametrize("second", [False, True], ids=["once", "twice"])
async def test_ctrl_c_ends_everything(tmp_path: Path, *, second: bool) -> None:
    """In a script on asyncio.run, also for the impatient: commands, instances, helpers."""
    nap = Nap()
    with script(
        """
        import asyncio, sys
        from precip_async import LocalExperiment

        async def main():
            async with LocalExperiment(home=sys.argv[1], isolation="process") as exp:
                await exp.provision(count=2)
                await exp.wait()
                print("running")
                await exp.run([], f"setsid {sys.argv[2]} & {sys.argv[2]}", parallel=True)

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """,
        str(tmp_path / "home"),
        str(nap),
    ) as running:
        await anyio.to_thread.run_sync(running.wait_for, "running")
        await eventually(lambda: len(nap.sleepers()) == 4)
        running.signal(signal.SIGINT)
        if second:
            running.signal(signal.SIGINT)
        code = await anyio.to_thread.run_sync(running.end)

    assert code != -signal.SIGKILL, "it had to be killed"
    if not second:  # the second one strikes wherever the loop is: in asyncio and anyio as well
        assert running.lines[-1] == "interrupted"
        assert code == 0
    await eventually(lambda: not nap.sleepers())
