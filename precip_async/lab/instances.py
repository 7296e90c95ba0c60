"""DescribeInstances, TerminateInstances and GetConsoleOutput."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

from precip_async.lab.paging import filtered, page
from precip_async.lab.refusals import Refusal
from precip_async.lab.shapes import change_of, moment, reservations_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from precip_async.lab.account import Account, Instance
    from precip_async.lab.parameters import Parameters

__all__ = ["describe_instances", "get_console_output", "terminate_instances"]

_KEYS_BEGIN: Final = "-----BEGIN SSH HOST KEY KEYS-----"
_KEYS_END: Final = "-----END SSH HOST KEY KEYS-----"


async def describe_instances(account: Account, p: Parameters) -> dict[str, Any]:
    """What there is of instances: those named, or all; filtered, or by pages."""
    ids = p.texts("InstanceId")
    if ids and "MaxResults" in p and account.dialect.pages == "full":
        raise Refusal(
            "InvalidParameterCombination",
            "The parameter instancesSet cannot be used with the parameter maxResults",
        )
    await account.look()
    some = _named(account, ids, account.dialect.missing) if ids else account.known()
    some = filtered(
        some, p, _columns(account), lambda one: one.tags, honoured=account.dialect.filters
    )
    after = None
    if account.dialect.pages == "full":
        some, after = page(some, p, lambda one: one.id, clamps=account.dialect.clamps)
    return {"reservationSet": reservations_of(account, some), "nextToken": after}


async def terminate_instances(account: Account, p: Parameters) -> dict[str, Any]:
    """End the named instances: where one isn't there, none, or those before it, or the others."""
    ids = p.texts("InstanceId")
    if not ids:
        raise Refusal(
            "MissingParameter",
            "The request must contain the parameter InstanceId",
            subject="InstanceId",
        )
    await account.look()
    mode = account.dialect.ending
    changes = []
    for together in [[one] for one in ids] if mode == "one by one" else [ids]:
        some = _named(account, together, "omitted" if mode == "omitted" else "refused")
        before = {one.id: one.state(account.dialect) for one in some}
        await account.end(some)
        changes += [change_of(account, one, before[one.id]) for one in some]
    says = (
        bool(changes) if account.dialect.shape == "eucalyptus" else None
    )  # §4 "Describe/Terminate"
    return {"return": says, "instancesSet": changes}


async def get_console_output(account: Account, p: Parameters) -> dict[str, Any]:
    """What an instance's machine said, and its host keys as cloud-init prints them."""
    named = p.text("InstanceId") if p.is_text("InstanceId") else "".join(p.texts("InstanceId")[:1])
    if not named:
        raise Refusal("MissingParameter", "The request must contain the parameter InstanceId")
    [one] = _named(account, [named], "refused")
    await account.look()
    said = await account.machines.console(one.machine_id) if one.machine_id else ""
    if one.booted is not None and one.machine is not None:
        said = "\n".join([said.rstrip(), _KEYS_BEGIN, *one.machine.host_keys, _KEYS_END, ""])
    return {
        "instanceId": one.id,
        "timestamp": moment(account.now()),
        "output": base64.b64encode(said.encode()).decode(),
    }


def _named(account: Account, ids: Sequence[str], missing_ones: str) -> list[Instance]:
    """The instances of these ids, each once; those that aren't there ``"omitted"`` or not.

    Raises:
        Refusal: One isn't there.
    """
    found = {one: account.instance(one) for one in ids}
    missing = [one for one, instance in found.items() if instance is None]
    if missing and missing_ones == "refused":
        ids_do = (
            f"ID '{missing[0]}' does" if len(missing) == 1 else f"IDs '{', '.join(missing)}' do"
        )
        raise Refusal(
            "InvalidInstanceID.NotFound",
            f"The instance {ids_do} not exist",
            subject=", ".join(missing),
        )
    return list(dict.fromkeys(one for one in found.values() if one is not None))


def _columns(account: Account) -> Mapping[str, Callable[[Instance], Collection[str]]]:
    def state(one: Instance) -> str:
        return one.state(account.dialect)

    return {
        "availability-zone": lambda one: [one.zone],
        "client-token": lambda one: [one.reservation.token],
        "image-id": lambda one: [one.image_id],
        "instance-id": lambda one: [one.id],
        "instance-state-name": lambda one: [state(one)],
        "instance-type": lambda one: [one.kind],
        "instance.group-id": lambda one: [group.id for group in one.groups],
        "instance.group-name": lambda one: [group.name for group in one.groups],
        "ip-address": lambda one: [one.address],
        "key-name": lambda one: [one.key_name],
        "private-ip-address": lambda one: [one.address],
        "reservation-id": lambda one: [one.reservation.id],
        "subnet-id": lambda one: [account.subnets[one.zone]],
        "vpc-id": lambda _: [account.vpc],
    }
