"""Every cloud of the lab: the whole life of instances, and what each does in its own way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncssh
from botocore.exceptions import ClientError

from precip_async.lab.dialects import DIALECTS
from tests.lab.clients import box_of, states, until_lab
from tests.lab.columns import COLUMNS, RSA, Column, columns, opened_in

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.lab.lab import Lab


async def run_on(lab: Lab, instance_id: str, address: str, command: str) -> str:
    """What a command says that root runs at an address."""
    box = await box_of(lab, instance_id)
    async with asyncssh.connect(
        address,
        lab.ssh_port,
        username="root",
        client_keys=[RSA],
        known_hosts=([asyncssh.import_public_key(box.host_key)], [], []),
        config=None,
        agent_path=None,
    ) as connection:
        ran = await connection.run(command, check=True)
    return str(ran.stdout).strip()


async def shown(client: Any, ids: list[str]) -> list[dict[str, Any]]:
    """What DescribeInstances says of instances."""
    reply = await client.describe_instances(InstanceIds=ids)
    found = [one for group in reply["Reservations"] for one in group["Instances"]]
    return sorted(found, key=lambda one: ids.index(one["InstanceId"]))


def test_every_cloud_has_its_column() -> None:
    """No row of the lab's table is left out of these tests."""
    assert {column.name for column in COLUMNS} == set(DIALECTS)


@columns
async def test_an_instance_lives_from_launch_to_end(column: Column, tmp_path: Path) -> None:
    """Two instances run, are reached where the cloud says, and end as instances do there."""
    async with opened_in(column, tmp_path) as (lab, client, launch):
        reply = await client.run_instances(MinCount=2, MaxCount=2, **launch)
        ids = [one["InstanceId"] for one in reply["Instances"]]
        await until_lab(lab, lambda seen: all(one.ran is not None for one in seen))
        addresses = []
        for instance_id in ids if column.elastic else ():
            address = (await client.allocate_address())["PublicIp"]
            await client.associate_address(InstanceId=instance_id, PublicIp=address)
            addresses.append(address)
        running = await shown(client, ids)

        assert [one["State"]["Name"] for one in running] == ["running"] * 2
        public = [one["PublicIpAddress"] for one in running]
        assert not addresses or public == addresses
        for instance_id, address in zip(ids, public, strict=True):
            assert await run_on(lab, instance_id, address, "echo $HOME") == "/root"

        await client.terminate_instances(InstanceIds=ids)
        await until_lab(lab, lambda seen: all(one.ended is not None for one in seen))
        assert await left_of(client, ids) == column.dead
        for address in addresses:
            await client.release_address(PublicIp=address)
        assert not lab.addresses()


async def left_of(client: Any, ids: list[str]) -> str:
    """What a client sees of instances that have ended."""
    try:
        seen = set((await states(client, *ids)).values())
    except ClientError as error:
        code = error.response["Error"]["Code"]
        return "gone" if code == "InvalidInstanceID.NotFound" else code
    return seen.pop() if seen else "omitted"
