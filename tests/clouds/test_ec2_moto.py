"""The whole life of instances at a second opinion: moto, which we did not write."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import boto3  # type: ignore[import-untyped] # it ships no types
import pytest
from moto.server import ThreadedMotoServer

from precip_async.clouds.base import Cloud
from precip_async.errors import CloudError, ImageNotFound
from tests.clouds.ec2_peer import ACCESS_KEY, SECRET_KEY, TOKEN, cloud_at, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from precip_async.clouds.ec2 import EC2Cloud

REGION = "us-west-2"
IMAGE = "ami-12c6146b"  # one that moto has, and boots from a volume


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """A moto server; its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}/"
    server.stop()


@pytest.fixture
def theirs(moto: str) -> Any:
    """The vendor's own client of it, which forgets what was there before."""
    client = boto3.client(
        "ec2",
        endpoint_url=moto,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    for key in client.describe_key_pairs()["KeyPairs"]:
        client.delete_key_pair(KeyName=key["KeyName"])
    return client


@asynccontextmanager
async def opened(moto: str, **given: Any) -> AsyncIterator[EC2Cloud]:
    """A cloud of ours there."""
    async with cloud_at(moto, region=REGION, zone=f"{REGION}c", **given) as cloud:
        yield cloud


async def test_instances_live_and_end(moto: str, theirs: Any) -> None:
    """Launched, described, found by their token, shown on a console, ended."""
    wanted = request(image_id=IMAGE, count=3, tags=("worker",), ebs_size=30)
    async with opened(moto) as cloud:
        assert isinstance(cloud, Cloud)
        launched = await cloud.launch(wanted)
        ids = [machine.id for machine in launched]
        seen = await cloud.describe(ids)
        found = await cloud.find(TOKEN)
        console = await cloud.console(ids[0])
        ended = await cloud.terminate(ids)
        after = await cloud.describe(ids)

    assert len({*ids}) == 3
    assert [seen[one].state for one in ids] == ["running"] * 3
    assert all(machine.public_address and machine.private_address for machine in seen.values())
    assert {machine.id for machine in found} == {*ids}
    assert "Linux version" in console
    assert {machine.state for machine in ended.values()} == {"shutting-down"}
    assert {machine.state for machine in after.values()} == {"terminated"}

    (reservation,) = theirs.describe_instances(InstanceIds=ids)["Reservations"]
    instance = reservation["Instances"][0]
    assert instance["Placement"]["AvailabilityZone"] == f"{REGION}c"
    assert instance["KeyName"] == "precip"
    assert {"Key": "precip:tag:worker", "Value": "yes"} in instance["Tags"]


async def test_preparing_twice_changes_nothing(moto: str, theirs: Any) -> None:
    """One key, one group, two rules; what the user adds to the group stays."""
    async with opened(moto):
        pass
    (group,) = theirs.describe_security_groups(GroupNames=["precip"])["SecurityGroups"]
    theirs.authorize_security_group_ingress(
        GroupId=group["GroupId"], IpProtocol="tcp", FromPort=80, ToPort=80, CidrIp="10.0.0.0/8"
    )
    async with opened(moto):
        pass

    (again,) = theirs.describe_security_groups(GroupNames=["precip"])["SecurityGroups"]
    ports = sorted(rule.get("FromPort", 0) for rule in again["IpPermissions"])
    assert ports == [0, 22, 80]
    assert [key["KeyName"] for key in theirs.describe_key_pairs()["KeyPairs"]] == ["precip"]


async def test_a_rule_that_is_gone_comes_back(moto: str, theirs: Any) -> None:
    """Somebody has closed the port for SSH, or it never was open from here."""
    async with opened(moto):
        pass
    (group,) = theirs.describe_security_groups(GroupNames=["precip"])["SecurityGroups"]
    theirs.revoke_security_group_ingress(
        GroupId=group["GroupId"], IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
    )
    async with opened(moto, ssh_cidr="192.0.2.0/24"):
        pass

    (again,) = theirs.describe_security_groups(GroupNames=["precip"])["SecurityGroups"]
    ranges = [one["CidrIp"] for rule in again["IpPermissions"] for one in rule["IpRanges"]]
    assert "192.0.2.0/24" in ranges
    assert "0.0.0.0/0" not in ranges


async def test_a_dead_id_does_not_hide_the_others(moto: str) -> None:
    """Neither when described nor when ended."""
    dead = "i-0123456789abcdef0"
    async with opened(moto) as cloud:
        (machine,) = await cloud.launch(request(image_id=IMAGE))
        seen = await cloud.describe([dead, machine.id])
        ended = await cloud.terminate([machine.id, dead])

    assert (seen[machine.id].state, seen[dead].state) == ("running", "terminated")
    assert (ended[machine.id].state, ended[dead].state) == ("shutting-down", "terminated")


async def test_the_group_of_a_subnet_is_made_in_its_network(moto: str, theirs: Any) -> None:
    """A launch into another network has a group there."""
    vpc = theirs.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = theirs.create_subnet(
        VpcId=vpc, CidrBlock="10.9.1.0/24", AvailabilityZone=f"{REGION}c"
    )["Subnet"]["SubnetId"]
    async with opened(moto) as cloud:
        (machine,) = await cloud.launch(request(image_id=IMAGE, options={"SubnetId": subnet}))
        described = theirs.describe_instances(InstanceIds=[machine.id])
        await cloud.terminate([machine.id])

    instance = described["Reservations"][0]["Instances"][0]
    (group,) = instance["SecurityGroups"]
    assert group["GroupName"] == "precip"
    filters = [{"Name": "vpc-id", "Values": [vpc]}]
    groups = theirs.describe_security_groups(Filters=filters)["SecurityGroups"]
    assert group["GroupId"] in {one["GroupId"] for one in groups}


async def test_an_image_that_is_not_there_is_told_before_the_launch(moto: str) -> None:
    """Where its root volume is to grow, it is looked at first."""
    async with opened(moto) as cloud:
        with pytest.raises(ImageNotFound, match="ids differ by region"):
            await cloud.launch(request(image_id="ami-0000000000000dead", ebs_size=30))


async def test_the_root_volume_grows(moto: str, theirs: Any) -> None:
    """There is one volume, of that size."""
    async with opened(moto) as cloud:
        (machine,) = await cloud.launch(request(image_id=IMAGE, ebs_size=33))
        filters = [{"Name": "attachment.instance-id", "Values": [machine.id]}]
        volumes = theirs.describe_volumes(Filters=filters)["Volumes"]
        await cloud.terminate([machine.id])

    assert [volume["Size"] for volume in volumes] == [33]


async def test_the_user_data_arrives(moto: str, theirs: Any) -> None:
    """Both parts, decoded once."""
    import base64

    async with opened(moto) as cloud:
        (machine,) = await cloud.launch(request(image_id=IMAGE, user_data="#!/bin/sh\necho hi\n"))
        answer = theirs.describe_instance_attribute(InstanceId=machine.id, Attribute="userData")
        await cloud.terminate([machine.id])

    text = base64.b64decode(answer["UserData"]["Value"]).decode()
    assert "echo hi" in text
    assert "disable_root: false" in text


async def test_a_subnet_that_is_not_there_is_told(moto: str) -> None:
    """In the cloud's words."""
    async with opened(moto) as cloud:
        with pytest.raises(CloudError, match=r"InvalidSubnetID\.NotFound"):
            await cloud.launch(request(image_id=IMAGE, options={"SubnetId": "subnet-0dead000"}))
