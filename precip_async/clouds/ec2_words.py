"""The words in which EC2-compatible clouds say what is wrong, and how machines are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from precip_async.errors import (
    CapacityUnavailable,
    CloudError,
    ImageNotFound,
    InvalidInstanceType,
    NotAuthorized,
    QuotaExceeded,
    Throttled,
)

if TYPE_CHECKING:
    from precip_async.clouds.base import MachineState

__all__ = [
    "ERRORS",
    "MISSING_INSTANCE",
    "NOVA_STATES",
    "STATES",
    "is_duplicate",
    "is_missing_group",
    "meaning",
]


def _codes(kind: type[CloudError], codes: str) -> dict[str, type[CloudError]]:
    return dict.fromkeys(codes.split(), kind)


# Section 7, rule 5, and the error tables of sections 2 to 6: what means the same everywhere.
ERRORS: Final[dict[str, type[CloudError]]] = {
    **_codes(
        NotAuthorized,
        "AuthFailure Unauthorized UnauthorizedOperation AccessDenied AccessDeniedException "
        "InvalidClientTokenId InvalidAccessKeyId SignatureDoesNotMatch IncompleteSignature "
        "InvalidSignatureException MissingClientTokenId MissingAuthenticationToken RequestExpired "
        "ExpiredToken ExpiredTokenException InvalidSecurityToken UnrecognizedClientException "
        "OptInRequired PendingVerification Blocked",
    ),
    **_codes(
        ImageNotFound,
        "InvalidAMIID.NotFound InvalidAMIID.Malformed InvalidAMIID.Unavailable ImageNotFound "
        "ImageNotFoundEC2",
    ),
    **_codes(
        InvalidInstanceType,
        "InvalidInstanceType InstanceTypeNotFoundByName FlavorNotFoundByName FlavorNotFound "
        "InstanceTypeNotFound",
    ),
    **_codes(
        QuotaExceeded,
        "InstanceLimitExceeded VcpuLimitExceeded ResourceLimitExceeded QuotaError "
        "TooManyInstances MaxSpotInstanceCountExceeded AddressLimitExceeded "
        "SecurityGroupLimitExceeded RulesPerSecurityGroupLimitExceeded TagLimitExceeded "
        "KeyPairLimitExceeded VolumeLimitExceeded",
    ),
    **_codes(
        CapacityUnavailable,
        "InsufficientInstanceCapacity InsufficientHostCapacity InsufficientCapacity "
        "InsufficientFreeAddressesInSubnet InsufficientAddressCapacity NoMoreFloatingIps",
    ),
    **_codes(
        Throttled,
        "RequestLimitExceeded EC2ThrottledException Throttling ThrottlingException "
        "ThrottledException RequestThrottled RequestThrottledException SlowDown "
        "TooManyRequestsException BandwidthLimitExceeded",
    ),
}

# The states that EC2 itself has. A stopped machine is of no use to an experiment, and may cost.
STATES: Final[dict[str, MachineState]] = {
    "pending": "pending",
    "running": "running",
    "shutting-down": "shutting-down",
    "terminated": "terminated",
    "stopping": "failed",
    "stopped": "failed",
}
# Section 2, "States": nova's own words. `pause`, `suspend`, `rescue`, `resize` and `migrate` pass,
# or wait for somebody: like any word that is unknown here they mean "not yet" (section 7, rule 4).
NOVA_STATES: Final[dict[str, MachineState]] = {
    **STATES,
    "error": "failed",
    "shutoff": "failed",
    "deleted": "terminated",
    "soft-delete": "terminated",
}

# Section 7, rule 2: what says that there is no such instance.
MISSING_INSTANCE: Final = frozenset(
    {
        "InvalidInstanceID.NotFound",
        "InvalidInstanceID.Malformed",
        "InstanceNotFound",
        "InvalidInstanceIDMalformed",
    }
)

# Section 4, "Errors", and section 5, "Errors": codes that say nothing, so that the message has to.
_OPAQUE: Final = re.compile(
    r"GeneralError|EC2APIError|BadRequest|InvalidParameterValue|InvalidParameterCombination"
    r"|Unsupported|\w+Type|InternalFailure|400 Bad Request"
)
_MEANINGS: Final[tuple[tuple[re.Pattern[str], type[CloudError]], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"quota|\blimit\b|too many instances", QuotaExceeded),
        (r"not enough|insufficient|no valid host|no free|capacity", CapacityUnavailable),
        (r"instance ?type|vm ?type|flavor|virtualization type", InvalidInstanceType),
        (r"\b(image|emi|ami)\b.*(not found|no such|does not exist|unknown)", ImageNotFound),
        (r"(no such|unknown|could not find).*\bimage", ImageNotFound),
    )
)


def meaning(code: str, message: str) -> type[CloudError]:
    """The class of an error whose code no table knows: what its message says, if anything."""
    if _OPAQUE.fullmatch(code):
        for pattern, kind in _MEANINGS:
            if pattern.search(message):
                return kind
    return CloudError


def is_missing_group(error: CloudError) -> bool:
    """Whether `error` says that there is no such security group (section 7, rule 5)."""
    return error.code in {
        "InvalidGroup.NotFound",
        "SecurityGroupNotFoundForProject",
        "SecurityGroupNotFound",
    }


def is_duplicate(error: CloudError) -> bool:
    """Whether `error` says that what was to be made is there already (section 7, rule 5)."""
    return (
        error.code.endswith(".Duplicate")
        or error.code in {"KeyPairExists", "Groups"}
        or re.search(r"already exists|duplicate key", error.message, re.IGNORECASE) is not None
    )
