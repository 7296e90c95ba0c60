"""Amazon's ways, as the facts have them, seen by botocore."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import asyncssh
import pytest

from precip_async.lab.scenario import Scenario
from tests.clouds.local_machines import PUBLIC
from tests.lab.clients import (
    IMAGE,
    PLAIN,
    box_of,
    client_of,
    code_of,
    lab_and_client,
    launch,
    opened,
    states,
    until_lab,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

T = TypeVar("T")

NEVER = Scenario(visible=0, never_boots=True)  # where only the API is looked at


async def later(ask: Callable[[], Awaitable[T]], *, within: float = 10.0) -> T:
    """What a client is told, once it is anything."""
    with anyio.fail_after(within):
        while not (told := await ask()):  # noqa: ASYNC110 - only asking tells
            await anyio.sleep(0.05)
    return told


async def launched(client: Any) -> bool:
    """Whether a launch is accepted."""
    return await code_of(launch(client)) == "accepted"


async def test_a_token_launches_once(tmp_path: Path) -> None:
    """The same launch with the same token is the same instances, also when asked at once."""
    async with lab_and_client(tmp_path, NEVER) as (lab, client):
        seen: list[list[str]] = []

        async def ask() -> None:
            seen.append(await launch(client, 2, ClientToken="once"))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)

        assert seen[0] == seen[1] == seen[2]
        assert len(await lab.instances()) == 2
        assert await launch(client, 2, ClientToken="twice") != seen[0]


async def test_a_token_with_other_parameters_is_refused(tmp_path: Path) -> None:
    """Idempotent means the same request."""
    async with lab_and_client(tmp_path, NEVER) as (lab, client):
        await launch(client, ClientToken="once")
        other = launch(client, ClientToken="once", InstanceType="m1.large")

        assert await code_of(other) == "IdempotentParameterMismatch"
        assert len(await lab.instances()) == 1


async def test_a_token_is_a_filter(tmp_path: Path) -> None:
    """What a lost launch has started can be found by its token, and by its tags."""
    async with lab_and_client(tmp_path, NEVER) as (_, client):
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "precip:token", "Value": "a"}]}]
        ids = await launch(client, 2, ClientToken="a", TagSpecifications=tags)
        await launch(client, ClientToken="b")

        for name, value in (("client-token", "a"), ("tag:precip:token", "a"), ("tag-key", "p*")):
            found = await states(client, Filters=[{"Name": name, "Values": [value]}])
            assert sorted(found) == sorted(ids)
        none = await states(client, Filters=[{"Name": "client-token", "Values": ["c"]}])
        assert none == {}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"ImageId": "ami-x"}, "InvalidAMIID.Malformed"),
        ({"ImageId": "ami-00000000"}, "InvalidAMIID.NotFound"),
        ({"InstanceType": "enormous"}, "InvalidParameterValue"),
        ({"KeyName": "nobody's"}, "InvalidKeyPair.NotFound"),
        ({"SecurityGroupIds": ["sg-00000000"]}, "InvalidGroup.NotFound"),
        ({"SecurityGroups": ["nobody's"]}, "InvalidGroup.NotFound"),
        ({"SubnetId": "subnet-0"}, "InvalidSubnetID.NotFound"),
        ({"Placement": {"AvailabilityZone": "mars-1a"}}, "InvalidParameterValue"),
        ({"MinCount": 3, "MaxCount": 2}, "InvalidParameterCombination"),
        ({"MinCount": 0, "MaxCount": 2}, "InvalidParameterValue"),
        ({"UserData": "x" * 16_385}, "InvalidParameterValue"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
        ({"InstanceInitiatedShutdownBehavior": "explode"}, "InvalidParameterValue"),
        ({"MetadataOptions": {"HttpTokens": "maybe"}}, "InvalidParameterValue"),
        ({"MetadataOptions": {"HttpEndpoint": "maybe"}}, "InvalidParameterValue"),
        ({"MetadataOptions": {"HttpPutResponseHopLimit": 65}}, "InvalidParameterValue"),
        ({"DryRun": True}, "DryRunOperation"),
        ({"DisableApiStop": True}, "accepted"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
async def test_a_launch_that_cannot_be_is_refused(
    tmp_path: Path, given: dict[str, Any], code: str
) -> None:
    """Each mistake has its own code, and launches nothing."""
    scenario = Scenario(visible=0, never_boots=True, images=[IMAGE])
    async with lab_and_client(tmp_path, scenario) as (lab, client):
        assert await code_of(launch(client, **given)) == code
        assert len(await lab.instances()) == (code == "accepted")


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ([{"Key": "aws:mine", "Value": "1"}], "InvalidParameterValue"),
        ([{"Key": "k" * 128, "Value": "1"}], "InvalidParameterValue"),
        ([{"Key": "k", "Value": "v" * 257}], "InvalidParameterValue"),
        ([{"Key": f"k{n}", "Value": ""} for n in range(51)], "TagLimitExceeded"),
        ([{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}], "InvalidParameterValue"),
        ([{"Key": "k" * 127, "Value": "v" * 256}], "accepted"),
    ],
)
async def test_tags_have_limits(tmp_path: Path, tags: list[dict[str, str]], code: str) -> None:
    """Reserved, too long, too many, or doubled: refused with the launch."""
    async with lab_and_client(tmp_path, NEVER) as (_, client):
        given = [{"ResourceType": "instance", "Tags": tags}]

        assert await code_of(launch(client, TagSpecifications=given)) == code


async def test_tags_are_given_later_as_well(tmp_path: Path) -> None:
    """CreateTags marks instances and groups, all of those named or none."""
    async with lab_and_client(tmp_path, NEVER) as (_, client):
        ids = await launch(client, 2)
        tags = [{"Key": "who", "Value": "me"}]
        missing = client.create_tags(Resources=[ids[0], "i-00000000"], Tags=tags)

        assert await code_of(missing) == "InvalidInstanceID.NotFound"
        assert (await client.describe_tags())["Tags"] == []
        await client.create_tags(Resources=ids, Tags=tags)
        found = (await client.describe_tags())["Tags"]
        assert {tag["ResourceId"] for tag in found} == set(ids)
        assert {tag["ResourceType"] for tag in found} == {"instance"}


async def test_pages_hold_what_was_asked_for(tmp_path: Path) -> None:
    """Twelve instances by five: three pages, each instance once."""
    async with lab_and_client(tmp_path, NEVER) as (_, client):
        ids = await launch(client, 12)
        sizes: list[int] = []
        seen: list[str] = []
        after: dict[str, str] = {}
        while len(sizes) < 9:
            reply = await client.describe_instances(MaxResults=5, **after)
            page = [one["InstanceId"] for r in reply["Reservations"] for one in r["Instances"]]
            sizes.append(len(page))
            seen += page
            if "NextToken" not in reply:
                break
            after = {"NextToken": reply["NextToken"]}

        assert sizes == [5, 5, 2]
        assert sorted(seen) == sorted(ids)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"MaxResults": 4}, "InvalidParameterValue"),
        ({"MaxResults": 1001}, "InvalidParameterValue"),
        ({"MaxResults": 5, "InstanceIds": ["{id}"]}, "InvalidParameterCombination"),
        ({"MaxResults": 5, "NextToken": "rubbish"}, "InvalidNextToken"),
        ({"InstanceIds": ["{id}", "i-00000000"]}, "InvalidInstanceID.NotFound"),
        ({"InstanceIds": ["{id}", "i-x"]}, "InvalidInstanceID.Malformed"),
        ({"Filters": [{"Name": "no-such", "Values": ["x"]}]}, "InvalidParameterValue"),
        ({"InstanceIds": ["{id}"]}, "accepted"),
    ],
    ids=str,
)
async def test_describing_is_strict(tmp_path: Path, given: dict[str, Any], code: str) -> None:
    """Pages, ids and filters have rules; one bad id poisons the batch."""
    async with lab_and_client(tmp_path, NEVER) as (_, client):
        [one] = await launch(client)
        if "InstanceIds" in given:
            given = given | {"InstanceIds": [i.format(id=one) for i in given["InstanceIds"]]}

        assert await code_of(client.describe_instances(**given)) == code


async def test_ending_is_all_or_none(tmp_path: Path) -> None:
    """With one bad id nothing is ended; ending twice is no error."""
    async with lab_and_client(tmp_path) as (lab, client):
        ids = await launch(client, 2)
        bad = client.terminate_instances(InstanceIds=[*ids, "i-00000000"])

        assert await code_of(bad) == "InvalidInstanceID.NotFound"
        assert all(one.alive for one in await lab.instances())
        reply = await client.terminate_instances(InstanceIds=ids)
        current = {one["CurrentState"]["Name"] for one in reply["TerminatingInstances"]}
        assert current <= {"shutting-down", "terminated"}
        await until_lab(lab, lambda seen: all(one.ended is not None for one in seen))
        await client.terminate_instances(InstanceIds=ids)
        assert set((await states(client, *ids)).values()) == {"terminated"}


async def test_a_launch_is_denied_for_a_moment(tmp_path: Path) -> None:
    """Just after the launch the cloud may not know of it: by id, in lists, for tags, for ending."""
    scenario = Scenario(visible=1.0, never_boots=True)
    async with lab_and_client(tmp_path, scenario) as (_, client):
        [one] = await launch(client)
        missing = "InvalidInstanceID.NotFound"

        assert await code_of(client.describe_instances(InstanceIds=[one])) == missing
        assert await code_of(client.terminate_instances(InstanceIds=[one])) == missing
        tags = [{"Key": "a", "Value": "b"}]
        assert await code_of(client.create_tags(Resources=[one], Tags=tags)) == missing
        assert await states(client) == {}
        await later(lambda: states(client))
        assert await states(client, one) == {one: "pending"}


async def test_quota_and_capacity_grant_what_is_left(tmp_path: Path) -> None:
    """Between MinCount and MaxCount as many as there is room for; below, none and a code."""
    scenario = Scenario(visible=0, never_boots=True, quota=7)
    async with lab_and_client(tmp_path, scenario) as (lab, client):
        assert await code_of(launch(client, 10)) == "InstanceLimitExceeded"
        assert len(await launch(client, 10, MinCount=1)) == 7
        assert await code_of(launch(client, 1)) == "InstanceLimitExceeded"
        seen = await lab.instances()
        assert len(seen) == 7
        await client.terminate_instances(InstanceIds=[seen[0].id])
        assert len(await launch(client, 1)) == 1
    scenario = Scenario(visible=0, never_boots=True, capacity=3)
    async with lab_and_client(tmp_path, scenario) as (lab, client):
        assert await code_of(launch(client, 4)) == "InsufficientInstanceCapacity"
        assert len(await launch(client, 4, MinCount=2)) == 3
        assert len(await lab.instances()) == 3


async def test_without_a_default_network_nothing_is_launched_by_name(tmp_path: Path) -> None:
    """An account without a default VPC is told so, and has none to show."""
    scenario = Scenario(visible=0, default_vpc=False)
    async with lab_and_client(tmp_path, scenario) as (_, client):
        group = client.create_security_group(GroupName="a", Description="b")

        assert await code_of(launch(client)) == "VPCIdNotSpecified"
        assert await code_of(group) == "VPCIdNotSpecified"
        assert (await client.describe_vpcs())["Vpcs"] == []


async def test_zones_and_subnets_place_instances(tmp_path: Path) -> None:
    """An instance is where it was asked to be."""
    async with lab_and_client(tmp_path, NEVER, region="us-west-2") as (_, client):
        subnets = (await client.describe_subnets())["Subnets"]
        wanted = next(s for s in subnets if s["AvailabilityZone"] == "us-west-2b")
        reply = await client.run_instances(
            ImageId=IMAGE, MinCount=1, MaxCount=1, SubnetId=wanted["SubnetId"]
        )
        assert reply["Instances"][0]["Placement"]["AvailabilityZone"] == "us-west-2b"
        reply = await client.run_instances(
            ImageId=IMAGE, MinCount=1, MaxCount=1, Placement={"AvailabilityZone": "us-west-2c"}
        )
        assert reply["Instances"][0]["Placement"]["AvailabilityZone"] == "us-west-2c"


async def test_a_bigger_disk_is_asked_for_by_the_images_own_name(tmp_path: Path) -> None:
    """The image says what its root is called; any other name would be a second disk."""
    async with lab_and_client(tmp_path, NEVER) as (_, client):
        image = "ami-0000000000000000b"
        described = (await client.describe_images(ImageIds=[image]))["Images"][0]
        root = described["RootDeviceName"]
        assert root == described["BlockDeviceMappings"][0]["DeviceName"] == "/dev/xvda"

        def disks(name: str, size: int) -> dict[str, Any]:
            return {
                "ImageId": image,
                "MinCount": 1,
                "MaxCount": 1,
                "BlockDeviceMappings": [{"DeviceName": name, "Ebs": {"VolumeSize": size}}],
            }

        assert await code_of(client.run_instances(**disks(root, 1))) == "InvalidBlockDeviceMapping"
        for name, count in ((root, 1), ("/dev/sda1", 2)):
            reply = await client.run_instances(**disks(name, 20))
            assert len(reply["Instances"][0]["BlockDeviceMappings"]) == count


async def test_keys_are_what_was_registered(tmp_path: Path) -> None:
    """Fingerprints and public keys tell one key from another; a name is taken once."""
    async with lab_and_client(tmp_path) as (_, client):
        made = await client.import_key_pair(KeyName="mine", PublicKeyMaterial=PUBLIC.encode())
        rsa = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
        material = rsa.export_public_key()
        again = client.import_key_pair(KeyName="mine", PublicKeyMaterial=material)
        assert await code_of(again) == "InvalidKeyPair.Duplicate"
        await client.import_key_pair(KeyName="rsa", PublicKeyMaterial=material)
        shown = (await client.describe_key_pairs(IncludePublicKey=True))["KeyPairs"]

        by_name = {pair["KeyName"]: pair for pair in shown}
        assert by_name["mine"]["PublicKey"].split()[:2] == PUBLIC.split()[:2]
        ours = asyncssh.import_public_key(PUBLIC).get_fingerprint().removeprefix("SHA256:")
        assert made["KeyFingerprint"].rstrip("=") == ours
        assert by_name["rsa"]["KeyFingerprint"].count(":") == 15
        missing = client.describe_key_pairs(KeyNames=["mine", "other"])
        assert await code_of(missing) == "InvalidKeyPair.NotFound"
        assert (await client.delete_key_pair(KeyName="other"))["Return"]
        await client.delete_key_pair(KeyName="mine")
        assert len((await client.describe_key_pairs())["KeyPairs"]) == 1


@pytest.mark.parametrize("material", [b"", b"rubbish", b"ssh-rsa AAAA", b"ssh-ed25519 AAAAB3Nz x"])
async def test_what_is_no_key_is_refused(tmp_path: Path, material: bytes) -> None:
    """Only a whole public key can be imported."""
    async with lab_and_client(tmp_path) as (_, client):
        made = client.import_key_pair(KeyName="mine", PublicKeyMaterial=material)

        assert await code_of(made) in ("InvalidKey.Format", "MissingParameter")


async def test_rules_of_groups_are_added_once(tmp_path: Path) -> None:
    """The same rule twice is refused; groups are sources too; what is in use is not deleted."""
    async with lab_and_client(tmp_path, NEVER) as (_, client):
        group = await opened(client)
        same = client.authorize_security_group_ingress(
            GroupId=group, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
        )
        assert await code_of(same) == "InvalidPermission.Duplicate"
        members = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
        await client.authorize_security_group_ingress(GroupId=group, IpPermissions=[members])
        reply = await client.describe_security_groups(GroupNames=["OPEN"])
        rules = reply["SecurityGroups"][0]["IpPermissions"]
        assert {rule["IpProtocol"] for rule in rules} == {"tcp", "-1"}
        again = client.create_security_group(GroupName="Open", Description="x")
        assert await code_of(again) == "InvalidGroup.Duplicate"

        await launch(client, SecurityGroupIds=[group])
        assert await code_of(client.delete_security_group(GroupId=group)) == "DependencyViolation"
        default = client.delete_security_group(GroupName="default")
        assert await code_of(default) == "CannotDelete"
        missing = client.describe_security_groups(GroupNames=["nobody's"])
        assert await code_of(missing) == "InvalidGroup.NotFound"


@pytest.mark.parametrize(
    "rule",
    [
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "10.0.0.0/33"},
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 70000, "CidrIp": "0.0.0.0/0"},
        {"IpProtocol": "tcp", "CidrIp": "0.0.0.0/0"},
        {"IpProtocol": "smoke", "FromPort": 1, "ToPort": 1, "CidrIp": "0.0.0.0/0"},
        {"IpPermissions": [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}]},
        {},
    ],
)
async def test_a_rule_that_cannot_be_is_refused(tmp_path: Path, rule: dict[str, Any]) -> None:
    """Addresses, ports, protocols and sources have to be such."""
    async with lab_and_client(tmp_path) as (_, client):
        made = await client.create_security_group(GroupName="a", Description="b")
        added = client.authorize_security_group_ingress(GroupId=made["GroupId"], **rule)

        assert await code_of(added) not in ("accepted", "")


async def test_the_console_shows_the_host_keys(tmp_path: Path) -> None:
    """As cloud-init prints them; and base64 as the API has it."""
    async with lab_and_client(tmp_path) as (lab, client):
        [one] = await launch(client)
        box = await box_of(lab, one)
        reply = await client.get_console_output(InstanceId=one)
        text = (
            base64.b64decode(reply["Output"]).decode()
            if is_base64(reply["Output"])
            else reply["Output"]
        )

        assert "-----BEGIN SSH HOST KEY KEYS-----" in text
        assert box.host_key in text


def is_base64(text: str) -> bool:
    """Whether botocore has left it as it was sent."""
    return "BEGIN" not in text


async def test_an_address_leads_to_the_instance_that_it_is_put_before(tmp_path: Path) -> None:
    """It refuses while it leads nowhere, leads where it was put, and is moved only if asked to."""
    async with lab_and_client(tmp_path) as (lab, client):
        group = await opened(client)
        first, second = await launch(
            client,
            2,
            KeyName="mine",
            SecurityGroupIds=[group],
            UserData="#cloud-config\ndisable_root: false\n",
        )
        boxes = {one: await box_of(lab, one) for one in (first, second)}
        made = await client.allocate_address(Domain="vpc")
        allocation, address = made["AllocationId"], made["PublicIp"]

        async def host_key() -> str:
            key = await asyncssh.get_server_host_key(address, lab.ssh_port)
            return key.export_public_key().decode().strip() if key else ""

        with pytest.raises(ConnectionRefusedError):
            await host_key()
        put = await client.associate_address(AllocationId=allocation, InstanceId=first)
        assert await host_key() == boxes[first].host_key
        taken = client.associate_address(
            AllocationId=allocation, InstanceId=second, AllowReassociation=False
        )
        assert await code_of(taken) == "Resource.AlreadyAssociated"
        await client.associate_address(
            AllocationId=allocation, InstanceId=second, AllowReassociation=True
        )
        assert await host_key() == boxes[second].host_key
        assert await code_of(client.release_address(AllocationId=allocation)) == (
            "InvalidIPAddress.InUse"
        )
        gone = client.disassociate_address(AssociationId=put["AssociationId"])
        assert await code_of(gone) == "InvalidAssociationID.NotFound"
        await client.disassociate_address(PublicIp=address)
        with pytest.raises(ConnectionRefusedError):
            await host_key()
        await client.release_address(AllocationId=allocation)
        assert lab.addresses() == ()
        for _ in range(5):
            await client.allocate_address(Domain="vpc")
        assert await code_of(client.allocate_address(Domain="vpc")) == "AddressLimitExceeded"


async def test_who_is_not_known_is_not_let_in(tmp_path: Path) -> None:
    """Key, secret, region, session token and time all have to be right."""
    async with lab_and_client(tmp_path, session_token="session") as (lab, client):
        assert await code_of(client.describe_instances()) == "accepted"
        for wrong in (
            {"aws_access_key_id": "AKIANOBODY"},
            {"aws_secret_access_key": "guess"},
            {"aws_session_token": "other"},
            {"aws_session_token": None},
            {"region_name": "us-west-2a"},
        ):
            async with client_of(lab, **wrong) as stranger:
                assert await code_of(stranger.describe_instances()) == "AuthFailure"
        async with client_of(lab, signature="v2") as old:
            assert await code_of(old.describe_instances()) == "MissingParameter"
    skewed = Scenario(clock_skew=1000)
    async with lab_and_client(tmp_path, skewed) as (_, client):
        assert await code_of(client.describe_instances()) == "RequestExpired"
    expired = Scenario(expired_token=True)
    async with lab_and_client(tmp_path, expired, session_token="session") as (_, client):
        assert await code_of(client.describe_instances()) == "RequestExpired"


async def test_calls_are_counted_against_buckets(tmp_path: Path) -> None:
    """Five launches at once and no more; a call that was refused can be made again later."""
    async with lab_and_client(tmp_path, NEVER) as (lab, client):
        codes = [await code_of(launch(client)) for _ in range(8)]

        assert codes[:5] == ["accepted"] * 5
        assert "RequestLimitExceeded" in codes
        assert await later(lambda: launched(client))
        throttled = [call for call in lab.calls if call.throttled]
        assert {call.action for call in throttled} == {"RunInstances"}
        assert {call.status for call in throttled} == {503}


async def test_a_fleet_is_counted_by_its_instances(tmp_path: Path) -> None:
    """A thousand launched at once leave no tokens for more."""
    scenario = Scenario(visible=0, never_boots=True, quota=0)
    async with lab_and_client(tmp_path, scenario) as (_, client):
        assert await code_of(launch(client, 1000)) == "InstanceLimitExceeded"
        assert await code_of(launch(client, 100)) == "RequestLimitExceeded"


async def test_calls_are_kept_without_what_signed_them(tmp_path: Path) -> None:
    """The lab remembers what was asked, and no part of a signature."""
    async with lab_and_client(tmp_path) as (lab, client):
        await client.describe_instances(Filters=[{"Name": "image-id", "Values": [IMAGE]}])
        [call] = lab.calls

        assert call.action == "DescribeInstances"
        assert call.parameters == {"Filter.1.Name": "image-id", "Filter.1.Value.1": IMAGE}
        assert (call.status, call.code, call.answered) == (200, "", True)


async def test_regions_zones_and_images_are_there(tmp_path: Path) -> None:
    """What a client asks for to find its way."""
    async with lab_and_client(tmp_path, PLAIN, region="us-west-2") as (_, client):
        regions = (await client.describe_regions())["Regions"]
        zones = (await client.describe_availability_zones())["AvailabilityZones"]

        assert [one["RegionName"] for one in regions] == ["us-west-2"]
        assert [one["ZoneName"] for one in zones] == ["us-west-2a", "us-west-2b", "us-west-2c"]
        assert (await client.describe_vpcs())["Vpcs"][0]["IsDefault"]
        bad = client.describe_availability_zones(ZoneNames=["us-west-2x"])
        assert await code_of(bad) == "InvalidParameterValue"
