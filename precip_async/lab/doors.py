"""Who is let in: a request's signature, and what a cloud says of one that it doesn't accept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from precip_async.lab.refusals import Refusal
from precip_async.lab.signatures import Unsigned, read_v2, read_v4, version_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from precip_async.lab.account import Account
    from precip_async.lab.messages import Request
    from precip_async.lab.signatures import Claim

__all__ = ["Doors"]

_NOT_VALID: Final = "AWS was not able to validate the provided access credentials"


class Doors:
    """Knows the secrets.

    Args:
        secrets: The secret of each access key.
        session_token: The token that every request must bring; empty: none may.
    """

    def __init__(self, secrets: Mapping[str, str], *, session_token: str = "") -> None:
        self._secrets = dict(secrets)
        self._session_token = session_token

    def check(self, account: Account, request: Request, pairs: Sequence[tuple[str, str]]) -> None:
        """Let a request in.

        Args:
            account: Whose cloud it is.
            request: What was sent.
            pairs: Its parameters.

        Raises:
            Refusal: It is not let in. The code is one of ``unsigned``, ``unknown-key``,
                ``wrong-signature``, ``expired`` and ``wrong-region``; every cloud has its own word.
        """
        claim = _read(account, request, pairs)
        secret = self._secrets.get(claim.access_key)
        if secret is None or claim.token != self._session_token:
            raise Refusal("unknown-key", _NOT_VALID, status=401)
        if not claim.holds(secret):
            raise Refusal("wrong-signature", _NOT_VALID, status=401)
        _check_time(account, claim)
        if account.dialect.scoped and claim.version == 4:  # noqa: PLR2004 - the version
            _check_scope(account, claim)


def _read(account: Account, request: Request, pairs: Sequence[tuple[str, str]]) -> Claim:
    version = version_of(request, pairs)
    if version not in account.dialect.signatures:
        raise Refusal("unsigned", "The request must contain the parameter AWSAccessKeyId")
    try:
        return read_v2(request, pairs) if version == 2 else read_v4(request)  # noqa: PLR2004 - the version
    except Unsigned as error:
        raise Refusal("unsigned", f"The signature can't be read: {error}") from error


def _check_time(account: Account, claim: Claim) -> None:
    now, dialect = account.now(), account.dialect
    late = (claim.signed_at is not None and now - claim.signed_at > dialect.oldest) or (
        claim.expires_at is not None and now > claim.expires_at
    )
    early = (
        dialect.newest is not None
        and claim.signed_at is not None
        and claim.signed_at - now > dialect.newest
    )
    if claim.version not in dialect.timely:
        late = early = False
    if late or early or (claim.token and account.scenario.expired_token):
        raise Refusal("expired", "Request has expired.")


def _check_scope(account: Account, claim: Claim) -> None:
    if claim.region != account.region:
        raise Refusal(
            "wrong-region",
            f"Credential should be scoped to a valid region, not '{claim.region}'.",
            status=401,
        )
    if claim.service != "ec2":
        raise Refusal(
            "wrong-region",
            f"Credential should be scoped to correct service: 'ec2', not '{claim.service}'.",
            status=401,
        )
