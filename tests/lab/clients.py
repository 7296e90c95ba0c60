"""Clients of the lab that we did not write: botocore's, and bare HTTP."""

from __future__ import annotations

import io
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from anyio import fail_after, sleep
from botocore.exceptions import ClientError

from precip_async.lab.lab import Lab
from precip_async.lab.scenario import Scenario
from tests.clouds.local_machines import PUBLIC, Box

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from precip_async.lab.lab import LabInstance

__all__ = [
    "IMAGE",
    "OPEN_ROOT",
    "PLAIN",
    "box_of",
    "client_of",
    "code_of",
    "lab_and_client",
    "launch",
    "opened",
    "post",
    "states",
    "until_lab",
]

IMAGE = "ami-8a1e92ba"
OPEN_ROOT = "#cloud-config\ndisable_root: false\n"
PLAIN = Scenario(visible=0)  # a cloud that knows at once what it has launched
SESSION = get_session()  # it remembers the model of EC2, which takes half a second to read
PATIENCE = 15.0  # seconds for what takes a fraction of one on an idle computer


@asynccontextmanager
async def client_of(lab: Lab, *, signature: str = "v4", **given: Any) -> AsyncIterator[Any]:
    """A botocore client for a lab, which repeats nothing by itself."""
    facts: dict[str, Any] = {
        "endpoint_url": lab.endpoint,
        "region_name": lab.region,
        "aws_access_key_id": lab.access_key,
        "aws_secret_access_key": lab.secret_key,
        "aws_session_token": lab.session_token or None,
        "verify": str(lab.ca_file) if lab.ca_file else None,
    } | given
    config = AioConfig(
        signature_version=signature, retries={"max_attempts": 0}, read_timeout=30, connect_timeout=5
    )
    async with SESSION.create_client("ec2", config=config, **facts) as client:
        yield client


@asynccontextmanager
async def lab_and_client(
    directory: Path, scenario: Scenario = PLAIN, **given: Any
) -> AsyncIterator[tuple[Lab, Any]]:
    """A lab whose machines anybody can have, and a client of it."""
    given.setdefault("isolation", "process")
    signing = given.pop("signing", {})
    async with (
        Lab(directory=directory, scenario=scenario, **given) as lab,
        client_of(lab, **signing) as client,
    ):
        yield lab, client


async def code_of(awaitable: Any) -> str:
    """The code that a call is refused with."""
    try:
        await awaitable
    except ClientError as error:
        return str(error.response.get("Error", {}).get("Code", ""))
    return "accepted"


async def opened(client: Any, key: str = "mine") -> str:
    """Make a key pair and a group that lets SSH in; the group's id."""
    await client.import_key_pair(KeyName=key, PublicKeyMaterial=PUBLIC.encode())
    made = await client.create_security_group(GroupName="open", Description="for tests")
    await client.authorize_security_group_ingress(
        GroupId=made["GroupId"], IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
    )
    return str(made["GroupId"])


async def launch(client: Any, count: int = 1, **given: Any) -> list[str]:
    """Launch instances; their ids."""
    facts = {"ImageId": IMAGE, "MinCount": count, "MaxCount": count} | given
    reply = await client.run_instances(**facts)
    return [one["InstanceId"] for one in reply["Instances"]]


async def states(client: Any, *ids: str, **given: Any) -> dict[str, str]:
    """What instances are said to be."""
    if ids:
        given["InstanceIds"] = list(ids)
    reply = await client.describe_instances(**given)
    return {
        one["InstanceId"]: one["State"]["Name"]
        for reservation in reply["Reservations"]
        for one in reservation["Instances"]
    }


async def until_lab(
    lab: Lab, condition: Callable[[tuple[LabInstance, ...]], Any], *, within: float = PATIENCE
) -> tuple[LabInstance, ...]:
    """The lab's own view of its instances, once a condition holds of it."""
    with fail_after(within):
        while not condition(seen := await lab.instances()):  # noqa: ASYNC110 - nothing tells of it
            await sleep(0.02)
    return seen


async def box_of(lab: Lab, instance_id: str) -> Box:
    """An instance, as somebody with our key finds it once it runs."""

    def runs(seen: tuple[LabInstance, ...]) -> bool:
        return any(one.id == instance_id and one.ran is not None for one in seen)

    seen = await until_lab(lab, runs)
    [one] = [one for one in seen if one.id == instance_id]
    return Box(one.machine_id, one.address, lab.ssh_port, one.host_keys[0])


async def post(
    lab: Lab, body: bytes, content_type: str = "application/x-www-form-urlencoded"
) -> tuple[int, str]:
    """What the lab says to a body: the status, and the text."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            lab.endpoint, data=io.BytesIO(body), headers={"Content-Type": content_type}
        ) as reply,
    ):
        return reply.status, await reply.text()
