"""Who gets in: the launch's key, root where user data lets it, nobody through a shut group."""

from __future__ import annotations

from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from tests.clouds.local_machines import PUBLIC
from tests.lab.clients import OPEN_ROOT, box_of, lab_and_client, launch, opened

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clouds.local_machines import Box


def multipart() -> str:
    """User data of a user's script and of what opens root."""
    whole = MIMEMultipart()
    whole.attach(MIMEText("#!/bin/sh\ntrue\n", "x-shellscript"))
    whole.attach(MIMEText(OPEN_ROOT, "cloud-config"))
    return whole.as_string()


async def refusal_of(box: Box) -> str:
    """What root is told before anything was run."""
    connection = await box.connect()
    async with connection:
        process = await connection.create_process("echo in")
        told = await process.stdout.readline()
    return str(told)


@pytest.mark.parametrize(
    "isolation", ["process", pytest.param("namespace", marks=pytest.mark.root)]
)
async def test_a_stock_image_refuses_root(tmp_path: Path, isolation: Any) -> None:
    """The key is accepted, the command is not run, and the user to take is named and works."""
    async with lab_and_client(tmp_path, isolation=isolation, cloud_init=False) as (lab, client):
        group = await opened(client)
        [one] = await launch(client, KeyName="mine", SecurityGroupIds=[group])
        box = await box_of(lab, one)

        assert "Please login as the user" in await refusal_of(box)
        assert await box.run("echo $HOME", user="ubuntu") == "/home/ubuntu"


@pytest.mark.parametrize("user_data", [OPEN_ROOT, multipart()], ids=["raw", "multipart"])
async def test_user_data_lets_root_in(tmp_path: Path, user_data: str) -> None:
    """As cloud-init does, of raw user data and of one part among others."""
    async with lab_and_client(tmp_path) as (lab, client):
        group = await opened(client)
        [one] = await launch(client, KeyName="mine", SecurityGroupIds=[group], UserData=user_data)
        box = await box_of(lab, one)

        assert await box.run("echo $HOME") == "/root"
        assert await box.run("echo $HOME", user="ubuntu") == "/home/ubuntu"


async def test_user_data_brings_further_keys(tmp_path: Path) -> None:
    """A key in user data is authorised without any key pair."""
    async with lab_and_client(tmp_path) as (lab, client):
        group = await opened(client)
        config = f"{OPEN_ROOT}ssh_authorized_keys:\n  - {PUBLIC}\n"
        [one] = await launch(client, SecurityGroupIds=[group], UserData=config)

        assert await (await box_of(lab, one)).run("echo in") == "in"


async def test_without_a_key_nobody_gets_in(tmp_path: Path) -> None:
    """A launch that names no key pair authorises nobody."""
    async with lab_and_client(tmp_path) as (lab, client):
        group = await opened(client)
        [one] = await launch(client, SecurityGroupIds=[group], UserData=OPEN_ROOT)

        with pytest.raises(asyncssh.PermissionDenied):
            await (await box_of(lab, one)).connect()


async def test_a_group_that_is_shut_lets_nobody_in(tmp_path: Path) -> None:
    """Where no rule opens SSH from outside, nobody ever answers; members' rules don't count."""
    async with lab_and_client(tmp_path) as (lab, client):
        await opened(client)
        made = await client.create_security_group(GroupName="shut", Description="x")
        members = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": made["GroupId"]}]}
        await client.authorize_security_group_ingress(
            GroupId=made["GroupId"], IpPermissions=[members]
        )
        [one] = await launch(
            client, KeyName="mine", SecurityGroupIds=[made["GroupId"]], UserData=OPEN_ROOT
        )
        box = await box_of(lab, one)

        with pytest.raises(asyncssh.ConnectionLost):
            await box.connect(login_timeout=0.5)
