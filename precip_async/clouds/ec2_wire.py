"""Our values to EC2's parameters, and EC2's instances to our machines. Pure."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

from precip_async.clouds.base import Machine
from precip_async.clouds.ec2_user_data import checked_size, cloud_config, merged
from precip_async.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from precip_async.clouds.base import LaunchRequest
    from precip_async.clouds.dialects import Dialect
    from precip_async.clouds.ec2_documents import Image, Seen

__all__ = [
    "MARK",
    "Placing",
    "checked_options",
    "coerced",
    "decoded",
    "expiry",
    "launch_parameters",
    "machine_of",
    "marks",
    "root_device",
]

MARK: Final = "precip:"  # how the keys of our tags begin
MOST_TAGS: Final = 50  # section 6, "tags"
LONGEST_KEY: Final = 127  # characters: section 6 for Amazon, sections 3 and 4 for others
LONGEST_VALUE: Final = 255

# Parameters of a launch that are ours to set, and what to use instead.
_OURS: Final = {
    "ClientToken": "it is how a launch is found again",
    "DryRun": "some clouds ignore it, and launch",
    "ImageId": "use image_id",
    "InstanceType": "use instance_type",
    "KeyName": "the experiment logs in with its own key: see ssh_key=",
    "MaxCount": "use count",
    "MinCount": "use min_count",
    "UserData": "use user_data",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """How and where a launch is to be placed, beside what its request says.

    Attributes:
        experiment: The experiment's name.
        owner: The account id of the home.
        key_name: The key pair.
        public_key: Our key, for user data; empty: root needs no help to log in.
        group: The security group, by id or by name as the dialect has it; empty: none.
        group_is_id: Which of the two.
        zone: The availability zone; ``None``: the cloud's choice.
        image: What is known of the image, where the root volume is to grow.
        expires: When the instances should be gone, as text; empty: never.
        lifetime: Seconds after which an instance ends by itself; ``None``: never.
    """

    experiment: str
    owner: str
    key_name: str
    public_key: str = ""
    group: str = ""
    group_is_id: bool = False
    zone: str | None = None
    image: Image | None = None
    expires: str = ""
    lifetime: float | None = None


def checked_options(dialect: Dialect, options: Mapping[str, Any]) -> None:
    """Raise `InvalidArgument` where `options` are ours to set, or the cloud knows no such thing."""
    for name in options:
        if why := _OURS.get(name):
            raise InvalidArgument(f"options: {name} can't be given; {why}")
    allowed = dialect.accepts["RunInstances"]
    if unknown := sorted(set(options) - allowed):
        raise InvalidArgument(
            f"options: {dialect.title} has no launch parameter {', '.join(unknown)}; "
            f"it has {', '.join(sorted(allowed - set(_OURS)))}"
        )


def launch_parameters(dialect: Dialect, request: LaunchRequest, placing: Placing) -> dict[str, Any]:
    """What `request` is for RunInstances, but for counts and token; only what the cloud accepts.

    Raises:
        InvalidArgument: Something asked for can't be had, or is too long.
    """
    options = dict(request.options)
    checked_options(dialect, options)
    ending = options.get("InstanceInitiatedShutdownBehavior", "terminate")
    if placing.lifetime and ending != "terminate":
        raise InvalidArgument(
            f"options: InstanceInitiatedShutdownBehavior={ending} and max_lifetime= can't be both: "
            "the instance would only be stopped when its time is up"
        )
    given_tags = options.pop("TagSpecifications", [])
    parameters: dict[str, Any] = {
        "ImageId": request.image_id,
        "InstanceType": request.instance_type,
        "KeyName": placing.key_name,
        "InstanceInitiatedShutdownBehavior": "terminate",
        # the experiment's keys stay out of reach of programs that can be made to fetch a URL
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
        "TagSpecifications": _tag_specifications(marks(dialect, request, placing), given_tags),
    }
    if placing.zone:
        parameters["Placement"] = {"AvailabilityZone": placing.zone}
    if placing.group:
        name = "SecurityGroupIds" if placing.group_is_id else "SecurityGroups"
        parameters[name] = [placing.group]
    if user_data := _user_data(dialect, request, placing):
        parameters["UserData"] = user_data
    if request.ebs_size is not None:
        parameters["BlockDeviceMappings"] = _volumes(
            root_device(dialect, placing.image, request.image_id),
            request.ebs_size,
            options.pop("BlockDeviceMappings", []),
        )
    for name in ("Placement", "MetadataOptions"):
        if isinstance(options.get(name), Mapping) and name in parameters:
            parameters[name] |= options.pop(name)
    _place_group(parameters, options)
    return dialect.allowed("RunInstances", {**parameters, **options})


def marks(dialect: Dialect, request: LaunchRequest, placing: Placing) -> dict[str, str]:
    """The tags by which instances of `request` can be told to be ours.

    Raises:
        InvalidArgument: They would be too many, or too long.
    """
    tags = {
        "Name": placing.experiment,
        f"{MARK}experiment": placing.experiment,
        f"{MARK}owner": placing.owner,
        f"{MARK}token": request.token,
        f"{MARK}first": str(request.ordinal),
    }
    if placing.expires:
        tags[f"{MARK}expires"] = placing.expires
    tags |= {f"{MARK}tag:{tag}": "yes" for tag in request.tags}
    if not dialect.literal:
        tags = {key: coerced(value) for key, value in tags.items()}
    if dialect.mark == "tags" or dialect.tags_after:
        if len(tags) > MOST_TAGS:
            most = MOST_TAGS - len(tags) + len(request.tags)
            raise InvalidArgument(f"{len(request.tags)} tags are too many: {most} can be marked")
        for key, value in tags.items():
            if len(key) > LONGEST_KEY or len(value) > LONGEST_VALUE:
                raise InvalidArgument(f"too long for a tag of {dialect.title}: {key}={value}")
    return tags


def expiry(end: datetime) -> str:
    """The value of the mark by which it is known when an instance ends by itself."""
    return end.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def coerced(value: str) -> str:
    """`value`, changed where nova and ec2-api would take it for a number, a bool or nothing."""
    return f"n{value}" if _is_mangled(value) else value


def decoded(dialect: Dialect, value: str) -> str:
    """A value of ours as it was before `coerced`."""
    changed = not dialect.literal and value[:1] == "n" and _is_mangled(value[1:])
    return value[1:] if changed else value


def _is_mangled(value: str) -> bool:
    """Whether `value` arrives as something else than text: section 2, "Parameter coercion"."""
    if value.lower() in ("true", "false", "none"):
        return True
    readers: tuple[Callable[[str], object], ...] = (complex, lambda text: int(text, 0))
    for read in readers:
        with contextlib.suppress(ValueError):
            read(value)
            return True
    return False


def _tag_specifications(ours: dict[str, str], given: Any) -> list[dict[str, Any]]:
    """Our tags for the instances, and what the user wants tagged beside them."""
    specifications: list[dict[str, Any]] = []
    tags = [{"Key": key, "Value": value} for key, value in ours.items()]
    for one in given if isinstance(given, Sequence) else [given]:
        if not isinstance(one, Mapping) or one.get("ResourceType") != "instance":
            specifications.append(one)  # botocore says what is wrong with it, if anything
            continue
        for tag in one.get("Tags", ()):
            if tag.get("Key") in ours:
                raise InvalidArgument(f"options: the tag {tag['Key']} is ours to set")
            tags.append(dict(tag))
    return [{"ResourceType": "instance", "Tags": tags}, *specifications]


def _user_data(dialect: Dialect, request: LaunchRequest, placing: Placing) -> bytes:
    given = request.user_data
    ours = cloud_config(placing.public_key, placing.lifetime) if dialect.cloud_init else ""
    if ours:
        data = merged(given, ours)
    else:
        data = given.encode() if isinstance(given, str) else given or b""
    return checked_size(data, dialect.user_data)


def root_device(dialect: Dialect, image: Image | None, image_id: str) -> str:
    """The root device of `image`.

    Raises:
        InvalidArgument: It has none that could grow.
    """
    if "BlockDeviceMappings" not in dialect.accepts["RunInstances"]:
        raise InvalidArgument(f"ebs_size: {dialect.title} has no volumes")
    if image is None or not image.root_device:
        raise InvalidArgument(f"ebs_size: {dialect.title} does not say what {image_id} boots from")
    if image.root_type not in ("ebs", ""):
        raise InvalidArgument(
            f"ebs_size: {image_id} boots from an {image.root_type}, which can't grow; "
            "take an image that boots from a volume, or a larger instance_type"
        )
    return image.root_device


def _volumes(device: str, size: int, given: Any) -> list[Any]:
    ours = {"DeviceName": device, "Ebs": {"VolumeSize": size, "DeleteOnTermination": True}}
    others = []
    for one in given if isinstance(given, Sequence) else [given]:
        if isinstance(one, Mapping) and one.get("DeviceName") == device:
            ours["Ebs"] = {**one.get("Ebs", {}), **ours["Ebs"]}  # type: ignore[dict-item] # a str
        else:
            others.append(one)
    return [ours, *others]


def _place_group(parameters: dict[str, Any], options: dict[str, Any]) -> None:
    """Let the user's groups take the place of ours, and put ours where interfaces are given."""
    ours = parameters.get("SecurityGroupIds")
    if "SecurityGroupIds" in options or "SecurityGroups" in options:
        parameters.pop("SecurityGroupIds", None)
        parameters.pop("SecurityGroups", None)
    if interfaces := options.get("NetworkInterfaces"):
        # EC2 refuses groups beside interfaces: they belong to the interfaces then
        parameters.pop("SecurityGroupIds", None)
        parameters.pop("SecurityGroups", None)
        options["NetworkInterfaces"] = [
            {**one, "Groups": ours}
            if ours and "Groups" not in one and "NetworkInterfaceId" not in one
            else one
            for one in interfaces
        ]


# -- machines ------------------------------------------------------------------------------------


def machine_of(
    dialect: Dialect, seen: Seen, *, public: str | None = None, note: str = ""
) -> Machine:
    """What the cloud says of an instance, as a value.

    Args:
        dialect: Which cloud.
        seen: What it says.
        public: The elastic address that it has, where that is known otherwise.
        note: What to say of it where the cloud says nothing.
    """
    state = dialect.states.get(seen.state, "pending")
    private = _address(seen.private_ip) or _address(seen.private_dns)
    gone = state in ("terminated", "shutting-down")
    return Machine(
        id=seen.id,
        state=state,
        public_address=None if gone else public or _public(dialect, seen, private),
        private_address=None if gone else private or (dialect.dns and seen.private_dns) or None,
        reason=seen.reason or note or (f"it is {seen.state!r}" if state == "failed" else ""),
    )


def _public(dialect: Dialect, seen: Seen, private: str | None) -> str | None:
    # Addresses come before names, which need not resolve (section 4, "Addresses") and may be the
    # host's own name (section 2, "Addresses").
    address = _address(seen.ip) or _address(seen.dns)
    if address is None:
        return (seen.dns or None) if dialect.dns else None
    if address != private:
        return address
    if dialect.elastic:
        # Section 2: Essex to Grizzly show the private address where there is no public one. On a
        # network without elastic addresses that private address may be a public one.
        return address if ipaddress.ip_address(address).is_global else None
    # Section 4: while pending, Eucalyptus shows the private one until the public one is assigned.
    return None if dialect.late_public and seen.state == "pending" else address


def _address(text: str) -> str | None:
    """`text`, where it is an address that something can have."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # a name, "[unknown]" (section 5, "Addresses"), or nothing
        return None
    return None if address.is_unspecified else str(address)
