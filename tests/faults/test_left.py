"""Whoever comes back to what was left is cancelled at every suspension: it stays as it was."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import pytest

from precip_async import Experiment, reap
from precip_async.clouds.base import Machine
from precip_async.errors import CloudError
from precip_async.events import Event, Opened
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.reaping.targets import Target
from tests.faults.cancelling import Means, cancelled
from tests.faults.lasting import LastingCloud
from tests.faults.memory import LIMITS, world
from tests.faults.virtual import VirtualLoop, off_the_loop, run_virtually

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async import Leftover
    from tests.faults.memory import World

ROADS = ["scope", *(pytest.param(one, marks=pytest.mark.slow) for one in ("native", "twice"))]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where a home is made; all runs of a test share it."""
    return tmp_path / "home"


async def leave(there: World) -> dict[str, str]:
    """Have an experiment leave three instances running on purpose; how the journal has them."""
    async with there.experiment(keep=True) as exp:
        await exp.provision(count=3)
        await exp.wait()
    return there.journal()


def attached(home: Path, means: Means, number: int, *, lost: bool = False) -> bool:
    """Cancel an attachment at suspension `number`; whether it got so far.

    With `lost` the journal knows nothing of it, and marks have to do.
    """
    random.seed(0)
    struck: list[str] = []
    cloud = LastingCloud()

    async def attach() -> Experiment:
        return await Experiment.attach("one", cloud, home=home, limits=LIMITS)

    async def main(loop: VirtualLoop) -> None:
        before = await leave(there)
        running = sorted(before)
        if lost:
            there.lose_journal()
            cloud.owner = off_the_loop(lambda: Home.open(home)).account_id
            before = {}
        found: list[Experiment] = []

        async def verb() -> None:
            found.append(await attach())

        await cancelled(loop, verb, number, means)
        struck.extend(loop.struck)
        if not found:
            there.check_free()
            assert there.journal() == before or (lost and sorted(there.journal()) == running)
            assert sorted(cloud.alive()) == running
            found.append(await attach())
        (exp,) = found
        assert [one.index for one in exp.instances()] == [0, 1, 2] or lost
        assert sorted(one.id for one in exp.instances()) == running
        await exp.wait()
        assert (await exp.run([], "work", parallel=True))[0] == [0, 0, 0]
        await exp.aclose()
        there.check_gone()

    with world(home, cloud) as there:
        try:
            run_virtually(main)
        except Exception as error:
            error.add_note(f"by {means}, at suspension {number}: {struck}")
            raise
    return bool(struck)


@pytest.mark.parametrize("means", ROADS)
def test_a_cancelled_attachment_leaves_all_as_it_was(home: Path, means: Means) -> None:
    """Wherever: nothing is held, all runs on, and the next attachment is as the first."""
    number = 1
    while attached(home, means, number):
        number += 1

    assert number > 30


@pytest.mark.slow
def test_a_cancelled_attachment_by_marks_writes_all_or_nothing(home: Path) -> None:
    """What it has put into the journal is what the next one goes by: it must not be a part."""
    number = 1
    while attached(home, "scope", number, lost=True):
        number += 1

    assert number > 30


def test_what_was_attached_to_in_that_moment_is_let_go(home: Path) -> None:
    """A cancellation that comes when all is done already: nobody has it, so it is as it was."""

    async def main(_: VirtualLoop) -> None:
        before = await leave(there)
        with anyio.CancelScope() as scope:

            def heard(event: Event) -> None:
                if isinstance(event, Opened):
                    scope.cancel()

            await Experiment.attach("one", there.cloud, home=home, limits=LIMITS, observer=heard)
        there.check_free()
        assert scope.cancelled_caught
        assert there.journal() == before
        assert sorted(there.cloud.alive()) == sorted(before)

    with world(home, LastingCloud()) as there:
        run_virtually(main)


async def reaped(home: Path, *, end: bool) -> list[Leftover]:
    """Reap what `leave` has left."""
    return await reap(end=end, experiment="one", home=home, limits=LIMITS)


def ended(home: Path, cloud: LastingCloud, means: Means, number: int) -> bool:
    """Cancel the end of what was left at suspension `number`; whether it got so far."""
    random.seed(0)
    struck: list[str] = []

    async def main(loop: VirtualLoop) -> None:
        await leave(there)
        there.cloud.machines["i-theirs"] = Machine(id="i-theirs", state="running")
        await cancelled(loop, lambda: reaped(home, end=True), number, means)
        struck.extend(loop.struck)
        there.check_free()
        known = there.journal()
        assert {*there.cloud.alive()} <= {*known, "i-theirs"}, "the journal"
        assert all(one.ended for one in await reaped(home, end=True))
        assert await reaped(home, end=False) == []
        assert there.cloud.alive() == ["i-theirs"]
        there.cloud.say("i-theirs", state="terminated")
        there.check_gone()

    with world(home, cloud) as there:
        try:
            run_virtually(main)
        except Exception as error:
            error.add_note(f"by {means}, at suspension {number}: {struck}")
            raise
    return bool(struck)


@pytest.mark.slow
@pytest.mark.parametrize("means", ["scope", "native", "twice"])
def test_a_cancelled_reaping_is_finished_by_the_next(
    home: Path, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever: no name stays held, no row is lost, nobody else's ends, and the next ends all."""
    clouds: list[LastingCloud] = []

    def here() -> LastingCloud:
        clouds[:] = [LastingCloud()]
        return clouds[0]

    monkeypatch.setattr(Target, "cloud", lambda *_: clouds[0])
    number = 1
    while ended(home, here(), means, number):
        number += 1

    assert number > 60


def test_a_mark_that_appears_meanwhile_is_looked_up_in_the_journal(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script on another computer that shares the home launches as we look: its instance lives."""
    cloud = LastingCloud()
    monkeypatch.setattr(Target, "cloud", lambda *_: cloud)

    async def launched(_: object) -> None:
        cloud.owner = off_the_loop(lambda: Home.open(home)).account_id
        cloud.machines["i-new"] = Machine(id="i-new", state="running")
        cloud.launches["new"] = ["i-new"]
        off_the_loop(written)

    def written() -> None:
        journal = Journal.open(Home.open(home))
        journal.machine = "elsewhere"
        traits = cloud.traits
        journal.intend(
            token="new",
            experiment="two",
            cloud=traits.name,
            endpoint=traits.endpoint,
            region=traits.region,
            image_id="ami-1",
            instance_type="m1.small",
            count=1,
            first=0,
        )
        journal.close()

    async def main(_: VirtualLoop) -> None:
        await leave(there)
        cloud.after["marked"] = launched
        found = await reap(end=True, home=home, limits=LIMITS)
        ended = [one.id for one in found if one.ended]
        assert len(ended) == 3
        assert cloud.alive() == ["i-new"]

    with world(home, cloud) as there:
        run_virtually(main)


def test_what_was_ended_is_told_where_giving_back_fails(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instances have ended; the address that is left says why, and key pairs are a warning."""
    cloud, heard = LastingCloud(), list[Event]()
    monkeypatch.setattr(Target, "cloud", lambda *_: cloud)

    async def fail(_: object) -> None:
        raise CloudError("out of order", cloud="Amazon EC2", operation="reap")

    def take() -> None:
        journal = Journal.open(Home.open(home))
        where = {"cloud": cloud.traits.name, "endpoint": cloud.traits.endpoint}
        journal.wanting_address("k", experiment="one", region="us-east-1", **where)
        journal.took_address("k", "192.0.2.1")
        journal.close()

    async def main(_: VirtualLoop) -> None:
        ids = await leave(there)
        off_the_loop(take)
        cloud.ips["192.0.2.1"] = min(ids)
        cloud.before.update(give_back=fail, drop_keys=fail)
        found = await reap(end=True, home=home, limits=LIMITS, observer=heard.append)
        assert sorted((one.kind, one.id) for one in found if one.ended) == [
            ("instance", one) for one in sorted(ids)
        ]
        (left,) = [one for one in found if not one.ended]
        assert (left.kind, left.id) == ("address", "192.0.2.1")
        assert "out of order" in left.problem
        assert any("out of order" in str(event) for event in heard)

    with world(home, cloud) as there:
        run_virtually(main)


def test_what_a_launch_without_an_answer_starts_late_is_ended_as_well(home: Path) -> None:
    """Whoever attached goes on looking for it, and has it end with the rest."""
    cloud = LastingCloud()

    async def main(_: VirtualLoop) -> None:
        await leave(there)
        there.rewrite(
            "INSERT INTO launches (token, experiment, owner, machine, pid, cloud, endpoint, region,"
            " image_id, instance_type, count, first, tags, asked_at) SELECT 'lost', experiment,"
            " owner, machine, pid, cloud, endpoint, region, image_id, instance_type, 1, 3, tags,"
            " asked_at FROM launches LIMIT 1"
        )
        exp = await Experiment.attach("one", cloud, home=home, limits=LIMITS)
        cloud.machines["i-late"] = Machine(id="i-late", state="running")
        cloud.launches["lost"] = ["i-late"]
        await exp.aclose()
        assert cloud.alive() == []
        assert there.journal() == {}

    with world(home, cloud) as there:
        run_virtually(main)


def test_what_another_computer_launched_is_attached_to_with_a_warning(home: Path) -> None:
    """Whether its script lives can't be told from here, and two must not have one experiment."""
    heard: list[Event] = []

    async def main(_: VirtualLoop) -> None:
        await leave(there)
        there.rewrite("UPDATE launches SET machine = 'elsewhere'")
        attach = Experiment.attach
        async with await attach("one", there.cloud, home=home, observer=heard.append):
            pass
        assert any("launched from host elsewhere" in str(event) for event in heard)

    with world(home, LastingCloud()) as there:
        run_virtually(main)
