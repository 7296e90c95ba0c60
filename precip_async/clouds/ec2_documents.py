"""The documents that EC2-compatible clouds answer with, read into values. Pure.

They are read here and not by botocore, whose reader raises `ValueError` for an empty number, which
these clouds send, drops elements that its model does not know, and needs four times as long. Of a
document we read what we use, as text, and nothing else in it can trouble us.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from precip_async.errors import shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Address",
    "Fault",
    "Group",
    "Image",
    "Key",
    "Permission",
    "Seen",
    "Unreadable",
    "addresses_of",
    "console_of",
    "fault_of",
    "group_id_of",
    "groups_of",
    "images_of",
    "instances_of",
    "keys_of",
    "next_token_of",
    "parse",
    "truth_of",
    "vpc_of_subnet",
]

LONGEST_REASON: Final = 400  # characters of why an instance is as it is that are shown

SLICE: Final = 64 * 1024  # bytes parsed at once: other threads have their turn in between
EXCERPT: Final = 120  # characters of a document that makes no sense, for messages
_REQUEST_ID: Final = re.compile(r"[\w-]{1,64}")
_TITLE: Final = re.compile(r"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAGS: Final = re.compile(r"<[^>]*>")


class Unreadable(Exception):
    """A document is no XML; the message shows how it begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error document. `code` is empty where it has none, as in a web server's own."""

    code: str
    message: str
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An instance, in the cloud's words; what is missing is empty."""

    id: str
    state: str = ""
    ip: str = ""
    dns: str = ""
    private_ip: str = ""
    private_dns: str = ""
    reason: str = ""
    key: str = ""
    token: str = ""
    vpc: str = ""
    image: str = ""
    kind: str = ""
    zone: str = ""
    launched: str = ""
    index: str = ""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A registered key pair."""

    name: str
    fingerprint: str
    public_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """A rule of a group; ports are ``None`` where the rule is for all of them."""

    protocol: str
    first: int | None
    last: int | None
    cidrs: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A security group; clouds that know groups by name only leave `id` empty."""

    id: str
    name: str
    owner: str
    vpc: str
    permissions: tuple[Permission, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image, as far as its root device goes."""

    id: str
    root_device: str
    root_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An elastic address; `instance` is empty while it is free."""

    ip: str
    instance: str = ""
    allocation: str = ""
    association: str = ""


def parse(document: bytes) -> ET.Element:
    """The root of `document`, its namespaces taken off. Takes a while for a long one.

    Raises:
        Unreadable: It is no XML.
    """
    parser = ET.XMLParser()  # noqa: S314 - it resolves nothing external, and expat bounds entities
    try:
        for start in range(0, len(document), SLICE):
            parser.feed(document[start : start + SLICE])
        root = parser.close()
    except ET.ParseError as error:
        raise Unreadable(excerpt(document)) from error
    for element in root.iter():
        if element.tag[:1] == "{":
            element.tag = element.tag.rpartition("}")[2]
    assert isinstance(root, ET.Element)
    return root


def excerpt(document: bytes) -> str:
    """How `document` begins, without markup, on one line."""
    text = document[:4096].decode("utf-8", "replace")
    if (title := _TITLE.search(text)) and text.count(title[1]) > 1:  # a web server's own page
        text = text.replace(title[0], " ")
    text = _TAGS.sub(" ", text)
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words[:EXCERPT] or "nothing"


def fault_of(document: bytes) -> Fault:
    """What an error document says; one that is none has no code, and says how it begins."""
    try:
        root = parse(document)
    except Unreadable as error:
        return _fault_in_broken(document) or Fault(code="", message=str(error), request_id="")
    fault = next(root.iter("Error"), None)
    code = _text(fault, "Code") if fault is not None else ""
    message = _text(fault, "Message") if fault is not None else ""
    ids = (_text(root, name) for name in ("RequestID", "RequestId", "requestId"))
    # Eucalyptus 3.2 sends a Java stack trace for it (section 4, "Errors")
    request_id = next((one for one in ids if _REQUEST_ID.fullmatch(one)), "")
    if not code:
        message = message or excerpt(document)
    return Fault(code=code, message=" ".join(message.split()), request_id=request_id)


def _fault_in_broken(document: bytes) -> Fault | None:
    """The code and the message, where an unescaped character in the message breaks the document."""
    # Eucalyptus 3.2 (section 4, "escaping") and Nimbus (section 5, "Errors")
    text = document.decode("utf-8", "replace")
    if not (code := re.search(r"<Code>([^<]{1,100})</Code>", text)):
        return None
    message = re.search(r"<Message>(.{0,2000}?)</Message>", text, re.DOTALL)
    said = " ".join(message[1].split()) if message else ""
    return Fault(code=code[1].strip(), message=said, request_id="")


def instances_of(root: ET.Element) -> list[Seen]:
    """The instances in an answer to RunInstances, DescribeInstances or TerminateInstances."""
    found = []
    for instances in root.iter("instancesSet"):
        for item in instances:
            tags = {_text(tag, "key"): _text(tag, "value") for tag in item.findall("tagSet/item")}
            state = item.find("instanceState")
            if state is None:
                state = item.find("currentState")
            reasons = (_text(item, "stateReason/message"), _text(item, "reason"))
            seen = Seen(
                id=_text(item, "instanceId"),
                state=_text(state, "name").lower() if state is not None else "",
                ip=_text(item, "ipAddress"),
                dns=_text(item, "dnsName"),
                private_ip=_text(item, "privateIpAddress"),
                private_dns=_text(item, "privateDnsName"),
                reason=shortened(next((one for one in reasons if one), ""), LONGEST_REASON),
                key=_text(item, "keyName"),
                token=_text(item, "clientToken"),
                vpc=_text(item, "vpcId"),
                image=_text(item, "imageId"),
                kind=_text(item, "instanceType"),
                zone=_text(item, "placement/availabilityZone"),
                launched=_text(item, "launchTime"),
                index=_text(item, "amiLaunchIndex"),
                tags=tags,
            )
            if seen.id:
                found.append(seen)
    return found


def next_token_of(root: ET.Element) -> str:
    """What the next page is asked for with; empty on the last one."""
    return _text(root, "nextToken")


def keys_of(root: ET.Element) -> list[Key]:
    """The key pairs in an answer to DescribeKeyPairs."""
    return [
        Key(
            name=_text(item, "keyName"),
            fingerprint=_text(item, "keyFingerprint"),
            public_key=_text(item, "publicKey"),
        )
        for item in root.iterfind("keySet/item")
    ]


def groups_of(root: ET.Element) -> list[Group]:
    """The groups in an answer to DescribeSecurityGroups."""
    return [
        Group(
            id=_text(item, "groupId"),
            name=_text(item, "groupName"),
            owner=_text(item, "ownerId"),
            vpc=_text(item, "vpcId"),
            permissions=tuple(_permissions(item)),
        )
        for item in root.iterfind("securityGroupInfo/item")
    ]


def _permissions(group: ET.Element) -> Iterator[Permission]:
    for item in group.iterfind("ipPermissions/item"):
        cidrs = [_text(one, "cidrIp") for one in item.iterfind("ipRanges/item")]
        cidrs += [_text(one, "cidrIpv6") for one in item.iterfind("ipv6Ranges/item")]
        groups = item.findall("groups/item")
        yield Permission(
            protocol=_text(item, "ipProtocol").lower(),
            first=_number(_text(item, "fromPort")),
            last=_number(_text(item, "toPort")),
            cidrs=tuple(cidrs),
            groups=tuple(
                {_text(one, name) for one in groups for name in ("groupId", "groupName")} - {""}
            ),
        )


def group_id_of(root: ET.Element) -> str:
    """The id in an answer to CreateSecurityGroup; nova sends none (section 2)."""
    return _text(root, "groupId")


def images_of(root: ET.Element) -> list[Image]:
    """The images in an answer to DescribeImages."""
    return [
        Image(
            id=_text(item, "imageId"),
            root_device=_text(item, "rootDeviceName"),
            root_type=_text(item, "rootDeviceType"),
        )
        for item in root.iterfind("imagesSet/item")
    ]


def addresses_of(root: ET.Element) -> list[Address]:
    """The addresses in an answer to DescribeAddresses, or the one in that to AllocateAddress."""
    items = root.findall("addressesSet/item") or [root]
    found = [
        Address(
            ip=_text(item, "publicIp"),
            instance=_text(item, "instanceId").split(" ")[0],  # "i-… (project)": section 2
            allocation=_text(item, "allocationId"),
            association=_text(item, "associationId"),
        )
        for item in items
    ]
    return [address for address in found if address.ip]


def console_of(root: ET.Element) -> str:
    """The output in an answer to GetConsoleOutput."""
    output = "".join(root.findtext("output") or "")
    try:
        return base64.b64decode(output, validate=False).decode("utf-8", "replace")
    except binascii.Error:  # not encoded, against the documentation
        return output


def vpc_of_subnet(root: ET.Element) -> str:
    """The network of the subnet in an answer to DescribeSubnets."""
    return _text(root, "subnetSet/item/vpcId")


def truth_of(root: ET.Element) -> bool:
    """Whether an answer is not ``false``."""
    return _text(root, "return").lower() != "false"


def _text(element: ET.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:  # nova sends it empty (section 2, "Addresses", at the end)
        return None
