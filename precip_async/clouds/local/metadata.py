"""What a machine's metadata service says, as EC2's does: pure, but for the clock.

A path is a leaf, with a text, or a directory, with a list of what is in it. Who asks must show a
token first where the launch required that, and may anywhere; a token is had by ``PUT``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Ask", "Metadata", "Reply", "Service"]

TOKEN_PATH: Final = "/latest/api/token"  # noqa: S105 - no secret
LONGEST: Final = 21_600  # seconds that a token may live
# One version for all: EC2 shows the older ones less, and nobody has been seen to mind.
VERSIONS: Final = ("1.0", "2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "latest")
_TTL: Final = "x-aws-ec2-metadata-token-ttl-seconds"
_TOKEN: Final = "x-aws-ec2-metadata-token"  # noqa: S105 - no secret
_KEYS: Final = "meta-data/public-keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What is known of a machine before it has an address.

    Attributes:
        facts: Texts, by their paths below ``meta-data``; those below ``interface`` are put where
            those of its network interface are.
        identity: The instance identity document, but for the address.
        user_data: In base64; empty: none.
        key_name: What ``public-keys/0`` is called; empty: there is none.
        public: Whether its address is a public one as well.
        enabled: Whether anybody is answered at all.
        tokens_required: Whether a request without a token is refused.
        hop_limit: How many hops a token may travel.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)
    user_data: str = ""
    key_name: str = ""
    public: bool = True
    enabled: bool = True
    tokens_required: bool = False
    hop_limit: int = 1

    def leaves(self, *, address: str, mac: str, hostname: str) -> dict[str, bytes]:
        """All leaves, by their paths below a version, of the machine that is at `address`."""
        interface = f"network/interfaces/macs/{mac}"
        texts = {
            "hostname": hostname,
            "local-hostname": hostname,
            "local-ipv4": address,
            "mac": mac,
            f"{interface}/device-number": "0",
            f"{interface}/local-hostname": hostname,
            f"{interface}/local-ipv4s": address,
            f"{interface}/mac": mac,
        }
        if self.public:
            texts |= {"public-ipv4": address, f"{interface}/public-ipv4s": address}
        texts |= {
            re.sub("^interface/", f"{interface}/", at): text for at, text in self.facts.items()
        }
        document = json.dumps({**self.identity, "privateIp": address}, indent=2)
        leaves = {f"meta-data/{at}": text.encode() for at, text in texts.items()}
        leaves["dynamic/instance-identity/document"] = document.encode()
        if self.user_data:
            leaves["user-data"] = base64.b64decode(self.user_data)
        return leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request: its headers by their names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer.

    Attributes:
        hop_limit: How many hops it may travel; ``None``: as many as any packet.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hop_limit: int | None = None


class Service:
    """Answers one machine.

    Args:
        metadata: What is known of it.
        leaves: What `Metadata.leaves` makes of that.
    """

    def __init__(self, metadata: Metadata, leaves: Mapping[str, bytes]) -> None:
        self._metadata, self._leaves = metadata, leaves
        self._secret = secrets.token_bytes(32)

    def answer(self, ask: Ask) -> Reply:
        """What is said to `ask`."""
        path = re.sub("/+", "/", ask.path.partition("?")[0])
        if not self._metadata.enabled:
            return Reply(status=403)
        if path == TOKEN_PATH:
            return self._token(ask)
        if ask.method not in ("GET", "HEAD"):
            return Reply(status=405)
        shown = ask.headers.get(_TOKEN)
        if not self._is_good(shown) if shown else self._metadata.tokens_required:
            return Reply(status=401)
        said = self._said(path.strip("/"))
        return Reply(status=404) if said is None else Reply(status=200, body=said)

    def _token(self, ask: Ask) -> Reply:
        if ask.method != "PUT":
            return Reply(status=405)
        if "x-forwarded-for" in ask.headers:  # whoever is fooled into fetching a URL says so
            return Reply(status=403)
        asked = ask.headers.get(_TTL, "")
        if not re.fullmatch("[0-9]{1,5}", asked) or not 1 <= int(asked) <= LONGEST:
            return Reply(status=400)
        token = self._signed(f"{time.monotonic() + int(asked):.3f}")
        return Reply(
            status=200,
            body=token.encode(),
            headers={_TTL: asked},
            hop_limit=self._metadata.hop_limit,
        )

    def _signed(self, until: str) -> str:
        return f"{until}-{hmac.new(self._secret, until.encode(), hashlib.sha256).hexdigest()}"

    def _is_good(self, token: str) -> bool:
        until = token.partition("-")[0]
        known = hmac.compare_digest(self._signed(until).encode(), token.encode())
        return known and time.monotonic() < float(until)

    def _said(self, path: str) -> bytes | None:
        """What is at `path`; ``None``: nothing is."""
        if not path:
            return "\n".join(VERSIONS).encode()
        version, _, below = path.partition("/")
        if version not in VERSIONS:
            return None
        if below in self._leaves:
            return self._leaves[below]
        within = f"{below}/" if below else ""
        inside = {at.removeprefix(within) for at in self._leaves if at.startswith(within)}
        if not inside:
            return None
        if below == _KEYS:
            return f"0={self._metadata.key_name}".encode()
        names = {
            name if not more else f"{name}/"
            for name, _, more in (at.partition("/") for at in inside)
        }
        return "\n".join(sorted(names)).encode()
