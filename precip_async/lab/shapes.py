"""Instances as replies have them, in each cloud's way.

A section (§) is one of the collection of facts; see `dialects`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from precip_async.lab.account import OWNER
from precip_async.lab.tagging import tag_set
from precip_async.lab.wishes import root_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from precip_async.lab.account import Account, Instance, Reservation

__all__ = ["change_of", "moment", "reservation_of", "reservations_of"]

#: §2 "States": what is none of Amazon's has the code 0. §5 "States": `unset` is -1.
STATE_CODES: Final = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopped": 80,
    "error": 0,
    "unset": -1,
}
NOWHERE: Final = "0.0.0.0"  # noqa: S104 - nothing is bound to it; §4 "Addresses"


def moment(at: float) -> str:
    """A moment as replies have it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def reservation_of(
    account: Account, reservation: Reservation, instances: Iterable[Instance]
) -> dict[str, Any]:
    """One launch, with some of its instances."""
    shape = _SHAPES[account.dialect.shape]
    groups = reservation.instances[0].groups if reservation.instances else ()
    by_name = [{"groupId": group.name} for group in groups]
    return {
        "reservationId": reservation.id,
        "ownerId": OWNER,
        "groupSet": [] if account.dialect.group_ids else by_name or [{"groupId": "default"}],
        "instancesSet": [shape(account, one) for one in instances],
    }


def reservations_of(account: Account, instances: Iterable[Instance]) -> list[dict[str, Any]]:
    """Instances, by the launches they are of."""
    launches: dict[str, list[Instance]] = {}
    for one in instances:
        launches.setdefault(one.reservation.id, []).append(one)
    return [reservation_of(account, some[0].reservation, some) for some in launches.values()]


def change_of(account: Account, one: Instance, before: str) -> dict[str, Any]:
    """What a call did to an instance's state."""
    now = one.state(account.dialect)
    return {"instanceId": one.id, "currentState": _state(now), "previousState": _state(before)}


def _state(name: str) -> dict[str, Any]:
    return {"code": STATE_CODES[name], "name": name}


def _common(account: Account, one: Instance) -> dict[str, Any]:
    """What all clouds say, and say alike: the elements of §1.7."""
    return {
        "instanceId": one.id,
        "imageId": one.image_id,
        "instanceState": _state(one.state(account.dialect)),
        "reason": _reason(account, one),
        "keyName": one.key_name or None,
        "amiLaunchIndex": one.index,
        "instanceType": one.kind,
        "launchTime": moment(one.launched_at),
        "placement": {"availabilityZone": one.zone},
    }


def _reason(account: Account, one: Instance) -> str:
    # §1.7 "reason"; §4 "Describe/Terminate" and §5 "States" have it of failed boots, its words [K]
    if one.state(account.dialect) not in ("shutting-down", "terminated") or not one.dead[1]:
        return ""
    return f"{one.dead[1]} ({moment(account.now())[:19]} GMT)"


def _address(account: Account, one: Instance) -> str:
    """Where its machine is, for as long as the cloud says that it is anywhere."""
    there = one.booted is not None and one.ended is None and not one.failed
    if account.dialect.addressed == "launch":
        there = one.ended is None
    return one.address if there else ""


def _elastic(account: Account, one: Instance) -> str:
    return next((a.public for a in account.addresses.values() if a.instance is one), "")


def _disks(one: Instance, attached: str) -> list[dict[str, Any]]:
    return [
        {
            "deviceName": name,
            "ebs": {
                "volumeId": f"vol-{one.id[2:]}",
                "status": "attached",
                "attachTime": attached,
                "deleteOnTermination": True,
            },
        }
        for name in one.disks
    ]


def _amazon(account: Account, one: Instance) -> dict[str, Any]:
    # The elements are those of the API description (§6: BD), read as §1.7 has it.
    state = one.state(account.dialect)
    over = state == "terminated"
    address = _address(account, one)
    code, why = one.dead
    groups = [{"groupId": group.id, "groupName": group.name} for group in one.groups]
    return _common(account, one) | {
        # A name would resolve to nothing here; accounts whose network has none show it empty.
        "privateDnsName": f"ip-{address.replace('.', '-')}.ec2.internal" if address else "",
        "dnsName": "",
        "productCodes": [],
        "placement": {"availabilityZone": one.zone, "groupName": "", "tenancy": "default"},
        "monitoring": {"state": "disabled"},
        "subnetId": None if over else account.subnets[one.zone],
        "vpcId": None if over else account.vpc,
        "privateIpAddress": address or None,
        "ipAddress": _elastic(account, one) or (address if one.public else "") or None,
        "sourceDestCheck": True,
        "groupSet": [] if over else groups,
        "stateReason": {"code": code, "message": f"{code}: {why}"}
        if code and state in ("shutting-down", "terminated")
        else None,
        "architecture": "x86_64",
        "rootDeviceType": "ebs",
        "rootDeviceName": root_device(account.dialect, one.image_id),
        "blockDeviceMapping": [] if over else _disks(one, moment(one.launched_at)),
        "instanceLifecycle": "spot" if one.spot else None,
        "virtualizationType": "hvm",
        "clientToken": one.reservation.token,
        "tagSet": tag_set(one.tags),
        "hypervisor": "xen",
        "ebsOptimized": False,
        "metadataOptions": {
            "state": "applied",
            "httpTokens": one.imds.tokens,
            "httpPutResponseHopLimit": one.imds.hops,
            "httpEndpoint": one.imds.endpoint,
        },
    }


def _essex(account: Account, one: Instance) -> dict[str, Any]:
    # §2 "Addresses in DescribeInstances", the left column; "attachTime" is that of a real one of
    # 2012 (§1.8).
    fixed, floating = _address(account, one), _elastic(account, one)
    name = f"server-{one.ordinal + 1}"
    return _common(account, one) | {
        "dnsName": floating or name,
        "publicDnsName": floating,
        "privateDnsName": name,
        "ipAddress": floating or fixed,
        "privateIpAddress": fixed,
        "productCodesSet": [],
        "groupSet": [{"groupId": group.name} for group in one.groups],
        "rootDeviceType": "instance-store",
        "rootDeviceName": root_device(account.dialect, one.image_id),
        "blockDeviceMapping": _disks(one, "-") if one.mapped else [],
    }


def _nova(account: Account, one: Instance) -> dict[str, Any]:
    # §2 "Addresses in DescribeInstances", the right column, and what follows the table.
    fixed, floating = _address(account, one), _elastic(account, one)
    return _common(account, one) | {
        "dnsName": floating,
        "privateDnsName": f"server-{one.ordinal + 1}",
        "ipAddress": floating or None,
        "privateIpAddress": fixed,
        "productCodesSet": [],
        "groupSet": [{"groupId": group.name} for group in one.groups],
        "rootDeviceType": "instance-store",
        "rootDeviceName": root_device(account.dialect, one.image_id),
        "blockDeviceMapping": _disks(one, "") if one.mapped else [],
        "tagSet": tag_set(one.tags),
    }


def _ec2_api(account: Account, one: Instance) -> dict[str, Any]:
    # §3 "Addresses"; seen on a real one: the private address is empty at first.
    fixed, floating = _address(account, one), _elastic(account, one)
    return _common(account, one) | {
        "dnsName": floating,
        "privateDnsName": f"{one.reservation.id}-{one.index}",
        "ipAddress": floating or None,
        "privateIpAddress": fixed,
        "groupSet": [{"groupId": group.id, "groupName": group.name} for group in one.groups],
        "rootDeviceType": "instance-store",
        "rootDeviceName": root_device(account.dialect, one.image_id),
        "blockDeviceMapping": _disks(one, moment(one.launched_at)) if one.mapped else [],
        "clientToken": one.reservation.token or None,
        "tagSet": tag_set(one.tags),
    }


def _eucalyptus(account: Account, one: Instance) -> dict[str, Any]:
    # §4 "Addresses": 0.0.0.0 while pending, nothing after the end; names that resolve to nothing.
    private = _address(account, one) or NOWHERE
    public = _elastic(account, one) or private
    if account.dialect.group_ids and public != NOWHERE:
        name = f"euca-{public.replace('.', '-')}.eucalyptus.lab.invalid"
    else:
        name = public
    if one.ended is not None:
        private = public = name = ""
    code, why = one.dead
    return _common(account, one) | {
        "dnsName": name,
        "privateDnsName": private,
        "ipAddress": public,
        "privateIpAddress": private,
        "productCodes": [],
        "monitoring": {"state": "disabled"},
        "groupSet": [{"groupId": group.id, "groupName": group.name} for group in one.groups]
        if account.dialect.group_ids
        else None,
        "stateReason": {"code": code, "message": why} if one.ended is not None else None,
        "rootDeviceType": "instance-store",
        "rootDeviceName": root_device(account.dialect, one.image_id),
        "blockDeviceMapping": _disks(one, moment(one.launched_at)) if one.mapped else [],
        "clientToken": one.reservation.token or None,
        "tagSet": tag_set(one.tags),
    }


def _nimbus(account: Account, one: Instance) -> dict[str, Any]:
    # §5 "Addresses" and "Describe".
    address = _address(account, one) or None
    public = "[unknown]" if one.kind == "m1.private" else address
    return _common(account, one) | {
        "dnsName": public,
        "ipAddress": public,
        "privateDnsName": address,
        "privateIpAddress": address,
        "keyName": one.key_name or "[no key]",
        "amiLaunchIndex": 0,
        "groupSet": [{"groupId": "default"}],
    }


_SHAPES: Final[Mapping[str, Callable[[Account, Instance], dict[str, Any]]]] = {
    "amazon": _amazon,
    "essex": _essex,
    "nova": _nova,
    "ec2-api": _ec2_api,
    "eucalyptus": _eucalyptus,
    "nimbus": _nimbus,
}
