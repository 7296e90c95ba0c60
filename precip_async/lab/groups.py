"""Security groups: who may reach what. Nothing is kept out but SSH, see `launching`."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final

from precip_async.lab.account import OWNER, Group, Rule
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
    "describe_groups",
    "revoke_ingress",
]

HIGHEST: Final = 65535
EVERYTHING: Final = ("-1", -1, -1)  # protocol, first and last port


async def create_group(account: Account, p: Parameters) -> dict[str, Any]:
    """Make a group, which lets nobody in."""
    dialect = account.dialect
    name, description = p.required("GroupName"), p.required("GroupDescription")
    looks = re.compile(dialect.group_names)
    # §6 "security groups": a name that begins like an id is none.
    if not looks.fullmatch(name) or (dialect.group_ids and name.lower().startswith("sg-")):
        raise Refusal("InvalidParameterValue", f"Value ({name}) for GroupName is invalid.")
    if not looks.fullmatch(description):
        raise Refusal("InvalidParameterValue", "Value for GroupDescription is invalid.")
    vpc = p.text("VpcId", account.vpc if account.has_vpc else "")
    if dialect.vpc and not vpc:
        raise Refusal("VPCIdNotSpecified", "No default VPC for this user")
    if vpc and not (account.has_vpc and vpc == account.vpc):
        raise Refusal("InvalidVpcID.NotFound", f"The vpc ID '{vpc}' does not exist", subject=vpc)
    if any(group.name.lower() == name.lower() for group in account.groups.values()):
        raise Refusal(
            "InvalidGroup.Duplicate",
            f"The security group '{name}' already exists",
            subject=name,
        )
    group = Group(
        id=account.new_id("sg"),
        name=name,
        description=description,
        tags=read_specifications(p, dialect, "security-group"),
    )
    account.groups[group.id] = group
    if dialect.shape in ("essex", "nova"):  # §2 "Other actions": no id
        return {"securityGroupSet": [_shown(account, group)]}
    return {
        "return": True,
        "groupId": group.id if dialect.group_ids else None,
        "tagSet": tag_set(group.tags),
    }


async def describe_groups(account: Account, p: Parameters) -> dict[str, Any]:
    """What groups there are."""
    if account.dialect.launch_groups == "none":
        return {"securityGroupInfo": []}  # §5 "Actions": "always empty"
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
    after = None
    if account.dialect.pages == "full":
        groups, after = page(groups, p, lambda group: group.id, clamps=account.dialect.clamps)
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
        rules = list(_sources(account, permission))
        if not rules:
            raise Refusal("MissingParameter", "Source of the permission is missing.")
        yield from rules[:1] if account.dialect.one_source else rules
    if nested:
        return
    if name := p.text("SourceSecurityGroupName"):
        # In the flat form Amazon opens everything to a group.
        [group] = account.groups_of(names=[name])
        protocol, first, last = EVERYTHING
        yield Rule(protocol=protocol, first=first, last=last, group=group.id)
    else:
        yield _rule(account, p, cidr=p.required("CidrIp"))


def _sources(account: Account, permission: Parameters) -> Iterator[Rule]:
    """The rules of one permission; groups come first, for clouds that take the first source."""
    for source in permission.parts("Groups"):
        yield _rule(account, permission, group=_source(account, source))
    for block in permission.parts("IpRanges"):
        yield _rule(account, permission, cidr=block.required("CidrIp"))
    for block in permission.parts("Ipv6Ranges"):
        yield _rule(account, permission, cidr=block.required("CidrIpv6"))


def _source(account: Account, source: Parameters) -> str:
    group_id = source.text("GroupId")
    if not group_id:
        [group] = account.groups_of(names=[source.required("GroupName")])
    elif account.dialect.group_ids:
        [group] = account.groups_of(ids=[group_id])
    else:  # §2 "Authorize": "GroupId as source → TypeError 500"
        raise Refusal("crash", "source_security_group_id is not taken", subject="TypeError")
    return group.id


def _rule(account: Account, p: Parameters, *, cidr: str = "", group: str = "") -> Rule:
    if group and account.dialect.group_opens_all and "IpProtocol" not in p:
        protocol, first, last = EVERYTHING
        return Rule(protocol=protocol, first=first, last=last, group=group)
    protocol = p.required("IpProtocol").lower()
    if not re.fullmatch(account.dialect.protocols, protocol):
        raise Refusal(
            "InvalidPermission.Malformed",
            f'Unsupported IP protocol "{protocol}"',
            subject=protocol,
        )
    if cidr:
        try:
            ipaddress.ip_network(cidr)
        except ValueError as error:
            raise Refusal(
                "InvalidParameterValue", f"CIDR block {cidr} is malformed", subject=cidr
            ) from error
    if protocol == "-1":
        protocol, first, last = EVERYTHING
    else:
        first, last = p.whole("FromPort"), p.whole("ToPort")
    if protocol in ("tcp", "udp") and not 0 <= first <= last <= HIGHEST:
        raise Refusal("InvalidParameterValue", f"Invalid TCP/UDP port range ({first}:{last})")
    return Rule(protocol=protocol, first=first, last=last, cidr=cidr, group=group)


def _shown(account: Account, group: Group) -> dict[str, Any]:
    permissions: dict[tuple[str, int, int], list[Rule]] = {}
    for rule in group.rules:
        permissions.setdefault((rule.protocol, rule.first, rule.last), []).append(rule)
    return {
        "ownerId": OWNER,
        "groupId": group.id if account.dialect.group_ids else None,
        "groupName": group.name,
        "groupDescription": group.description,
        "vpcId": account.vpc if account.has_vpc else None,
        "ipPermissions": [_permission(account, *key, rules) for key, rules in permissions.items()],
        "tagSet": tag_set(group.tags),
    }


def _permission(
    account: Account, protocol: str, first: int, last: int, rules: list[Rule]
) -> dict[str, Any]:
    ports: tuple[object, object] = (first, last)
    if protocol == "-1":
        # §2 "Addresses", at the end: neutron's rules can have empty ones, which nobody can parse.
        ports = ("", "") if account.dialect.name == "nova-kilo" else (None, None)
    return {
        "ipProtocol": protocol,
        "fromPort": ports[0],
        "toPort": ports[1],
        "groups": [_reference(account, rule.group) for rule in rules if rule.group],
        "ipRanges": [{"cidrIp": rule.cidr} for rule in rules if "." in rule.cidr],
        "ipv6Ranges": [{"cidrIpv6": rule.cidr} for rule in rules if ":" in rule.cidr] or None,
    }


def _reference(account: Account, group_id: str) -> dict[str, Any]:
    group = account.groups.get(group_id)
    name = group.name if group else ""
    if not account.dialect.group_ids:
        return {"userId": OWNER, "groupName": name}
    return {"userId": OWNER, "groupId": group_id, "groupName": name}
