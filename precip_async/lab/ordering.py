"""What an instance's machine is to be: who gets in, what goes wrong, what its cloud-init finds."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from precip_async.clouds.ec2_switch import counting
from precip_async.clouds.local.faults import Orders
from precip_async.clouds.local.metadata import Metadata
from precip_async.lab.account import OWNER
from precip_async.lab.cloud_init import played, real
from precip_async.lab.keys import is_public_key
from precip_async.lab.user_data import read_lifetime, read_user_data

if TYPE_CHECKING:
    from precip_async.lab.account import Account, Instance

__all__ = ["order_of"]

#: Of a machine that is launched without one: a public key to which there is no private one.
NOBODYS_KEY: Final = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43}"
SSH: Final = 22  # what groups have to open, or where the machines' servers really listen


def order_of(account: Account, one: Instance, *, over: bool) -> Orders:
    """What to order for an instance.

    Args:
        account: Whose cloud it is.
        one: Which; it is told whether it is hopeless.
        over: Whether there is no room for it, in a cloud that lets it fail by itself.
    """
    scenario, dialect = account.scenario, account.dialect
    fault = "dies_booting" if over else scenario.fault(one.ordinal)
    one.hopeless = fault in ("never_boots", "dies_booting")
    if not fault and _is_shut(account, one):
        fault = "ssh_hangs"  # the nearest that a local machine has to a port nobody may reach
    late = scenario.seconds("ssh_late_by", one.ordinal)
    delay = one.delay
    if dialect.addressed == "launch" and fault in ("", "ssh_late"):
        # It has its address from the start, and nothing answers there before it has booted.
        late, delay = one.delay + (late if fault else 0.0), 0.0
        fault = "ssh_late"
    order = Orders(
        authorized_key="",
        fault=fault,
        boot_delay=delay,
        dies_after=scenario.seconds("dies_after", one.ordinal),
        ssh_late_by=late,
        metadata=_metadata(account, one) if account.machines.isolation == "namespace" else None,
    )
    seconds = scenario.seconds("cloud_init", one.ordinal)
    fails = scenario.happens("cloud_init_errors", one.ordinal)
    refused = scenario.happens("root_refused", one.ordinal)
    script = account.machines.cloud_init
    # The real one would heed what these do not.
    if script and not dialect.root_image and fault != "ssh_refuses_key" and not refused:
        amazon = dialect.shape == "amazon"
        return replace(order, cloud_init=real(script, seconds, fails=fails, amazon=amazon))
    # What takes no time has nothing to show, and two processes a machine would be much for a fleet.
    shown = account.machines.isolation == "namespace" or seconds or fails
    lifetime = None if dialect.root_image else read_lifetime(one.user_data)
    plays = one.user_data and (shown or lifetime is not None) and not dialect.root_image
    logins = read_user_data(one.user_data)
    keys = [*filter(None, [_key(account, one)]), *logins.keys]
    return replace(
        order,
        authorized_key="\n".join(keys or [NOBODYS_KEY]),
        default_user="" if dialect.root_image else "ubuntu",
        root_login=dialect.root_image or (logins.root and not refused),
        cloud_init=played(seconds, fails=fails) if plays else "",
        power="" if lifetime is None else counting(lifetime),
    )


def _is_shut(account: Account, one: Instance) -> bool:
    """Whether no rule lets SSH in from outside."""
    return account.dialect.launch_groups != "none" and not any(
        rule.opens(SSH) or rule.opens(account.machines.ssh_port)
        for group in one.groups
        for rule in group.rules
    )


def _key(account: Account, one: Instance) -> str:
    """The launch's public key; empty where it has none, or what was imported is none."""
    pair = account.keys.get(one.key_name)
    return pair.line if pair and is_public_key(pair.line) else ""


def _metadata(account: Account, one: Instance) -> Metadata:
    """What the instance's metadata service is to say."""
    key, names = _key(account, one), "\n".join(group.name for group in one.groups)
    facts = {
        "ami-id": one.image_id,
        "ami-launch-index": str(one.index),
        "ami-manifest-path": "(unknown)",
        "instance-action": "none",
        "instance-id": one.id,
        "instance-life-cycle": "spot" if one.spot else "on-demand",
        "instance-type": one.kind,
        "placement/availability-zone": one.zone,
        "placement/region": account.region,
        "reservation-id": one.reservation.id,
        "security-groups": names,
        "interface/owner-id": OWNER,
        "interface/security-groups": names,
        **({"public-keys/0/openssh-key": key} if key else {}),
    }
    if account.has_vpc:
        facts["interface/subnet-id"] = account.subnets[one.zone]
        facts["interface/vpc-id"] = account.vpc
    return Metadata(
        facts=facts,
        identity={
            "accountId": OWNER,
            "availabilityZone": one.zone,
            "imageId": one.image_id,
            "instanceId": one.id,
            "instanceType": one.kind,
            "region": account.region,
        },
        user_data=base64.b64encode(one.user_data).decode(),
        key_name=one.key_name if key else "",
        public=one.public and account.dialect.addresses == "auto",
        enabled=one.imds.endpoint == "enabled",
        tokens_required=one.imds.tokens == "required",
        hop_limit=one.imds.hops,
    )
