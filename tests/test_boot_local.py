"""Booting for real: each fault of the local cloud is diagnosed, and replaced where that helps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from precip_async import BootError, BootTimeout, Faults, Limits, LocalExperiment
from precip_async.events import InstanceReplaced, Launched

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.events import Event

QUICK = Limits(poll_interval=0.05, probe_timeout=0.5)

DIAGNOSES = {
    "never_boots": ("pending", "the cloud says that it is pending"),
    "dies_booting": ("pending", "the cloud ended it: "),
    "ssh_late": ("addressed", "127."),
    "ssh_refuses_key": ("addressed", "key refused: "),
    "ssh_hangs": ("addressed", "port filtered, or silent: "),
    "root_refused": ("reachable", "root login is disabled, this image wants user ubuntu"),
}


def local(tmp_path: Path, events: list[Event] | None = None, /, **faults: Any) -> LocalExperiment:
    """An experiment on this machine, with faults."""
    return LocalExperiment(
        isolation="process",
        home=tmp_path / "home",
        limits=QUICK,
        observer=None if events is None else events.append,
        faults=Faults(dies_after=0.05, ssh_late_by=30, **faults),
    )


@pytest.mark.parametrize("fault", DIAGNOSES)
async def test_a_fault_is_told_for_what_it_is(tmp_path: Path, fault: str) -> None:
    """The error says of each instance how far it came and what was seen of it, and of no other."""
    stage, seen = DIAGNOSES[fault]
    async with local(tmp_path, None, **{fault: [1]}) as exp:
        good, bad = await exp.provision(count=2, boot_max_tries=1)
        began = time.monotonic()
        with pytest.raises(BootError) as caught:
            await exp.wait(timeout=1.0)

        took = time.monotonic() - began
        (diagnosis,) = caught.value.diagnoses.values()
        assert list(caught.value.diagnoses) == [bad.id]
        assert diagnosis.stage == stage
        assert diagnosis.seen.startswith(seen)
        assert isinstance(caught.value, BootTimeout) is (fault != "dies_booting")
        assert took < 3.5
        assert (await exp.run([good.id], "echo usable"))[1] == ["usable\n"]


@pytest.mark.parametrize("fault", DIAGNOSES)
async def test_a_fault_is_replaced(tmp_path: Path, fault: str) -> None:
    """With boot_timeout= the next launch takes the place, the index and the tags of the bad one."""
    events: list[Event] = []
    async with local(tmp_path, events, **{fault: [0]}) as exp:
        bad, good = await exp.provision(count=2, tags=["worker"], boot_timeout=0.7)
        old = bad.id
        instances = await exp.wait(timeout=20)

        assert instances == [bad, good]
        assert (bad.index, bad.launches, bad.state) == (0, 2, "ready")
        assert bad.id != old
        assert good.launches == 1
        assert exp.instances("worker") == [bad, good]
        assert (await exp.run([], "echo $PRECIP_INDEX"))[1] == ["0\n", "1\n"]
        assert sum(type(event) is Launched for event in events) == 2
        (replaced,) = [event for event in events if isinstance(event, InstanceReplaced)]
        assert (replaced.replaced_id, replaced.instance_id) == (old, bad.id)


async def test_a_slow_boot_is_waited_for(tmp_path: Path) -> None:
    """An instance that takes its time is neither an error nor replaced."""
    async with local(tmp_path, boot_delay=0.4) as exp:
        (instance,) = await exp.provision()
        assert instance.state == "pending"
        with pytest.raises(BootTimeout, match="the cloud says that it is pending"):
            await exp.wait(timeout=0.1)

        await exp.wait(timeout=20)

        assert (instance.state, instance.launches) == ("ready", 1)


async def test_what_never_boots_is_launched_as_often_as_allowed(tmp_path: Path) -> None:
    """Launches are counted, and the failure says how many there were."""
    events: list[Event] = []
    async with local(tmp_path, events, never_boots=True) as exp:
        await exp.provision(boot_timeout=0.1, boot_max_tries=3)
        with pytest.raises(BootError, match=r"not ready in time.*launched 3 time") as caught:
            await exp.wait(timeout=20)

        assert not isinstance(caught.value, BootTimeout)
        assert sum(isinstance(event, InstanceReplaced) for event in events) == 2


async def test_stock_images_are_worked_with_as_their_own_user(tmp_path: Path) -> None:
    """The user that the diagnosis names is the way in."""
    exp = LocalExperiment(
        isolation="process",
        home=tmp_path / "home",
        limits=QUICK,
        login_user="ubuntu",
        faults=Faults(root_refused=True),
    )
    async with exp:
        await exp.provision()

        await exp.wait(timeout=20)
        results = await exp.run([], "echo in", user="ubuntu")

    assert results.by_instance[0].stdout == "in\n"
    assert results.by_instance[0].user == "ubuntu"
