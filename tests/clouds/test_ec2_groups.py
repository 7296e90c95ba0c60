"""The security group: found or made, completed, and otherwise left as its owner has it."""

from __future__ import annotations

from typing import Any

import pytest

from precip_async.clouds.dialects import (
    AMAZON,
    EC2_API,
    EUCALYPTUS_3,
    NIMBUS,
    NOVA_2012,
    Dialect,
)
from precip_async.clouds.ec2_documents import Group, Permission
from precip_async.clouds.ec2_groups import Rule, covers, wanted_rules
from precip_async.errors import CloudError, InvalidArgument
from tests.clouds.ec2_peer import (
    Reply,
    Request,
    cloud_at,
    described,
    document,
    fault,
    item,
    peer,
    request,
)

GROUP = Group(id="sg-1", name="precip", owner="1", vpc="", permissions=())
SSH = Rule(protocol="tcp", first=22, last=22, cidr="192.0.2.0/24")
TCP = Rule(protocol="tcp", first=1, last=65535)
ALL = Rule(protocol="-1", first=None, last=None)
ICMP = Rule(protocol="icmp", first=-1, last=-1)


def permission(
    protocol: str = "tcp",
    first: int | None = 22,
    last: int | None = 22,
    cidrs: tuple[str, ...] = ("192.0.2.0/24",),
    groups: tuple[str, ...] = (),
) -> Permission:
    """A rule of a group."""
    return Permission(protocol=protocol, first=first, last=last, cidrs=cidrs, groups=groups)


@pytest.mark.parametrize(
    ("given", "rule", "covered"),
    [
        (permission(), SSH, True),
        (permission("6"), SSH, True),
        (permission(first=0, last=65535), SSH, True),
        (permission("-1", None, None), SSH, True),
        (permission(first=None, last=None), SSH, True),
        (permission(first=-1, last=-1), SSH, True),
        (permission(cidrs=("0.0.0.0/0",)), SSH, True),
        (permission(cidrs=("10.0.0.0/8", "192.168.0.0/16")), SSH, False),
        (permission(cidrs=("nonsense",)), SSH, False),
        (permission(cidrs=("::/0",)), SSH, False),
        (permission(first=80, last=80), SSH, False),
        (permission("udp"), SSH, False),
        (permission(cidrs=(), groups=("sg-1",)), SSH, False),
        (permission(first=1, last=65535, cidrs=(), groups=("sg-1",)), TCP, True),
        (permission(first=1, last=65535, cidrs=(), groups=("precip",)), TCP, True),
        (permission(first=1, last=65535, cidrs=(), groups=("sg-2",)), TCP, False),
        (permission(first=1, last=1024, cidrs=(), groups=("sg-1",)), TCP, False),
        (permission("-1", None, None, cidrs=(), groups=("sg-1",)), ALL, True),
        (permission("tcp", 1, 65535, cidrs=(), groups=("sg-1",)), ALL, False),
        (permission("icmp", -1, -1, cidrs=(), groups=("precip",)), ICMP, True),
        (permission("-1", None, None, cidrs=(), groups=("precip",)), ICMP, True),
    ],
)
def test_what_is_let_in_already_is_recognised(given: Permission, rule: Rule, covered: bool) -> None:
    """However it is put; what is wider will do."""
    assert covers(given, rule, GROUP) == covered


def test_all_traffic_among_members_is_one_rule_or_three() -> None:
    """As the cloud has protocols."""
    assert [
        rule.protocol for rule in wanted_rules(ssh_cidr="0.0.0.0/0", ssh_port=22, any_protocol=True)
    ] == ["tcp", "-1"]
    assert [
        rule.protocol
        for rule in wanted_rules(ssh_cidr="0.0.0.0/0", ssh_port=22, any_protocol=False)
    ] == ["tcp", "tcp", "udp", "icmp"]


# -- at the cloud --------------------------------------------------------------------------------


class Wall:
    """A cloud's groups: at first there is none."""

    def __init__(self, *, named: str = "<groupId>sg-7</groupId>", refuses: bool = True) -> None:
        self.named, self.refuses, self.there = named, refuses, False
        self.answers: dict[str, Any] = {
            "DescribeSecurityGroups": self.describe,
            "CreateSecurityGroup": self.create,
        }

    def describe(self, asked: Request) -> Reply | str:
        """The group, and another one."""
        if asked.listed("GroupName") and not self.there:
            return fault("InvalidGroup.NotFound", "The security group 'precip' does not exist")
        ours = f"<item>{self.named}<ownerId>me</ownerId><groupName>precip</groupName></item>"
        other = "<item><groupId>sg-0</groupId><groupName>default</groupName></item>"
        inside = f"<securityGroupInfo>{other}{ours * self.there}</securityGroupInfo>"
        return document("DescribeSecurityGroups", inside)

    def create(self, _: Request) -> str:
        """Make it."""
        self.there = True
        return document("CreateSecurityGroup", self.named)


async def rules_sent(wall: Wall, dialect: Dialect, **given: Any) -> list[dict[str, str]]:
    """The rules that are asked for when a cloud is opened at `wall`."""
    async with peer(wall.answers) as server, cloud_at(server.url, dialect, **given):
        sent = [one.parameters for one in server.asked("AuthorizeSecurityGroupIngress")]
    common = ("Action", "Version", "AWS", "Signature", "Timestamp")
    return [{k: v for k, v in one.items() if not k.startswith(common)} for one in sent]


async def test_amazons_group_is_known_by_its_id() -> None:
    """One source a permission."""
    assert await rules_sent(Wall(), AMAZON, ssh_cidr="192.0.2.0/24", ssh_port=2222) == [
        {
            "GroupId": "sg-7",
            "IpPermissions.1.IpProtocol": "tcp",
            "IpPermissions.1.FromPort": "2222",
            "IpPermissions.1.ToPort": "2222",
            "IpPermissions.1.IpRanges.1.CidrIp": "192.0.2.0/24",
        },
        {
            "GroupId": "sg-7",
            "IpPermissions.1.IpProtocol": "-1",
            "IpPermissions.1.Groups.1.GroupId": "sg-7",
        },
    ]


async def test_novas_group_is_known_by_its_name() -> None:
    """It has no other, and no rule for all protocols."""
    sent = await rules_sent(Wall(named=""), NOVA_2012)

    assert {one["GroupName"] for one in sent} == {"precip"}
    assert not [name for one in sent for name in one if "GroupId" in name]
    assert [one["IpPermissions.1.IpProtocol"] for one in sent] == ["tcp", "tcp", "udp", "icmp"]
    assert sent[1]["IpPermissions.1.Groups.1.GroupName"] == "precip"


async def test_ec2_apis_rules_name_the_group_by_its_id() -> None:
    """The flat form is an error there, and so is the name."""
    sent = await rules_sent(Wall(), EC2_API)

    assert {one["GroupId"] for one in sent} == {"sg-7"}
    assert sent[1]["IpPermissions.1.Groups.1.GroupId"] == "sg-7"


async def test_old_eucalyptus_has_flat_rules() -> None:
    """The nested form is an error there."""
    sent = await rules_sent(Wall(named=""), EUCALYPTUS_3)

    ssh = {"IpProtocol": "tcp", "FromPort": "22", "ToPort": "22", "CidrIp": "0.0.0.0/0"}
    members = {"SourceSecurityGroupName": "precip", "SourceSecurityGroupOwnerId": "me"}
    icmp = {"IpProtocol": "icmp", "FromPort": "-1", "ToPort": "-1"}
    assert sent[0] == {"GroupName": "precip"} | ssh
    assert sent[3] == {"GroupName": "precip"} | icmp | members


async def test_nimbus_has_none() -> None:
    """And is not asked for any."""
    wall = Wall()
    assert await rules_sent(wall, NIMBUS) == []
    assert not wall.there


async def test_another_script_may_be_faster() -> None:
    """With the group, and with its rules."""
    wall = Wall()

    def beaten(asked: Request) -> Reply:
        wall.create(asked)
        return fault("InvalidGroup.Duplicate", "The security group 'precip' already exists")

    taken = fault("InvalidPermission.Duplicate", "the specified rule already exists")
    answers = {"CreateSecurityGroup": beaten, "AuthorizeSecurityGroupIngress": taken}
    async with peer(wall.answers | answers) as server, cloud_at(server.url):
        assert len(server.asked("AuthorizeSecurityGroupIngress")) == 2


async def test_a_new_group_may_be_invisible_at_first() -> None:
    """Its rules are asked for until it is there."""
    hidden = fault("InvalidGroup.NotFound", "does not exist")
    answers = {"AuthorizeSecurityGroupIngress": [hidden, document("A")]}
    async with peer(Wall().answers | answers) as server, cloud_at(server.url):
        assert len(server.asked("AuthorizeSecurityGroupIngress")) == 3


async def test_rules_of_the_newer_protocol_are_amazons_only() -> None:
    """Where SSH is let in from IPv6."""
    sent = await rules_sent(Wall(), AMAZON, ssh_cidr="2001:db8::/32")
    assert sent[0]["IpPermissions.1.Ipv6Ranges.1.CidrIpv6"] == "2001:db8::/32"

    async with peer() as server:
        with pytest.raises(InvalidArgument, match="OpenStack knows IPv4 only"):
            async with cloud_at(server.url, NOVA_2012, ssh_cidr="2001:db8::/32"):
                pytest.fail("it was taken")


async def test_an_account_without_a_default_network_can_be_opened() -> None:
    """A launch can name a network; one that does not is told to."""
    none = fault("VPCIdNotSpecified", "No default VPC for this user")
    launched = described(item("i-1"), action="RunInstances")
    options = {"SubnetId": "subnet-1", "SecurityGroupIds": ["sg-mine"]}
    answers = {"DescribeSecurityGroups": none, "RunInstances": launched}
    async with peer(answers) as server, cloud_at(server.url) as cloud:
        with pytest.raises(CloudError, match=r"no default network.*SubnetId"):
            await cloud.launch(request())

        assert await cloud.launch(request(options=options))


async def test_groups_of_the_users_need_none_of_ours() -> None:
    """Nothing is asked about ours then."""
    launched = described(item("i-1"), action="RunInstances")
    async with peer({"RunInstances": launched}) as server, cloud_at(server.url) as cloud:
        before = len(server.requests)
        await cloud.launch(request(options={"SecurityGroupIds": ["sg-mine"]}))

        assert [one.action for one in server.requests[before:]] == ["RunInstances"]


async def test_another_refusal_ends_the_preparation() -> None:
    """Such as one for what the credentials allow."""
    no = fault("UnauthorizedOperation", "You are not authorized", 403)
    async with peer({"DescribeSecurityGroups": no}) as server:
        with pytest.raises(CloudError, match="do not allow this operation"):
            async with cloud_at(server.url):
                pytest.fail("it was taken")
