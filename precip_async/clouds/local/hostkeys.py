"""Host keys, made before the machines that will show them: so no first connection is on trust."""

from __future__ import annotations

__all__ = ["make_host_key"]


def make_host_key() -> tuple[str, str]:
    """A new ed25519 key: the private half as OpenSSH PEM, the public one as a line."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return private.decode(), public.decode()
