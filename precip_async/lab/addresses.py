"""Elastic addresses: taken, put before an instance, taken away, given back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from precip_async.lab.account import Address
from precip_async.lab.forwarding import Forwarder
from precip_async.lab.paging import filtered
from precip_async.lab.refusals import Refusal
from precip_async.lab.tagging import read_specifications, tag_set

if TYPE_CHECKING:
    from precip_async.lab.account import Account, Instance
    from precip_async.lab.parameters import Parameters

__all__ = [
    "allocate_address",
    "associate_address",
    "describe_addresses",
    "disassociate_address",
    "release_address",
]


async def allocate_address(account: Account, p: Parameters) -> dict[str, Any]:
    """Take an address."""
    domain = p.text("Domain", account.dialect.domain)
    if domain not in ("vpc", "standard", ""):
        raise Refusal("InvalidParameterValue", f"Value ({domain}) for Domain is invalid.")
    if len(account.addresses) >= account.dialect.max_addresses:
        raise Refusal("AddressLimitExceeded", "The maximum number of addresses has been reached.")
    tags = read_specifications(p, account.dialect, "elastic-ip")
    try:
        forwarder = Forwarder(account.machines.ssh_port)
    except OSError as error:
        raise Refusal("AddressLimitExceeded", f"This computer has no more: {error}") from error
    address = Address(
        id=account.new_id("eipalloc"),
        public=forwarder.address,
        forwarder=forwarder,
        domain=domain,
        tags=tags,
    )
    account.addresses[address.public] = address
    return _known_as(address)


async def describe_addresses(account: Account, p: Parameters) -> dict[str, Any]:
    """What addresses there are."""
    named = [_named(account, public=one) for one in p.texts("PublicIp")]
    named += [_named(account, allocation=one) for one in p.texts("AllocationId")]
    columns = {
        "public-ip": lambda one: [one.public],
        "allocation-id": lambda one: [one.id],
        "instance-id": lambda one: [one.instance.id] if one.instance else [],
        "domain": lambda one: [one.domain],
    }
    found = filtered(
        named or account.addresses.values(),
        p,
        columns,
        lambda one: one.tags,
        honoured=account.dialect.filters,
    )
    return {
        "addressesSet": [
            {
                **_known_as(one),
                # §2 "Floating IP flow": "instanceId empty when free".
                "instanceId": one.instance.id if one.instance else "",
                "associationId": one.association or None,
                "tagSet": tag_set(one.tags),
            }
            for one in found
        ]
    }


async def associate_address(account: Account, p: Parameters) -> dict[str, Any]:
    """Put an address before an instance."""
    address = _wanted(account, p)
    instance_id = p.required("InstanceId")
    instance = account.instance(instance_id)
    if instance is None:
        raise Refusal(
            "InvalidInstanceID.NotFound",
            f"The instance ID '{instance_id}' does not exist",
            subject=instance_id,
        )
    await account.look()
    if instance.booted is None or instance.ended is not None or instance.ending:
        raise Refusal("IncorrectInstanceState", f"The instance '{instance.id}' is not running.")
    if address.instance not in (None, instance) and not p.flag("AllowReassociation"):
        raise Refusal(
            "Resource.AlreadyAssociated",
            f"resource {address.id} is already associated with associate-id {address.association}",
            subject=address.public,
        )
    for other in account.addresses.values():
        if other.instance is instance and other is not address:  # what was before it leads nowhere
            other.instance, other.association = None, ""
            await other.forwarder.lead_nowhere()
    address.instance, address.association = instance, ""
    if address.domain == "vpc":
        address.association = account.new_id("eipassoc")
    await address.forwarder.lead_to(lambda: _behind(address))
    return {"return": True, "associationId": address.association or None}


async def disassociate_address(account: Account, p: Parameters) -> dict[str, Any]:
    """Take an address away from its instance."""
    association, public = p.text("AssociationId"), p.text("PublicIp")
    found = [
        one
        for one in account.addresses.values()
        if one.instance
        and (one.public == public or (association and one.association == association))
    ]
    if not found:
        raise Refusal(
            "InvalidAssociationID.NotFound",
            f"The association ID '{association or public}' does not exist",
            subject=association or public,
        )
    found[0].instance, found[0].association = None, ""
    await found[0].forwarder.lead_nowhere()
    return {"return": True}


async def release_address(account: Account, p: Parameters) -> dict[str, Any]:
    """Give an address back."""
    address = _wanted(account, p)
    if address.instance is not None:
        raise Refusal(
            "InvalidIPAddress.InUse",
            f"Address {address.public} is in use.",
            subject=address.public,
        )
    account.addresses.pop(address.public, None)
    await address.forwarder.aclose()
    return {"return": True}


def _known_as(address: Address) -> dict[str, Any]:
    """What an address is called: those of a network have ids as well."""
    return {
        "publicIp": address.public,
        "domain": address.domain or None,
        "allocationId": address.id if address.domain == "vpc" else None,
    }


def _behind(address: Address) -> str:
    instance: Instance | None = address.instance
    return instance.address if instance is not None and instance.ended is None else ""


def _wanted(account: Account, p: Parameters) -> Address:
    allocation, public = p.text("AllocationId"), p.text("PublicIp")
    if not allocation and not public:
        raise Refusal("MissingParameter", "Either public IP or allocation id must be specified")
    if allocation and public:
        raise Refusal(
            "InvalidParameterCombination",
            "You may specify public IP or allocation id, but not both",
        )
    address = _named(account, public=public, allocation=allocation)
    if public and address.domain == "vpc" and account.dialect.shape == "ec2-api":
        # §3 "Addresses": they are spoken of by their ids, and never by both.
        raise Refusal("InvalidParameterCombination", "You must specify an allocation id")
    return address


def _named(account: Account, *, public: str = "", allocation: str = "") -> Address:
    for one in account.addresses.values():
        if (public and one.public == public) or (allocation and one.id == allocation):
            return one
    if allocation:
        raise Refusal(
            "InvalidAllocationID.NotFound",
            f"The allocation ID '{allocation}' does not exist",
            subject=allocation,
        )
    raise Refusal("InvalidAddress.NotFound", f"Address '{public}' not found.", subject=public)
