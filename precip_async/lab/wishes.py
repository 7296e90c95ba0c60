"""What a launch asks for: read from its parameters, and refused where it can't be."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from precip_async.lab.account import Imds
from precip_async.lab.refusals import Refusal
from precip_async.lab.tagging import read_specifications

if TYPE_CHECKING:
    from precip_async.lab.account import Account, Group
    from precip_async.lab.dialects import Dialect
    from precip_async.lab.parameters import Parameters

__all__ = ["Wish", "check_token", "image_exists", "read_wish", "root_device"]

DEFAULT_TYPE: Final = "m1.small"  # §2 to §5 name it as the default; Amazon's is the same [K]
MAX_TOKEN: Final = 64  # §6 "ClientToken"
MOST_HOPS: Final = 64  # §6 "IMDSv2"
IMAGE_SIZE: Final = 8  # gibibytes of every image's root volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A launch that could be granted."""

    image_id: str
    kind: str
    least: int
    most: int
    zone: str
    key_name: str
    groups: tuple[Group, ...]
    public: bool
    user_data: bytes
    disk: int | None
    disks: tuple[str, ...]
    mapped: bool
    tags: dict[str, str] = field(default_factory=dict)
    spot: bool = False
    imds: Imds = field(default_factory=Imds)
    ends_off: bool = False


def read_wish(account: Account, p: Parameters) -> Wish:
    """What a launch asks for.

    Raises:
        Refusal: It can't be.
    """
    least, most = _counts(account, p)
    image_id = p.required("ImageId")
    _check_image(account, image_id)
    kind = p.text("InstanceType", DEFAULT_TYPE)
    if not re.fullmatch(account.dialect.types, kind):
        raise Refusal("type-not-found", f"Invalid value '{kind}' for InstanceType.", subject=kind)
    key_name = p.text("KeyName")
    if key_name and key_name not in account.keys:
        raise Refusal(
            "key-not-found-to-run", f"The key pair '{key_name}' does not exist", subject=key_name
        )
    interface = next(iter(p.parts("NetworkInterface")), None)
    disk, disks = _disks(account.dialect, p, image_id)
    ending = p.text("InstanceInitiatedShutdownBehavior", "stop")
    _check_choice("InstanceInitiatedShutdownBehavior", ending, ("stop", "terminate"))
    return Wish(
        image_id=image_id,
        kind=kind,
        least=least,
        most=most,
        zone=_zone(account, p, interface or p),
        key_name=key_name,
        groups=_groups(account, p, interface),
        public=interface is None
        or "AssociatePublicIpAddress" not in interface
        or interface.flag("AssociatePublicIpAddress"),
        user_data=_user_data(account, p.text("UserData")),
        disk=disk,
        disks=disks,
        mapped="BlockDeviceMapping" in p,
        tags=read_specifications(
            p, account.dialect, "instance", also=("volume", "network-interface")
        ),
        spot=p.part("InstanceMarketOptions").text("MarketType") == "spot",
        imds=_imds(p.part("MetadataOptions")),
        ends_off=ending == "terminate" and account.dialect.shutdown == "heeded",
    )


def image_exists(account: Account, image_id: str) -> bool:
    """Whether there is such an image."""
    images = account.scenario.images
    return bool(re.fullmatch(account.dialect.image, image_id)) and (
        images is None or image_id in images
    )


def root_device(dialect: Dialect, image_id: str) -> str:
    """What an image calls its root volume: with Amazon some one thing, some another (§6)."""
    return dialect.root_device or ("/dev/xvda" if int(image_id[-1], 16) % 2 else "/dev/sda1")


def _counts(account: Account, p: Parameters) -> tuple[int, int]:
    least, most = p.whole("MinCount"), p.whole("MaxCount")
    if least < 1 or most < 1:
        raise Refusal("InvalidParameterValue", "Value for MinCount and MaxCount must be at least 1")
    if account.dialect.shape == "essex":
        most = max(least, most)  # §2 "RunInstances": "Essex does not check"
    if least > most:
        raise Refusal(
            "InvalidParameterCombination", f"MinCount ({least}) is greater than MaxCount ({most})"
        )
    return least, most


def _check_image(account: Account, image_id: str) -> None:
    if not re.fullmatch(account.dialect.image, image_id):
        raise Refusal("InvalidAMIID.Malformed", f'Invalid id: "{image_id}"', subject=image_id)
    if not image_exists(account, image_id):
        raise Refusal(
            "InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist", subject=image_id
        )


def _imds(p: Parameters) -> Imds:
    tokens, endpoint = p.text("HttpTokens", "optional"), p.text("HttpEndpoint", "enabled")
    _check_choice("MetadataOptions.HttpTokens", tokens, ("optional", "required"))
    _check_choice("MetadataOptions.HttpEndpoint", endpoint, ("enabled", "disabled"))
    hops = p.whole("HttpPutResponseHopLimit", 1)
    if not 1 <= hops <= MOST_HOPS:
        raise Refusal(
            "InvalidParameterValue",
            f"Value ({hops}) for MetadataOptions.HttpPutResponseHopLimit is invalid.",
        )
    return Imds(tokens=tokens, endpoint=endpoint, hops=hops)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise Refusal("InvalidParameterValue", f"Value ({value}) for {name} is invalid.")


def _zone(account: Account, p: Parameters, interface: Parameters) -> str:
    zone = p.part("Placement").text("AvailabilityZone")
    subnet = interface.text("SubnetId") or p.text("SubnetId")
    if subnet:
        zones = {ours: zone for zone, ours in account.subnets.items()}
        if subnet not in zones:
            raise Refusal(
                "InvalidSubnetID.NotFound",
                f"The subnet ID '{subnet}' does not exist",
                subject=subnet,
            )
        return zones[subnet]
    if account.dialect.vpc and not account.has_vpc:
        # §6 "no default VPC"
        raise Refusal(
            "VPCIdNotSpecified",
            "No default VPC for this user. GroupName is only supported for EC2-Classic and default"
            " VPC.",
        )
    if zone and zone not in account.zones:
        raise Refusal("InvalidParameterValue", f"Invalid availability zone: [{zone}]", subject=zone)
    return zone or account.zones[account.launched % len(account.zones)]


def _groups(account: Account, p: Parameters, interface: Parameters | None) -> tuple[Group, ...]:
    names, ids = p.texts("SecurityGroup"), p.texts("SecurityGroupId")
    if interface is not None:
        if names or ids:
            raise Refusal(
                "InvalidParameterCombination",
                "Network interfaces and an instance-level security groups may not be specified on"
                " the same request",
            )
        ids = interface.texts("SecurityGroupId")
    if account.dialect.launch_groups == "none":
        return ()
    if ids and account.dialect.launch_groups == "names":  # ec2-api; the others take none anyway
        raise Refusal(
            "InvalidParameterCombination",
            "VPC security groups may not be used for a non-VPC launch",
        )
    return account.groups_of(ids=ids, names=names) or account.groups_of(names=["default"])


def _user_data(account: Account, text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise Refusal("InvalidParameterValue", "Invalid BASE64 encoding of user data.") from error
    if len(data) > account.dialect.user_data:
        raise Refusal(
            "InvalidParameterValue",
            f"User data is limited to {account.dialect.user_data} bytes",
        )
    return data


def _disks(dialect: Dialect, p: Parameters, image_id: str) -> tuple[int | None, tuple[str, ...]]:
    """The size of the root volume, where one is asked for, and the names of all volumes."""
    root = root_device(dialect, image_id)
    size, names = None, [root]
    for mapping in p.parts("BlockDeviceMapping"):
        name = mapping.required("DeviceName")
        wanted = mapping.part("Ebs").whole("VolumeSize", 0)
        if name not in names:  # any other name is a further disk
            names.append(name)
        elif wanted:
            if wanted < IMAGE_SIZE:
                raise Refusal(
                    "InvalidBlockDeviceMapping",
                    f"Volume of size {wanted}GB is smaller than snapshot, expect size >="
                    f" {IMAGE_SIZE}GB",
                )
            size = wanted
    return size, tuple(names)


def check_token(token: str) -> None:
    """Refuse what is no client token."""
    if len(token) > MAX_TOKEN or not token.isascii():
        raise Refusal(
            "InvalidParameterValue",
            f"ClientToken must be ASCII and at most {MAX_TOKEN} characters long.",
        )
