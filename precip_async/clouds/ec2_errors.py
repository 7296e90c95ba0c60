"""Refusals and silence of EC2-compatible clouds as errors of ours. Pure.

Every error says which cloud, which operation, the cloud's code and words, and what to do next.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from precip_async.clouds.ec2_words import MISSING_INSTANCE, meaning
from precip_async.errors import (
    CapacityUnavailable,
    CloudError,
    EndpointUnreachable,
    ImageNotFound,
    InvalidInstanceType,
    NotAuthorized,
    QuotaExceeded,
    Throttled,
    shortened,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from precip_async.clouds.dialects import Dialect
    from precip_async.clouds.ec2_documents import Fault

__all__ = [
    "PROXY",
    "Interpreter",
    "MissingInstances",
    "ReplyLost",
    "ServerTrouble",
    "Unanswered",
    "WrongEndpoint",
    "is_worth_repeating",
]

LONGEST: Final = 400  # characters of the cloud's words that an error repeats
SKEW: Final = 60.0  # seconds between two clocks from which on they are worth a word

PROXY: Final = "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY, and the proxy's user and password"

_INSTANCE: Final = re.compile(r"\bi-[0-9a-f]+\b", re.IGNORECASE)
_UNAUTHORIZED, _FORBIDDEN, _PROXY_WANTS_LOGIN = 401, 403, 407
_TOO_MANY: Final = 429
_SERVER: Final = 500
_NO_API: Final = (404, 405, 410, 501)
_REDIRECTED: Final = range(300, 400)

# Answers with 5xx that are the same the next time: section 1.10, section 7, rule 7.
_DETERMINISTIC: Final = frozenset({"TypeError", "NotImplemented"})
# Section 2, "anything else": what nova says of trouble of its own at 400. It may or may not pass.
_TROUBLE: Final = frozenset({"UnknownError"})
_HINTS: Final[dict[type[CloudError], str]] = {
    NotAuthorized: "check the access key, the secret key, the session token if there is one, and "
    "what they are allowed to do",
    ImageNotFound: "check the image's id; ids differ by region and by cloud",
    InvalidInstanceType: "choose an instance_type that this cloud, zone and image have",
    QuotaExceeded: "ask for fewer, end some, or have the quota raised",
    CapacityUnavailable: "ask for fewer, or in another zone or of another type, or later",
    Throttled: "the account is asked of too often; other programs share its limits",
}
# Of these refusals the clock is no reason: the credentials were looked at.
_TIMELESS: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "Blocked",
        "ExpiredToken",
        "ExpiredTokenException",
        "OptInRequired",
        "PendingVerification",
        "UnauthorizedOperation",
    }
)
_NETWORK: Final = (
    "there is no default network for it: name one, with "
    'options={"SubnetId": "subnet-…"} in provision()'
)
_EXPIRED: Final = (
    "renew the session token; an experiment that is open keeps the old one: with the new one "
    "attach to it once that has ended, or end what it leaves with `precip reap`"
)
_HINTS_BY_CODE: Final[dict[str, str]] = {
    "VPCIdNotSpecified": _NETWORK,
    "MissingInput": _NETWORK,
    "DefaultVpcDoesNotExist": _NETWORK,
    "RequestExpired": "the session token has expired (renew it), or this computer's clock is wrong",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "OptInRequired": "the account has not subscribed to what the image or the region needs",
    "PendingVerification": "Amazon is still verifying the account; try again later",
    "UnauthorizedOperation": "the credentials are good, and do not allow this operation",
    "SignatureDoesNotMatch": "the secret key is not that of the access key, or the region is wrong",
    "InvalidSignatureException": "the secret key is wrong, or the region",
    "IdempotentParameterMismatch": "another launch has used this token; call provision() again",
    "InvalidKeyPair.NotFound": "it was deleted meanwhile: open the experiment again",
    "InvalidGroup.NotFound": "it was deleted meanwhile: open the experiment again",
    "InvalidParameterCombination": "see instance_type and options=",
    "Unsupported": "see instance_type, the zone and options=",
}


class ReplyLost(EndpointUnreachable):
    """Nobody knows whether a request was carried out: its answer did not arrive."""


class Unanswered(ReplyLost):
    """Likewise; it may even be at it still."""


class MissingInstances(CloudError):
    """There are no such instances, or not yet.

    Attributes:
        ids: Those that the cloud names, in lower case; it need not name all.
    """

    ids: frozenset[str] = frozenset()


class WrongEndpoint(EndpointUnreachable):
    """Nothing that speaks EC2 is at the endpoint, or nothing that can be believed."""


class ServerTrouble(CloudError):
    """The cloud had trouble of its own, and may have carried the request out all the same."""

    passing = True


class Interpreter:
    """Makes errors of one cloud; takes secrets out of whatever it repeats.

    Args:
        dialect: Which cloud.
        place: Where it is spoken to, for messages.
        clean: Takes secrets out of a text.
    """

    def __init__(self, dialect: Dialect, place: str, clean: Callable[[str], str]) -> None:
        self._dialect, self._place, self._clean = dialect, place, clean

    def refusal(
        self, operation: str, status: int, fault: Fault, skew: float | None = None
    ) -> CloudError:
        """The error that an answer with `status` and `fault` stands for.

        Args:
            operation: What was asked for.
            status: Of HTTP.
            fault: The document.
            skew: Seconds that the cloud's clock is ahead of ours; ``None``: it did not say.
        """
        code, said = fault.code, shortened(self._clean(fault.message), LONGEST)
        if not code:
            return self._speechless(operation, status, said, skew)
        kind = self._kind(status, code, fault.message)
        hint = _HINTS_BY_CODE.get(code) or _HINTS.get(kind, "")
        if kind is NotAuthorized:
            hint = self._why_not(code, fault.message, skew) or hint
            if code not in _TIMELESS and (clock := _off(skew)):
                hint = f"{clock}; else {hint}"
        error = kind(
            said or "refused",
            cloud=self._dialect.title,
            operation=operation,
            code=code,
            request_id=fault.request_id,
            hint=hint,
        )
        if isinstance(error, MissingInstances):
            error.ids = frozenset(one.lower() for one in _INSTANCE.findall(fault.message))
        return error

    def _why_not(self, code: str, message: str, skew: float | None) -> str:
        """Why credentials are not accepted, where it can be told; else nothing."""
        if "scoped to a valid region" in message:
            return f"the credentials may be good: give the region that {self._place} is in"
        if (
            code == "RequestExpired" and skew is not None
        ):  # of clocks more is said where they differ
            return f"the session token has expired: {_EXPIRED}"
        if code == "SignatureDoesNotMatch" and self._dialect.signature == "v2":  # of no region
            return "the secret key is not that of the access key"
        return ""

    def _kind(self, status: int, code: str, message: str) -> type[CloudError]:
        dialect = self._dialect
        # "Server.InsufficientInstanceCapacity", as state reasons have it, is the same thing
        bare = re.sub(r"^(Client|Server)\.", "", code)
        if known := dialect.errors.get(bare):
            return known
        if bare in MISSING_INSTANCE:
            return MissingInstances
        if bare == dialect.quota_code:
            return QuotaExceeded if "quota" in message.lower() else NotAuthorized
        kind = Throttled if status == _TOO_MANY else meaning(bare, message)
        if kind is not CloudError or bare in _DETERMINISTIC:
            return kind
        return ServerTrouble if status >= _SERVER or bare in _TROUBLE else kind

    def _speechless(self, operation: str, status: int, said: str, skew: float | None) -> CloudError:
        """An answer that is no document of EC2's: a web server's own, or no API at all."""
        facts = {"cloud": self._dialect.title, "operation": operation, "code": f"HTTP {status}"}
        if status in (_UNAUTHORIZED, _FORBIDDEN):
            # Section 2, "Auth": a wrong time, and a lockout after too many failures, are HTML 403
            other = "check the credentials and this computer's clock; the cloud may have locked out"
            hint = _off(skew) or f"{other} this account for some minutes"
            return NotAuthorized(f"refused: {said}", hint=hint, **facts)
        if status == _PROXY_WANTS_LOGIN:
            return WrongEndpoint(f"a proxy lets nobody pass: {said}", hint=PROXY, **facts)
        if status == _TOO_MANY:  # of whoever stands before the API
            return Throttled(f"refused: {said}", hint=_HINTS[Throttled], **facts)
        if status in _NO_API or status in _REDIRECTED:
            return WrongEndpoint(
                f"there is no EC2 API at {self._place}, but: {said}",
                hint="check the endpoint's path and port",
                **facts,
            )
        if status >= _SERVER:
            return ServerTrouble(f"it has trouble of its own: {said}", hint="try again", **facts)
        return CloudError(
            f"refused without a reason: {said}",
            hint="check that the endpoint is of this kind of cloud",
            **facts,
        )

    def unreadable(self, operation: str, said: str) -> ReplyLost:
        """The error for an answer that should be a document and is none."""
        return ReplyLost(
            f"what answers at {self._place} does not speak EC2: {shortened(self._clean(said))}",
            cloud=self._dialect.title,
            operation=operation,
            hint="check the endpoint's host, port and path",
        )

    def silence(
        self, operation: str, problem: str, hint: str, kind: type[EndpointUnreachable]
    ) -> EndpointUnreachable:
        """The error for no answer at all: what happened, what to do, and how grave it is."""
        return kind(
            f"{self._place}: {shortened(self._clean(problem), LONGEST)}",
            cloud=self._dialect.title,
            operation=operation,
            hint=hint,
        )

    def lost(self, operation: str, problem: str, hint: str) -> ReplyLost:
        """The error for a request of which nobody knows whether it was carried out."""
        return ReplyLost(problem, cloud=self._dialect.title, operation=operation, hint=hint)

    def invalid(self, operation: str, problem: str, hint: str = "") -> CloudError:
        """The error for what can't be done there, found out before asking or by its library."""
        return CloudError(
            self._clean(problem), cloud=self._dialect.title, operation=operation, hint=hint
        )

    def no_credentials(self, operation: str, problem: str) -> NotAuthorized:
        """The error for credentials that can't be had."""
        return NotAuthorized(
            f"no usable credentials: {shortened(self._clean(problem), LONGEST)}",
            cloud=self._dialect.title,
            operation=operation,
            hint="give access_key= and secret_key=, or profile=, or set them in the environment",
        )


def _off(skew: float | None) -> str:
    """What to do about clocks that differ; empty where they don't."""
    if skew is None or abs(skew) <= SKEW:
        return ""
    return f"this computer's clock is {abs(skew):.0f} s off the cloud's: set it"


def is_worth_repeating(error: CloudError) -> bool:
    """Whether the same request may be answered otherwise in a moment."""
    passing = isinstance(error, Throttled | ServerTrouble | EndpointUnreachable)
    return passing and not isinstance(error, WrongEndpoint)
