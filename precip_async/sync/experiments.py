"""The blocking twins of the constructors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from precip_async import experiments as asynchronous
from precip_async.sync.experiment import Experiment, watching

if TYPE_CHECKING:
    from precip_async.clouds.hosts import Hosts
    from precip_async.clouds.local.cloud import Isolation
    from precip_async.clouds.local.faults import Faults
    from precip_async.settings import Shared

__all__ = ["HostsExperiment", "LocalExperiment"]


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
