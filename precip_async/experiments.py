"""The constructors: which cloud an experiment runs on, and how it is reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from precip_async.clouds.hosts import Hosts, HostsCloud
from precip_async.experiment import Experiment
from precip_async.life import Life
from precip_async.settings import Settings, Shared

if TYPE_CHECKING:
    from precip_async.clouds.local.cloud import Isolation, LocalCloud
    from precip_async.clouds.local.faults import Faults
    from precip_async.home.directory import Home

__all__ = ["HostsExperiment", "LocalExperiment"]


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
