"""The blocking twins of the constructors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Unpack

from precip_async import experiments as asynchronous
from precip_async.sync.experiment import Experiment, watching

if TYPE_CHECKING:
    from collections.abc import Callable

    from precip_async.clouds.hosts import Hosts
    from precip_async.clouds.local.cloud import Isolation
    from precip_async.clouds.local.faults import Faults
    from precip_async.experiment import Experiment as AsyncExperiment
    from precip_async.settings import Shared

__all__ = [
    "EC2Experiment",
    "EucalyptusExperiment",
    "HostsExperiment",
    "LocalExperiment",
    "NimbusExperiment",
    "OpenStackExperiment",
]


class EC2Experiment(Experiment):
    """The blocking twin of `precip_async.EC2Experiment`: instances of Amazon EC2.

    Args:
        region: A region or a zone.
        endpoint: Where the API is; ``None``: where Amazon has it.
        access_key: Who asks; ``None``: whoever the standard AWS chain finds.
        secret_key: Goes with `access_key`.
        session_token: Goes with temporary keys.
        profile: A profile of the AWS configuration to find keys in.
        quiet: Write nothing to stderr.
        shared: See `precip_async.settings.Settings`.
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
        quiet: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        console = watching(shared, quiet=quiet)
        self._open(
            asynchronous.EC2Experiment(
                region,
                endpoint,
                access_key,
                secret_key,
                session_token=session_token,
                profile=profile,
                **shared,
            ),
            console,
        )


class _PrivateCloudExperiment(Experiment):
    """Instances of a cloud that somebody runs, by its EC2-compatible API.

    Args:
        endpoint: Where that is.
        access_key: Who asks.
        secret_key: Goes with `access_key`.
        quiet: Write nothing to stderr.
        shared: See `precip_async.settings.Settings`.
    """

    _twin: ClassVar[Callable[..., AsyncExperiment]]

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        *,
        quiet: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        console = watching(shared, quiet=quiet)
        self._open(self._twin(endpoint, access_key, secret_key, **shared), console)


class OpenStackExperiment(_PrivateCloudExperiment):
    """The blocking twin of `precip_async.OpenStackExperiment`."""

    _twin = asynchronous.OpenStackExperiment


class EucalyptusExperiment(_PrivateCloudExperiment):
    """The blocking twin of `precip_async.EucalyptusExperiment`."""

    _twin = asynchronous.EucalyptusExperiment


class NimbusExperiment(_PrivateCloudExperiment):
    """The blocking twin of `precip_async.NimbusExperiment`."""

    _twin = asynchronous.NimbusExperiment


class LocalExperiment(Experiment):
    """The blocking twin of `precip_async.LocalExperiment`: instances on this machine.

    Args:
        isolation: How instances are kept apart.
        internet: Whether they reach the world outside.
        faults: What is to go wrong, for tests and rehearsals.
        quiet: Write nothing to stderr.
        shared: See `precip_async.settings.Settings`.
    """

    def __init__(
        self,
        *,
        isolation: Isolation = "auto",
        internet: bool = False,
        faults: Faults | None = None,
        quiet: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        console = watching(shared, quiet=quiet)
        self._open(
            asynchronous.LocalExperiment(
                isolation=isolation, internet=internet, faults=faults, **shared
            ),
            console,
        )


class HostsExperiment(Experiment):
    """The blocking twin of `precip_async.HostsExperiment`: machines that exist already.

    Args:
        hosts: A list of ``"host"`` and ``"user@host:port"``, or a mapping of such to their tags.
        quiet: Write nothing to stderr.
        shared: See `precip_async.settings.Settings`.
    """

    def __init__(self, hosts: Hosts, *, quiet: bool = False, **shared: Unpack[Shared]) -> None:
        console = watching(shared, quiet=quiet)
        self._open(asynchronous.HostsExperiment(hosts, **shared), console)
