"""Instances as replies have them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from precip_async.lab.account import OWNER, STATE_CODES
from precip_async.lab.tagging import tag_set
from precip_async.lab.wishes import root_device

if TYPE_CHECKING:
    from collections.abc import Iterable

    from precip_async.lab.account import Account, Instance, Reservation

__all__ = ["change_of", "moment", "reservation_of", "reservations_of"]


def moment(at: float) -> str:
    """A moment as replies have it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def reservation_of(
    account: Account, reservation: Reservation, instances: Iterable[Instance]
) -> dict[str, Any]:
    """One launch, with some of its instances."""
    return {
        "reservationId": reservation.id,
        "ownerId": OWNER,
        "groupSet": [],
        "instancesSet": [_instance(account, one) for one in instances],
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


def _instance(account: Account, one: Instance) -> dict[str, Any]:
    state = one.state(account.dialect)
    up = state in ("running", "shutting-down") and one.ran is not None
    address = one.address if up else ""
    elastic = next((a.public for a in account.addresses.values() if a.instance is one), "")
    public = elastic or (address if one.public else "")
    code, why = one.dead
    groups = [{"groupId": group.id, "groupName": group.name} for group in one.groups]
    stopped = state in ("shutting-down", "terminated")
    return {
        "instanceId": one.id,
        "imageId": one.image_id,
        "instanceState": _state(state),
        # A name would resolve to nothing here; accounts whose network has none show it empty.
        "privateDnsName": f"ip-{address.replace('.', '-')}.ec2.internal" if address else "",
        "dnsName": "",
        "reason": f"{why} ({moment(account.now())[:19]} GMT)" if stopped else "",
        "keyName": one.key_name or None,
        "amiLaunchIndex": one.index,
        "productCodes": [],
        "instanceType": one.kind,
        "launchTime": moment(one.launched_at),
        "placement": {
            "availabilityZone": one.zone,
            "groupName": "",
            "tenancy": "default",
        },
        "monitoring": {"state": "disabled"},
        "subnetId": None if state == "terminated" else account.subnets[one.zone],
        "vpcId": None if state == "terminated" else account.vpc,
        "privateIpAddress": address or None,
        "ipAddress": public or None,
        "sourceDestCheck": True,
        "groupSet": [] if state == "terminated" else groups,
        "stateReason": {"code": code, "message": f"{code}: {why}"} if stopped else None,
        "architecture": "x86_64",
        "rootDeviceType": "ebs",
        "rootDeviceName": root_device(one.image_id),
        "blockDeviceMapping": [
            {
                "deviceName": name,
                "ebs": {
                    "volumeId": f"vol-{one.id[2:]}",
                    "status": "attached" if up else "attaching",
                    "attachTime": moment(one.launched_at),
                    "deleteOnTermination": True,
                },
            }
            for name in one.disks
            if state != "terminated"
        ],
        "instanceLifecycle": "spot" if one.spot else None,
        "virtualizationType": "hvm",
        "clientToken": one.reservation.token,
        "tagSet": tag_set(one.tags),
        "hypervisor": "xen",
        "ebsOptimized": False,
        "metadataOptions": {"state": "applied", "httpTokens": one.imds, "httpEndpoint": "enabled"},
    }
