"""What clouds do to experiments, on every cloud of the manual as the lab plays it.

Each ends as the design says it does, and then the lab's own books are read: `Rehearsal.account`.
Troubles are placed by ordinals, so that they come for certain and not just likely; what costs more
than it tells beside the same on another cloud is marked slow.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from precip_async import (
    BootError,
    CapacityUnavailable,
    CloudError,
    FleetError,
    QuotaExceeded,
    Throttled,
    launch,
)
from precip_async.clouds import dialects, ec2, ec2_launch, ec2_pace, ec2_roster
from precip_async.events import InstanceReplaced
from precip_async.fanout import task_group
from precip_async.lab.scenario import Scenario
from precip_async.limits import Limits
from tests.lab.clients import client_of, until_lab
from tests.lab.columns import column_of
from tests.on_clouds import BRISK, DEAF, IMAGES, rehearsed
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from precip_async.fleet import Instance
    from tests.on_clouds import Rehearsal

PATIENCE = 45.0  # seconds of a wait for what takes about three
TENTH, OTHERS = range(2, 4000, 10), range(4, 4000, 10)  # of all calls, together one in five
UNSAFE = "does not tell a launch from its repetition"


def clouds(*quick: str) -> pytest.MarkDecorator:
    """On every cloud; all but the `quick` ones are slow."""
    slow = [pytest.param(one, marks=pytest.mark.slow) for one in IMAGES if one not in quick]
    return pytest.mark.parametrize("dialect", [*quick, *slow])


everywhere = clouds(*IMAGES)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again after a tenth of the usual time: the lab needs no rest."""
    for name in ("FIRST_BACKOFF", "LONGEST_BACKOFF"):
        monkeypatch.setattr(ec2_pace, name, getattr(ec2_pace, name) / 10)


@pytest.fixture
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for lost launches for a tenth of the usual time."""
    monkeypatch.setattr(launch, "SWEEP", launch.SWEEP / 10)
    monkeypatch.setattr(ec2_launch, "LOOK_AGAIN", ec2_launch.LOOK_AGAIN / 10)


async def live(on: Rehearsal, count: int) -> list[Instance]:
    """Live a whole life; the instances that were ready."""
    async with on.exp as exp:
        await exp.provision(on.image, count=count)
        ready = await exp.wait(timeout=PATIENCE)
        said = await exp.run([], "echo in", parallel=True)
        assert said[1] == ["in\n"] * count
        await exp.deprovision()
    return ready


def next_launch(on: Rehearsal) -> int:
    """The ordinal of the next launch call."""
    return len(on.calls("RunInstances"))


# -- calls that are refused, broken and lost -------------------------------------------------


@clouds("amazon", "eucalyptus-4", "nimbus")
@pytest.mark.usefixtures("hasty")
async def test_half_of_all_calls_are_throttled(tmp_path: Path, dialect: str) -> None:
    """It takes longer, and nothing else is different."""
    scenario = Scenario(throttled=range(0, 4000, 2))
    async with rehearsed(tmp_path, dialect, scenario, fleet=True) as on:
        await live(on, 3)

        assert sum(call.throttled for call in on.lab.calls) >= len(on.lab.calls) // 2
        await on.account()


@pytest.mark.parametrize("calls", [3, 4000])
async def test_a_cloud_that_wants_to_be_asked_later_has_answered(
    tmp_path: Path, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked longer than one that says nothing, and in the end that is what is told."""
    monkeypatch.setattr(ec2, "FIRST_PATIENCE", 0.1)  # seconds: over after the first refusal
    monkeypatch.setattr(ec2, "THROTTLED_PATIENCE", 60.0 if calls == 3 else 0.1)
    async with rehearsed(tmp_path, "ec2-api", Scenario(throttled=range(calls))) as on:
        if calls == 3:
            await on.exp.open()
            await on.exp.aclose()
        else:
            with pytest.raises(Throttled, match="other programs share its limits"):
                await on.exp.open()


@clouds("amazon", "ec2-api", "eucalyptus-4")
@pytest.mark.usefixtures("hasty", "short_search")
async def test_one_call_in_five_is_a_500_or_a_reset(tmp_path: Path, dialect: str) -> None:
    """It is asked again, but for a launch that might be one already, which is for the user to."""
    scenario = Scenario(errors=TENTH, resets=OTHERS)
    async with rehearsed(tmp_path, dialect, scenario, fleet=True) as on:
        async with on.exp as exp:
            try:
                await exp.provision(on.image, count=3)
            except CloudError as error:
                if dialect not in DEAF or UNSAFE not in str(error):
                    raise
                await exp.provision(on.image, count=3)
            await exp.wait(timeout=PATIENCE)
            assert (await exp.run([], "echo in", parallel=True))[1] == ["in\n"] * 3
            await exp.deprovision()

        assert "broken" in {call.code for call in on.lab.calls}
        assert 0 in {call.status for call in on.lab.calls}
        await on.account()


@clouds("amazon", "nova-havana", "eucalyptus-3", "nimbus")
@pytest.mark.usefixtures("hasty", "short_search")
async def test_a_launch_that_breaks_off_is_asked_for_again_where_that_is_safe(
    tmp_path: Path, dialect: str
) -> None:
    """Where the cloud ignores its token it is not, the error says so, and nothing is left."""
    resets = set[int]()
    async with rehearsed(tmp_path, dialect, Scenario(resets=resets), fleet=True) as on:
        async with on.exp as exp:
            own_key = dialect.startswith("nova") or dialect in ("ec2-api", "eucalyptus-3")
            resets.add(len(on.lab.calls) + own_key)
            if dialect in DEAF:
                with pytest.raises(CloudError, match=UNSAFE):
                    await exp.provision(on.image, count=3)
            else:
                assert len(await exp.provision(on.image, count=3)) == 3

        first = on.calls("RunInstances")[0]
        assert (first.status, first.answered) == (0, False)
        assert next_launch(on) == (1 if dialect in DEAF else 2)
        await on.account()


@clouds("amazon", "eucalyptus-3", "nimbus")
@pytest.mark.usefixtures("hasty")
async def test_every_tenth_launch_reply_is_lost(tmp_path: Path, dialect: str) -> None:
    """The first, the last and one between them: all are found, and none is launched twice."""
    lost, last = set[int](), 9 if dialect == "amazon" else 19  # whose pace we keep
    async with rehearsed(tmp_path, dialect, Scenario(lost_launches=lost), fleet=True) as on:
        async with on.exp as exp:
            for place in range(last + 1):
                if place in (0, last // 2, last):
                    lost.add(next_launch(on))
                await exp.provision(on.image)
            ready = await exp.wait(timeout=PATIENCE)

            assert len(ready) == len(await on.lab.instances()) == last + 1
        assert [call.answered for call in on.calls("RunInstances")].count(False) == 3
        await on.account()


@clouds("amazon", "nova-essex")
@pytest.mark.usefixtures("hasty")
async def test_the_reply_to_a_replacement_is_lost(tmp_path: Path, dialect: str) -> None:
    """It is found all the same, and takes the place of what died."""
    scenario = Scenario(dies_booting=[1], dies_after=0.1, lost_launches=(lost := set[int]()))
    async with rehearsed(tmp_path, dialect, scenario, fleet=True) as on:
        async with on.exp as exp:
            await exp.provision(on.image, count=2)
            lost.add(next_launch(on))
            ready = await exp.wait(timeout=PATIENCE)

            assert sorted(one.launches for one in ready) == [1, 2]
            assert len(await on.lab.instances()) == 3
        assert False in [call.answered for call in on.calls("RunInstances")]
        await on.account()


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("dialect", "count"), [("amazon", 250), ("ec2-api", 50), ("eucalyptus-4", 250)]
)
@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_the_reply_to_a_part_of_a_large_launch_is_lost(
    tmp_path: Path, dialect: str, count: int, lost: int
) -> None:
    """Whichever it is of three: all instances are there, and each once."""
    scenario = Scenario(lost_launches=[lost])
    async with rehearsed(tmp_path, dialect, scenario, fleet=True) as on:
        async with on.exp as exp:
            provisioned = await exp.provision(on.image, count=count)

            seen = await on.lab.instances()
            assert sorted(one.id for one in provisioned) == sorted(one.id for one in seen)
            assert len(seen) == count
        await on.account()


# -- instances that do not boot --------------------------------------------------------------


@clouds("amazon", "nova-essex")
async def test_a_third_of_the_instances_do_not_boot_at_first(tmp_path: Path, dialect: str) -> None:
    """One never does, one dies, and one refuses SSH for a while: the first two are replaced."""
    scenario = Scenario(
        never_boots=[0], dies_booting=[4], dies_after=0.3, ssh_late=[8], ssh_late_by=1.0
    )
    async with rehearsed(tmp_path, dialect, scenario, fleet=True) as on:
        async with on.exp as exp:
            await exp.provision(on.image, count=9, boot_timeout=4)
            ready = await exp.wait(timeout=PATIENCE)
            said = await exp.run([], "echo in", parallel=True)

            assert said[1] == ["in\n"] * 9
        seen = await on.lab.instances()
        replaced = {one.replaced_id for one in on.heard if isinstance(one, InstanceReplaced)}
        assert {seen[0].id, seen[4].id} <= replaced
        assert len(seen) == 9 + len(replaced)
        assert len({one.id for one in ready} - replaced) == 9
        await on.account()


@pytest.mark.slow
@everywhere
async def test_what_never_boots_fails_after_as_many_launches(tmp_path: Path, dialect: str) -> None:
    """The others are usable, the error says what was seen, and nothing is left."""
    scenario = Scenario(never_boots=[1, 3], dies_booting=[4, 5, 6, 7], dies_after=0.1)
    async with rehearsed(tmp_path, dialect, scenario, fleet=True) as on:
        async with on.exp as exp:
            await exp.provision(on.image, count=3, boot_timeout=4, boot_max_tries=2)
            with pytest.raises(BootError, match=r"launched 2 time\(s\)"):
                await exp.wait(timeout=PATIENCE)

            states = sorted(one.state for one in exp.instances())
            assert states == ["failed", "ready", "ready"]
        await on.account()


# -- no room ---------------------------------------------------------------------------------


@everywhere
async def test_a_quota_for_seven_of_ten(tmp_path: Path, dialect: str) -> None:
    """All or none is none; with five as the least it is seven, or five where that is the choice."""
    async with rehearsed(tmp_path, dialect, Scenario(quota=7), fleet=True) as on:
        async with on.exp as exp:
            with pytest.raises(QuotaExceeded, match="ask for fewer"):
                await exp.provision(on.image, count=10)
            assert await on.lab.instances() == ()
            started = await exp.provision(on.image, count=10, min_count=5)

            # Nimbus knows no range: all that were asked for, or else the least.
            assert len(started) == (5 if dialect == "nimbus" else 7)
            assert len(await exp.wait(timeout=PATIENCE)) == len(started)
        await on.account()


@clouds("eucalyptus-4", "nova-havana")
async def test_a_cloud_that_has_room_for_seven_of_ten(tmp_path: Path, dialect: str) -> None:
    """It refuses, or lets three fail, which are replaced in vain; and nothing is left."""
    async with rehearsed(tmp_path, dialect, Scenario(capacity=7), fleet=True) as on:
        async with on.exp as exp:
            if dialect.startswith("nova") or dialect == "ec2-api":
                await exp.provision(on.image, count=10, boot_max_tries=2)
                with pytest.raises(BootError, match=r"3 instance\(s\) did not become ready"):
                    await exp.wait(timeout=PATIENCE)
            else:  # Nimbus has the same word for a quota
                with pytest.raises((CapacityUnavailable, QuotaExceeded), match="ask for fewer"):
                    await exp.provision(on.image, count=10)
                assert await on.lab.instances() == ()
        await on.account()


# -- a dead id among the living --------------------------------------------------------------


async def end_behind_our_back(on: Rehearsal, victims: Iterable[Instance]) -> None:
    """Have somebody else end instances, with the vendor's own client."""
    ids = [one.id for one in victims]
    signature = column_of(on.lab.dialect).signature
    async with client_of(on.lab, signature=signature) as client:
        await client.terminate_instances(InstanceIds=ids)
    await until_lab(
        on.lab, lambda seen: all(one.ended is not None for one in seen if one.id in ids)
    )


@clouds("amazon", "nova-havana", "nimbus")
async def test_one_that_is_ended_hides_none_that_boot(tmp_path: Path, dialect: str) -> None:
    """The others become ready, and it is replaced."""
    scenario = Scenario(ssh_late=[0, 1, 2], ssh_late_by=1.5)
    async with rehearsed(tmp_path, dialect, scenario, fleet=True) as on:
        async with on.exp as exp:
            first, victim, last = await exp.provision(on.image, count=3)
            dead = victim.id
            asked = len(on.calls("DescribeInstances"))
            async with task_group() as tasks:
                tasks.start_soon(exp.wait, (), PATIENCE)
                await eventually(lambda: victim.state == "addressed")
                await eventually(lambda: len(on.calls("DescribeInstances")) > asked + 1)
                await end_behind_our_back(on, [victim])

            assert [one.state for one in (first, victim, last)] == ["ready"] * 3
            assert [one.launches for one in (first, victim, last)] == [1, 2, 1]
            assert victim.id != dead
        await on.account()


@clouds("amazon", "ec2-api", "eucalyptus-3")
async def test_one_that_is_ended_hides_none_that_work(tmp_path: Path, dialect: str) -> None:
    """Commands run on the others, further ones are launched, and all are ended."""
    limits = Limits(connect_timeout=1.0, poll_interval=BRISK.poll_interval)
    async with rehearsed(tmp_path, dialect, fleet=True, limits=limits) as on:
        async with on.exp as exp:
            await exp.provision(on.image, count=3, tags=["old"])
            first, victim, last = await exp.wait(timeout=PATIENCE)
            await end_behind_our_back(on, [victim])
            await exp.provision(on.image, tags=["new"])
            (new,) = await exp.wait(["new"], timeout=PATIENCE)
            with pytest.raises(FleetError) as caught:
                await exp.run([], "echo in", parallel=True)

            succeeded = [one.instance_id for one in caught.value.succeeded]
            assert succeeded == [first.id, last.id, new.id]
            await exp.deprovision()
            assert exp.instances() == []
        await on.account()


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["amazon", "nova-havana"])
async def test_one_that_vanishes_is_replaced(
    tmp_path: Path, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cloud that forgets an instance hides none of the others."""
    # Whether it was ever seen, and how long it may be out of sight, is a matter of time.
    monkeypatch.setattr(dialects, "AMAZON", replace(dialects.AMAZON, grace=5.0))
    monkeypatch.setattr(ec2_roster, "OUT_OF_SIGHT", ec2_roster.OUT_OF_SIGHT / 10)
    scenario = Scenario(vanishes=[1], vanishes_after=1.0, ssh_late=[0, 1, 2], ssh_late_by=4.0)
    async with rehearsed(tmp_path, dialect, scenario, fleet=True) as on:
        ready = await live(on, 3)

        vanished = (await on.lab.instances())[1]
        assert vanished.id not in {one.id for one in ready}
        await on.account()


async def test_a_launch_that_nobody_waits_for_leaves_nothing(tmp_path: Path) -> None:
    """A script that is broken off while its launch is unanswered: what it started is ended."""
    scenario = Scenario(lost_launches=[0])
    async with rehearsed(tmp_path, scenario=scenario, fleet=True) as on:
        async with on.exp as exp:
            with anyio.CancelScope() as scope:
                async with task_group() as tasks:
                    tasks.start_soon(functools.partial(exp.provision, on.image, count=3))
                    await eventually(lambda: on.calls("RunInstances"))
                    scope.cancel()

        assert scope.cancelled_caught
        assert len(await on.lab.instances()) == 3
        await on.account()
