"""The security group ``precip``: SSH from outside, and everything among its members.

Rules of ours that are missing are added; all others are the user's, and stay.
"""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio

from precip_async.clouds.ec2_documents import group_id_of, groups_of, truth_of, vpc_of_subnet
from precip_async.clouds.ec2_words import is_duplicate, is_missing_group
from precip_async.errors import CloudError, InvalidArgument

if TYPE_CHECKING:
    from precip_async.clouds.ec2_calls import Calls
    from precip_async.clouds.ec2_documents import Group, Permission

__all__ = ["GROUP", "Groups", "Rule", "covers", "wanted_rules"]

GROUP: Final = "precip"
DESCRIPTION: Final = "instances of precip experiments"  # in the characters that all clouds allow
LAST_PORT: Final = 65535
SSH_PORT: Final = 22
# There is no default network: a launch can name one, and says so if it does not (section 6).
_NO_NETWORK: Final = frozenset({"VPCIdNotSpecified", "DefaultVpcDoesNotExist", "MissingInput"})
UNTIL_VISIBLE: Final = 30.0  # seconds in which a new group may be invisible (section 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Traffic that a group lets in: from a network, or from members where `cidr` is empty."""

    protocol: str
    first: int | None
    last: int | None
    cidr: str = ""


def wanted_rules(*, ssh_cidr: str, ssh_port: int, any_protocol: bool) -> list[Rule]:
    """What the group is to let in."""
    network = str(ipaddress.ip_network(ssh_cidr))
    ssh = Rule(protocol="tcp", first=ssh_port, last=ssh_port, cidr=network)
    if any_protocol:
        return [ssh, Rule(protocol="-1", first=None, last=None)]
    return [
        ssh,
        Rule(protocol="tcp", first=1, last=LAST_PORT),
        Rule(protocol="udp", first=1, last=LAST_PORT),
        Rule(protocol="icmp", first=-1, last=-1),
    ]


def covers(permission: Permission, rule: Rule, group: Group) -> bool:
    """Whether `permission`, of `group`, lets in all that `rule` does."""
    if permission.protocol not in ("-1", rule.protocol, _NUMBERS.get(rule.protocol)):
        return False
    if permission.protocol != "-1" and rule.protocol in ("tcp", "udp"):
        # ports that are not said are all of them, and nova says so by -1
        first = permission.first if permission.first is not None else -1
        last = permission.last if permission.last not in (None, -1) else LAST_PORT
        if rule.first is None or rule.last is None or last is None:
            return False
        if first > rule.first or last < rule.last:
            return False
    if not rule.cidr:
        return bool({group.id, group.name} & {*permission.groups} - {""})
    return any(_within(rule.cidr, cidr) for cidr in permission.cidrs)


_NUMBERS: Final = {"tcp": "6", "udp": "17", "icmp": "1"}


def _within(inner: str, outer: str) -> bool:
    try:
        small, large = ipaddress.ip_network(inner), ipaddress.ip_network(outer, strict=False)
    except ValueError:
        return False
    if isinstance(small, ipaddress.IPv4Network) and isinstance(large, ipaddress.IPv4Network):
        return small.subnet_of(large)
    if isinstance(small, ipaddress.IPv6Network) and isinstance(large, ipaddress.IPv6Network):
        return small.subnet_of(large)
    return False


class Groups:
    """Finds the group, or makes it; once for each network.

    Args:
        calls: What is asked with.
        ssh_cidr: From where SSH is let in.
        ssh_port: Where it listens.
    """

    def __init__(self, calls: Calls, ssh_cidr: str, ssh_port: int = SSH_PORT) -> None:
        self._calls, self._dialect = calls, calls.dialect
        if ipaddress.ip_network(ssh_cidr).version != 4 and self._dialect.name != "amazon":  # noqa: PLR2004 - IPv4
            raise InvalidArgument(
                f"ssh_cidr: {self._dialect.title} knows IPv4 only, not {ssh_cidr}"
            )
        self._rules = wanted_rules(
            ssh_cidr=ssh_cidr, ssh_port=ssh_port, any_protocol=self._dialect.any_protocol
        )
        self._ready: dict[str, Group] = {}  # by network; that of the default one is ""
        self._lock = anyio.Lock()

    async def prepare(self) -> None:
        """Have the group of the default network ready, where there is such a network.

        Raises:
            CloudError: It can't be had.
        """
        try:
            await self.ready()
        except CloudError as error:
            if error.code not in _NO_NETWORK:
                raise

    async def ready(self, subnet: str | None = None) -> tuple[str, bool] | None:
        """The group for a launch into `subnet`, or into the default network; whether it is an id.

        Returns:
            ``None`` where the cloud has no groups.

        Raises:
            CloudError: It can't be had, as where there is no default network.
        """
        if self._dialect.groups == "none":
            return None
        async with self._lock:
            vpc = await self._vpc_of(subnet) if subnet else ""
            if vpc not in self._ready:
                self._ready[vpc] = await self._made_ready(vpc)
        group = self._ready[vpc]
        by_id = bool(group.id) and (self._dialect.groups == "ids" or bool(vpc))
        return (group.id, True) if by_id else (group.name, False)

    async def _vpc_of(self, subnet: str) -> str:
        if not self._dialect.can("DescribeSubnets"):
            raise InvalidArgument(f"options: {self._dialect.title} has no subnets")
        return await self._calls.ask("DescribeSubnets", {"SubnetIds": [subnet]}, vpc_of_subnet)

    async def _made_ready(self, vpc: str) -> Group:
        group = await self._find(vpc) or await self._make(vpc)
        for rule in self._rules:
            if not any(covers(permission, rule, group) for permission in group.permissions):
                await self._add(group, rule)
        return group

    async def _find(self, vpc: str) -> Group | None:
        named: dict[str, Any] = {"GroupNames": [GROUP]}
        if vpc:
            filters = {"group-name": GROUP, "vpc-id": vpc}
            named = {"Filters": [{"Name": k, "Values": [v]} for k, v in filters.items()]}
        try:
            groups = await self._calls.ask("DescribeSecurityGroups", named, groups_of)
        except CloudError as error:
            if is_missing_group(error):
                return None
            raise
        # looked through here: what a dialect does not take as a filter is not sent
        ours = [one for one in groups if one.name == GROUP and (not vpc or one.vpc == vpc)]
        return next(iter(ours), None)

    async def _make(self, vpc: str) -> Group:
        parameters = {"GroupName": GROUP, "Description": DESCRIPTION}
        if vpc:
            parameters["VpcId"] = vpc
        group_id = ""
        try:
            group_id = await self._calls.ask("CreateSecurityGroup", parameters, group_id_of)
        except CloudError as error:
            if not is_duplicate(error):  # another script was faster
                raise
        with anyio.move_on_after(UNTIL_VISIBLE):
            while True:
                if group := await self._find(vpc):
                    return group
                await anyio.sleep(1)
        raise self._calls.tell.invalid(
            "CreateSecurityGroup",
            f"the group {GROUP} {group_id} was made, and is not there {UNTIL_VISIBLE:.0f} s later",
            "try again",
        )

    async def _add(self, group: Group, rule: Rule) -> None:
        operation = "AuthorizeSecurityGroupIngress"
        if self._dialect.groups == "flat":
            parameters = _flat(group, rule)
        else:
            by_id = "GroupId" in self._dialect.accepts[operation]
            parameters = _nested(group, rule, by_id=by_id)
        deadline = time.monotonic() + UNTIL_VISIBLE
        while True:
            try:
                # an answer of `false` means that the rule is there (section 7, rule 9)
                await self._calls.ask(operation, parameters, truth_of)
            except CloudError as error:
                if is_duplicate(error):
                    return
                if not is_missing_group(error) or time.monotonic() > deadline:
                    raise
                await anyio.sleep(1)
            else:
                return


def _flat(group: Group, rule: Rule) -> dict[str, Any]:
    """A rule as Eucalyptus 3.2 wants it (section 4)."""
    parameters: dict[str, Any] = {"GroupName": group.name, "IpProtocol": rule.protocol}
    parameters |= {"FromPort": rule.first, "ToPort": rule.last}
    if rule.cidr:
        return {**parameters, "CidrIp": rule.cidr}
    parameters["SourceSecurityGroupName"] = group.name
    if group.owner:
        parameters["SourceSecurityGroupOwnerId"] = group.owner
    return parameters


def _nested(group: Group, rule: Rule, *, by_id: bool) -> dict[str, Any]:
    """A rule as one entry with one source, which is all that some clouds read (section 7, 9)."""
    permission: dict[str, Any] = {"IpProtocol": rule.protocol}
    if rule.first is not None:
        permission |= {"FromPort": rule.first, "ToPort": rule.last}
    if not rule.cidr:
        source = {"GroupId": group.id} if by_id else {"GroupName": group.name}
        permission["UserIdGroupPairs"] = [source]
    elif ":" in rule.cidr:
        permission["Ipv6Ranges"] = [{"CidrIpv6": rule.cidr}]
    else:
        permission["IpRanges"] = [{"CidrIp": rule.cidr}]
    # both names: only the one that the dialect accepts is sent
    return {"GroupId": group.id, "GroupName": group.name, "IpPermissions": [permission]}
