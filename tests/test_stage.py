"""Opening and closing: one transaction, taken down in reverse, by whatever road."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from precip_async import (
    CloudError,
    Experiment,
    ExperimentClosed,
    ExperimentException,
    InvalidArgument,
    LocalExperiment,
    NameInUse,
    NotAuthorized,
)
from precip_async.clouds.base import LaunchRequest
from precip_async.events import Event, Opened
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.home.names import hold_name
from tests.fakes import QUICK, FakeCloud
from tests.polling import eventually
from tests.scripts import script
from tests.ssh.rig import Nap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precip_async.home.journal import Row
    from precip_async.home.names import Hold


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where a home is made."""
    return tmp_path / "home"


def experiment(cloud: FakeCloud, home: Path, **shared: Any) -> Experiment:
    """An experiment named so that two of them are in each other's way."""
    return Experiment(cloud, **{"name": "one", "home": home, "limits": QUICK, **shared})


async def journal_of(home: Path) -> list[Row]:
    """What the journal believes to be running."""

    def read() -> list[Row]:
        journal = Journal.open(Home.open(home))
        try:
            return journal.alive()
        finally:
            journal.close()

    return await anyio.to_thread.run_sync(read)


async def written(home: Path, change: Callable[[Journal], object]) -> None:
    """Change the journal as another process would have."""

    def write() -> None:
        journal = Journal.open(Home.open(home))
        try:
            change(journal)
        finally:
            journal.close()

    await anyio.to_thread.run_sync(write)


def launched(
    ids: list[str] | None, *, token: str = "t", endpoint: str = "", cloud: str = "fake"
) -> Callable[[Journal], None]:
    """What an experiment writes that launches `ids`; ``None``: that dies before the answer."""

    def write(journal: Journal) -> None:
        journal.intend(
            token=token,
            experiment="one",
            cloud=cloud,
            endpoint=endpoint,
            image_id="ami-1",
            instance_type="m1.small",
            count=2,
            first=0,
        )
        if ids is not None:
            journal.answered(token, ids)

    return write


def refusing(kind: type[CloudError] = CloudError) -> Callable[[Any], Any]:
    """A hook that always refuses."""

    async def refuse(_: object) -> None:
        raise kind("no", cloud="fake", operation="test")

    return refuse


# -- opening ---------------------------------------------------------------------------------


async def test_opening_says_who_comes_and_prepares_the_cloud_once(home: Path) -> None:
    """The cloud gets our public key, the experiment's name and the owner of the home."""
    cloud, events = FakeCloud(), list[Event]()
    async with experiment(cloud, home, observer=events.append) as exp:
        await exp.open()  # a second time: nothing

    prepared = [given for name, given in cloud.calls if name == "prepare"]
    assert [(one.experiment, one.keep, len(one.owner)) for one in prepared] == [("one", False, 32)]
    assert prepared[0].public_key.startswith("ssh-ed25519 ")
    assert [str(event) for event in events if isinstance(event, Opened)] == [
        "Experiment 'one' on fake"
    ]


async def test_a_name_is_held_against_others_and_free_afterwards(home: Path) -> None:
    """Two experiments of one name would be in each other's way."""
    async with experiment(FakeCloud(), home):
        other = experiment(FakeCloud(), home)
        with pytest.raises(NameInUse, match="the name 'one' is held by process"):
            await other.open()
        async with experiment(FakeCloud(), home, name="two"):
            pass

    async with experiment(FakeCloud(), home):
        pass


async def test_a_cloud_that_does_not_accept_us_leaves_nothing_open(home: Path) -> None:
    """The name is free again, the cloud was let go, and the same object may try again."""
    cloud = FakeCloud()
    cloud.before["prepare"] = refusing(NotAuthorized)
    exp = experiment(cloud, home)

    with pytest.raises(NotAuthorized):
        await exp.open()

    assert [name for name, _ in cloud.calls] == ["prepare", "aclose"]
    assert not exp.closed
    del cloud.before["prepare"]
    async with exp:
        assert exp.list() == []


@pytest.mark.parametrize("native", [False, True], ids=["anyio", "asyncio"])
@pytest.mark.parametrize("moment", ["prepare", "prepared", "thread"])
async def test_opening_that_is_cancelled_holds_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, moment: str, *, native: bool
) -> None:
    """Whenever it strikes: in a thread that takes the name, before the cloud, and after it."""
    cloud, reached = FakeCloud(), anyio.Event()

    async def hang(_: object) -> None:
        reached.set()
        await anyio.sleep_forever()

    go = threading.Event()
    loop = asyncio.get_running_loop()

    def slow(home: Home, name: str) -> Hold:
        hold = hold_name(home, name)
        loop.call_soon_threadsafe(reached.set)
        go.wait(10)
        return hold

    if moment == "thread":
        monkeypatch.setattr("precip_async.stage.hold_name", slow)
    else:
        (cloud.before if moment == "prepare" else cloud.after)["prepare"] = hang
    exp = experiment(cloud, home)
    if native:
        task = asyncio.create_task(exp.open())
        await reached.wait()
        task.cancel()
        loop.call_later(0.05, go.set)
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exp.open)
            await reached.wait()
            tasks.cancel_scope.cancel()
            loop.call_later(0.05, go.set)

    monkeypatch.undo()
    async with experiment(FakeCloud(), home):
        assert cloud.count("aclose") == cloud.count("prepare")


async def test_opening_that_is_cancelled_at_its_very_end_holds_nothing(home: Path) -> None:
    """When it is open, and its caller does not know yet."""
    cloud = FakeCloud()

    def cancel(event: Event) -> None:
        if isinstance(event, Opened):
            task.cancel()

    task = asyncio.create_task(experiment(cloud, home, observer=cancel).open())
    with pytest.raises(asyncio.CancelledError):
        await task

    assert cloud.count("aclose") == 1
    async with experiment(FakeCloud(), home):
        pass


async def test_it_can_not_be_opened_twice_at_once(home: Path) -> None:
    """Who comes second hears that it is being opened; the first goes on."""
    cloud, go = FakeCloud(), anyio.Event()

    async def slow(_: object) -> None:
        await go.wait()

    cloud.before["prepare"] = slow
    exp = experiment(cloud, home)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exp.open)
        await eventually(lambda: cloud.count("prepare"))
        with pytest.raises(ExperimentClosed, match="is being opened"):
            await exp.open()
        go.set()

    assert exp.list() == []
    await exp.aclose()


async def test_closing_while_it_is_opened_leaves_nothing_open(home: Path) -> None:
    """Whoever opens it hears that it was closed, and the name is free."""
    cloud, go = FakeCloud(), anyio.Event()

    async def slow(_: object) -> None:
        await go.wait()

    cloud.before["prepare"] = slow
    exp = experiment(cloud, home)

    async def open_it() -> None:
        with pytest.raises(ExperimentClosed, match="closed while it was opened"):
            await exp.open()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(open_it)
        await eventually(lambda: cloud.count("prepare"))
        await exp.aclose()
        go.set()

    assert cloud.count("aclose") == 1
    async with experiment(FakeCloud(), home):
        pass


async def test_a_closed_experiment_is_not_opened_again(home: Path) -> None:
    """Its instances are gone: a new one is made."""
    exp = experiment(FakeCloud(), home)
    async with exp:
        assert repr(exp) == "<Experiment 'one', open>"

    assert exp.closed
    assert repr(exp) == "<Experiment 'one', closed>"
    with pytest.raises(ExperimentClosed, match="make a new one"):
        await exp.open()


async def test_what_is_no_cloud_is_refused() -> None:
    """An object that lacks the methods is said so, and not found out in the middle."""
    with pytest.raises(InvalidArgument, match="methods of Cloud"):
        Experiment("us-west-2")  # type: ignore[arg-type] # what the test is about


async def test_a_key_that_can_not_be_used_is_refused_before_the_cloud_is_asked(
    home: Path, tmp_path: Path
) -> None:
    """What is wrong on this machine is said first, and undone."""
    key = tmp_path / "key"
    key.write_text("no key")
    key.chmod(0o600)
    cloud = FakeCloud()

    with pytest.raises(InvalidArgument, match="can't be used as a private key"):
        await experiment(cloud, home, ssh_key=key).open()

    assert cloud.count("prepare") == 0
    async with experiment(FakeCloud(), home):
        pass


# -- what an earlier one has left ------------------------------------------------------------


async def test_what_an_earlier_experiment_left_running_holds_its_name(home: Path) -> None:
    """Machines that still run are named; nothing of them is touched."""
    cloud = FakeCloud()
    async with experiment(cloud, home, keep=True) as exp:
        (kept,) = await exp.provision()

    with pytest.raises(NameInUse, match=f"earlier experiment left running: {kept.id}"):
        await experiment(cloud, home).open()

    assert cloud.alive() == [kept.id]
    assert cloud.count("terminate") == 0


async def test_what_has_ended_meanwhile_is_forgotten(home: Path) -> None:
    """A name whose machines are gone is free, and the journal knows."""
    await written(home, launched(["i-1", "i-2"]))

    async with experiment(FakeCloud(), home):
        pass

    assert await journal_of(home) == []


async def test_a_launch_whose_experiment_died_is_looked_up_by_its_token(home: Path) -> None:
    """Killed between the launch and its answer: the cloud is asked what it started."""
    cloud = FakeCloud()
    await written(home, launched(None, token="lost"))
    cloud.machines["i-7"] = (await FakeCloud().launch(request()))[0]
    cloud.launches["lost"] = ["i-7"]

    with pytest.raises(NameInUse, match="left running"):
        await experiment(cloud, home).open()

    assert len(await journal_of(home)) == 1


async def test_a_launch_that_started_nothing_is_forgotten(home: Path) -> None:
    """Killed before the cloud heard of it: nothing holds the name."""
    await written(home, launched(None, token="lost"))

    async with experiment(FakeCloud(), home):
        pass

    assert await journal_of(home) == []


@pytest.mark.parametrize("where", [{"endpoint": "us-west-2"}, {"cloud": "another"}])
async def test_machines_of_another_cloud_are_not_judged_by_this_one(
    home: Path, where: dict[str, str]
) -> None:
    """An id means nothing elsewhere: that nobody knows it here does not mean that it has ended."""
    await written(home, launched(["i-1"], **where))

    async with experiment(FakeCloud(), home):
        pass

    assert [row.instance_id for row in await journal_of(home)] == ["i-1"]


def request() -> LaunchRequest:
    """A launch of one."""
    return LaunchRequest(
        token="lost", image_id="a", instance_type="m", count=1, min_count=1, first=0
    )


# -- closing ---------------------------------------------------------------------------------


async def test_closing_ends_the_instances_and_lets_go_of_the_cloud_last(home: Path) -> None:
    """A second time it does nothing."""
    cloud = FakeCloud()
    async with experiment(cloud, home) as exp:
        await exp.provision(count=3)
    await exp.aclose()

    assert [name for name, _ in cloud.calls] == ["prepare", "launch", "terminate", "aclose"]
    assert cloud.alive() == []
    assert await journal_of(home) == []


async def test_keep_leaves_the_instances_running(home: Path) -> None:
    """The cloud hears of it when it is prepared, and nothing is ended."""
    cloud = FakeCloud()
    async with experiment(cloud, home, keep=True) as exp:
        await exp.provision(count=2)

    assert cloud.calls[0][1].keep
    assert len(cloud.alive()) == 2
    assert len(await journal_of(home)) == 2


async def test_an_end_that_fails_is_raised_and_the_rest_is_closed(home: Path) -> None:
    """The name is free, the cloud is let go of, and the error says what may still run."""
    cloud = FakeCloud()
    exp = experiment(cloud, home)
    await exp.open()
    one, _ = await exp.provision(count=2)

    async def refuse(ids: list[str]) -> None:
        if one.id in ids:
            await refusing()(ids)

    cloud.before["terminate"] = refuse
    with pytest.raises(ExperimentException, match=f"not known to have ended: {one.id}"):
        await exp.aclose()

    assert cloud.alive() == [one.id]
    assert cloud.calls[-1][0] == "aclose"
    async with experiment(FakeCloud(), home, name="two"):
        pass


async def test_the_users_error_is_not_masked_by_one_while_closing(home: Path) -> None:
    """It comes first; what went wrong afterwards is a note on it."""
    cloud = FakeCloud()
    cloud.before["terminate"] = refusing()

    async def use() -> None:
        async with experiment(cloud, home) as exp:
            await exp.provision()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        await use()

    (note,) = caught.value.__notes__
    assert note.startswith("and while the experiment was closed: not known to have ended: i-")


@pytest.mark.parametrize("road", ["error", "scope", "native", "timeout", "group"])
async def test_by_whatever_road_nothing_is_left(home: Path, road: str) -> None:
    """An error, a cancelled scope, asyncio's own cancellation, a timeout, a failing sibling."""
    cloud, inside = FakeCloud(), anyio.Event()

    async def slowly(_: object) -> None:
        await anyio.sleep(0.05)

    cloud.before["terminate"] = slowly

    async def use() -> None:
        async with experiment(cloud, home) as exp:
            await exp.provision(count=2)
            inside.set()
            if road == "error":
                raise KeyError
            await anyio.sleep_forever()

    if road == "error":
        with pytest.raises(KeyError):
            await use()
    elif road == "scope":
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use)
            await inside.wait()
            tasks.cancel_scope.cancel()
    elif road == "native":
        task = asyncio.create_task(use())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif road == "timeout":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(use(), 0.5)
    else:

        async def fail() -> None:
            await inside.wait()
            raise OSError

        async def both() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(use())
                group.create_task(fail())

        with pytest.raises(ExceptionGroup):
            await both()

    assert cloud.count("launch") == 1
    assert cloud.alive() == []
    assert cloud.calls[-1][0] == "aclose"
    assert await journal_of(home) == []


async def test_cancelling_while_it_closes_does_not_stop_it(home: Path) -> None:
    """Impatience is no reason to leave machines running, however often it is shown."""
    cloud, ending = FakeCloud(), anyio.Event()

    async def slowly(_: object) -> None:
        ending.set()
        await anyio.sleep(0.1)

    cloud.before["terminate"] = slowly
    exp = experiment(cloud, home)
    await exp.open()
    await exp.provision()
    task = asyncio.create_task(exp.aclose())
    await ending.wait()
    for _ in range(3):
        task.cancel()
        await anyio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert cloud.alive() == []
    assert cloud.calls[-1][0] == "aclose"


async def test_who_closes_it_at_the_same_time_waits_for_the_end(home: Path) -> None:
    """When aclose() returns it is closed, whoever began."""
    cloud, go = FakeCloud(), anyio.Event()

    async def slowly(_: object) -> None:
        await go.wait()

    cloud.before["terminate"] = slowly
    exp = experiment(cloud, home)
    await exp.open()
    await exp.provision()
    closed: list[int] = []

    async def close() -> None:
        await exp.aclose()
        closed.append(cloud.count("aclose"))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(close)
        await eventually(lambda: cloud.count("terminate"))
        await anyio.wait_all_tasks_blocked()
        assert closed == []
        go.set()

    assert closed == [1, 1, 1]


async def test_an_end_that_hangs_is_bounded(home: Path) -> None:
    """A cloud that never answers keeps nobody for ever, and the error says so."""
    cloud = FakeCloud()

    async def hang(_: object) -> None:
        await anyio.sleep_forever()

    cloud.before["terminate"] = hang
    exp = experiment(cloud, home)
    await exp.open()
    (instance,) = await exp.provision()
    began = anyio.current_time()

    with pytest.raises(ExperimentException, match=f"{instance.id}.*did not confirm it"):
        await exp.aclose()

    assert 0.4 < anyio.current_time() - began < 2


async def test_a_wait_under_way_hears_that_it_was_closed(home: Path) -> None:
    """Rather than that all is ready, or that nothing boots."""
    cloud = FakeCloud()
    cloud.first = {"state": "pending", "public_address": None, "private_address": None}
    exp = experiment(cloud, home)
    await exp.open()
    await exp.provision()

    async def wait() -> None:
        with pytest.raises(ExperimentClosed):
            await exp.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await eventually(lambda: cloud.count("describe"))
        await exp.aclose()

    assert cloud.alive() == []


# -- for real --------------------------------------------------------------------------------


async def test_after_a_kill_the_name_is_free_and_the_instances_are_gone(home: Path) -> None:
    """Kill -9 of a script with local instances: the next one of its name simply starts."""
    nap = Nap()
    with script(
        """
        import sys, anyio
        from precip_async import LocalExperiment

        async def main():
            exp = LocalExperiment(name="one", home=sys.argv[1], isolation="process")
            async with exp:
                await exp.provision(count=2)
                await exp.wait()
                await exp.run([], f"setsid {sys.argv[2]} & true")
                print("ready")
                await anyio.sleep_forever()

        anyio.run(main)
        """,
        str(home),
        str(nap),
    ) as victim:
        await anyio.to_thread.run_sync(victim.wait_for, "ready")
        assert len(await anyio.to_thread.run_sync(nap.sleepers)) == 2
        victim.signal(signal.SIGKILL)

    async with LocalExperiment(name="one", home=home, isolation="process") as exp:
        assert exp.list() == []
        assert await anyio.to_thread.run_sync(nap.sleepers) == []

    assert await journal_of(home) == []
