"""What scripts say of a cloud: endpoints as those of 2012 wrote them, zones, credentials."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from precip_async.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precip_async.clouds.dialects import Dialect

__all__ = ["Endpoint", "check_credentials", "parse_endpoint", "parse_region", "reaped_by"]

LAST_PORT: Final = 65535
LONGEST: Final = 253  # characters of a host name

_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?")
_PATH: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_TLS_PORTS: Final = (443, 8443, 8444)

# us-west-2, us-gov-west-1; a zone adds a letter, a local zone its place: us-west-2-lax-1a
_REGION: Final = re.compile(r"([a-z]{2}(?:-[a-z]+)+-[0-9]+)([a-z]|-[a-z0-9]+(?:-[a-z0-9]+)+)?")
_AMAZON_DOMAIN: Final = r"\.(?:amazonaws\.com(?:\.cn)?|api\.aws)"
_AMAZON: Final = re.compile(
    rf"(?:ec2(?:-fips)?\.(?P<new>[a-z0-9-]+)|(?P<old>[a-z0-9-]+)\.ec2|ec2){_AMAZON_DOMAIN}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a cloud is spoken to.

    Attributes:
        url: Scheme, host, port and path; the path is sent and signed as it is.
        host: The host alone.
        region: The region that requests are signed for, as far as the host says; else ``None``.
    """

    url: str
    host: str
    region: str | None


def parse_endpoint(text: str, *dialects: Dialect) -> Endpoint:
    """The endpoint that `text` names: a URL, a host, or a host with a port, a path, or both.

    What is left out is the dialect's: scheme, port and path of a bare host, the path where there is
    none. A path of ``/`` is one. Of several dialects it is the one whose port is given, else the
    last.

    Raises:
        InvalidArgument: It names none, or bears what does not belong there, such as credentials.
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidArgument("endpoint must be the host or the URL of the cloud's EC2 API")
    given = text.strip()
    if "@" in given.split("?")[0]:  # perhaps a password: the text is not repeated
        raise InvalidArgument("endpoint must not hold credentials: give access_key, secret_key")
    scheme, separator, _ = given.partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        raise InvalidArgument(f"endpoint {given!r}: {scheme!r} is neither http nor https")
    try:
        parts = urlsplit(given if separator else f"//{given}")
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"endpoint {given!r}: {error}") from error
    _check(given, parts, port)
    dialect = next((one for one in dialects if port and one.port == port), dialects[-1])
    host = parts.hostname or ""
    if not separator:
        port = port if port is not None else dialect.port
        scheme = "https" if port in _TLS_PORTS else dialect.scheme
    shown = f"[{host}]" if ":" in host else host
    place = shown if port is None else f"{shown}:{port}"
    return Endpoint(
        url=f"{scheme.lower()}://{place}{parts.path or dialect.path}",
        host=host,
        region=_region_of(host),
    )


def parse_region(text: str) -> tuple[str, str | None]:
    """The region and the availability zone that `text` names; ``us-west-2c`` names both.

    Raises:
        InvalidArgument: It has not the form of either.
    """
    match = _REGION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidArgument(
            f"region must be a region or a zone, as us-west-2 or us-west-2c, not {text!r}"
        )
    return match[1], text if match[2] else None


def _check(given: str, parts: SplitResult, port: int | None) -> None:
    host = parts.hostname or ""
    if parts.query or parts.fragment or "?" in given or "#" in given:
        raise InvalidArgument("endpoint must have neither a query nor a fragment")
    if not _is_host(host):
        raise InvalidArgument(f"endpoint {given!r}: {host!r} is neither a host name nor an address")
    if port is not None and not 0 < port <= LAST_PORT:
        raise InvalidArgument(f"endpoint {given!r}: the port must be from 1 to {LAST_PORT}")
    if not _PATH.fullmatch(parts.path):
        raise InvalidArgument(f"endpoint {given!r}: {parts.path!r} is no path")


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            return ipaddress.ip_address(host).version == 6  # noqa: PLR2004 - IPv6
        except ValueError:
            return False
    return len(host) <= LONGEST and _NAME.fullmatch(host) is not None


def _region_of(host: str) -> str | None:
    match = _AMAZON.fullmatch(host)
    if match is None:
        return None
    return match["new"] or match["old"] or "us-east-1"


def check_credentials(
    access_key: str | None,
    secret_key: str | None,
    session_token: str | None,
    profile: str | None,
    *,
    needed: bool,
) -> None:
    """Raise `InvalidArgument` unless these can be credentials, and go together; `needed` ones."""
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


def reaped_by(
    dialect: Dialect,
    endpoint: Endpoint | None,
    region: str,
    verify: bool | str,
    given: Sequence[str | None],
) -> dict[str, Any]:
    """How `precip_async.reap` gets to a cloud; `given`: keys, token and profile, in this order."""
    names = ("access_key", "secret_key", "session_token", "profile")
    amazon = dialect.name == "amazon"
    return {
        "cloud": "ec2" if amazon else dialect.title.lower(),
        "endpoint": endpoint.url if endpoint else None,
        "region": region if amazon else None,
        "verify": verify,
        **dict(zip(names, given, strict=True)),
    }
