"""The blocking twins: the same classes and verbs, called without ``await``.

``from precip_async.sync import *`` is the import line of a classic script. Each twin holds an async
experiment and runs its verbs on one event loop thread (`precip_async.portal`); what a verb does is
said in the async class, whose signatures these are. The differences:

* The constructor opens the experiment, so bad credentials raise there. ``close()``, or ``with``,
  ends it. What is still open when the main thread ends is closed then, with a warning where it
  has instances: wait for threads that use it before.
* What happens is written to stderr, unless ``quiet=True``.
* Ctrl-C, SIGTERM and SIGHUP end what a call has started before they go on.
"""

from __future__ import annotations

from precip_async.clouds.local.faults import Faults
from precip_async.detached import Chunk, Job
from precip_async.errors import (
    AuthenticationFailed,
    BootError,
    BootTimeout,
    CapacityUnavailable,
    CloudError,
    CommandFailed,
    CommandTimeout,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    EndpointUnreachable,
    ExperimentClosed,
    ExperimentException,
    FleetError,
    HomeError,
    HostKeyMismatch,
    ImageNotFound,
    InvalidArgument,
    InvalidInstanceType,
    NameInUse,
    NotAuthorized,
    QuotaExceeded,
    RemoteError,
    Throttled,
    TransferError,
)
from precip_async.fleet import BootDiagnosis, Instance
from precip_async.limits import Limits
from precip_async.reaping import Leftover
from precip_async.results import CommandResult, RunResults
from precip_async.sync.detached import DetachedRun
from precip_async.sync.experiment import Experiment
from precip_async.sync.experiments import (
    EC2Experiment,
    EucalyptusExperiment,
    HostsExperiment,
    LocalExperiment,
    NimbusExperiment,
    OpenStackExperiment,
)
from precip_async.sync.reaping import reap

__all__ = [
    "AuthenticationFailed",
    "BootDiagnosis",
    "BootError",
    "BootTimeout",
    "CapacityUnavailable",
    "Chunk",
    "CloudError",
    "CommandFailed",
    "CommandResult",
    "CommandTimeout",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionLost",
    "DetachedRun",
    "EC2Experiment",
    "EndpointUnreachable",
    "EucalyptusExperiment",
    "Experiment",
    "ExperimentClosed",
    "ExperimentException",
    "Faults",
    "FleetError",
    "HomeError",
    "HostKeyMismatch",
    "HostsExperiment",
    "ImageNotFound",
    "Instance",
    "InvalidArgument",
    "InvalidInstanceType",
    "Job",
    "Leftover",
    "Limits",
    "LocalExperiment",
    "NameInUse",
    "NimbusExperiment",
    "NotAuthorized",
    "OpenStackExperiment",
    "QuotaExceeded",
    "RemoteError",
    "RunResults",
    "Throttled",
    "TransferError",
    "reap",
]
