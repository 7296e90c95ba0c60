"""The verbs: what they refuse, whom they select, what they say; cloud and SSH in memory."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async import (
    CloudError,
    Experiment,
    ExperimentClosed,
    ExperimentException,
    FleetError,
    InvalidArgument,
    RunResults,
)
from precip_async.events import Warned
from tests.fakes import QUICK, FakeCloud, FakeConnector, faked_ssh, refused
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from precip_async.events import Event
    from precip_async.ssh.transport import Target

HERE = Path(__file__)  # a file that is there


@pytest.fixture
def cloud() -> FakeCloud:
    """A cloud in memory."""
    return FakeCloud()


@pytest.fixture
def ssh(monkeypatch: pytest.MonkeyPatch) -> FakeConnector:
    """SSH in memory, for every experiment of the test."""
    return faked_ssh(monkeypatch)


@pytest.mark.usefixtures("ssh")
async def test_faked_ssh_and_real_workers_do_not_mix(cloud: FakeCloud, tmp_path: Path) -> None:
    """These tests' machines have addresses that a worker process would really connect to."""
    limits = replace(QUICK, ssh_workers=2)
    async with Experiment(cloud, home=tmp_path, limits=limits) as made:
        with pytest.raises(AssertionError, match="SSH is faked here"):
            await made.provision()

    assert cloud.machines == {}


@pytest.fixture
def events() -> list[Event]:
    """What `exp` announces."""
    return []


@pytest.fixture
async def exp(
    cloud: FakeCloud, ssh: FakeConnector, events: list[Event], tmp_path: Path
) -> AsyncIterator[Experiment]:
    """An open experiment, without instances."""
    async with Experiment(
        cloud, name="exp", home=tmp_path / "home", limits=QUICK, observer=events.append
    ) as made:
        yield made
    assert ssh.open == 0


@pytest.fixture
async def three(exp: Experiment) -> Experiment:
    """It with three instances that are ready: a master and two workers."""
    await exp.provision(tags=["master"])
    await exp.provision(count=2, tags=["worker", "big"])
    await exp.wait()
    return exp


# -- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        *({"count": count} for count in (0, -1, 10**9, True, "3", 1.0, None)),
        *({"min_count": least} for least in (0, -1, 3, True, "1")),
        *({"tags": tags} for tags in ("", [""], [" "], ["a", 5], [None], 5, {"a"}, ["a\n"])),
        *({"image_id": image} for image in ("", 5, b"ami")),
        *({"instance_type": kind} for kind in ("", None, 5)),
        *({"ebs_size": size} for size in (-1, 0, "8", 1.5, True, 10**9)),
        *({"boot_timeout": seconds} for seconds in (0, -1, math.nan, "60", True)),
        *({"boot_max_tries": tries} for tries in (0, -1, 1.5, True, None, 10**6)),
        *({"user_data": data} for data in (5, ["#!/bin/sh"])),
        *({"options": options} for options in ("x", ["x"], {5: 1})),
    ],
    ids=repr,
)
async def test_what_can_not_be_provisioned_is_refused_and_nothing_started(
    exp: Experiment, cloud: FakeCloud, given: dict[str, Any]
) -> None:
    """At once, by a sentence that names what is wrong."""
    (name,) = given
    with pytest.raises(InvalidArgument, match="tag" if name == "tags" else name) as caught:
        await exp.provision(**{"image_id": "ami-1", "count": 2, **given})

    assert isinstance(caught.value, ExperimentException)
    assert cloud.count("launch") == 0
    assert exp.instances() == []


async def test_an_image_must_be_named_where_the_cloud_has_no_default(
    ssh: FakeConnector, tmp_path: Path
) -> None:
    """On a real cloud there is no image that would do for everybody."""
    cloud = FakeCloud(default_image=None)
    async with Experiment(cloud, home=tmp_path / "home", limits=QUICK) as exp:
        with pytest.raises(InvalidArgument, match="image_id must be the id of an image, not None"):
            await exp.provision()

    assert cloud.count("launch") == 0
    assert ssh.attempts == []


VERBS: dict[str, Callable[[Experiment, Path], Any]] = {
    "provision": lambda exp, _: exp.provision(),
    "wait": lambda exp, _: exp.wait(),
    "deprovision": lambda exp, _: exp.deprovision(),
    "list": lambda exp, _: exp.list(),
    "instances": lambda exp, _: exp.instances(),
    "get_public_hostnames": lambda exp, _: exp.get_public_hostnames(),
    "get_private_hostnames": lambda exp, _: exp.get_private_hostnames(),
    "put": lambda exp, path: exp.put([], path, "/tmp/x"),
    "get": lambda exp, path: exp.get([], "/tmp/x", path),
    "run": lambda exp, _: exp.run([], "true"),
    "copy_and_run": lambda exp, path: exp.copy_and_run([], path),
}


async def done(what: Any) -> Any:
    """What a verb gives, awaited where it is to be."""
    return await what if hasattr(what, "__await__") else what


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_before_it_is_open_is_refused(cloud: FakeCloud, verb: str) -> None:
    """The sentence says how to open it, and nothing was done."""
    exp = Experiment(cloud, name="exp")

    with pytest.raises(ExperimentClosed, match=r"'exp' is not open: use `async with`, or open\(\)"):
        await done(VERBS[verb](exp, HERE))

    assert cloud.calls == []


@pytest.mark.parametrize("verb", VERBS)
async def test_a_verb_after_it_was_closed_is_refused(three: Experiment, verb: str) -> None:
    """Its instances are gone, and so are their connections."""
    await three.aclose()

    with pytest.raises(ExperimentClosed, match="'exp' was closed"):
        await done(VERBS[verb](three, HERE))


@pytest.mark.parametrize("verb", ["run", "copy_and_run", "put", "get"])
async def test_work_on_what_is_not_ready_is_refused(
    exp: Experiment, ssh: FakeConnector, verb: str
) -> None:
    """The forgotten wait is named, with the instance."""
    (instance,) = await exp.provision()

    with pytest.raises(InvalidArgument, match=rf"{instance.id} is addressed; call wait\(\) first"):
        await done(VERBS[verb](exp, HERE))

    assert ssh.attempts == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("cmd", value) for value in ("", " ", 5, None, "a\0b", "x" * 200_000)),
        *(("user", value) for value in ("", "a b", "-l", 5)),
        *(("timeout", value) for value in (0, -1, math.nan, "5", True)),
        *(("parallel", value) for value in (0, -1, "x", 1.5)),
        *(("stdin", value) for value in (5, ["x"])),
        *(("env", value) for value in ("A=1", {"A": 1}, {1: "a"}, ["A"], {"PRECIP_RUN": "x"})),
        ("env", {"not a name": "x"}),
        ("env", {"A": "\0"}),
        *(("cwd", value) for value in ("", 5, b"/tmp")),
        *(("on_output", value) for value in (5, "print")),
        *(("output_base_name", value) for value in ("", 5, b"out")),
        *(("tags", value) for value in ("", [5])),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_what_can_not_be_run_is_refused_and_nothing_is(
    three: Experiment, ssh: FakeConnector, name: str, value: Any
) -> None:
    """On no instance: everything is looked at before the first command."""
    before = len(ssh.lines)

    with pytest.raises(InvalidArgument):
        await three.run(**{"tags": [], "cmd": "true", name: value})

    assert len(ssh.lines) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("local_script", value) for value in ("/nowhere/x", "/tmp", "", 5, None)),
        *(("args", value) for value in ("abc", 5, None, [5], ["a\0"], {"a"})),
    ],
    ids=repr,
)
async def test_what_is_no_script_or_no_arguments_is_refused(
    three: Experiment, ssh: FakeConnector, name: str, value: Any
) -> None:
    """A directory where a file is meant, one string instead of a list of them."""
    before = len(ssh.lines)

    with pytest.raises(InvalidArgument):
        await three.copy_and_run(**{"tags": [], "local_script": HERE, name: value})

    assert len(ssh.lines) == before


@pytest.mark.parametrize(
    ("verb", "given"),
    [
        ("put", {"local_path": "/nowhere/x", "remote_path": "/tmp"}),
        ("put", {"local_path": "", "remote_path": "/tmp"}),
        ("put", {"local_path": 5, "remote_path": "/tmp"}),
        ("put", {"local_path": "/etc/hosts", "remote_path": ""}),
        ("put", {"local_path": "/etc/hosts", "remote_path": 5}),
        ("put", {"local_path": "/etc/hosts", "remote_path": "/tmp", "timeout": -1}),
        ("put", {"local_path": "/etc/hosts", "remote_path": "/tmp", "parallel": 0}),
        ("put", {"local_path": "/etc/hosts", "remote_path": "/tmp", "user": ""}),
        ("get", {"remote_path": "/etc/hosts", "local_path": "/nowhere/x"}),
        ("get", {"remote_path": "/etc/hosts", "local_path": "/nowhere/"}),
        ("get", {"remote_path": "/etc/hosts", "local_path": "/etc/hosts/x"}),
        ("get", {"remote_path": "/etc/hosts", "local_path": ""}),
        ("get", {"remote_path": "", "local_path": "/tmp/x"}),
    ],
    ids=repr,
)
async def test_what_can_not_be_moved_is_refused(
    three: Experiment, ssh: FakeConnector, verb: str, given: dict[str, Any]
) -> None:
    """A file that is missing here is missed before anything is sent."""
    before = len(ssh.lines)

    with pytest.raises(InvalidArgument):
        await getattr(three, verb)([], **given)

    assert len(ssh.lines) == before


@pytest.mark.parametrize("timeout", [0, -1, math.nan, "60", True])
async def test_a_wait_without_a_sensible_timeout_is_refused(
    exp: Experiment, cloud: FakeCloud, timeout: Any
) -> None:
    """NaN would never be over, and zero seconds is no wait."""
    await exp.provision()

    with pytest.raises(InvalidArgument, match="timeout must be a number of seconds above 0"):
        await exp.wait(timeout=timeout)

    assert cloud.count("describe") == 0


# -- selecting -------------------------------------------------------------------------------


async def test_tags_select_those_that_bear_all_of_them(three: Experiment) -> None:
    """In provisioning order; one string is one tag, and no tags are all."""
    master, one, other = three.instances()

    assert three.instances("worker") == [one, other]
    assert three.instances(["worker", "big"]) == [one, other]
    assert three.instances(("worker", one.id)) == [one]
    assert three.instances(["master", "worker"]) == []
    assert three.instances([]) == three.instances(None) == three.instances("precip")
    assert three.instances("127.9.9.1") == [master]


async def test_hostnames_are_those_of_the_selection(three: Experiment) -> None:
    """Public ones for us, private ones for the instances among themselves."""
    assert three.get_public_hostnames("worker") == ["127.9.9.2", "127.9.9.3"]
    assert three.get_private_hostnames(["worker"]) == ["127.9.0.2", "127.9.0.3"]
    assert three.get_public_hostnames("nobody") == []


async def test_list_has_the_documented_keys(three: Experiment) -> None:
    """One dictionary an instance, which is the caller's own."""
    (listed,) = three.list("master")
    (master,) = three.instances("master")

    assert listed == {
        "id": master.id,
        "public_address": "127.9.9.1",
        "private_address": "127.9.0.1",
        "tags": ["precip", master.id, "master", "127.9.9.1"],
        "state": "ready",
        "isolation": "",
    }
    listed["tags"].clear()
    assert three.instances("master") == [master]


async def test_an_end_that_was_refused_can_be_asked_for_again(
    three: Experiment, cloud: FakeCloud
) -> None:
    """What may still be running is no longer worked with, and still to be had for ending."""

    async def refuse(_: object) -> None:
        raise CloudError("not now", cloud="fake", operation="terminate")

    cloud.before["terminate"] = refuse
    with pytest.raises(ExperimentException, match="not known to have ended"):
        await three.deprovision()
    assert three.instances() == []
    del cloud.before["terminate"]

    await three.deprovision()

    assert cloud.alive() == []


async def test_what_was_ended_is_selected_no_more(three: Experiment, cloud: FakeCloud) -> None:
    """Deprovisioning some leaves the others as they are."""
    master, *workers = three.instances()

    await three.deprovision("worker")

    assert three.instances() == [master]
    assert {one.state for one in workers} == {"terminated"}
    assert cloud.alive() == [master.id]
    assert (await three.run([], "true"))[0] == [0]


async def test_nobody_selected_is_three_empty_lists_and_a_warning(
    three: Experiment, events: list[Event]
) -> None:
    """A misspelt tag is no error, and should not go unseen."""
    results = await three.run(["wroker"], "true")

    assert results == [[], [], []]
    assert isinstance(results, RunResults)
    warnings = [event.text for event in events if isinstance(event, Warned)]
    assert warnings == ["no instance bears the tags 'wroker'"]


async def test_nobody_selected_moves_nothing(three: Experiment, tmp_path: Path) -> None:
    """Likewise for files."""
    await three.put(["nobody"], HERE, "/tmp/x")

    assert await three.get(["nobody"], "/tmp/x", tmp_path / "x") == []


async def test_new_instances_do_not_change_the_order_of_the_old(three: Experiment) -> None:
    """The index is the place in the experiment, for its whole life."""
    await three.deprovision("master")
    (late,) = await three.provision(tags=["worker"])

    assert [one.index for one in three.instances()] == [1, 2, 3]
    assert late.index == 3


# -- doing -----------------------------------------------------------------------------------


async def test_many_at_once_stay_within_the_limit(
    cloud: FakeCloud, ssh: FakeConnector, tmp_path: Path
) -> None:
    """parallel=True is limits.max_hosts at once, a number is that many, and False is one."""
    limits = replace(QUICK, max_hosts=5)
    now = most = 0

    async def gauge(_: Target) -> None:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await anyio.sleep(0.02)
        now -= 1

    async with Experiment(cloud, home=tmp_path / "home", limits=limits, parallel=3) as exp:
        await exp.provision(count=12)
        await exp.wait()
        seen = {}
        for parallel in (True, 2, False, None):
            most = 0
            ssh.answer = gauge
            user = f"u{parallel}"  # another user is another connection
            await exp.run([], "true", user=user, parallel=parallel)
            seen[parallel] = most

    assert seen == {True: 5, 2: 2, False: 1, None: 3}


async def test_an_instance_that_can_not_be_reached_is_an_outcome(
    three: Experiment, ssh: FakeConnector
) -> None:
    """The others have run; the error says which failed, and why."""

    async def deny(target: Target) -> None:
        if target.host == "127.9.9.2":
            raise refused(target, said="no route")

    ssh.answer = deny
    with pytest.raises(FleetError, match=r"1 of 3 instances failed:\n.*no route") as caught:
        await three.run([], "true", user="bob", parallel=True)

    assert [type(outcome).__name__ for outcome in caught.value.outcomes] == [
        "CommandResult",
        "ConnectError",
        "CommandResult",
    ]


async def test_closing_during_a_run_ends_the_run(three: Experiment, ssh: FakeConnector) -> None:
    """Whoever runs something then hears that it was closed, or that the connection is gone."""
    ssh.mute = True

    async def run() -> None:
        with pytest.raises(ExperimentException):
            await three.run([], "sleep 1000", parallel=True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await eventually(lambda: len(ssh.lines) == 6)  # three probes, three runs
        await three.aclose()

    assert ssh.open == 0


async def test_verbs_may_be_awaited_at_the_same_time(exp: Experiment, cloud: FakeCloud) -> None:
    """Provisioning, waiting and running overlap without a word lost."""
    seen: list[int] = []

    async def group(number: int) -> None:
        tag = f"group{number}"
        await exp.provision(count=2, tags=[tag])
        await exp.wait(tag)
        results = await exp.run(tag, "true", parallel=True)
        seen.extend(one.index for one in results.by_instance)
        await exp.deprovision(tag)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(group, number)

    assert sorted(seen) == [*range(10)]
    assert cloud.alive() == []
    assert exp.instances() == []


@pytest.mark.parametrize("verb", ["provision", "deprovision"])
async def test_asyncios_own_cancellation_is_as_good_as_anyios(
    exp: Experiment, cloud: FakeCloud, verb: str
) -> None:
    """What the cloud was asked for is awaited, or done later: no machine is without an owner."""
    asked = anyio.Event()

    async def slow(_: object) -> None:
        asked.set()
        await anyio.sleep(0.1)

    if verb == "deprovision":
        await exp.provision(count=2)
    cloud.after["launch"] = cloud.before["terminate"] = slow
    task = asyncio.create_task(exp.provision(count=2) if verb == "provision" else exp.deprovision())
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [one.id for one in exp.instances()] == (cloud.alive() if verb == "provision" else [])
    await exp.aclose()
    assert cloud.alive() == []
    assert len(cloud.machines) == 2
