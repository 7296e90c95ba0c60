"""User data: what the user gave, and what lets the experiment's key in as root. Pure.

Stock images refuse root: cloud-init writes a forced command before root's keys. It is told not to,
in a part of its own beside the user's, if there is one.
"""

from __future__ import annotations

import email
import zlib
from email.message import Message
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Final

from precip_async.clouds.ec2_switch import switched
from precip_async.errors import InvalidArgument

__all__ = ["checked_size", "cloud_config", "merged"]

MOST: Final = 1024 * 1024  # bytes that compressed user data may unpack to; no cloud takes as much

# How cloud-init tells what it is given, by how it begins; the longer beginning first.
_KINDS: Final = (
    (b"#!", "x-shellscript"),
    (b"#cloud-config-archive", "cloud-config-archive"),
    (b"#cloud-config", "cloud-config"),
    (b"#cloud-boothook", "cloud-boothook"),
    (b"#include-once", "x-include-once-url"),
    (b"#include", "x-include-url"),
    (b"#part-handler", "part-handler"),
    (b"#upstart-job", "upstart-job"),
    (b"## template: jinja", "jinja2"),
)
_MIME: Final = (b"content-type:", b"mime-version:")
_GZIP: Final = b"\x1f\x8b"


def cloud_config(public_key: str, lifetime: float | None = None) -> str:
    """What we have to say to cloud-init; empty if it is nothing.

    Merged into the user's own: what that says stays, keys are added to its keys, and what counts a
    lifetime down comes before its boot commands, one of which may never return.

    Args:
        public_key: Who is to be let in as root; empty: nobody.
        lifetime: Seconds after which the instance is to power itself off, which ends it.
    """
    lines = []
    if public_key:
        lines += ["disable_root: false", "ssh_authorized_keys:", f"  - {public_key.strip()}"]
    if lifetime:
        lines += switched(lifetime)
    if not lines:
        return ""
    merge = "merge_how: dict(no_replace,recurse_list)+list(prepend)+str()"
    return "\n".join(["#cloud-config", merge, *lines, ""])


def merged(user_data: str | bytes | None, ours: str) -> bytes:
    """`user_data` with `ours`, a cloud-config, as a further part.

    Raises:
        InvalidArgument: `user_data` is compressed, and can't be unpacked.
    """
    if not user_data:
        return ours.encode()
    whole = MIMEMultipart(boundary="==precip==")  # fixed: the same launch has the same parameters
    for part in _parts(_unpacked(user_data)):
        whole.attach(part)
    whole.attach(_text(ours.encode(), "cloud-config"))
    return whole.as_bytes()


def checked_size(user_data: bytes, limit: int) -> bytes:
    """`user_data`, when it is no longer than `limit`.

    Raises:
        InvalidArgument: It is longer.
    """
    if len(user_data) > limit:
        raise InvalidArgument(
            f"user_data comes to {len(user_data)} bytes with what enables the login, and "
            f"{limit} are allowed: have it fetch the rest (#include), or use copy_and_run"
        )
    return user_data


def _unpacked(user_data: str | bytes) -> bytes:
    data = user_data.encode() if isinstance(user_data, str) else user_data
    if not data.startswith(_GZIP):
        return data
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(data, MOST)
    except zlib.error as error:
        raise InvalidArgument(f"user_data begins as gzip does, and is none: {error}") from error
    if not unpacker.eof:
        raise InvalidArgument(f"user_data is cut off, or unpacks to more than {MOST} bytes")
    return unpacked


def _parts(data: bytes) -> list[Message]:
    """`data` as parts for cloud-init."""
    start = data.lstrip()[:64].lower()
    if start.startswith(_MIME):
        message = email.message_from_bytes(data.lstrip())
        if message.is_multipart():
            return [part for part in message.get_payload() if isinstance(part, Message)]
        return [message]
    for beginning, kind in _KINDS:
        if start.startswith(beginning):
            return [_text(data, kind)]
    # of no kind that cloud-init knows: it leaves it alone, and who reads it finds it
    return [_text(data, "plain")]


def _text(data: bytes, kind: str) -> Message:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return MIMEApplication(data)
    return MIMEText(text, kind, "us-ascii" if text.isascii() else "utf-8")
