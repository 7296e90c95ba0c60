"""The whole life of instances in the lab, with a client that is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.clients import OPEN_ROOT, box_of, lab_and_client, launch, opened, states, until_lab

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.clouds.local.cloud import Isolation


def left_in(directory: Path) -> list[str]:
    """What labs have left behind."""
    return [path.name for path in directory.iterdir()]


@pytest.mark.parametrize(
    "isolation", ["process", pytest.param("namespace", marks=[pytest.mark.root, pytest.mark.sshd])]
)
async def test_instances_are_launched_logged_in_to_and_ended(
    tmp_path: Path, isolation: Isolation
) -> None:
    """Three instances run, let in who has the key, say who they are, and are gone afterwards."""
    async with lab_and_client(tmp_path, isolation=isolation) as (lab, client):
        group = await opened(client)
        ids = await launch(client, 3, KeyName="mine", SecurityGroupIds=[group], UserData=OPEN_ROOT)
        boxes = [await box_of(lab, one) for one in ids]
        names = {await box.run("hostname") for box in boxes}

        assert len(names) == 3 or isolation == "process"
        assert set((await states(client, *ids)).values()) == {"running"}

        await client.terminate_instances(InstanceIds=ids)
        await until_lab(lab, lambda seen: all(one.ended is not None for one in seen))
        assert set((await states(client, *ids)).values()) == {"terminated"}
    assert left_in(tmp_path) == []


async def test_the_addresses_are_the_machines_own(tmp_path: Path) -> None:
    """What DescribeInstances says is where the machine is."""
    async with lab_and_client(tmp_path) as (lab, client):
        group = await opened(client)
        [one] = await launch(client, KeyName="mine", SecurityGroupIds=[group], UserData=OPEN_ROOT)
        box = await box_of(lab, one)
        reply = await client.describe_instances(InstanceIds=[one])
        [shown] = reply["Reservations"][0]["Instances"]

        assert shown["PublicIpAddress"] == shown["PrivateIpAddress"] == box.address
        assert await box.run("echo here") == "here"
