"""Launches as parameters of each dialect, and instances of each dialect as machines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from precip_async.clouds.dialects import (
    AMAZON,
    DIALECTS,
    EC2_API,
    EUCALYPTUS_3,
    EUCALYPTUS_4,
    NIMBUS,
    NOVA_2012,
    Dialect,
)
from precip_async.clouds.ec2_documents import Image, Seen
from precip_async.clouds.ec2_switch import seconds_of
from precip_async.clouds.ec2_wire import (
    Placing,
    checked_options,
    coerced,
    launch_parameters,
    machine_of,
    marks,
)
from precip_async.errors import InvalidArgument
from tests.clouds.ec2_peer import OWNER, PUBLIC_KEY, TOKEN, request

every = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)

PLACING = Placing(
    experiment="trial",
    owner=OWNER,
    key_name="precip",
    public_key=PUBLIC_KEY,
    group="sg-1",
    group_is_id=True,
    zone="us-west-2c",
)
EBS = Image(id="ami-8a1e92ba", root_device="/dev/xvda", root_type="ebs")


def parameters(dialect: Dialect = AMAZON, placing: Placing = PLACING, **given: Any) -> Any:
    """A launch as parameters."""
    return launch_parameters(dialect, request(**given), placing)


@every
def test_a_launch_bears_only_what_its_cloud_accepts(dialect: Dialect) -> None:
    """Whatever else is left out."""
    sent = parameters(dialect, tags=("worker",))

    assert sent.keys() <= dialect.accepts["RunInstances"]
    assert {"ImageId", "InstanceType", "KeyName"} <= sent.keys()


def test_a_launch_at_amazon_is_complete() -> None:
    """Ended by shutdown, guarded metadata, key, group, zone, marks, and root let in."""
    sent = parameters(tags=("worker",), first=7)

    assert sent.pop("UserData").startswith(b"#cloud-config\n")
    (tags,) = sent.pop("TagSpecifications")
    assert {tag["Key"]: tag["Value"] for tag in tags["Tags"]} == {
        "Name": "trial",
        "precip:experiment": "trial",
        "precip:owner": OWNER,
        "precip:token": TOKEN,
        "precip:first": "7",
        "precip:tag:worker": "yes",
    }
    assert sent == {
        "ImageId": "ami-8a1e92ba",
        "InstanceType": "m1.small",
        "KeyName": "precip",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
        "Placement": {"AvailabilityZone": "us-west-2c"},
        "SecurityGroupIds": ["sg-1"],
    }


def test_a_group_without_an_id_is_named() -> None:
    """Where groups are known by name."""
    sent = parameters(NOVA_2012, replace(PLACING, group="precip", group_is_id=False))

    assert sent["SecurityGroups"] == ["precip"]


def test_nothing_of_ours_is_sent_where_root_may_log_in() -> None:
    """Nimbus puts the key where root has it, and its images know no cloud-init."""
    assert "UserData" not in parameters(NIMBUS)
    assert parameters(NIMBUS, user_data="raw")["UserData"] == b"raw"


def test_another_login_user_leaves_user_data_alone() -> None:
    """Where root is not logged in as, what the user gave is sent as it is."""
    placing = replace(PLACING, public_key="")

    assert "UserData" not in parameters(placing=placing)
    assert parameters(placing=placing, user_data=b"\0raw")["UserData"] == b"\0raw"


def test_user_data_that_is_too_long_is_refused() -> None:
    """Before anything is asked for, and with the sizes."""
    with pytest.raises(InvalidArgument, match="and 16384 are allowed"):
        parameters(user_data="#!/bin/sh\n" + "x" * 16384)


def test_a_lifetime_is_marked_and_enforced() -> None:
    """When it is to be gone is in the marks, and the instance itself sees to it."""
    placing = replace(PLACING, expires="2026-11-22T10:00:00Z", lifetime=90.0)
    sent = parameters(placing=placing)

    tags = {tag["Key"]: tag["Value"] for tag in sent["TagSpecifications"][0]["Tags"]}
    assert tags["precip:expires"] == "2026-11-22T10:00:00Z"
    assert seconds_of(sent["UserData"].decode()) == 90
    assert sent["InstanceInitiatedShutdownBehavior"] == "terminate"


# -- volumes -------------------------------------------------------------------------------------


def test_the_root_volume_grows_whatever_it_is_called() -> None:
    """It is the image's own root device, and goes with the instance."""
    sent = parameters(placing=replace(PLACING, image=EBS), ebs_size=40)

    assert sent["BlockDeviceMappings"] == [
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 40, "DeleteOnTermination": True}}
    ]


def test_further_volumes_of_the_user_stay() -> None:
    """What the user says of the root volume is kept beside its size."""
    given = [
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeType": "gp3"}},
        {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
    ]
    sent = parameters(
        placing=replace(PLACING, image=EBS),
        ebs_size=40,
        options={"BlockDeviceMappings": given},
    )

    root, other = sent["BlockDeviceMappings"]
    assert root["Ebs"] == {"VolumeType": "gp3", "VolumeSize": 40, "DeleteOnTermination": True}
    assert other == given[1]


@pytest.mark.parametrize(
    ("dialect", "image", "message"),
    [
        (AMAZON, replace(EBS, root_type="instance-store"), "boots from an instance-store"),
        (AMAZON, replace(EBS, root_device=""), "does not say what"),
        (AMAZON, None, "does not say what"),
        (NIMBUS, EBS, "Nimbus has no volumes"),
    ],
)
def test_a_root_that_can_not_grow_is_told(
    dialect: Dialect, image: Image | None, message: str
) -> None:
    """Rather than a second disk added, or the size ignored."""
    with pytest.raises(InvalidArgument, match=message):
        parameters(dialect, replace(PLACING, image=image), ebs_size=40)


# -- options -------------------------------------------------------------------------------------


def test_options_come_last() -> None:
    """They replace what we would say, and are merged into what has parts."""
    sent = parameters(
        options={
            "SubnetId": "subnet-1",
            "SecurityGroupIds": ["sg-mine"],
            "Placement": {"GroupName": "near"},
            "MetadataOptions": {"HttpTokens": "optional"},
            "InstanceMarketOptions": {"MarketType": "spot"},
        }
    )

    assert sent["SubnetId"] == "subnet-1"
    assert sent["SecurityGroupIds"] == ["sg-mine"]
    assert sent["Placement"] == {"AvailabilityZone": "us-west-2c", "GroupName": "near"}
    assert sent["MetadataOptions"] == {"HttpTokens": "optional", "HttpEndpoint": "enabled"}
    assert sent["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_our_group_goes_into_the_users_interfaces() -> None:
    """EC2 takes groups beside interfaces for a mistake."""
    interfaces: list[dict[str, Any]] = [
        {"DeviceIndex": 0, "AssociatePublicIpAddress": True},
        {"DeviceIndex": 1, "Groups": ["sg-mine"]},
        {"DeviceIndex": 2, "NetworkInterfaceId": "eni-1"},
    ]
    sent = parameters(options={"NetworkInterfaces": interfaces})

    assert "SecurityGroupIds" not in sent
    first, second, third = sent["NetworkInterfaces"]
    assert first == {**interfaces[0], "Groups": ["sg-1"]}
    assert [second, third] == interfaces[1:]


def test_tags_of_the_user_are_added_to_ours() -> None:
    """An organisation may demand tags, of instances and of what comes with them."""
    given = [
        {"ResourceType": "instance", "Tags": [{"Key": "Cost", "Value": "42"}]},
        {"ResourceType": "volume", "Tags": [{"Key": "Cost", "Value": "42"}]},
    ]
    instance, volume = parameters(options={"TagSpecifications": given})["TagSpecifications"]

    assert {"Key": "Cost", "Value": "42"} in instance["Tags"]
    assert {"Key": "precip:token", "Value": TOKEN} in instance["Tags"]
    assert volume == given[1]


def test_a_tag_of_ours_can_not_be_given() -> None:
    """It is what an instance is recognised by."""
    given = [{"ResourceType": "instance", "Tags": [{"Key": "precip:token", "Value": "x"}]}]

    with pytest.raises(InvalidArgument, match="precip:token is ours"):
        parameters(options={"TagSpecifications": given})


@every
@pytest.mark.parametrize("name", ["MinCount", "ClientToken", "KeyName", "UserData", "DryRun"])
def test_options_that_are_ours_are_refused(dialect: Dialect, name: str) -> None:
    """And the message says what to use instead."""
    with pytest.raises(InvalidArgument, match=f"options: {name} can't be given; "):
        checked_options(dialect, {name: 1})


def test_options_that_a_cloud_has_not_are_refused() -> None:
    """What is asked for is not left out in silence."""
    with pytest.raises(InvalidArgument, match="Eucalyptus has no launch parameter MetadataOptions"):
        checked_options(EUCALYPTUS_4, {"MetadataOptions": {}})


# -- marks ---------------------------------------------------------------------------------------


def test_too_many_tags_are_refused() -> None:
    """The cloud has room for fifty, ours among them."""
    tags = tuple(f"t{n}" for n in range(46))

    assert len(marks(AMAZON, request(tags=tags[:45]), PLACING)) == 50
    with pytest.raises(InvalidArgument, match="46 tags are too many: 45 can be marked"):
        marks(AMAZON, request(tags=tags), PLACING)


def test_a_tag_that_is_too_long_is_refused() -> None:
    """Before anything is asked for."""
    with pytest.raises(InvalidArgument, match="too long for a tag of Amazon EC2"):
        marks(AMAZON, request(tags=("x" * 120,)), PLACING)


def test_clouds_without_tags_bound_none() -> None:
    """Where nothing is marked by tags there is no limit to them."""
    assert marks(EUCALYPTUS_3, request(tags=tuple(f"t{n}" for n in range(99))), PLACING)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", "n1"),
        ("0x1f", "n0x1f"),
        ("1e5", "n1e5"),
        ("-2.5", "n-2.5"),
        ("True", "nTrue"),
        ("none", "nnone"),
        ("inf", "ninf"),
        ("12345678901234567890123456789012", "n12345678901234567890123456789012"),
        ("123e45678901", "n123e45678901"),
        ("yes", "yes"),
        ("trial", "trial"),
        ("abc", "abc"),
        ("e5", "e5"),
        (OWNER, OWNER),
        (TOKEN, TOKEN),
        ("2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z"),
    ],
)
def test_values_that_would_be_mangled_are_changed(value: str, expected: str) -> None:
    """Nova and ec2-api take what looks like a number for one, and break."""
    assert coerced(value) == expected


def test_marks_of_openstack_are_no_numbers() -> None:
    """Neither the ordinal nor an experiment called ``42``."""
    tags = marks(EC2_API, request(first=0), replace(PLACING, experiment="42"))

    assert (tags["Name"], tags["precip:first"]) == ("n42", "n0")


# -- machines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "word", "state"),
    [
        (AMAZON, "pending", "pending"),
        (AMAZON, "running", "running"),
        (AMAZON, "shutting-down", "shutting-down"),
        (AMAZON, "terminated", "terminated"),
        (AMAZON, "stopped", "failed"),
        (AMAZON, "", "pending"),
        (NOVA_2012, "error", "failed"),
        (NOVA_2012, "shutoff", "failed"),
        (NOVA_2012, "building", "pending"),
        (NOVA_2012, "rescue", "pending"),
        (EC2_API, "shelved", "pending"),
        (NIMBUS, "unset", "failed"),
        (EUCALYPTUS_4, "something-new", "pending"),
    ],
)
def test_a_state_is_what_its_word_means(dialect: Dialect, word: str, state: str) -> None:
    """A word that nobody knows means "not yet", never success."""
    assert machine_of(dialect, Seen(id="i-1", state=word)).state == state


@pytest.mark.parametrize(
    ("dialect", "seen", "public", "private"),
    [
        # Amazon: the address, else the name, which resolves
        ("amazon", {"ip": "54.1.2.3", "dns": "ec2-54-1-2-3.x"}, "54.1.2.3", None),
        ("amazon", {"dns": "ec2-54-1-2-3.x"}, "ec2-54-1-2-3.x", None),
        ("amazon", {"private_ip": "10.0.0.1", "private_dns": "ip-10.x"}, None, "10.0.0.1"),
        ("amazon", {"private_dns": "ip-10-0-0-1.x"}, None, "ip-10-0-0-1.x"),
        # section 2, "Addresses": Essex shows the private address, or the host's name
        ("nova-2012", {"ip": "10.1.1.1", "private_ip": "10.1.1.1"}, None, "10.1.1.1"),
        ("nova-2012", {"dns": "server-3", "private_ip": "10.1.1.1"}, None, "10.1.1.1"),
        ("nova-2012", {"ip": "10.60.0.143", "private_ip": "10.1.1.1"}, "10.60.0.143", "10.1.1.1"),
        ("nova-2012", {"ip": "8.8.4.4", "private_ip": "8.8.4.4"}, "8.8.4.4", "8.8.4.4"),
        ("ec2-api", {"private_ip": "", "private_dns": "r-1-0"}, None, None),
        # section 4, "Addresses": names that are addresses, and names that don't resolve
        ("eucalyptus-4", {"dns": "1.2.3.4", "private_dns": "10.0.0.1"}, "1.2.3.4", "10.0.0.1"),
        ("eucalyptus-3", {"dns": "euca-1-2-3-4.x", "private_ip": "10.0.0.1"}, None, "10.0.0.1"),
        ("eucalyptus-3", {"ip": "0.0.0.0", "private_ip": "0.0.0.0"}, None, None),
        ("eucalyptus-3", {"ip": "10.0.0.1", "private_ip": "10.0.0.1"}, "10.0.0.1", "10.0.0.1"),
        # section 5, "Addresses"
        ("nimbus", {"ip": "[unknown]", "private_ip": "10.0.0.1"}, None, "10.0.0.1"),
        ("nimbus", {"ip": "10.0.0.1", "private_ip": "10.0.0.1"}, "10.0.0.1", "10.0.0.1"),
    ],
)
def test_addresses_are_what_their_cloud_means_by_them(
    dialect: str, seen: dict[str, str], public: str | None, private: str | None
) -> None:
    """Names that don't resolve, placeholders and private addresses are not taken for public."""
    machine = machine_of(DIALECTS[dialect], Seen(id="i-1", state="running", **seen))  # type: ignore[arg-type] # strings only

    assert (machine.public_address, machine.private_address) == (public, private)


def test_a_public_address_that_is_still_to_come_is_not_invented() -> None:
    """While pending, Eucalyptus shows the private one."""
    pending = Seen(id="i-1", state="pending", ip="10.0.0.1", private_ip="10.0.0.1")

    assert machine_of(EUCALYPTUS_4, pending).public_address is None
    assert machine_of(EUCALYPTUS_4, replace(pending, ip="1.2.3.4")).public_address == "1.2.3.4"


def test_an_ended_instance_has_no_address() -> None:
    """Somebody else may have it by now."""
    ended = Seen(id="i-1", state="terminated", ip="54.1.2.3", private_ip="10.0.0.1")

    assert machine_of(AMAZON, ended).public_address is None
    assert machine_of(AMAZON, ended, public="54.1.2.3").private_address is None


def test_the_elastic_address_comes_first() -> None:
    """What is known to be given to it, whatever its description says."""
    seen = Seen(id="i-1", state="running", private_ip="10.0.0.1")

    assert machine_of(NOVA_2012, seen, public="10.60.0.143").public_address == "10.60.0.143"


def test_the_reason_is_the_clouds_or_ours() -> None:
    """Why something is as it is, for diagnoses."""
    assert machine_of(AMAZON, Seen(id="i-1", state="terminated", reason="no room")).reason == (
        "no room"
    )
    assert machine_of(NOVA_2012, Seen(id="i-1", state="error")).reason == "it is 'error'"
    assert machine_of(NOVA_2012, Seen(id="i-1", state="running"), note="why").reason == "why"
