"""The real cloud-init, told by the lab's metadata service, on machines in namespaces."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from anyio import create_task_group

from precip_async import EC2Experiment, EucalyptusExperiment, Limits
from precip_async.events import InstanceReady, Warned
from precip_async.lab.lab import Lab
from precip_async.lab.scenario import Scenario
from tests.clouds.local_machines import PUBLIC, Box
from tests.lab.clients import IMAGE, box_of, lab_and_client, launch, opened
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from precip_async import Experiment
    from precip_async.events import Event

pytestmark = [pytest.mark.root, pytest.mark.sshd, pytest.mark.cloud_init]

REGION = "us-east-1"
QUICK = Limits(poll_interval=0.05)


@asynccontextmanager
async def experiment(
    tmp_path: Path, dialect: str = "amazon", **scenario: Any
) -> AsyncIterator[tuple[Experiment, Lab, list[Event]]]:
    """An experiment on a lab with the real one, that lab, and what the experiment announces."""
    events: list[Event] = []
    (tmp_path / "lab").mkdir()
    async with Lab(
        dialect,
        directory=tmp_path / "lab",
        isolation="namespace",
        cloud_init=True,
        region=REGION,
        scenario=Scenario(**scenario),
    ) as lab:
        keys = (lab.endpoint, lab.access_key, lab.secret_key)
        shared: dict[str, Any] = {"home": tmp_path / "home", "limits": QUICK}
        exp: Experiment
        if dialect == "amazon":
            exp = EC2Experiment(REGION, *keys, observer=events.append, **shared)
        else:
            exp = EucalyptusExperiment(*keys, observer=events.append, **shared)
        async with exp:
            yield exp, lab, events


async def test_wait_returns_when_what_user_data_asks_for_is_done(tmp_path: Path) -> None:
    """Root is let in before that, by our part beside the user's, and the script goes on."""
    config = f"""#cloud-config
ssh_authorized_keys: ["{PUBLIC}"]
runcmd:
  - until [ -e /run/go ]; do sleep 0.05; done; echo done >/root/made
"""
    async with experiment(tmp_path) as (exp, lab, events):
        [one] = await exp.provision(IMAGE, user_data=config)
        async with create_task_group() as tasks:
            tasks.start_soon(exp.wait)
            await eventually(
                lambda: one.diagnosis and "cloud-init" in one.diagnosis.seen, within=30
            )
            [machine] = await lab.instances()
            box = Box(one.id, machine.address, lab.ssh_port, machine.host_keys[0])
            assert [type(event) for event in events].count(InstanceReady) == 0
            await box.run("touch /run/go")
        ran = await exp.run([], "cat /root/made; cloud-id; hostname; cat /etc/hostname")
        sudo = await exp.run([], "sudo -n id -un", user="ubuntu")

    done, cloud, *names = ran[1][0].split()
    assert (done, cloud) == ("done", "aws")
    assert len(set(names)) == 1
    assert sudo[1] == ["root\n"]
    assert not any(isinstance(event, Warned) for event in events)


async def test_a_stock_image_refuses_root(tmp_path: Path) -> None:
    """Without our part the key is accepted, and the user to take is named, and works."""
    async with lab_and_client(tmp_path, isolation="namespace", cloud_init=True) as (
        lab,
        client,
    ):
        group = await opened(client)
        [one] = await launch(
            client,
            KeyName="mine",
            SecurityGroupIds=[group],
            MetadataOptions={"HttpTokens": "required"},
        )
        box = await box_of(lab, one)
        async with await box.connect() as connection:
            process = await connection.create_process("echo in")
            told = await process.stdout.readline()

        assert 'Please login as the user "ubuntu"' in told
        assert await box.run("echo $HOME", user="ubuntu") == "/home/ubuntu"
        known = await box.run(
            "sudo -n cloud-init query --format"
            " '{{v1.instance_id}} {{v1.availability_zone}} {{ds.meta_data.ami_id}}'",
            user="ubuntu",
        )
        assert known.split() == [one, "us-west-2a", IMAGE]


@pytest.mark.slow
async def test_errors_of_scripts_are_warned_of(tmp_path: Path) -> None:
    """The user's script and the scenario's: both instances are ready."""
    async with experiment(tmp_path, cloud_init_errors=[1]) as (exp, _, events):
        theirs = await exp.provision(IMAGE, user_data="#!/bin/sh\nexit 3\n")
        ours = await exp.provision(IMAGE)
        await exp.wait(timeout=50)

    warned = {event.text.split()[0]: event.text for event in events if isinstance(event, Warned)}
    assert re.search("errors: .*scripts.user", warned[theirs[0].id])
    assert re.search("errors: .*scripts.per.instance", warned[ours[0].id])


@pytest.mark.slow
async def test_a_cloud_without_tokens_feeds_it_too(tmp_path: Path) -> None:
    """As a private cloud does, whose instances do not look like Amazon's."""
    async with experiment(tmp_path, "eucalyptus-4") as (exp, _, _):
        await exp.provision("emi-77373d4c", user_data="#!/bin/sh\necho done >/root/made\n")
        await exp.wait(timeout=50)
        ran = await exp.run([], "cat /root/made; cloud-id; cat /run/cloud-init/result.json")

    done, cloud, *result = ran[1][0].split()
    assert (done, cloud) == ("done", "ec2")
    assert json.loads("".join(result))["v1"]["errors"] == []
