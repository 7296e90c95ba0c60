"""The detour: every experiment of the script is led to a lab, and what happens to it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precip_async import events
from precip_async.clouds.base import Cloud
from precip_async.clouds.ec2 import EC2Cloud
from precip_async.clouds.ec2_endpoint import parse_endpoint
from precip_async.clouds.hosts import HostsCloud
from precip_async.errors import InvalidArgument
from precip_async.experiments import of_settings
from precip_async.rehearsal.casting import Role, cast, own_role
from precip_async.rehearsal.played import Played, Stranger
from precip_async.rehearsal.record import LOCAL

if TYPE_CHECKING:
    from precip_async.detour import Source
    from precip_async.home.directory import Home
    from precip_async.rehearsal.wire import Wire
    from precip_async.settings import Settings

__all__ = ["Guide"]

# What would lead beyond this computer, or ask the user's own files and agent who is who.
_LEFT_OUT: dict[str, Any] = {
    "agent": False,
    "bastion": None,
    "bastion_key": None,
    "known_hosts": None,
    "ssh_config": None,
    "verify": True,
}


class Guide:
    """A `Detour`.

    Args:
        wire: The line to the rehearsal.
        home: The home of all experiments, in the place of the user's.
        cloud: The cloud that plays all others; ``None``: each is played by its own kind.
    """

    def __init__(self, wire: Wire, *, home: Path, cloud: str | None) -> None:
        self._wire, self._home = wire, home
        self._role = None if cloud is None else cast(cloud)

    def __call__(self, cloud: Source, settings: Settings) -> tuple[Source, Settings]:
        """What an experiment is to be made of, in the place of what the script says.

        Raises:
            InvalidArgument: It is about machines that the lab can't play unless it is told to.
        """
        witness = Witness(self._wire, settings)
        observers: tuple[events.Observer, ...] = (*settings.observers, witness)
        ours = replace(settings, home=self._home, observer=observers, **_LEFT_OUT)
        if self._role is None and not isinstance(cloud, Cloud):
            return cloud, ours  # local instances cost nothing: they are what they are
        role = self._role or _role_of(cloud)

        def led(_: Home) -> Cloud:
            settings.check_files()  # those that the script names, also where they aren't used
            return self._led(cloud, settings, role, witness)

        return led, ours

    def _led(self, cloud: Source, settings: Settings, role: Role, witness: Witness) -> Cloud:
        """The cloud that speaks to a lab in the place of `cloud`. Blocks."""
        own = cloud if isinstance(cloud, EC2Cloud) else None
        if own is not None and _role_of(own).family != role.family:
            own = None
        lab = self._wire.ask(
            dialect=role.dialect,
            region=own.region if own else role.family.spoken[0].region,
            zone=own.zone if own else None,
            tls=own is not None and "http://" not in own.traits.endpoint,
            stands_for=_name_of(cloud),
        )
        witness.lab = lab["number"]
        place: dict[str, Any] = {
            "endpoint": parse_endpoint(lab["endpoint"], *role.family.spoken),
            "access_key": lab["access_key"],
            "secret_key": lab["secret_key"],
            "verify": settings.verify and (Path(lab["ca_file"]) if lab["ca_file"] else True),
            "ssh_port": lab["ssh_port"],
        }
        if own is not None:
            return Played(own.elsewhere(**place), ssh_port=lab["ssh_port"])
        said = {**of_settings(settings), **place}
        return Stranger(
            EC2Cloud(dialect=role.family.spoken, region=lab["region"], **said),
            ssh_port=lab["ssh_port"],
            role=role,
            written_for=cloud if isinstance(cloud, HostsCloud) else None,
            remark=lambda text: self._wire.tell(tell="Remark", text=text),
        )


class Witness:
    """An observer that tells the rehearsal what becomes of one experiment's instances.

    Attributes:
        lab: The number of the lab that it is led to; ``None``: it stays on this computer.
    """

    def __init__(self, wire: Wire, settings: Settings) -> None:
        self.lab: int | None = None
        self._wire, self._keep = wire, settings.keep

    def __call__(self, event: events.Event) -> None:
        """Tell of what matters to a report."""
        more: dict[str, Any]
        match event:
            case events.Opened():
                more = {"keep": self._keep}
            case events.Launched(image_id=image, instance_type=kind, tags=tags):
                more = {"image_id": image, "instance_type": kind, "tags": tags}
            case events.InstanceReady(seconds=seconds):
                more = {"seconds": seconds}
            case events.InstanceReplaced(replaced_id=old):
                more = {"replaced_id": old}
            case events.Deprovisioned():
                more = {}
            case _:
                return
        self._wire.tell(
            tell=type(event).__name__,
            lab=self.lab,
            experiment=event.experiment,
            instance_id=event.instance_id,
            **more,
        )


def _role_of(cloud: Source) -> Role:
    if isinstance(cloud, EC2Cloud):
        return own_role(cloud.traits.name)
    what = "hosts that exist" if isinstance(cloud, HostsCloud) else f"a cloud of its own, {cloud!r}"
    raise InvalidArgument(
        f"a rehearsal does nothing to what is real, and this experiment is on {what}: rehearse it "
        "with --cloud, such as --cloud ec2, and instances of the lab stand in"
    )


def _name_of(cloud: Source) -> str:
    """What the report calls the place that the script speaks to."""
    if not isinstance(cloud, Cloud):
        return LOCAL
    traits = cloud.traits
    return f"{traits.name} {traits.endpoint}".strip()
