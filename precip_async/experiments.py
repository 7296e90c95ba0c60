"""The constructors: which cloud an experiment runs on, and how it is reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from precip_async.clouds.hosts import Hosts, HostsCloud
from precip_async.experiment import Experiment
from precip_async.life import Life
from precip_async.settings import Settings, Shared

if TYPE_CHECKING:
    from precip_async.clouds.local.cloud import Isolation, LocalCloud
    from precip_async.clouds.local.faults import Faults
    from precip_async.home.directory import Home

__all__ = [
    "EC2Experiment",
    "EucalyptusExperiment",
    "HostsExperiment",
    "LocalExperiment",
    "NimbusExperiment",
    "OpenStackExperiment",
    "of_settings",
]


class EC2Experiment(Experiment):
    """Instances of Amazon EC2.

    Without keys the standard AWS chain is asked: environment, configuration, SSO, instance role.

    Args:
        region: A region, or a zone such as ``us-west-2c``: requests are signed for its region, and
            instances are placed in it.
        endpoint: Where the API is; ``None``: where Amazon has it.
        access_key: Who asks.
        secret_key: Goes with `access_key`.
        session_token: Goes with temporary keys.
        profile: A profile of the AWS configuration to find keys in.
        shared: See `precip_async.settings.Settings`.

    Raises:
        InvalidArgument: These can't be, or do not go together.
    """

    def __init__(
        self,
        region: str,
        endpoint: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        *,
        session_token: str | None = None,
        profile: str | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        from precip_async.clouds.dialects import AMAZON
        from precip_async.clouds.ec2 import EC2Cloud
        from precip_async.clouds.ec2_endpoint import parse_endpoint, parse_region

        name, zone = parse_region(region)
        settings = Settings(**shared)  # once: observers may be an iterator
        cloud = EC2Cloud(
            dialect=AMAZON,
            endpoint=None if endpoint is None else parse_endpoint(endpoint, AMAZON),
            region=name,
            zone=zone,
            access_key=access_key,
            secret_key=secret_key,
            session_token=session_token,
            profile=profile,
            **of_settings(settings),
        )
        Life.__init__(self, cloud, settings)


class _PrivateCloudExperiment(Experiment):
    """Instances of a cloud that somebody runs, by its EC2-compatible API.

    Args:
        endpoint: ``http://host:8773/services/Cloud``, or a host with or without port and path.
        access_key: Who asks.
        secret_key: Goes with `access_key`.
        shared: See `precip_async.settings.Settings`.

    Raises:
        InvalidArgument: These can't be.
    """

    _dialects: ClassVar[str]  # what it may speak: a name in `clouds.dialects`

    def __init__(
        self, endpoint: str, access_key: str, secret_key: str, **shared: Unpack[Shared]
    ) -> None:
        from precip_async.clouds import dialects
        from precip_async.clouds.ec2 import EC2Cloud
        from precip_async.clouds.ec2_endpoint import parse_endpoint

        given = getattr(dialects, self._dialects)
        candidates = (given,) if isinstance(given, dialects.Dialect) else given
        settings = Settings(**shared)
        cloud = EC2Cloud(
            dialect=candidates,
            endpoint=parse_endpoint(endpoint, *candidates),
            access_key=access_key,
            secret_key=secret_key,
            **of_settings(settings),
        )
        Life.__init__(self, cloud, settings)


class OpenStackExperiment(_PrivateCloudExperiment):
    """Instances of an OpenStack: by nova's own API of 2012 to 2015, or by ec2-api."""

    _dialects = "OPENSTACK"


class EucalyptusExperiment(_PrivateCloudExperiment):
    """Instances of a Eucalyptus, from 3.2 on."""

    _dialects = "EUCALYPTUS"


class NimbusExperiment(_PrivateCloudExperiment):
    """Instances of a Nimbus, which speaks TLS only."""

    _dialects = "NIMBUS"


def of_settings(settings: Settings) -> dict[str, Any]:
    """What a cloud that speaks EC2 has to know of the shared keywords."""
    verify = settings.verify
    return {
        "verify": verify if isinstance(verify, bool) else Path(verify),
        "ssh_cidr": settings.ssh_cidr,
        "ssh_port": settings.ssh_port,
        "public": settings.address == "public",
        "root_login": settings.login_user in (None, "root"),
        "max_lifetime": settings.max_lifetime,
    }


class LocalExperiment(Experiment):
    """Instances on this machine: no account, no root and no container engine needed.

    Args:
        isolation: ``"namespace"``: each has a file system view, a process tree, an address and an
            OpenSSH server of its own; needs Linux, root and sshd. ``"process"``: anywhere; what
            its instances share is in the README. ``"auto"``: the better one that can be had. What
            was chosen is in ``list()`` and in the log.
        internet: Whether instances in namespaces reach beyond this machine.
        faults: What is to go wrong, for tests and rehearsals.
        shared: See `precip_async.settings.Settings`.

    Raises:
        InvalidArgument: A keyword's value can't be.
    """

    def __init__(
        self,
        *,
        isolation: Isolation = "auto",
        internet: bool = False,
        faults: Faults | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        def made(base: Path) -> LocalCloud:
            from precip_async.clouds.local.cloud import LocalCloud  # not for those who want a cloud

            return LocalCloud(base, isolation=isolation, internet=internet, faults=faults)

        def cloud(home: Home) -> LocalCloud:
            return made(home.runtime("local"))

        settings = Settings(**shared)
        made(Path("/"))  # refuses what can't be, now and not when it is opened
        Life.__init__(self, cloud, settings)


class HostsExperiment(Experiment):
    """Machines that exist already: taken in the order given, given back, never ended.

    Args:
        hosts: A list of ``"host"``, ``"user@host:port"``, ``"[v6]:port"``, or a mapping of such to
            the tags that each bears.
        shared: See `precip_async.settings.Settings`.

    Raises:
        InvalidArgument: A host or a keyword's value can't be.
    """

    def __init__(self, hosts: Hosts, **shared: Unpack[Shared]) -> None:
        super().__init__(HostsCloud(hosts), **shared)
