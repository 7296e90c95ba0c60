"""Refusals of all clouds as errors of ours."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from precip_async.clouds.dialects import AMAZON, DIALECTS, EC2_API, NOVA_2012
from precip_async.clouds.ec2_documents import Fault
from precip_async.clouds.ec2_errors import (
    Interpreter,
    MissingInstances,
    ReplyLost,
    ServerTrouble,
    Unanswered,
    WrongEndpoint,
    is_worth_repeating,
)
from precip_async.clouds.ec2_words import is_duplicate, is_missing_group
from precip_async.errors import (
    CapacityUnavailable,
    CloudError,
    EndpointUnreachable,
    ImageNotFound,
    InvalidInstanceType,
    NotAuthorized,
    QuotaExceeded,
    Throttled,
)


def refused(
    code: str, message: str = "no", *, dialect: str = "amazon", status: int = 400, skew: float = 0.0
) -> CloudError:
    """The error that a refusal stands for."""
    tell = Interpreter(
        DIALECTS[dialect], "http://host/", lambda text: text.replace("hunter2", "***")
    )
    fault = Fault(code=code, message=message, request_id="req-1")
    return tell.refusal("RunInstances", status, fault, skew)


@pytest.mark.parametrize(
    ("dialect", "status", "code", "message", "kind"),
    [
        # section 6
        ("amazon", 401, "AuthFailure", "", NotAuthorized),
        ("amazon", 403, "UnauthorizedOperation", "You are not authorized", NotAuthorized),
        ("amazon", 400, "RequestExpired", "Request has expired.", NotAuthorized),
        ("amazon", 400, "InvalidAMIID.NotFound", "", ImageNotFound),
        ("amazon", 400, "InvalidAMIID.Malformed", "", ImageNotFound),
        ("amazon", 400, "VcpuLimitExceeded", "", QuotaExceeded),
        ("amazon", 400, "InstanceLimitExceeded", "", QuotaExceeded),
        ("amazon", 500, "InsufficientInstanceCapacity", "", CapacityUnavailable),
        ("amazon", 503, "Server.InsufficientInstanceCapacity", "", CapacityUnavailable),
        ("amazon", 503, "RequestLimitExceeded", "", Throttled),
        ("amazon", 503, "EC2ThrottledException", "", Throttled),
        ("amazon", 500, "InternalError", "", ServerTrouble),
        ("amazon", 503, "Unavailable", "", ServerTrouble),
        ("amazon", 429, "SomethingNew", "", Throttled),
        (
            *("amazon", 400, "InvalidParameterValue"),
            *("Invalid value 'm9.huge' for InstanceType.", InvalidInstanceType),
        ),
        (
            *("amazon", 400, "InvalidParameterCombination"),
            *("The virtualization type 'hvm' is not for m1.small", InvalidInstanceType),
        ),
        ("amazon", 400, "VPCIdNotSpecified", "No default VPC for this user", CloudError),
        ("amazon", 400, "SomethingNew", "", CloudError),
        # section 2
        ("nova-2012", 400, "Unauthorized", "Signature not provided", NotAuthorized),
        ("nova-2012", 400, "ImageNotFound", "", ImageNotFound),
        ("nova-2012", 400, "InstanceTypeNotFoundByName", "", InvalidInstanceType),
        ("nova-2012", 400, "QuotaError", "", QuotaExceeded),
        ("nova-2012", 400, "TooManyInstances", "", QuotaExceeded),
        ("nova-2012", 400, "NoMoreFloatingIps", "", CapacityUnavailable),
        ("nova-2012", 400, "UnknownError", "An unknown error has occurred.", ServerTrouble),
        ("nova-2014", 413, "ResourceLimitExceeded", "", QuotaExceeded),
        ("nova-2014", 404, "FlavorNotFoundByName", "", InvalidInstanceType),
        ("nova-2014", 404, "ImageNotFoundEC2", "", ImageNotFound),
        # section 3
        ("ec2-api", 403, "Forbidden", "Quota exceeded for instances", QuotaExceeded),
        ("ec2-api", 403, "Forbidden", "Policy doesn't allow it", NotAuthorized),
        ("ec2-api", 500, "TypeError", "Unknown error occurred.", CloudError),
        ("ec2-api", 500, "EndpointNotFound", "Unknown error occurred.", ServerTrouble),
        ("ec2-api", 400, "InvalidParameterValue", "flavor m9 is unknown", InvalidInstanceType),
        # section 4
        ("eucalyptus-3", 403, "403 Forbidden", "", NotAuthorized),
        (
            *("eucalyptus-3", 406, "RunInstancesType"),
            *("more than your limit of 2 for the specified instance type", QuotaExceeded),
        ),
        ("eucalyptus-3", 406, "RunInstancesType", "Not enough resources", CapacityUnavailable),
        ("eucalyptus-3", 406, "RunInstancesType", "Failed to find image emi: no", CloudError),
        ("eucalyptus-3", 406, "RunInstancesType", "Unknown image: emi-1", ImageNotFound),
        ("eucalyptus-4", 503, "InsufficientInstanceCapacity", "", CapacityUnavailable),
        ("eucalyptus-4", 500, "InternalFailure", "", ServerTrouble),
        # section 5
        ("nimbus", 400, "InstanceLimitExceeded", "no free slots", QuotaExceeded),
        ("nimbus", 400, "GeneralError", "Unknown instance type 'x'", InvalidInstanceType),
        ("nimbus", 400, "MissingClientTokenId", "", NotAuthorized),
        ("nimbus", 400, "GeneralError", "something else", CloudError),
    ],
)
def test_a_code_means_what_its_cloud_means_by_it(
    dialect: str, status: int, code: str, message: str, kind: type[CloudError]
) -> None:
    """The class that users catch, whatever it is called there."""
    assert type(refused(code, message, dialect=dialect, status=status)) is kind


def test_an_error_says_who_what_and_what_to_do() -> None:
    """With the cloud's code and words, and its id of the request for its support."""
    error = refused("InvalidAMIID.NotFound", "The image id '[ami-1]' does not exist")

    assert str(error) == (
        "Amazon EC2: RunInstances: The image id '[ami-1]' does not exist (InvalidAMIID.NotFound); "
        "check the image's id; ids differ by region and by cloud"
    )
    assert (error.code, error.operation, error.request_id) == (
        *("InvalidAMIID.NotFound", "RunInstances", "req-1"),
    )


def test_what_is_repeated_of_a_cloud_is_short_and_holds_no_secret() -> None:
    """Clouds quote what they were sent."""
    error = refused("Weird", "you said hunter2 " + "x" * 5000)

    assert "hunter2" not in str(error)
    assert len(str(error)) < 600


def test_a_missing_default_network_is_explained() -> None:
    """What to give is in the message."""
    assert 'options={"SubnetId": ' in str(refused("VPCIdNotSpecified", "No default VPC"))


@pytest.mark.parametrize(("skew", "said"), [(400.0, True), (-400.0, True), (5.0, False)])
def test_a_wrong_clock_is_named(skew: float, said: bool) -> None:
    """Signatures bear the time: where clocks differ, that is the likely reason."""
    text = str(refused("SignatureDoesNotMatch", skew=skew))

    assert ("clock is 400 s off" in text) == said


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (403, NotAuthorized, "clock"),  # section 2, "Auth": HTML 403
        (401, NotAuthorized, "credentials"),
        (404, WrongEndpoint, "path"),
        (301, WrongEndpoint, "path"),
        (407, WrongEndpoint, "HTTPS_PROXY"),  # a proxy's, which stands before plain HTTP
        (429, Throttled, "too often"),  # a gateway's
        (500, ServerTrouble, "try again"),
        (503, ServerTrouble, "try again"),
        (400, CloudError, "kind of cloud"),
    ],
)
def test_an_answer_of_a_web_server_is_understood(
    status: int, kind: type[CloudError], hint: str
) -> None:
    """It has no code, so that its status has to say what it means."""
    error = refused("", "Not what you want", status=status)

    assert type(error) is kind
    assert hint in error.hint
    assert error.code == f"HTTP {status}"


def test_missing_instances_are_named() -> None:
    """All that the cloud names, however many, in whatever case."""
    ids = [f"i-{n:017x}" for n in range(300)]
    error = refused("InvalidInstanceID.NotFound", f"The IDs '{', '.join(ids)}, I-3F' don't exist")

    assert isinstance(error, MissingInstances)
    assert error.ids == {*ids, "i-3f"}


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (refused("RequestLimitExceeded", status=503), True),
        (refused("InternalError", status=500), True),
        (refused("InsufficientInstanceCapacity", status=503), False),
        (refused("TypeError", status=500, dialect="ec2-api"), False),
        (refused("", status=404), False),
        (refused("AuthFailure"), False),
    ],
)
def test_only_what_may_turn_out_otherwise_is_repeated(error: CloudError, worth: bool) -> None:
    """A full cloud stays full, and a bug a bug, also at 5xx."""
    assert is_worth_repeating(error) == worth


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("InvalidKeyPair.Duplicate", ""),
        ("InvalidGroup.Duplicate", ""),
        ("InvalidPermission.Duplicate", ""),
        ("KeyPairExists", ""),
        ("Groups", "Error adding network group"),
        ("EC2APIError", "group precip already exists"),
        ("EC2APIError", "tcp 22 - This rule already exists in group"),
        ("ImportKeyPairType", "Duplicate key 'precip'"),
    ],
)
def test_what_is_there_already_is_recognised(code: str, message: str) -> None:
    """However a cloud puts it."""
    assert is_duplicate(refused(code, message))
    assert not is_duplicate(refused("InvalidGroup.NotFound"))


@pytest.mark.parametrize("code", ["InvalidGroup.NotFound", "SecurityGroupNotFoundForProject"])
def test_a_missing_group_is_recognised(code: str) -> None:
    """However a cloud puts it."""
    assert is_missing_group(refused(code))


@pytest.mark.parametrize("kind", [ReplyLost, Unanswered, WrongEndpoint, EndpointUnreachable])
def test_silence_survives_pickling(kind: Any) -> None:
    """As all errors of ours do."""
    tell = Interpreter(AMAZON, "http://host/", str)
    error = tell.silence("RunInstances", "it broke", "try again", kind)
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is kind
    assert (
        str(again) == str(error) == ("Amazon EC2: RunInstances: http://host/: it broke; try again")
    )


def test_dialects_do_not_share_what_they_add() -> None:
    """What one cloud means by a code is no other's meaning."""
    assert "NoValidHost" in NOVA_2012.errors
    assert "NoValidHost" not in AMAZON.errors
    assert EC2_API.quota_code not in EC2_API.errors


@pytest.mark.parametrize(
    ("code", "status", "passing"),
    [
        ("InternalError", 500, True),
        ("RequestLimitExceeded", 503, True),
        ("OperationNotPermitted", 400, False),
    ],
)
def test_a_refusal_says_whether_it_passes(code: str, status: int, passing: bool) -> None:
    """By that those who end machines know whether to ask again, knowing nothing of codes."""
    assert refused(code, status=status).passing == passing
