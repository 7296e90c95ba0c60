"""What there is by itself: regions, zones, networks, images. And the tags of everything."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from precip_async.lab.account import OWNER
from precip_async.lab.paging import filtered, page
from precip_async.lab.refusals import Refusal
from precip_async.lab.tagging import MAX_TAGS, read_tags
from precip_async.lab.wishes import IMAGE_SIZE, image_exists, root_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precip_async.lab.account import Account
    from precip_async.lab.parameters import Parameters

__all__ = [
    "create_tags",
    "describe_images",
    "describe_regions",
    "describe_subnets",
    "describe_tags",
    "describe_vpcs",
    "describe_zones",
]

_KINDS = {"i": "instance", "sg": "security-group", "key": "key-pair", "eipalloc": "elastic-ip"}


async def describe_images(account: Account, p: Parameters) -> dict[str, Any]:
    """The named images; all, where the scenario says which there are."""
    ids = p.texts("ImageId")
    for one in ids:
        if not re.fullmatch(account.dialect.image, one):
            raise Refusal("InvalidAMIID.Malformed", f'Invalid id: "{one}"', subject=one)
        if not image_exists(account, one):
            raise Refusal(
                "InvalidAMIID.NotFound", f"The image id '[{one}]' does not exist", subject=one
            )
    shown = ids or sorted(account.scenario.images or ())
    columns = {"image-id": lambda one: [one], "state": lambda _: ["available"]}
    shown = filtered(shown, p, columns, lambda _: {}, honoured=account.dialect.filters)
    return {"imagesSet": [_image(account, one) for one in shown]}


async def describe_regions(account: Account, p: Parameters) -> dict[str, Any]:
    """The one region."""
    names = p.texts("RegionName")
    for name in names:
        if name != account.region:
            raise Refusal("InvalidParameterValue", f"Invalid region: {name}", subject=name)
    if account.dialect.shape == "nimbus":
        return {"regionInfo": []}  # §5 "Actions"
    endpoint = f"ec2.{account.region}.amazonaws.com"
    return {"regionInfo": [{"regionName": account.region, "regionEndpoint": endpoint}]}


async def describe_zones(account: Account, p: Parameters) -> dict[str, Any]:
    """The region's zones."""
    names = p.texts("ZoneName")
    for name in names:
        if name not in account.zones:
            raise Refusal(
                "InvalidParameterValue", f"Invalid availability zone: [{name}]", subject=name
            )
    columns = {
        "zone-name": lambda zone: [zone],
        "region-name": lambda _: [account.region],
        "state": lambda _: ["available"],
    }
    zones = filtered(
        names or account.zones, p, columns, lambda _: {}, honoured=account.dialect.filters
    )
    return {
        "availabilityZoneInfo": [
            {"zoneName": zone, "zoneState": "available", "regionName": account.region}
            for zone in zones
        ]
    }


async def describe_vpcs(account: Account, p: Parameters) -> dict[str, Any]:
    """The network, where there is one by default."""
    columns = {
        "is-default": lambda _: ["true"],
        "isDefault": lambda _: ["true"],
        "vpc-id": lambda one: [one],
        "state": lambda _: ["available"],
    }
    there = [account.vpc] if account.has_vpc else []
    for one in p.texts("VpcId"):
        if one not in there:
            raise Refusal("InvalidVpcID.NotFound", f"The vpc ID '{one}' does not exist")
    found = filtered(there, p, columns, lambda _: {})
    return {
        "vpcSet": [
            {
                "vpcId": one,
                "state": "available",
                "cidrBlock": "172.31.0.0/16",
                "isDefault": True,
                "ownerId": OWNER,
            }
            for one in found
        ]
    }


async def describe_subnets(account: Account, p: Parameters) -> dict[str, Any]:
    """A network's part in each zone."""
    columns = {
        "availability-zone": lambda one: [one[0]],
        "availabilityZone": lambda one: [one[0]],
        "default-for-az": lambda _: ["true"],
        "defaultForAz": lambda _: ["true"],
        "subnet-id": lambda one: [one[1]],
        "vpc-id": lambda _: [account.vpc],
        "state": lambda _: ["available"],
    }
    there = list(account.subnets.items()) if account.has_vpc else []
    if wanted := p.texts("SubnetId"):
        for one in wanted:
            if all(one != subnet for _, subnet in there):
                raise Refusal("InvalidSubnetID.NotFound", f"The subnet ID '{one}' does not exist")
        there = [one for one in there if one[1] in wanted]
    found = filtered(there, p, columns, lambda _: {})
    return {
        "subnetSet": [
            {
                "subnetId": subnet,
                "state": "available",
                "vpcId": account.vpc,
                "cidrBlock": f"172.31.{16 * account.zones.index(zone)}.0/20",
                "availableIpAddressCount": 4091,
                "availabilityZone": zone,
                "defaultForAz": True,
                "mapPublicIpOnLaunch": True,
                "ownerId": OWNER,
            }
            for zone, subnet in found
        ]
    }


async def create_tags(account: Account, p: Parameters) -> dict[str, Any]:
    """Give resources tags, all of them or, if one isn't there, none."""
    tags = read_tags(p.parts("Tag"), account.dialect)
    tagged = [_tags_of(account, one) for one in p.texts("ResourceId")]
    if not tags or not tagged:
        raise Refusal("MissingParameter", "The request must contain the parameters ResourceId, Tag")
    for theirs in tagged:
        if len(theirs | tags) > MAX_TAGS:
            raise Refusal(
                "TagLimitExceeded", f"The maximum number of tags for a resource is {MAX_TAGS}"
            )
    for theirs in tagged:
        theirs.update(tags)
    return {"return": True}


async def describe_tags(account: Account, p: Parameters) -> dict[str, Any]:
    """What tags there are on anything."""
    columns = {
        "resource-id": lambda one: [one[0]],
        "resource-type": lambda one: [_kind(one[0])],
        "key": lambda one: [one[1]],
        "value": lambda one: [one[2]],
    }
    found = filtered(sorted(_all_tags(account)), p, columns, lambda one: {one[1]: one[2]})
    found, after = page(found, p, lambda one: f"{one[0]} {one[1]}")
    return {
        "tagSet": [
            {"resourceId": one, "resourceType": _kind(one), "key": key, "value": value}
            for one, key, value in found
        ],
        "nextToken": after,
    }


def _tags_of(account: Account, resource: str) -> dict[str, str]:
    if _kind(resource) == "instance":
        instance = account.instance(resource)
        if instance is not None:
            return instance.tags
        raise Refusal(
            "InvalidInstanceID.NotFound",
            f"The instance ID '{resource}' does not exist",
            subject=resource,
        )
    if account.dialect.tagged == "instances":
        raise Refusal(
            "InvalidParameterValue",
            f"Only instances can be tagged, not {resource}",
            subject=resource,
        )
    found = next((tags for one, tags in _things(account) if one == resource), None)
    if found is None:
        raise Refusal("InvalidID", f"The ID '{resource}' is not valid", subject=resource)
    return found


def _all_tags(account: Account) -> Iterator[tuple[str, str, str]]:
    things = [*((one.id, one.tags) for one in account.known()), *_things(account)]
    for resource, tags in things:
        for key, value in tags.items():
            yield resource, key, value


def _things(account: Account) -> Iterator[tuple[str, dict[str, str]]]:
    """The ids and tags of all that are no instances."""
    for group in account.groups.values():
        yield group.id, group.tags
    for pair in account.keys.values():
        yield pair.id, pair.tags
    for address in account.addresses.values():
        yield address.id, address.tags


def _kind(resource: str) -> str:
    return _KINDS.get(resource.partition("-")[0], "")


def _image(account: Account, image_id: str) -> dict[str, Any]:
    root = root_device(account.dialect, image_id)
    return {
        "imageId": image_id,
        "imageLocation": f"lab/{image_id}",
        "imageState": "available",
        "imageOwnerId": OWNER,
        "isPublic": True,
        "architecture": "x86_64",
        "imageType": "machine",
        "name": f"lab-{image_id}",
        "rootDeviceType": "ebs" if account.dialect.vpc else "instance-store",
        "rootDeviceName": root,
        "blockDeviceMapping": [_root_volume(image_id, root)] if account.dialect.vpc else [],
        "virtualizationType": "hvm",
        "hypervisor": "xen",
    }


def _root_volume(image_id: str, name: str) -> dict[str, Any]:
    return {
        "deviceName": name,
        "ebs": {
            "snapshotId": f"snap-{image_id.removeprefix('ami-')}",
            "volumeSize": IMAGE_SIZE,
            "deleteOnTermination": True,
            "volumeType": "gp2",
            "encrypted": False,
        },
    }
