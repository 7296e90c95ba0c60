"""Key pairs and security groups: who may log in, and from where."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final

from precip_async.lab.account import OWNER, Group, KeyPair, Rule
from precip_async.lab.keys import fingerprint_of, kind_of, read_public_key
from precip_async.lab.paging import filtered, page
from precip_async.lab.refusals import Refusal
from precip_async.lab.tagging import read_specifications, tag_set

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precip_async.lab.account import Account
    from precip_async.lab.parameters import Parameters

__all__ = [
    "authorize_ingress",
    "create_group",
    "delete_group",
    "delete_key_pair",
    "describe_groups",
    "describe_key_pairs",
    "import_key_pair",
    "revoke_ingress",
]

MAX_NAME: Final = 255
MAX_KEYS: Final = 5000  # §6 "key pairs"
ANY_PORT: Final = (-1, -1)
_DESCRIPTION: Final = re.compile(r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{1,255}")
_PROTOCOL: Final = re.compile(r"tcp|udp|icmp|icmpv6|-1|[0-9]{1,3}")


async def import_key_pair(account: Account, p: Parameters) -> dict[str, Any]:
    """Register a public key under a name."""
    name, material = p.required("KeyName"), p.required("PublicKeyMaterial")
    if len(name) > MAX_NAME or not name.isascii():
        raise Refusal("InvalidParameterValue", f"Value ({name[:40]}...) for KeyName is invalid.")
    line = read_public_key(material)
    if account.dialect.key_types and kind_of(line) not in account.dialect.key_types:
        raise Refusal("InvalidKey.Format", f"Keys of type {kind_of(line)} are not supported")
    if name in account.keys and not account.dialect.key_overwritten:
        raise Refusal(
            "InvalidKeyPair.Duplicate", f"The keypair '{name}' already exists.", subject=name
        )
    if len(account.keys) >= MAX_KEYS:
        raise Refusal("KeyPairLimitExceeded", "Maximum of 5000 keypairs reached.")
    tags = read_specifications(p, account.dialect, "key-pair")
    pair = KeyPair(
        id=account.new_id("key"), name=name, line=line, fingerprint=fingerprint_of(line), tags=tags
    )
    account.keys[name] = pair
    return {
        "keyName": name,
        "keyFingerprint": pair.fingerprint,
        "keyPairId": pair.id,
        "tagSet": tag_set(tags),
    }


async def describe_key_pairs(account: Account, p: Parameters) -> dict[str, Any]:
    """What key pairs there are."""
    names, ids = p.texts("KeyName"), p.texts("KeyPairId")
    by_id = {pair.id: pair for pair in account.keys.values()}
    found = {name: account.keys.get(name) for name in names}
    found |= {one: by_id.get(one) for one in ids}
    for name, pair in found.items():
        if pair is None and account.dialect.missing_key == "refused":
            raise _no_key(name)
    pairs = [pair for pair in found.values() if pair] if found else list(account.keys.values())
    columns = {
        "key-name": lambda pair: [pair.name],
        "fingerprint": lambda pair: [pair.fingerprint],
        "key-pair-id": lambda pair: [pair.id],
    }
    pairs = filtered(pairs, p, columns, lambda pair: pair.tags, honoured=account.dialect.filters)
    shown = p.flag("IncludePublicKey")
    return {
        "keySet": [
            {
                "keyPairId": pair.id,
                "keyName": pair.name,
                "keyType": kind_of(pair.line).removeprefix("ssh-"),
                "keyFingerprint": pair.fingerprint,
                "publicKey": pair.line if shown else None,
                "tagSet": tag_set(pair.tags),
            }
            for pair in pairs
        ]
    }


async def delete_key_pair(account: Account, p: Parameters) -> dict[str, Any]:
    """Forget a key pair; one that isn't there is no error."""
    name = p.text("KeyName")
    if key_id := p.text("KeyPairId"):
        name = next((pair.name for pair in account.keys.values() if pair.id == key_id), "")
    elif not name:
        raise Refusal("MissingParameter", "The request must contain the parameter KeyName")
    gone = account.keys.pop(name, None)
    return {"return": gone is not None or account.dialect.delete_missing_key}


async def create_group(account: Account, p: Parameters) -> dict[str, Any]:
    """Make a group, which lets nobody in."""
    name, description = p.required("GroupName"), p.required("GroupDescription")
    if not _DESCRIPTION.fullmatch(name) or name.lower().startswith("sg-"):  # §6 "security groups"
        raise Refusal(
            "InvalidParameterValue", f"Value ({name}) for parameter GroupName is invalid."
        )
    if not _DESCRIPTION.fullmatch(description):
        raise Refusal(
            "InvalidParameterValue",
            "Value for parameter GroupDescription is invalid. Character"
            " sets beyond ASCII are not supported.",
        )
    vpc = p.text("VpcId", account.vpc if account.scenario.default_vpc else "")
    if not vpc:
        raise Refusal("VPCIdNotSpecified", "No default VPC for this user")
    if vpc != account.vpc:
        raise Refusal("InvalidVpcID.NotFound", f"The vpc ID '{vpc}' does not exist", subject=vpc)
    if any(group.name.lower() == name.lower() for group in account.groups.values()):
        raise Refusal(
            "InvalidGroup.Duplicate",
            f"The security group '{name}' already exists for VPC '{vpc}'",
            subject=name,
        )
    group = Group(
        id=account.new_id("sg"),
        name=name,
        description=description,
        tags=read_specifications(p, account.dialect, "security-group"),
    )
    account.groups[group.id] = group
    return {"return": True, "groupId": group.id, "tagSet": tag_set(group.tags)}


async def describe_groups(account: Account, p: Parameters) -> dict[str, Any]:
    """What groups there are."""
    ids, names = p.texts("GroupId"), p.texts("GroupName")
    if ids or names:
        groups = list(account.groups_of(ids=ids, names=names))
    else:
        groups = sorted(account.groups.values(), key=lambda group: group.id)
    columns = {
        "group-id": lambda group: [group.id],
        "group-name": lambda group: [group.name],
        "vpc-id": lambda _: [account.vpc],
    }
    groups = filtered(
        groups, p, columns, lambda group: group.tags, honoured=account.dialect.filters
    )
    groups, after = page(groups, p, lambda group: group.id)
    return {"securityGroupInfo": [_shown(account, one) for one in groups], "nextToken": after}


async def authorize_ingress(account: Account, p: Parameters) -> dict[str, Any]:
    """Let somebody in."""
    group, rules = _one_group(account, p), list(_rules(account, p))
    if any(rule in group.rules for rule in rules):
        if account.dialect.duplicate_rule == "false":
            return {"return": False}
        raise Refusal(
            "InvalidPermission.Duplicate",
            "the specified rule already exists",
            subject=group.name,
        )
    group.rules += dict.fromkeys(rules)
    return {"return": True}


async def revoke_ingress(account: Account, p: Parameters) -> dict[str, Any]:
    """Let somebody in no more."""
    group, rules = _one_group(account, p), list(_rules(account, p))
    if any(rule not in group.rules for rule in rules):
        raise Refusal(
            "InvalidPermission.NotFound",
            "The specified rule does not exist in this security group.",
        )
    group.rules = [rule for rule in group.rules if rule not in rules]
    return {"return": True}


async def delete_group(account: Account, p: Parameters) -> dict[str, Any]:
    """Forget a group that nothing is in."""
    group = _one_group(account, p)
    if group.name == "default":
        raise Refusal("CannotDelete", 'the specified group: "default" name cannot be deleted')
    await account.look()
    if any(one.ended is None and group in one.groups for one in account.instances.values()):
        raise Refusal(
            "DependencyViolation", f"resource {group.id} has a dependent object", subject=group.name
        )
    account.groups.pop(group.id, None)
    return {"return": True}


def _no_key(name: str) -> Refusal:
    return Refusal("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist", subject=name)


def _one_group(account: Account, p: Parameters) -> Group:
    ids, names = p.text("GroupId"), p.text("GroupName")
    if not ids and not names:
        raise Refusal(
            "MissingParameter", "The request must contain the parameter groupName or groupId"
        )
    [group, *_] = account.groups_of(ids=[ids] if ids else (), names=[names] if not ids else ())
    return group


def _rules(account: Account, p: Parameters) -> Iterator[Rule]:
    """The rules of a request, one a source.

    Raises:
        Refusal: One can't be, or there is none.
    """
    nested = p.parts("IpPermissions")
    for permission in nested:
        for cidr in permission.parts("IpRanges"):
            yield _rule(permission, cidr=cidr.required("CidrIp"))
        for cidr in permission.parts("Ipv6Ranges"):
            yield _rule(permission, cidr=cidr.required("CidrIpv6"))
        for source in permission.parts("Groups"):
            yield _rule(permission, group=_source(account, source.text("GroupId"), source))
        if not any(permission.parts(kind) for kind in ("IpRanges", "Ipv6Ranges", "Groups")):
            raise Refusal("MissingParameter", "Source of the permission is missing.")
    if nested:
        return
    if name := p.text("SourceSecurityGroupName"):
        # Amazon opens everything to a group that is given in the flat form.
        [group] = account.groups_of(names=[name])
        yield Rule(protocol="-1", first=-1, last=-1, group=group.id)
    else:
        yield _rule(p, cidr=p.required("CidrIp"))


def _source(account: Account, group_id: str, source: Parameters) -> str:
    if group_id:
        [group] = account.groups_of(ids=[group_id])
    else:
        [group] = account.groups_of(names=[source.required("GroupName")])
    return group.id


def _rule(p: Parameters, *, cidr: str = "", group: str = "") -> Rule:
    protocol = p.required("IpProtocol").lower()
    if not _PROTOCOL.fullmatch(protocol):
        raise Refusal(
            "InvalidPermission.Malformed", f'Unsupported IP protocol "{protocol}"', subject=protocol
        )
    if cidr:
        try:
            ipaddress.ip_network(cidr)
        except ValueError as error:
            raise Refusal(
                "InvalidParameterValue", f"CIDR block {cidr} is malformed", subject=cidr
            ) from error
    ports = ANY_PORT if protocol == "-1" else (p.whole("FromPort"), p.whole("ToPort"))
    first, last = ports
    if protocol in ("tcp", "udp") and not 0 <= first <= last <= 65535:  # noqa: PLR2004 - all ports
        raise Refusal("InvalidParameterValue", f"Invalid TCP/UDP port range ({first}:{last})")
    return Rule(protocol=protocol, first=first, last=last, cidr=cidr, group=group)


def _shown(account: Account, group: Group) -> dict[str, Any]:
    permissions: dict[tuple[str, int, int], list[Rule]] = {}
    for rule in group.rules:
        permissions.setdefault((rule.protocol, rule.first, rule.last), []).append(rule)
    return {
        "ownerId": OWNER,
        "groupId": group.id,
        "groupName": group.name,
        "groupDescription": group.description,
        "vpcId": account.vpc,
        "ipPermissions": [
            {
                "ipProtocol": protocol,
                "fromPort": None if protocol == "-1" else first,
                "toPort": None if protocol == "-1" else last,
                "groups": [
                    {"userId": OWNER, "groupId": rule.group} for rule in rules if rule.group
                ],
                "ipRanges": [{"cidrIp": rule.cidr} for rule in rules if "." in rule.cidr],
                "ipv6Ranges": [{"cidrIpv6": rule.cidr} for rule in rules if ":" in rule.cidr],
            }
            for (protocol, first, last), rules in permissions.items()
        ],
        "tagSet": tag_set(group.tags),
    }
