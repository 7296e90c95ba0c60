"""Signatures of requests, versions 2 and 4, read and verified as the AWS documentation has them.

§1.1 of the collection of facts (see `dialects`) has how version 2 is written, §1.2 that paths are
signed as they are sent, and §2 to §5 "Auth" who takes which; for version 4 there is no source but
that documentation.

Pure: nothing here knows who has which key. What a request claims is read first; then whoever knows
the secret asks whether the signature was made with it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precip_async.lab.messages import Request

__all__ = ["Claim", "Unsigned", "read_v2", "read_v4", "version_of"]

ALGORITHM: Final = "AWS4-HMAC-SHA256"
#: §5 "Auth": "HmacSHA1/HmacSHA256".
_V2_HASHES: Final = {"HmacSHA256": hashlib.sha256, "HmacSHA1": hashlib.sha1}
_AUTHORIZATION: Final = re.compile(
    rf"{ALGORITHM} +Credential=(?P<credential>[^, ]+), *SignedHeaders=(?P<headers>[^, ]+),"
    r" *Signature=(?P<signature>[0-9a-f]{64})"
)


class Unsigned(Exception):
    """A request whose signature can't even be read; the text is a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who a request says it is from.

    Attributes:
        version: Of the signature: 2 or 4.
        signed_at: When, in seconds since the epoch; ``None`` when it is only to `expires_at`.
        expires_at: Until when; ``None`` when it doesn't say.
        token: The session token; empty where there is none.
        region: Version 4: which region it is for.
        service: Version 4: which service it is for.
    """

    version: int
    access_key: str
    signed_at: float | None
    expires_at: float | None = None
    token: str = ""
    region: str = ""
    service: str = ""
    _text: bytes = field(repr=False)
    _signature: bytes = field(repr=False)
    _scope: Sequence[str] = field(default=(), repr=False)
    _method: str = "HmacSHA256"

    def holds(self, secret: str) -> bool:
        """Whether the signature was made with `secret`."""
        if self.version == 2:  # noqa: PLR2004 - the version
            made = hmac.new(secret.encode(), self._text, _V2_HASHES[self._method]).digest()
            return hmac.compare_digest(b64encode(made), self._signature)
        key = f"AWS4{secret}".encode()
        for part in self._scope:
            key = hmac.digest(key, part.encode(), "sha256")
        made = hmac.digest(key, self._text, "sha256")
        return hmac.compare_digest(made.hex().encode(), self._signature)


def version_of(request: Request, pairs: Sequence[tuple[str, str]]) -> int:
    """Which version a request is signed with; 0: with none."""
    if request.header("authorization"):
        return 4
    names = {name for name, _ in pairs}
    return 2 if "Signature" in names else 4 if "X-Amz-Signature" in names else 0


def read_v4(request: Request) -> Claim:
    """What a request claims that is signed in its ``Authorization`` header.

    Raises:
        Unsigned: It can't be read.
    """
    found = _AUTHORIZATION.fullmatch(request.header("authorization").strip())
    if found is None:
        raise Unsigned("the Authorization header can't be read")
    access_key, *scope = found["credential"].rsplit("/", 4)
    if len(scope) != 4 or scope[3] != "aws4_request":  # noqa: PLR2004 - date, region, service, end
        raise Unsigned("the credential's scope can't be read")
    signed = found["headers"].split(";")
    stamp = request.header("x-amz-date")
    if "host" not in signed or signed != sorted(set(signed)):
        raise Unsigned("the signed headers must be in order, and the host among them")
    if not stamp or "x-amz-date" not in signed:
        raise Unsigned("a signed X-Amz-Date is needed")
    at = _moment(stamp, "%Y%m%dT%H%M%SZ")
    if not stamp.startswith(scope[0]):
        raise Unsigned("the credential's date is not that of the request")
    canonical = "\n".join(
        [
            request.method,
            _quoted(_normal(request.path), safe="/~"),  # quoted once more: S3 alone does without
            _canonical(request.query_pairs()),
            *(f"{name}:{_values(request, name)}" for name in signed),
            "",
            found["headers"],
            hashlib.sha256(request.body).hexdigest(),
        ]
    )
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    return Claim(
        version=4,
        access_key=access_key,
        signed_at=at,
        token=request.header("x-amz-security-token"),
        region=scope[1],
        service=scope[2],
        _text="\n".join([ALGORITHM, stamp, "/".join(scope), hashed]).encode(),
        _signature=found["signature"].encode(),
        _scope=scope,
    )


def read_v2(request: Request, pairs: Sequence[tuple[str, str]]) -> Claim:
    """What a request claims that is signed among its parameters.

    Raises:
        Unsigned: It can't be read.
    """
    said = dict(pairs)
    if len(said) != len(pairs):
        raise Unsigned("a parameter is there twice")
    if said.get("SignatureVersion") != "2":
        raise Unsigned(f"SignatureVersion {said.get('SignatureVersion')!r} is not 2")
    method = said.get("SignatureMethod", "")
    if method not in _V2_HASHES:
        raise Unsigned(f"SignatureMethod {method!r} is not known")
    # §5 "Auth": "exactly one Signature, Timestamp xor Expires".
    if ("Timestamp" in said) == ("Expires" in said):
        raise Unsigned("exactly one of Timestamp and Expires is needed")
    signed = [(name, value) for name, value in pairs if name != "Signature"]
    # Here names are put in order as they are, in version 4 as they are quoted.
    query = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted(signed))
    # §1.1: "method, Host incl. :port, path, sorted RFC3986 params".
    text = "\n".join([request.method, request.header("host").lower(), request.path or "/", query])
    return Claim(
        version=2,
        access_key=said.get("AWSAccessKeyId", ""),
        signed_at=_iso(said["Timestamp"]) if "Timestamp" in said else None,
        expires_at=_iso(said["Expires"]) if "Expires" in said else None,
        token=said.get("SecurityToken", ""),
        _text=text.encode(),
        _signature=said["Signature"].encode(),
        _method=method,
    )


def _canonical(pairs: Sequence[tuple[str, str]]) -> str:
    quoted = sorted((_quoted(name), _quoted(value)) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in quoted)


def _quoted(text: str, safe: str = "~") -> str:
    return quote(text, safe=f"-_.{safe}")


def _normal(path: str) -> str:
    """The path without empty and dotted parts."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    end = "/" if kept and path.endswith("/") else ""
    return f"/{'/'.join(kept)}{end}"


def _values(request: Request, name: str) -> str:
    return ",".join(" ".join(value.split()) for key, value in request.headers if key == name)


def _iso(text: str) -> float:
    for shape in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S"):
        try:
            return _moment(text, shape)
        except Unsigned:
            continue
    raise Unsigned(f"{text!r} is no moment")


def _moment(text: str, shape: str) -> float:
    try:
        return datetime.strptime(text, shape).replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise Unsigned(f"{text!r} is no moment") from error
