"""Waiting for a cloud-init that is played: machines write down what is to be seen of one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from anyio import create_task_group

from precip_async import CloudError, EC2Experiment, Limits
from precip_async.events import InstanceReady, Warned
from precip_async.lab.lab import Lab
from precip_async.lab.scenario import Scenario
from tests.clouds.local_machines import PUBLIC, Box
from tests.lab.clients import IMAGE, OPEN_ROOT, box_of, lab_and_client, launch, opened
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from precip_async import BootDiagnosis, Instance
    from precip_async.events import Event

REGION = "us-east-1"
QUICK = Limits(poll_interval=0.05)
AGES = 600.0  # seconds: longer than any test
OUR_KEY = f"{OPEN_ROOT}ssh_authorized_keys:\n  - {PUBLIC}\n"
STATE = "${PRECIP_CLOUD_INIT_STATE:-/run/cloud-init}"

ISOLATIONS = ["process", pytest.param("namespace", marks=[pytest.mark.root, pytest.mark.sshd])]
isolations = pytest.mark.parametrize("isolation", ISOLATIONS)


@asynccontextmanager
async def experiment(
    tmp_path: Path, scenario: Scenario, isolation: Any = "process", **given: Any
) -> AsyncIterator[tuple[EC2Experiment, Lab, list[Event]]]:
    """An experiment on a lab of this scenario, that lab, and what the experiment announces."""
    events: list[Event] = []
    (tmp_path / "lab").mkdir()
    async with Lab(
        directory=tmp_path / "lab",
        isolation=isolation,
        cloud_init=False,
        region=REGION,
        scenario=scenario,
    ) as lab:
        shared: dict[str, Any] = {"home": tmp_path / "home", "ssh_port": lab.ssh_port, **given}
        async with EC2Experiment(
            *(REGION, lab.endpoint, lab.access_key, lab.secret_key),
            limits=QUICK,
            observer=events.append,
            **shared,
        ) as exp:
            yield exp, lab, events


async def waiting(instance: Instance) -> BootDiagnosis:
    """What is said of an instance that is waited for, once that is its cloud-init."""

    def is_seen() -> bool:
        return instance.diagnosis is not None and "cloud-init" in instance.diagnosis.seen

    await eventually(is_seen, "cloud-init is waited for", within=20)
    assert instance.diagnosis is not None
    return instance.diagnosis


@isolations
@pytest.mark.parametrize("login_user", [None, "ubuntu"])
async def test_an_instance_is_ready_once_its_cloud_init_is_done(
    tmp_path: Path, isolation: Any, login_user: str | None
) -> None:
    """Not when commands run already; whoever logs in may read what cloud-init writes down."""
    scenario, given = Scenario(cloud_init=AGES), {"login_user": login_user}
    async with experiment(tmp_path, scenario, isolation, **given) as (exp, lab, events):
        [one] = await exp.provision(IMAGE, user_data=OUR_KEY)
        async with create_task_group() as tasks:
            tasks.start_soon(exp.wait)
            told = await waiting(one)
            [machine] = await lab.instances()
            box = Box(one.id, machine.address, lab.ssh_port, machine.host_keys[0])
            assert await box.run(f"ls -A {STATE}") == "status.json"
            assert [type(event) for event in events].count(InstanceReady) == 0
            await box.run(f"echo '{{}}' >{STATE}/result.json")

        assert one.state == "ready"

    assert (told.stage, told.seen) == (
        "reachable",
        "waiting for cloud-init, at its stage modules-final",
    )


@isolations
async def test_the_scenario_says_how_long_it_takes(tmp_path: Path, isolation: Any) -> None:
    """It is done by itself, and not before its time."""
    async with experiment(tmp_path, Scenario(cloud_init=1.0), isolation) as (exp, _, _):
        [one] = await exp.provision(IMAGE)

        await exp.wait(timeout=30)
        ran = await exp.run([], f"ls -A {STATE}")

        assert ran[1] == ["result.json\nstatus.json\n"]
        assert one.ready_at is not None
        assert (one.ready_at - one.launched_at).total_seconds() > 1.0


@isolations
async def test_who_waives_it_does_not_wait(tmp_path: Path, isolation: Any) -> None:
    """An instance whose cloud-init is never done is ready all the same."""
    async with experiment(tmp_path, Scenario(cloud_init=AGES), isolation) as (exp, _, _):
        await exp.provision(IMAGE, options={"WaitForCloudInit": False})

        await exp.wait(timeout=30)
        ran = await exp.run([], f"ls -A {STATE}")

    assert ran[1] == ["status.json\n"]


async def test_without_user_data_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    """Where root is not to be let in and the user gives nothing, the cloud is sent nothing."""
    scenario = Scenario(cloud_init=AGES)
    async with experiment(tmp_path, scenario, login_user="ubuntu") as (exp, _, _):
        await exp.provision(IMAGE)

        await exp.wait(timeout=30)


@isolations
async def test_a_cloud_init_with_errors_is_warned_of(tmp_path: Path, isolation: Any) -> None:
    """Its instance is ready, its neighbour is no concern, and nothing is silent."""
    scenario = Scenario(cloud_init_errors=[1])
    async with experiment(tmp_path, scenario, isolation) as (exp, _, events):
        _, bad = await exp.provision(IMAGE, count=2)

        await exp.wait(timeout=30)

    [warned] = [event.text for event in events if isinstance(event, Warned)]
    assert warned.startswith(f"{bad.id} is ready, and its cloud-init finished with errors: ")
    assert "1 failures" in warned


async def test_the_cloud_init_of_this_computer_is_none_of_a_machines(tmp_path: Path) -> None:
    """Machines that share /run look elsewhere, also where nothing is played."""
    async with lab_and_client(tmp_path) as (lab, client):
        group = await opened(client)
        facts: dict[str, Any] = {
            "KeyName": "mine",
            "SecurityGroupIds": [group],
            "UserData": OPEN_ROOT,
        }
        [one] = await launch(client, **facts)
        box = await box_of(lab, one)

        assert await box.run(f"echo {STATE}") != "/run/cloud-init"
        assert await box.run(f"ls -A {STATE} 2>/dev/null || echo none") == "none"


# -- played or real --------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"isolation": "process"}, {"fleet": True}], ids=str)
async def test_where_it_can_not_be_had_it_is_refused(tmp_path: Path, given: Any) -> None:
    """And not left out silently, when it was asked for."""
    with pytest.raises(CloudError, match="only machines in namespaces can"):
        async with Lab(directory=tmp_path, cloud_init=True, **given):
            pass

    async with Lab(directory=tmp_path, **given) as lab:
        assert not lab.cloud_init


@pytest.mark.root
@pytest.mark.sshd
@pytest.mark.parametrize("there", [True, False])
async def test_it_is_run_where_it_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Unless it was refused; where it is not installed, to ask for it is an error."""
    found = "true" if there else ""
    monkeypatch.setattr("precip_async.lab.machines.what_is_here", lambda: found)
    given: dict[str, Any] = {"directory": tmp_path, "isolation": "namespace"}
    async with Lab(**given) as usual, Lab(cloud_init=False, **given) as without:
        assert (usual.cloud_init, without.cloud_init) == (there, False)
    if not there:
        with pytest.raises(CloudError, match="no `cloud-init` here"):
            async with Lab(cloud_init=True, **given):
                pass
