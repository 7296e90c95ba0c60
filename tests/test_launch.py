"""Launching and ending: what is asked of the cloud, what is written down, what is never lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async.errors import (
    CapacityUnavailable,
    CloudError,
    EndpointUnreachable,
    ExperimentClosed,
    ExperimentException,
    HomeError,
    NotAuthorized,
    QuotaExceeded,
    Throttled,
)
from precip_async.events import Deprovisioned, Deprovisioning, Launched, Warned
from precip_async.fanout import in_child_task
from precip_async.home.journal import Journal
from tests.fakes import Bench, bench
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench with an in-memory cloud."""
    async with bench(tmp_path / "home") as made:
        yield made


def error(kind: type[CloudError] = CloudError, message: str = "no") -> CloudError:
    """What the cloud says when it refuses."""
    return kind(message, cloud="fake", operation="test")


def raising(failure: Exception, times: int = 1_000_000) -> Callable[[Any], Any]:
    """A hook that raises `failure` the first `times`."""
    left = iter(range(times))

    async def hook(_: object) -> None:
        if next(left, None) is not None:
            raise failure

    return hook


async def forever(_: object) -> None:
    """A hook that never comes back."""
    await anyio.sleep_forever()


def broken(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Have a method of the journal fail."""

    def fail(*_: object, **__: object) -> None:
        raise HomeError(path="journal", problem="the disk is full", mend="make room")

    monkeypatch.setattr(Journal, method, fail)


# -- launching -------------------------------------------------------------------------------


async def test_one_launch_call_serves_the_whole_count(at: Bench) -> None:
    """A hundred instances are one call, with ordinals that go on from the calls before."""
    await at.provision(100)
    await at.provision(5)

    requests = [given for name, given in at.cloud.calls if name == "launch"]
    assert [(one.count, one.first) for one in requests] == [(100, 0), (5, 100)]
    assert requests[0].token != requests[1].token
    assert [one.index for one in at.launcher.instances] == list(range(105))


async def test_the_intent_is_written_before_the_cloud_is_asked(at: Bench) -> None:
    """Whatever becomes of us, what the cloud may have heard of is in the journal."""
    seen = []

    async def look(_: object) -> None:
        seen.extend(await at.rows())

    at.cloud.before["launch"] = look
    await at.provision(2, tags=("a", "b"))

    (row,) = seen
    assert (row.experiment, row.cloud, row.count, row.instance_id) == ("bench", "fake", 2, "")
    assert row.tags == ("a", "b")
    assert row.token == at.cloud.calls[0][1].token


async def test_the_answer_is_written_after_the_cloud_gave_it(at: Bench) -> None:
    """The journal names every instance, in launch order."""
    instances = await at.provision(2)

    rows = await at.rows()
    assert [row.instance_id for row in rows] == [one.id for one in instances]
    assert [row.ordinal for row in rows] == [0, 1]


async def test_without_the_journal_nothing_is_launched(
    at: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launch that can't be written down is not asked for."""
    broken(monkeypatch, "intend")

    with pytest.raises(HomeError, match="disk is full"):
        await at.provision()

    assert at.cloud.count("launch") == 0


async def test_what_the_journal_could_not_be_told_of_is_ended_again(
    at: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up between the launch and its answer leaves no machine running."""
    broken(monkeypatch, "answered")

    with pytest.raises(HomeError, match="disk is full"):
        await at.provision(2)

    assert at.cloud.count("launch") == 1
    assert at.cloud.alive() == []


async def test_a_refused_launch_leaves_nothing(at: Bench) -> None:
    """The refusal is raised as it is, and the journal knows that nothing was started."""
    at.cloud.before["launch"] = raising(error(QuotaExceeded, "too many"))

    with pytest.raises(QuotaExceeded, match="too many"):
        await at.provision(3)

    assert at.launcher.instances == []
    assert await at.rows() == []
    assert at.cloud.count("find") == 0


async def test_fewer_than_min_count_are_ended_again(at: Bench) -> None:
    """A part of a fleet that makes no sense on its own costs nothing."""
    at.cloud.short_by = 1

    with pytest.raises(CapacityUnavailable, match="3 asked for, 2 started, and ended again"):
        await at.provision(3)

    assert at.cloud.alive() == []
    assert await at.rows() == []


async def test_fewer_than_asked_for_do_from_min_count_on(at: Bench) -> None:
    """With min_count= the user says how few will do."""
    at.cloud.short_by = 1

    assert len(await at.provision(3, min_count=2)) == 2


async def test_a_launch_whose_reply_never_comes_is_found_by_its_token(at: Bench) -> None:
    """A lost reply loses no machine: what was started is the experiment's."""
    at.cloud.after["launch"] = forever

    instances = await at.provision(2)

    assert [one.id for one in instances] == at.cloud.alive()
    assert [row.instance_id for row in await at.rows()] == at.cloud.alive()


async def test_a_launch_whose_reply_broke_off_is_found_by_its_token(at: Bench) -> None:
    """A connection that breaks says nothing about what the cloud had understood by then."""
    at.cloud.after["launch"] = raising(error(EndpointUnreachable, "connection reset"))

    (instance,) = await at.provision()

    assert [instance.id] == at.cloud.alive()


async def test_a_lost_launch_that_shows_up_in_parts_is_waited_for(at: Bench) -> None:
    """Clouds are eventually consistent: the first answer of a search need not be the whole."""
    at.cloud.after["launch"] = forever
    asked = 0

    async def consistent_at_last(token: str) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            hidden.extend(at.cloud.launches[token][1:])
            del at.cloud.launches[token][1:]
        elif hidden:
            at.cloud.launches[token].append(hidden.pop())

    hidden: list[str] = []
    at.cloud.before["find"] = consistent_at_last

    assert len(await at.provision(3)) == 3


async def test_a_lost_launch_that_is_not_found_is_searched_for_again_at_the_end(
    at: Bench,
) -> None:
    """Nobody knows then what it started, so it stays in the journal, and closing ends it."""
    at.cloud.after["launch"] = forever
    at.cloud.before["find"] = raising(error(message="come back later"))
    with pytest.raises(CloudError, match=r"no answer within 0.3 s.*looked for again"):
        await at.provision(2)
    assert len(at.cloud.alive()) == 2
    assert [row.instance_id for row in await at.rows()] == [""]

    del at.cloud.before["find"]
    await at.launcher.close(keep=False)

    assert at.cloud.alive() == []
    assert await at.rows() == []


async def test_a_lost_launch_that_can_never_be_searched_for_is_said_at_the_end(at: Bench) -> None:
    """What may still run is named by its token, and the rest is ended all the same."""
    await at.provision()
    at.cloud.after["launch"] = forever
    at.cloud.before["find"] = raising(error(message="come back later"))
    with pytest.raises(CloudError):
        await at.provision()
    token = at.cloud.calls[-1][1]

    with pytest.raises(ExperimentException, match=f"{token}.*come back later"):
        await at.launcher.close(keep=False)

    assert len(at.cloud.alive()) == 1


@pytest.mark.parametrize("native", [False, True], ids=["anyio", "asyncio"])
async def test_a_launch_in_flight_is_not_abandoned_by_cancellation(
    at: Bench, *, native: bool
) -> None:
    """Its reply is awaited, and what it started is the experiment's."""
    asked, answered = anyio.Event(), anyio.Event()

    async def slow(_: object) -> None:
        asked.set()
        await anyio.sleep(0.1)
        answered.set()

    at.cloud.before["launch"] = slow

    async def launch() -> None:
        await in_child_task(lambda: at.provision(2))

    if native:
        task = asyncio.create_task(launch())
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(launch)
            await asked.wait()
            tasks.cancel_scope.cancel()

    assert answered.is_set()
    assert [one.id for one in at.launcher.instances] == at.cloud.alive()
    assert len(await at.rows()) == 2


async def test_closing_awaits_a_launch_in_flight_and_ends_it(at: Bench) -> None:
    """What is being started while the experiment is closed does not outlive it."""
    asked, go = anyio.Event(), anyio.Event()

    async def slow(_: object) -> None:
        asked.set()
        await go.wait()

    at.cloud.before["launch"] = slow
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(at.provision, 2)
        await asked.wait()
        tasks.start_soon(lambda: at.launcher.close(keep=False))
        await eventually(lambda: at.launcher.closed)
        go.set()

    assert at.cloud.count("launch") == 1
    assert len(at.launcher.instances) == 2
    assert at.cloud.alive() == []


async def test_nothing_is_launched_once_it_is_closed(at: Bench) -> None:
    """A verb that comes too late starts nothing that nobody would end."""
    await at.launcher.close(keep=False)

    with pytest.raises(ExperimentClosed):
        await at.provision()

    assert at.cloud.count("launch") == 0


async def test_tags_of_machines_are_added_to_those_of_the_launch(at: Bench) -> None:
    """A host that has a tag of its own bears it beside those of its launch, once."""
    at.cloud.first = {"state": "running", "tags": ("big", "worker")}

    (instance,) = await at.provision(tags=("worker", "red"))

    assert instance.user_tags == ("worker", "red", "big")
    assert [event.tags for event in at.of(Launched)] == [("worker", "red", "big")]


# -- ending ----------------------------------------------------------------------------------


async def test_all_are_ended_by_one_call(at: Bench) -> None:
    """And when its answer says that they end, nothing more is asked."""
    instances = await at.provision(50)

    await at.launcher.terminate(instances)

    assert [(name, len(ids)) for name, ids in at.cloud.calls[1:]] == [("terminate", 50)]
    assert {one.state for one in instances} == {"terminated"}
    assert len(at.of(Deprovisioning)) == len(at.of(Deprovisioned)) == 50
    assert await at.rows() == []


async def test_the_end_is_awaited_until_the_cloud_confirms_it(at: Bench) -> None:
    """Asking is not enough: a machine counts as ended when the cloud says so."""
    instances = await at.provision(2)
    rounds = 0

    async def not_yet(ids: list[str]) -> None:
        nonlocal rounds
        rounds += 1
        for one in ids:
            at.cloud.say(one, state="running" if rounds < 4 else "shutting-down")

    at.cloud.after["terminate"] = not_yet
    at.cloud.before["describe"] = not_yet

    await at.launcher.terminate(instances)

    assert rounds == 4
    assert {one.state for one in instances} == {"terminated"}


async def test_an_end_that_is_never_confirmed_is_said_after_the_limit(at: Bench) -> None:
    """The error names what may still run, and where to look."""
    one, other = await at.provision(2)

    async def immortal(ids: list[str]) -> None:
        if one.id in ids:
            at.cloud.say(one.id, state="running")

    at.cloud.after["terminate"] = immortal
    began = anyio.current_time()

    with pytest.raises(ExperimentException, match=f"not known to have ended: {one.id}: the cloud"):
        await at.launcher.terminate([one, other])

    assert 0.4 < anyio.current_time() - began < 2
    assert (one.state, other.state) == ("terminating", "terminated")
    assert [row.instance_id for row in await at.rows()] == [one.id]


async def test_a_termination_that_is_refused_stops_no_other(at: Bench) -> None:
    """One bad id spoils a whole call: the rest is asked for without it, and the error names it."""
    instances = await at.provision(9)
    bad = instances[3]

    async def refuse(ids: list[str]) -> None:
        if bad.id in ids:
            raise error(NotAuthorized, "termination protection")

    at.cloud.before["terminate"] = refuse

    with pytest.raises(ExperimentException, match=f"ended: {bad.id}:.*termination protection"):
        await at.launcher.terminate(instances)

    assert at.cloud.alive() == [bad.id]
    assert at.cloud.count("terminate") < 9


@pytest.mark.parametrize("kind", [Throttled, EndpointUnreachable])
async def test_a_termination_is_asked_for_again_when_the_refusal_passes(
    at: Bench, kind: type[CloudError]
) -> None:
    """A cloud that is busy, or out of reach for a moment, costs nobody a forgotten machine."""
    instances = await at.provision(3)
    at.cloud.before["terminate"] = raising(error(kind), times=2)

    await at.launcher.terminate(instances)

    assert at.cloud.count("terminate") == 3
    assert at.cloud.alive() == []


class Trouble(CloudError):
    """What a cloud says that has trouble of its own."""

    passing = True


async def test_trouble_while_ending_is_waited_out(at: Bench) -> None:
    """A cloud that is out of order for a moment is asked again, and for all at once."""
    instances = await at.provision(9)
    at.cloud.before["terminate"] = raising(error(Trouble), times=2)

    await at.launcher.terminate(instances)

    assert at.cloud.count("terminate") == 3
    assert at.cloud.alive() == []


async def test_trouble_with_one_keeps_no_other(at: Bench) -> None:
    """A machine that a cloud can't end, and says so as trouble of its own, is asked for alone."""
    instances = await at.provision(9)
    bad = instances[3]

    async def trouble(ids: list[str]) -> None:
        if bad.id in ids:
            raise error(Trouble, "something broke")

    at.cloud.before["terminate"] = trouble

    with pytest.raises(ExperimentException, match=f"ended: {bad.id}: .*something broke"):
        await at.launcher.terminate(instances)

    assert at.cloud.alive() == [bad.id]


async def test_a_describe_that_fails_while_ending_is_repeated(at: Bench) -> None:
    """Whether a machine has ended is asked until the cloud says so; observers hear of the rest."""
    instances = await at.provision()

    async def slowly(ids: list[str]) -> None:
        for one in ids:
            at.cloud.say(one, state="running")

    async def fail_once(ids: list[str]) -> None:
        at.cloud.say(ids[0], state="terminated")
        if at.cloud.count("describe") == 1:
            raise error(message="hiccup")

    at.cloud.after["terminate"] = slowly
    at.cloud.before["describe"] = fail_once

    await at.launcher.terminate(instances)

    assert [str(event) for event in at.of(Warned)] == ["WARNING: fake: test: hiccup"]
    assert at.cloud.count("describe") == 2


async def test_a_journal_that_fails_keeps_no_machine_running(
    at: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines that nobody wants come before the books."""
    instances = await at.provision(2)
    broken(monkeypatch, "ending")
    broken(monkeypatch, "ended")

    await at.launcher.terminate(instances)

    assert at.cloud.alive() == []
    assert [event.text for event in at.of(Warned)] == ["journal: the disk is full; make room"] * 2


async def test_closing_ends_the_failed_ones_too(at: Bench) -> None:
    """A cloud that calls a machine failed may charge for it all the same."""
    at.cloud.first = {"state": "failed", "public_address": None}
    await at.provision()

    await at.launcher.close(keep=False)

    assert at.cloud.alive() == []


async def test_closing_with_keep_ends_nothing(at: Bench) -> None:
    """What is kept stays in the journal, for whoever looks for it."""
    await at.provision(2)

    await at.launcher.close(keep=True)

    assert len(at.cloud.alive()) == 2
    assert len(await at.rows()) == 2


async def test_ending_the_same_instances_at_once_is_announced_once(at: Bench) -> None:
    """Deprovisioning while the experiment is closed does no harm."""
    instances = await at.provision(3)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(at.launcher.terminate, instances)
        tasks.start_soon(lambda: at.launcher.close(keep=False))

    assert len(at.of(Deprovisioned)) == 3
