"""What each cloud calls the situations that Amazon has a code for.

The keys are Amazon's codes, and these of our own: ``unsigned``, ``unknown-key``,
``wrong-signature``, ``wrong-region`` and ``expired`` (see `doors`); ``throttled``; ``broken``, an
accident that the scenario asked for; ``crash``, a request that the cloud's own code falls over;
``key-not-found-to-run`` and ``type-not-found`` of a launch. What isn't in a table is said as Amazon
does. A section (§) is one of the collection of facts; see `dialects`. The line before a table says
what it is from, and a line that is from elsewhere says so: ``[K]`` is nobody's word but ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AMAZON",
    "EC2_API",
    "ESSEX",
    "EUCALYPTUS_3",
    "EUCALYPTUS_4",
    "HAVANA",
    "KILO",
    "NIMBUS",
    "Answer",
]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a cloud refuses.

    Attributes:
        code: Its word for it.
        status: The HTTP status; ``None``: the cloud's usual one, or Amazon's.
        message: What it says, ``{subject}`` being what it is about; ``None``: what Amazon says.
        html: Whether it is a page of HTML instead of a document.
        plain: Whether the document is called plain text, and the code is this one also where codes
            are the names of messages.
        empty: Whether the document says that there was an error, and no more.
    """

    code: str
    status: int | None = None
    message: str | None = None
    html: bool = False
    plain: bool = False
    empty: bool = False


_NOT_VALID: Final = "AWS was not able to validate the provided access credentials"

#: §6 where it is named, else [K].
AMAZON: Final[Mapping[str, Answer]] = {
    "unsigned": Answer("MissingParameter"),
    "unknown-key": Answer("AuthFailure", 401, _NOT_VALID),
    "wrong-signature": Answer("AuthFailure", 401, _NOT_VALID),
    "wrong-region": Answer("AuthFailure", 401),
    "expired": Answer("RequestExpired"),
    "throttled": Answer("RequestLimitExceeded", 503),  # §6 "throttle error"
    "broken": Answer("InternalError", 500),
    "crash": Answer("InternalError", 500),
    "key-not-found-to-run": Answer("InvalidKeyPair.NotFound"),
    "type-not-found": Answer("InvalidParameterValue"),
}

_ERROR: Final = "An unknown error has occurred. Please try your request again."

#: §2 "Errors", the column of Essex to Grizzly, and "Auth".
ESSEX: Final[Mapping[str, Answer]] = {
    "unsigned": Answer("Unauthorized", 400, "Signature not provided"),
    "unknown-key": Answer("AuthFailure", 401, "Unauthorized"),
    "wrong-signature": Answer("AuthFailure", 401, "Unauthorized"),
    "expired": Answer("", 403, "Access was denied to this resource.", html=True),
    "throttled": Answer("RequestLimitExceeded", 503),  # [K]: nova has a filter for it, of any words
    "broken": Answer("UnknownError", 400, _ERROR),  # "anything else"
    "crash": Answer("UnknownError", 400, _ERROR),
    "InvalidAction": Answer("InvalidRequest", 400, "The request is invalid."),  # §0
    "MissingParameter": Answer("UnknownError", 400, _ERROR),
    "InvalidInstanceID.NotFound": Answer("InstanceNotFound"),
    "InvalidInstanceID.Malformed": Answer("InvalidInstanceIDMalformed"),
    "InvalidKeyPair.NotFound": Answer("EC2APIError", None, "Could not find key pair(s): {subject}"),
    "key-not-found-to-run": Answer("KeypairNotFound"),
    "InvalidKeyPair.Duplicate": Answer("KeyPairExists"),
    "InvalidKey.Format": Answer("InvalidKeypair"),
    "InvalidGroup.NotFound": Answer("SecurityGroupNotFoundForProject"),
    "InvalidGroup.Duplicate": Answer("EC2APIError", None, "group {subject} already exists"),
    "InvalidPermission.Duplicate": Answer(
        "EC2APIError", None, "This rule already exists in group {subject}"
    ),
    "DependencyViolation": Answer("UnknownError", 400, _ERROR),
    "InstanceLimitExceeded": Answer("TooManyInstances"),
    "AddressLimitExceeded": Answer("NoMoreFloatingIps"),
    "InvalidAddress.NotFound": Answer("FloatingIpNotFoundForAddress"),  # [K]: its class's name
    # "Floating IP flow" names the classes, which were codes before Havana.
    "IncorrectInstanceState": Answer("NoMoreFixedIps"),
    "Resource.AlreadyAssociated": Answer("FloatingIpAssociated"),
    "type-not-found": Answer("InstanceTypeNotFoundByName"),
    "InvalidAMIID.NotFound": Answer("ImageNotFound"),
    "InvalidAMIID.Malformed": Answer("ImageNotFound"),
}

_CRASH: Final = "Unknown error occurred."

#: §2 "Errors", the column of Havana to Kilo; "Floating IP flow".
HAVANA: Final[Mapping[str, Answer]] = {
    "unsigned": Answer("AuthFailure", 400, "Signature not provided"),
    "unknown-key": Answer("AuthFailure", 401, "Unauthorized"),
    "wrong-signature": Answer("AuthFailure", 401, "Unauthorized"),
    "expired": ESSEX["expired"],
    "throttled": Answer("RequestLimitExceeded", 503),  # [K]
    "broken": Answer("OperationalError", 500, _CRASH),  # "anything else": a class's name
    "crash": Answer("{subject}", 500, _CRASH),
    "InvalidAction": ESSEX["InvalidAction"],
    "MissingParameter": Answer("TypeError", 500, _CRASH),
    "InvalidParameterCombination": Answer("InvalidInput"),  # "RunInstances": "MinCount>MaxCount"
    "InvalidInstanceID.NotFound": Answer("InvalidInstanceID.NotFound", 404),
    "InvalidKeyPair.NotFound": Answer("InvalidKeyPair.NotFound", 404),
    "key-not-found-to-run": Answer("InvalidKeyPair.NotFound", 404),
    "InvalidKey.Format": Answer("InvalidKeyPair.Format", 400),
    "InvalidGroup.NotFound": Answer("SecurityGroupNotFoundForProject", 404),
    "DependencyViolation": Answer("InvalidGroup", 400, "Security group is still in use"),
    "InstanceLimitExceeded": Answer("ResourceLimitExceeded", 413),
    "AddressLimitExceeded": Answer("UnsupportedOperation", 404),
    "InvalidAddress.NotFound": Answer("UnsupportedOperation", 404),
    "IncorrectInstanceState": Answer("UnsupportedOperation"),
    "Resource.AlreadyAssociated": Answer("UnsupportedOperation"),
    "type-not-found": Answer("InstanceTypeNotFoundByName", 404),
    "InvalidAMIID.NotFound": Answer("ImageNotFound", 404),
    "InvalidAMIID.Malformed": Answer("ImageNotFoundEC2", 404),
    "InvalidID": Answer("InvalidParameterValue"),  # "Other actions": "only i-… resources"
}

#: §2 "Errors": Icehouse and later.
KILO: Final[Mapping[str, Answer]] = {
    **HAVANA,
    "type-not-found": Answer("FlavorNotFoundByName", 404),
}

#: §3 "Errors", "RunInstances", "Key pairs"; the words for who isn't let in were seen on a real one.
EC2_API: Final[Mapping[str, Answer]] = {
    "unsigned": Answer("AuthFailure", 400, "Signature not provided"),
    "unknown-key": Answer("AuthFailure", 404, "NOT FOUND"),
    "wrong-signature": Answer("AuthFailure", 401, "UNAUTHORIZED"),
    "expired": ESSEX["expired"],
    "throttled": Answer("RequestLimitExceeded", 503),  # [K]
    "broken": Answer("OperationalError", 500, _CRASH),
    "crash": Answer("{subject}", 500, _CRASH),
    "InvalidAction": ESSEX["InvalidAction"],  # §0
    "MissingAction": Answer("", 400, "The request is malformed.", html=True),
    "key-not-found-to-run": Answer("InvalidKeyPair.NotFound"),
    "InvalidKey.Format": Answer("BadRequest"),
    "InstanceLimitExceeded": Answer("Forbidden", 403, "Quota exceeded for instances"),
    "type-not-found": Answer("InvalidParameterValue"),
    "InvalidGroupId.Malformed": Answer("InvalidParameterValue"),  # [K]
}

_BAD: Final = Answer(
    "400 Bad Request", 400, "Failed to bind the following fields:\n{subject}", plain=True
)
_FORBIDDEN: Final = Answer(
    "403 Forbidden", 403, "The request could not be authenticated.", plain=True
)

#: §4 "Auth", "Strict binding", "Errors", "Keys". Service failures are 406 and named by the message.
EUCALYPTUS_3: Final[Mapping[str, Answer]] = {
    "unsigned": _FORBIDDEN,
    "unknown-key": _FORBIDDEN,
    "wrong-signature": _FORBIDDEN,
    "expired": _FORBIDDEN,
    "throttled": Answer("RequestLimitExceeded", 503, plain=True),  # [K]
    # "unhandled: 400/500 text/plain"; the words are [K]
    "broken": Answer("500 Internal Server Error", 500, "Internal error", plain=True),
    "crash": Answer("500 Internal Server Error", 500, "Internal error", plain=True),
    "UnknownParameter": _BAD,
    "InvalidAction": Answer("400 Bad Request", 400, "Failed to bind {subject}", plain=True),  # §0
    "MissingAction": Answer("400 Bad Request", 400, "No action", plain=True),  # [K]
    "InvalidKeyPair.Duplicate": Answer("", None, "Duplicate key '{subject}'"),
    "InvalidGroup.Duplicate": Answer(
        "", None, "Error adding network group: group named {subject} already exists"
    ),
}

#: §4 "Errors", "4.x codes": client errors have Amazon's codes.
EUCALYPTUS_4: Final[Mapping[str, Answer]] = {
    "unsigned": _FORBIDDEN,
    "unknown-key": _FORBIDDEN,
    "wrong-signature": _FORBIDDEN,
    "expired": _FORBIDDEN,
    "throttled": Answer("RequestLimitExceeded", 503),  # [K]
    "broken": Answer("", 500, empty=True),  # "unhandled"
    "crash": Answer("", 500, empty=True),
    "UnknownParameter": _BAD,
    "InvalidAction": Answer("400 Bad Request", 400, "Failed to bind {subject}", plain=True),  # §0
    "MissingAction": Answer("400 Bad Request", 400, "No action", plain=True),  # [K]
    "DependencyViolation": Answer("InvalidGroup.InUse"),  # "InUse (classic)": it has no network
    "key-not-found-to-run": Answer("InvalidKeyPair.NotFound"),
    "type-not-found": Answer("InvalidParameterValue"),  # [K]
    "InsufficientInstanceCapacity": Answer("InsufficientInstanceCapacity", 503),
}

_GENERAL: Final = Answer("GeneralError")

#: §5 "Errors", "RunInstances", "Keys": all codes that it has.
NIMBUS: Final[Mapping[str, Answer]] = {
    "unsigned": Answer("MissingClientTokenId", None, "Request must contain a client token id"),
    "unknown-key": Answer("InvalidClientTokenId", None, "The access key ID does not exist"),
    "wrong-signature": Answer("SignatureDoesNotMatch", None, "The signature does not match"),
    "expired": Answer("RequestExpired"),
    "throttled": Answer("RequestLimitExceeded", 503),  # [K]: it has no such thing
    "broken": Answer("", 500, "An internal error has occurred", html=True),  # "container HTML 500"
    "crash": Answer("", 500, "An internal error has occurred", html=True),
    "InvalidAction": Answer("InvalidAction", None, ""),  # "Actions": "with empty Message"
    "MissingAction": Answer("InvalidAction", None, ""),  # [K]
    "MissingParameter": Answer("InvalidArgument"),
    "InvalidParameterCombination": Answer("InvalidArgument"),  # [K]
    "InvalidInstanceID.Malformed": _GENERAL,
    "key-not-found-to-run": Answer(
        "GeneralError", None, "There is no key '{subject}' registered for you to use"
    ),
    "type-not-found": Answer("GeneralError", None, "Unknown instance type '{subject}'"),
    "InvalidKey.Format": Answer("GeneralError", None, "Key does not appear to be base64 encoded?"),
    "InvalidAMIID.NotFound": _GENERAL,  # "every RemoteException"
    "InvalidAMIID.Malformed": _GENERAL,
    "InsufficientInstanceCapacity": Answer("InstanceLimitExceeded"),  # "no free slots"
}
