"""Repeatable experiments on clouds, on machines you have, and on this one.

The async classes are here; their blocking twins, for classic scripts, are in `precip_async.sync`.
"""

from __future__ import annotations

from precip_async.clouds.local.faults import Faults
from precip_async.detached import Chunk, DetachedRun, Job
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
from precip_async.experiment import Experiment
from precip_async.experiments import (
    EC2Experiment,
    EucalyptusExperiment,
    HostsExperiment,
    LocalExperiment,
    NimbusExperiment,
    OpenStackExperiment,
)
from precip_async.fleet import BootDiagnosis, Instance
from precip_async.limits import Limits
from precip_async.reaping import Leftover, reap
from precip_async.results import CommandResult, RunResults

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

__version__ = "0.1.0"
