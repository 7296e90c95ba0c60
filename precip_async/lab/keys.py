"""Keys and certificates: what the lab needs of cryptography, and the only place that knows it."""

from __future__ import annotations

import base64
import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from precip_async.lab.refusals import Refusal

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "MAX_KEY",
    "fingerprint_of",
    "is_public_key",
    "kind_of",
    "make_certificate",
    "read_public_key",
    "rsa_bits",
    "unchecked_key",
]

MAX_KEY: Final = 16_384  # bytes of a public key


def read_public_key(text: str) -> str:
    """The OpenSSH line in the base64 text that a request carries.

    Raises:
        Refusal: There is none.
    """
    try:
        line = base64.b64decode(text, validate=True).decode("ascii").strip()
        kind, blob, *_ = line.split(None, 2)
        inner = base64.b64decode(blob, validate=True)
    except ValueError as error:
        raise _bad() from error
    if len(text) > MAX_KEY or "\n" in line or not inner.startswith(_prefixed(kind)):
        raise _bad()
    fingerprint_of(line)  # whether it is whole
    return line


def unchecked_key(text: str) -> str:
    """The text in the base64 that a request carries, whatever it is.

    Raises:
        Refusal: It is no base64.
    """
    try:
        return base64.b64decode(text, validate=True).decode("ascii").strip()
    except ValueError as error:
        raise _bad() from error


def is_public_key(line: str) -> bool:
    """Whether a line is a public key."""
    try:
        fingerprint_of(line)
    except Refusal:
        return False
    return True


def rsa_bits(line: str) -> int:
    """The size of an RSA key; 0 of any other."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    key = load_ssh_public_key(line.encode())
    return key.key_size if isinstance(key, RSAPublicKey) else 0


def kind_of(line: str) -> str:
    """The type of a key: ``"ssh-rsa"``, ``"ssh-ed25519"``."""
    return line.split(None, 1)[0]


def fingerprint_of(line: str) -> str:
    """How Amazon tells an imported key: MD5 of its DER form for RSA, else OpenSSH's SHA256.

    Raises:
        Refusal: It is no key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_ssh_public_key,
    )

    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad() from error
    if isinstance(key, RSAPublicKey):
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digest = hashlib.md5(der, usedforsecurity=False).hexdigest()
        return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))
    blob = base64.b64decode(line.split()[1])
    return base64.b64encode(hashlib.sha256(blob).digest()).decode()


def make_certificate(directory: Path, host: str) -> tuple[Path, Path]:
    """A certificate for `host`, its own authority; the files of it and of its key. Blocks."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "precip lab")])
    alternative: x509.GeneralName
    try:
        alternative = x509.IPAddress(ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = f"lab-{secrets.token_hex(4)}"
    public, private = directory / f"{own}.pem", directory / f"{own}.key"
    public.write_bytes(certificate.public_bytes(Encoding.PEM))
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return public, private


def _prefixed(kind: str) -> bytes:
    return len(kind).to_bytes(4, "big") + kind.encode()


def _bad() -> Refusal:
    return Refusal("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
