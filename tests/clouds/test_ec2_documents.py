"""Documents of every kind that these clouds send, the broken ones included, are read."""

from __future__ import annotations

import base64
import time

import pytest

from precip_async.clouds.ec2_documents import (
    SLICE,
    Address,
    Fault,
    Permission,
    Seen,
    Unreadable,
    addresses_of,
    console_of,
    fault_of,
    group_id_of,
    groups_of,
    images_of,
    instances_of,
    keys_of,
    next_token_of,
    parse,
    truth_of,
    vpc_of_subnet,
)
from tests.clouds.ec2_peer import described, document, item

# In the form of nova's of 2012 (clouds.md, section 1.8): literal dashes, empty numbers and times.
NOVA = """<?xml version="1.0" ?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2010-08-31/">
  <requestId>req-42</requestId>
  <reservationSet><item>
    <ownerId>project</ownerId>
    <groupSet><item><groupId>jclouds#h</groupId></item></groupSet>
    <reservationId>r-1234abcd</reservationId>
    <instancesSet><item>
      <blockDeviceMapping><item><deviceName>/dev/vda</deviceName><ebs>
        <status>attached</status><attachTime>-</attachTime></ebs></item></blockDeviceMapping>
      <instanceId>i-00000005</instanceId>
      <instanceState><code></code><name>building</name></instanceState>
      <publicDnsName/>
      <dnsName>mishdemo</dnsName>
      <ipAddress>10.77.22.4</ipAddress>
      <privateDnsName>mishdemo</privateDnsName>
      <privateIpAddress>10.77.22.4</privateIpAddress>
      <keyName>precip_x (project, host)</keyName>
      <launchTime/>
      <amiLaunchIndex/>
      <productCodesSet/>
      <tagSet><item><key>a</key><value/></item></tagSet>
    </item></instancesSet>
  </item></reservationSet>
</DescribeInstancesResponse>"""


def test_a_document_of_nova_is_read() -> None:
    """Empty numbers, empty times and literal dashes, which botocore stumbles over, do no harm."""
    assert instances_of(parse(NOVA.encode())) == [
        Seen(
            id="i-00000005",
            state="building",
            ip="10.77.22.4",
            dns="mishdemo",
            private_ip="10.77.22.4",
            private_dns="mishdemo",
            key="precip_x (project, host)",
            tags={"a": ""},
        )
    ]


@pytest.mark.parametrize("space", ["", "http://ec2.amazonaws.com/doc/1999-01-01/", "urn:any"])
def test_the_namespace_does_not_matter(space: str) -> None:
    """Whatever version a cloud says that it speaks, and if it says none."""
    text = described(item("i-1")).replace("http://ec2.amazonaws.com/doc/2016-11-15/", space)

    assert [seen.id for seen in instances_of(parse(text.encode()))] == ["i-1"]


def test_instances_are_read_from_every_answer_that_has_them() -> None:
    """RunInstances has no reservation set, and TerminateInstances calls the state otherwise."""
    run = parse(described(item("i-1", "pending"), action="RunInstances").encode())
    ended = (
        "<instancesSet><item><instanceId>i-2</instanceId><currentState><name>Shutting-Down</name>"
        "</currentState><previousState><name>running</name></previousState></item></instancesSet>"
    )

    assert [(one.id, one.state) for one in instances_of(run)] == [("i-1", "pending")]
    terminated = instances_of(parse(document("TerminateInstances", ended).encode()))
    assert [(one.id, one.state) for one in terminated] == [("i-2", "shutting-down")]


def test_the_reason_of_a_state_is_read_wherever_it_is() -> None:
    """Amazon has a message for it, others a text only."""
    newer = "<stateReason><code>Server</code><message>no room</message></stateReason>"
    both = described(item("i-1", more=newer), item("i-2", more="<reason>it broke</reason>"))

    assert [one.reason for one in instances_of(parse(both.encode()))] == ["no room", "it broke"]


def test_an_item_without_an_id_is_no_instance() -> None:
    """Rubbish among instances is left out."""
    assert instances_of(parse(described("<item/>", item("i-1")).encode()))[0].id == "i-1"


def test_the_next_page_is_known() -> None:
    """A token says that there is more; an empty one that there is not."""
    assert next_token_of(parse(described(token="more").encode())) == "more"
    assert next_token_of(parse(document("DescribeInstances", "<nextToken/>").encode())) == ""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            (
                "<Response><Errors><Error><Code>A.B</Code><Message>that\n  is so</Message></Error>"
                "</Errors><RequestID>req-1</RequestID></Response>"
            ),
            Fault(code="A.B", message="that is so", request_id="req-1"),
        ),
        # a stack trace for a request id (section 4, "Errors")
        (
            (
                "<Response><Errors><Error><Code>RunInstancesType</Code><Message>no</Message></Error>"
                "</Errors><RequestID>java.lang.Error\n at com.eucalyptus</RequestID></Response>"
            ),
            Fault(code="RunInstancesType", message="no", request_id=""),
        ),
        # unescaped characters in the message (section 4, "escaping"; section 5, "Errors")
        (
            (
                "<Response><Errors><Error><Code>GeneralError</Code><Message>a & b < c</Message>"
                "</Error></Errors></Response>"
            ),
            Fault(code="GeneralError", message="a & b < c", request_id=""),
        ),
        # nothing is said (section 4, "unhandled"; section 5, "Actions")
        ("<Response><Errors/></Response>", Fault(code="", message="nothing", request_id="")),
        (
            (
                "<Response><Errors><Error><Code>InvalidAction</Code><Message/></Error></Errors>"
                "</Response>"
            ),
            Fault(code="InvalidAction", message="", request_id=""),
        ),
        # web servers' own, which may be XML or not (section 1.9)
        (
            "<html><head><title>403</title></head><body>Access\n<b>denied</b></body></html>",
            Fault(code="", message="403 Access denied", request_id=""),
        ),
        (
            "<html><body>Bad<br>request</html>",
            Fault(code="", message="Bad request", request_id=""),
        ),
        ("plain text", Fault(code="", message="plain text", request_id="")),
        ("", Fault(code="", message="nothing", request_id="")),
    ],
)
def test_every_kind_of_refusal_is_read(body: str, expected: Fault) -> None:
    """Whatever a cloud, or the web server before it, says no with."""
    assert fault_of(body.encode()) == expected


@pytest.mark.parametrize("body", [b"", b"gibberish", b"<a>&b;</a>", b"<a", b"\xff\xfe\x00"])
def test_what_is_no_document_is_told(body: bytes) -> None:
    """What can't be read is one error, which shows how it begins."""
    with pytest.raises(Unreadable):
        parse(body)


def test_entities_do_not_explode() -> None:
    """A document that would unfold to gigabytes is refused."""
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "{"x" * 100}">{entities}]><a>&e11;</a>'

    with pytest.raises(Unreadable):
        parse(bomb.encode())


def test_keys_are_read() -> None:
    """With their public key, where the cloud shows it."""
    items = (
        "<keySet><item><keyName>a</keyName><keyFingerprint>1f:51</keyFingerprint></item>"
        "<item><keyName>b</keyName><publicKey>ssh-rsa A b\n</publicKey></item></keySet>"
    )
    first, second = keys_of(parse(document("DescribeKeyPairs", items).encode()))

    assert (first.name, first.fingerprint, first.public_key) == ("a", "1f:51", "")
    assert second.public_key == "ssh-rsa A b"


def test_groups_are_read_with_empty_ports() -> None:
    """Empty ports, which nova sends with neutron (section 2, at its end), are no ports."""
    rules = (
        "<item><ipProtocol>TCP</ipProtocol><fromPort/><toPort/><ipRanges><item><cidrIp>0.0.0.0/0"
        "</cidrIp></item></ipRanges><ipv6Ranges><item><cidrIpv6>::/0</cidrIpv6></item></ipv6Ranges>"
        "<groups><item><userId>1</userId><groupName>precip</groupName></item></groups></item>"
    )
    inside = (
        "<securityGroupInfo><item><ownerId>me</ownerId><groupName>precip</groupName>"
        f"<ipPermissions>{rules}</ipPermissions></item></securityGroupInfo>"
    )
    (group,) = groups_of(parse(document("DescribeSecurityGroups", inside).encode()))

    assert (group.id, group.name, group.owner) == ("", "precip", "me")
    assert group.permissions == (
        Permission(
            protocol="tcp",
            first=None,
            last=None,
            cidrs=("0.0.0.0/0", "::/0"),
            groups=("precip",),
        ),
    )


def test_addresses_are_read() -> None:
    """An administrator of nova sees the project beside the instance (section 2)."""
    inside = (
        "<addressesSet><item><publicIp>10.60.0.143</publicIp><instanceId>i-1 (demo)</instanceId>"
        "<allocationId>a</allocationId><associationId>b</associationId></item>"
        "<item><publicIp>10.60.0.144</publicIp><instanceId/></item></addressesSet>"
    )
    allocated = document("AllocateAddress", "<publicIp>1.2.3.4</publicIp>")

    assert addresses_of(parse(document("DescribeAddresses", inside).encode())) == [
        Address(ip="10.60.0.143", instance="i-1", allocation="a", association="b"),
        Address(ip="10.60.0.144"),
    ]
    assert addresses_of(parse(allocated.encode())) == [Address(ip="1.2.3.4")]
    assert addresses_of(parse(document("DescribeAddresses", "<addressesSet/>").encode())) == []


def test_images_are_read() -> None:
    """As far as their root device goes."""
    inside = (
        "<imagesSet><item><imageId>ami-1</imageId><rootDeviceName>/dev/xvda</rootDeviceName>"
        "<rootDeviceType>ebs</rootDeviceType></item></imagesSet>"
    )
    (image,) = images_of(parse(document("DescribeImages", inside).encode()))

    assert (image.id, image.root_device, image.root_type) == ("ami-1", "/dev/xvda", "ebs")


def test_a_console_is_decoded() -> None:
    """It comes in base64, also where lines are broken; what is not encoded is left as it is."""
    encoded = base64.encodebytes(b"login: \xff" * 20).decode()

    assert console_of(parse(document("GetConsoleOutput", f"<output>{encoded}</output>").encode()))
    assert console_of(parse(b"<a><output>abc</output></a>")) == "abc"
    assert console_of(parse(document("GetConsoleOutput", "<output/>").encode())) == ""


def test_small_answers_are_read() -> None:
    """The id of a group, the network of a subnet, and whether something was done."""
    subnet = "<subnetSet><item><subnetId>s</subnetId><vpcId>vpc-1</vpcId></item></subnetSet>"

    assert group_id_of(parse(b"<a><groupId>sg-1</groupId></a>")) == "sg-1"
    assert group_id_of(parse(b"<a><securityGroupSet/></a>")) == ""
    assert vpc_of_subnet(parse(document("DescribeSubnets", subnet).encode())) == "vpc-1"
    assert truth_of(parse(b"<a><return>true</return></a>"))
    assert not truth_of(parse(b"<a><return>false</return></a>"))


def test_a_long_document_is_read_in_slices() -> None:
    """Where a slice ends in the middle of a character, nothing is lost."""
    name = "ü" * SLICE
    tags = f"<tagSet><item><key>a</key><value>x{name}</value></item></tagSet>"
    text = described(item("i-1", more=tags))

    assert instances_of(parse(text.encode()))[0].tags == {"a": f"x{name}"}


def test_a_thousand_instances_are_read_quickly() -> None:
    """A round for a large fleet costs a fraction of what botocore's reader takes."""
    more = "".join(f"<thing{n}>some text or other</thing{n}>" for n in range(60))
    text = described(*(item(f"i-{n:017x}", more=more) for n in range(1000))).encode()
    began = time.process_time()

    assert len(instances_of(parse(text))) == 1000
    assert time.process_time() - began < 1.0
