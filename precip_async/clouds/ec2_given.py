"""What users give to say who asks a cloud: checked before anything is done with it."""

from __future__ import annotations

from precip_async.errors import InvalidArgument

__all__ = ["check_credentials"]


def check_credentials(
    access_key: str | None,
    secret_key: str | None,
    session_token: str | None,
    profile: str | None,
    *,
    needed: bool,
) -> None:
    """Raise `InvalidArgument` where these can't be, or do not go together.

    Args:
        access_key: Who asks.
        secret_key: Goes with `access_key`.
        session_token: Goes with temporary keys.
        profile: A profile of the AWS configuration.
        needed: Whether nobody else can be asked for keys.
    """
    for name, value in (("access_key", access_key), ("secret_key", secret_key)):
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise InvalidArgument(f"{name} must be a string, and not an empty one")  # never shown
    if (access_key is None) != (secret_key is None):
        missing = "secret_key" if secret_key is None else "access_key"
        raise InvalidArgument(f"{missing} is missing: access_key and secret_key go together")
    if access_key is None and needed:
        raise InvalidArgument("access_key and secret_key must be given for this cloud")
    if session_token is not None and access_key is None:
        raise InvalidArgument("session_token goes with access_key and secret_key")
    if profile is not None and access_key is not None:
        raise InvalidArgument("give either profile, or access_key and secret_key")
