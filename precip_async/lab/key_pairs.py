"""Key pairs: ImportKeyPair, DescribeKeyPairs, DeleteKeyPair."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from precip_async.lab.keys import (
    fingerprint_of,
    kind_of,
    read_public_key,
    rsa_bits,
    unchecked_key,
)
from precip_async.lab.paging import filtered
from precip_async.lab.refusals import Refusal
from precip_async.lab.tagging import read_specifications, tag_set

if TYPE_CHECKING:
    from precip_async.lab.account import Account
    from precip_async.lab.dialects import Dialect
    from precip_async.lab.parameters import Parameters

__all__ = ["KeyPair", "delete_key_pair", "describe_key_pairs", "import_key_pair"]

MAX_NAME: Final = 255
MAX_KEYS: Final = 5000  # §6 "key pairs"
UNCHECKED: Final = "N0:KE:YF:IN:GE:RP:RI:NT"  # §5 "Keys": what Nimbus says of all keys


@dataclass(slots=True, eq=False, kw_only=True)
class KeyPair:
    """A registered public key: one OpenSSH line."""

    id: str
    name: str
    line: str
    fingerprint: str
    tags: dict[str, str] = field(default_factory=dict)


async def import_key_pair(account: Account, p: Parameters) -> dict[str, Any]:
    """Register a public key under a name."""
    dialect = account.dialect
    name, material = p.required("KeyName"), p.required("PublicKeyMaterial")
    if len(name) > MAX_NAME or not name.isascii():
        raise Refusal("InvalidParameterValue", f"Value ({name[:40]}...) for KeyName is invalid.")
    line = read_public_key(material) if dialect.key_checked else unchecked_key(material)
    if dialect.key_types:
        _check_type(dialect, line)
    if name in account.keys and dialect.key_checked:
        raise Refusal(
            "InvalidKeyPair.Duplicate", f"The keypair '{name}' already exists.", subject=name
        )
    if len(account.keys) >= MAX_KEYS:
        raise Refusal("KeyPairLimitExceeded", f"Maximum of {MAX_KEYS} keypairs reached.")
    pair = KeyPair(
        id=account.new_id("key"),
        name=name,
        line=line,
        fingerprint=fingerprint_of(line) if dialect.key_checked else UNCHECKED,
        tags=read_specifications(p, dialect, "key-pair"),
    )
    account.keys[name] = pair
    known = dialect.shape == "amazon"
    return {
        "keyName": name,
        "keyFingerprint": pair.fingerprint,
        "keyPairId": pair.id if known else None,
        "tagSet": tag_set(pair.tags),
    }


async def describe_key_pairs(account: Account, p: Parameters) -> dict[str, Any]:
    """What key pairs there are."""
    names, ids = p.texts("KeyName"), p.texts("KeyPairId")
    by_id = {pair.id: pair for pair in account.keys.values()}
    found = {name: account.keys.get(name) for name in names}
    found |= {one: by_id.get(one) for one in ids}
    for name, pair in found.items():
        if pair is None and account.dialect.missing_key == "refused":
            raise Refusal(
                "InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist", subject=name
            )
    pairs = [pair for pair in found.values() if pair] if found else list(account.keys.values())
    columns = {
        "key-name": lambda pair: [pair.name],
        "fingerprint": lambda pair: [pair.fingerprint],
        "key-pair-id": lambda pair: [pair.id],
    }
    pairs = filtered(pairs, p, columns, lambda pair: pair.tags, honoured=account.dialect.filters)
    known, shown = account.dialect.shape == "amazon", p.flag("IncludePublicKey")
    return {
        "keySet": [
            {
                "keyPairId": pair.id if known else None,
                "keyName": pair.name,
                "keyType": kind_of(pair.line).removeprefix("ssh-") if known else None,
                "keyFingerprint": pair.fingerprint,
                "publicKey": pair.line if shown else None,
                "tagSet": tag_set(pair.tags),
            }
            for pair in pairs
        ]
    }


async def delete_key_pair(account: Account, p: Parameters) -> dict[str, Any]:
    """Forget a key pair; one that isn't there is no error."""
    name = p.text("KeyName")
    if key_id := p.text("KeyPairId"):
        name = next((pair.name for pair in account.keys.values() if pair.id == key_id), "")
    elif not name:
        raise Refusal("MissingParameter", "The request must contain the parameter KeyName")
    gone = account.keys.pop(name, None)
    return {"return": gone is not None or account.dialect.delete_missing_key}


def _check_type(dialect: Dialect, line: str) -> None:
    kind = kind_of(line)
    if kind not in dialect.key_types:
        raise Refusal("InvalidKey.Format", f"Keys of type {kind} are not supported")
    if dialect.rsa_bits and kind == "ssh-rsa" and rsa_bits(line) not in dialect.rsa_bits:
        raise Refusal("InvalidKey.Format", "RSA keys of this size are not supported")
