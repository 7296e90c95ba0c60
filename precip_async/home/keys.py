"""Key pairs: the home's own, and host keys for machines that we make.

Everything here blocks; call it in a thread.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from precip_async.errors import HomeError
from precip_async.home.files import create_once, read_private, replace, reported

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from precip_async.home.directory import Home

    PrivateKey = Ed25519PrivateKey | RSAPrivateKey

__all__ = ["KeyPair", "ed25519_key", "generate_host_key", "rsa_key"]

# What every cloud takes that takes RSA at all: Eucalyptus wants 1024, 2048 or 4096. A signature of
# 4096 bits costs six times as much, for each connection.
RSA_BITS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A key pair of the home.

    Attributes:
        path: The file of the private key; the public one is beside it, as ``.pub``.
        public_line: The public key as one OpenSSH line, with a comment that names the account.
    """

    path: Path
    public_line: str

    def private_openssh(self) -> bytes:
        """The private key as the file holds it: OpenSSH's format, or PEM if 0.3 made it. Blocks.

        Raises:
            HomeError: The file is gone, someone else's, or open to others.
        """
        return read_private(self.path)


def ed25519_key(home: Home) -> KeyPair:
    """The home's Ed25519 key pair, which is made when it is first asked for. Blocks.

    Of processes that ask at once, one makes it and all get that one.

    Raises:
        HomeError: The file is someone else's, open to others, or holds no such key.
    """
    return _key_pair(home, f"precip_{home.account_id}_ed25519", "ssh-ed25519", _new_ed25519)


def rsa_key(home: Home) -> KeyPair:
    """The home's RSA key pair, for clouds that know nothing newer; else as `ed25519_key`.

    It has the name that precip 0.3 gave it: a home left by 0.3 keeps its key.
    """
    return _key_pair(home, f"precip_{home.account_id}", "ssh-rsa", _new_rsa)


def generate_host_key() -> tuple[bytes, str]:
    """A new Ed25519 host key: the private key in OpenSSH's format, the public line bare."""
    key = _new_ed25519()
    return _private_bytes(key), _public_line(key)


def _new_ed25519() -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


def _new_rsa() -> RSAPrivateKey:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)


def _private_bytes(key: PrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


def _public_line(key: PrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization

    openssh = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(*openssh).decode()


def _key_pair(home: Home, name: str, kind: str, new: Callable[[], PrivateKey]) -> KeyPair:
    path = home.path / name
    with reported(path):
        if not path.exists():
            create_once(path, _private_bytes(new()))
    public = _public_of(path)
    if not public.startswith(f"{kind} "):
        raise _unusable(path, f"holds a key of another kind than {kind}")
    line = f"{public} precip-{home.account_id}"
    _keep_public(path.with_name(f"{name}.pub"), line)
    return KeyPair(path=path, public_line=line)


def _public_of(path: Path) -> str:
    """The public line of the private key in `path`, without a comment."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    content = read_private(path)
    openssh = b"BEGIN OPENSSH PRIVATE KEY" in content
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        return _public_line(load(content, password=None))  # type: ignore[arg-type] # of any kind
    except TypeError:  # how cryptography says that a password is missing
        raise HomeError(
            path=str(path),
            problem="is protected by a passphrase, which nobody can be asked for here",
            mend=f"take it off: ssh-keygen -p -N '' -f {shlex.quote(str(path))}",
        ) from None
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise _unusable(path, "holds no usable private key; it may have been cut off") from exc


def _unusable(path: Path, problem: str) -> HomeError:
    here = shlex.quote(str(path))
    return HomeError(
        path=str(path),
        problem=problem,
        mend=f"restore it, or run: mv {here} {here}.old, and a new one is made",
    )


def _keep_public(path: Path, line: str) -> None:
    """Make `path` hold the public key of `line`; one that does keeps its own comment."""
    with reported(path):
        try:
            known = path.read_bytes().split()[:2]
        except FileNotFoundError:
            known = []
        if known != line.encode().split()[:2]:
            replace(path, f"{line}\n".encode(), 0o644)
