"""What cloud-init would make of user data, as far as it is about who may log in.

Cloud-config is read without a YAML parser: keys and scalars of one line, and lists of keys. That is
what those write who want root or a further key let in; what it can't read it leaves alone, as an
image without cloud-init would.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass
from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any, Final

from precip_async.clouds.ec2_switch import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Logins", "read_lifetime", "read_user_data"]

HEADER: Final = "#cloud-config"
MAX_UNPACKED: Final = 1 << 20  # bytes of user data that was compressed
_ROOT: Final = re.compile(r"(?m)^disable_root\s*:\s*[\"']?(\w+)[\"']?\s*(?:#.*)?$")
_KEY: Final = re.compile(
    r"(?m)^\s*-\s+[\"']?((?:ssh|ecdsa|sk)-[\w@.-]+\s+[A-Za-z0-9+/=]+[^\"'\n]*)[\"']?\s*$"
)
_NO: Final = ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Logins:
    """Who may log in beyond what the image allows.

    Attributes:
        root: Whether root may.
        keys: Further public keys, OpenSSH lines.
    """

    root: bool = False
    keys: tuple[str, ...] = ()


def read_user_data(data: bytes) -> Logins:
    """What raw or MIME multipart user data, compressed or not, says about logins.

    Of several parts the later ones add to the earlier, and their say about root counts.
    """
    root, keys = False, []
    for config in _configs(data):
        allowed, more = _read_config(config)
        root = root if allowed is None else allowed
        keys += more
    return Logins(root=root, keys=tuple(dict.fromkeys(keys)))


def read_lifetime(data: bytes) -> int | None:
    """The seconds after which user data has its instance power itself off; ``None``: never.

    It is known by what precip has cloud-init start: no other ``bootcmd`` is looked at.
    """
    found = [seconds for config in _configs(data) if (seconds := seconds_of(config)) is not None]
    return min(found, default=None)


def _configs(data: bytes) -> Iterator[str]:
    plain = _unpacked(data)
    if plain.lower().startswith((b"content-type:", b"mime-version:")):
        for part in message_from_bytes(plain, policy=policy.HTTP).walk():
            if not part.is_multipart():
                payload: Any = part.get_payload(decode=True)
                text = _unpacked(payload or b"").decode(errors="replace")
                if part.get_content_type() == "text/cloud-config" or text.startswith(HEADER):
                    yield text
    elif plain.startswith(HEADER.encode()):
        yield plain.decode(errors="replace")


def _unpacked(data: bytes) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return zlib.decompressobj(wbits=31).decompress(data, MAX_UNPACKED)
    except (zlib.error, gzip.BadGzipFile):
        return b""


def _read_config(text: str) -> tuple[bool | None, list[str]]:
    body = text.removeprefix(HEADER).strip()
    if body.startswith("{"):  # JSON is YAML too
        try:
            said = json.loads(body)
        except ValueError:
            return None, []
        root = said.get("disable_root")
        return (None if root is None else root is False), list(_listed(said))
    found = _ROOT.findall(body)
    allowed = found[-1].lower() in _NO if found else None
    return allowed, [key.strip() for key in _KEY.findall(_key_lists(body))]


def _listed(said: Any) -> Iterator[str]:
    if isinstance(said, dict):
        for name, value in said.items():
            if name == "ssh_authorized_keys" and isinstance(value, list):
                yield from (str(key).strip() for key in value)
            else:
                yield from _listed(value)
    elif isinstance(said, list):
        for value in said:
            yield from _listed(value)


def _key_lists(text: str) -> str:
    """The lines of all lists called ``ssh_authorized_keys``, wherever they stand."""
    kept, within = [], -1
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if re.match(r"\s*-?\s*ssh_authorized_keys\s*:\s*$", line):
            within = indent
        elif within >= 0 and line.strip() and not line.lstrip().startswith("- "):
            within = -1
        elif within >= 0:
            kept.append(line)
    return "\n".join(kept)
