"""Key pairs at the cloud: whose is the one that is registered there?

Clouds show fingerprints of several makings, which are all computed here, and compared.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Final

from precip_async.clouds.ec2_calls import PATIENT
from precip_async.clouds.ec2_documents import keys_of, truth_of
from precip_async.clouds.ec2_words import is_duplicate
from precip_async.errors import CloudError, InvalidArgument
from precip_async.steps import reached

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from precip_async.clouds.base import Access
    from precip_async.clouds.ec2_calls import Calls
    from precip_async.clouds.ec2_documents import Key

__all__ = ["Keys", "fingerprints", "is_same_key", "key_type", "launch_key"]

_KINDS: Final = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}
_ED25519_DER: Final = bytes.fromhex("302a300506032b6570032100")  # what stands before the 32 bytes
_RSA_DER: Final = bytes.fromhex("300d06092a864886f70d0101010500")


def key_type(public_line: str) -> str:
    """``"ed25519"`` or ``"rsa"``; of any other key, what OpenSSH calls it."""
    word = next(iter(public_line.split()), "")
    return _KINDS.get(word, word)


def fingerprints(public_line: str) -> frozenset[str]:
    """All that a cloud may show as the fingerprint of a public key, as `_plain` has it."""
    blob = _blob(public_line)
    found: set[str] = set()
    for data in filter(None, (blob, _der(blob))):
        for algorithm in ("md5", "sha1", "sha256"):
            digest = hashlib.new(algorithm, data, usedforsecurity=False).digest()
            found.add(digest.hex())
            found.add(_plain(base64.b64encode(digest).decode()))
    return frozenset(found)


def is_same_key(key: Key, public_line: str) -> bool:
    """Whether the registered `key` is the one of `public_line`."""
    if key.public_key:
        return _blob(key.public_key) == _blob(public_line)
    return _plain(key.fingerprint) in fingerprints(public_line)


class Keys:
    """The key pairs of one experiment at its cloud.

    Args:
        calls: What is asked with.
        access: Whose they are.
    """

    def __init__(self, calls: Calls, access: Access) -> None:
        self._calls, self._access = calls, access
        self._known: dict[str, Key] = {}  # by name
        self._of_launches: dict[str, set[str]] = {}  # by name: ids that are still to be ended
        self.name = ""

    async def check(self, patience: float) -> None:
        """See that the cloud listens to us, and would take our key.

        Raises:
            CloudError: It does not.
            InvalidArgument: The key is of a kind that it does not take.
        """
        dialect = self._calls.dialect
        if (kind := key_type(self._access.public_key)) not in dialect.key_types:
            raise InvalidArgument(
                f"{dialect.title} takes {' and '.join(dialect.key_types)} keys, and this one is "
                f"{kind or 'none'}: give ssh_key= another"
            )
        self._known = await self._registered(patience)

    async def register(self) -> None:
        """See that our key is registered.

        Raises:
            CloudError: It can't be.
        """
        dialect = self._calls.dialect
        if dialect.mark == "key":
            return  # each launch has one of its own
        own = f"precip_{self._access.owner}"
        if dialect.key_overwrites or not dialect.key_prints:
            await self._import(own)
            self.name = own
            return
        # The last one is for a home that was here with a key of another kind: precip 0.3 took RSA.
        digest = hashlib.sha256(_blob(self._access.public_key)).hexdigest()[:8]
        for name in ("precip", own, f"{own}_{digest}"):
            if await self._holds(name):
                self.name = name
                return
        raise self._calls.tell.invalid(
            "ImportKeyPair",
            "the key pairs precip and precip_<account id> are taken by other keys",
            "delete those that you don't need",
        )

    async def _holds(self, name: str) -> bool:
        """Whether the key pair `name` is ours, or was free and is now."""
        if name not in self._known:
            try:
                await self._import(name)
            except CloudError as error:
                if not is_duplicate(error):
                    raise
                self._known = await self._registered()  # somebody was faster, perhaps one of ours
            else:
                return True
        key = self._known.get(name)
        return key is not None and is_same_key(key, self._access.public_key)

    async def _registered(self, patience: float = PATIENT) -> dict[str, Key]:
        # All of them: asking for one that is not there is an error on some clouds and not on others
        wanted = {"IncludePublicKey": True}
        keys = await self._calls.ask("DescribeKeyPairs", wanted, keys_of, patience=patience)
        return {key.name: key for key in keys}

    async def _import(self, name: str) -> None:
        material = self._access.public_key.strip().encode()
        parameters = {"KeyName": name, "PublicKeyMaterial": material}
        await self._calls.ask("ImportKeyPair", parameters, truth_of)

    # -- of launches -------------------------------------------------------------------------

    async def for_launch(self, token: str) -> str:
        """The name of the key pair for the launch named `token`: where that is its mark, its own.

        Raises:
            CloudError: It can't be registered.
        """
        if self._calls.dialect.mark != "key":
            return self.name
        name = launch_key(token)
        self._of_launches.setdefault(name, set())
        try:
            await self._import(name)
        except CloudError as error:
            if not is_duplicate(error):  # an answer of ours that was lost
                raise
        reached("launch.keyed")
        return name

    def launched(self, name: str, ids: Sequence[str]) -> None:
        """Instances were launched with the key pair `name`."""
        if name in self._of_launches:
            self._of_launches[name].update(ids)

    def adopted(self, name: str, ids: Iterable[str]) -> None:
        """Instances were launched with the key pair `name` by an earlier process."""
        if self._calls.dialect.mark == "key":
            self._of_launches.setdefault(name, set()).update(ids)

    def is_own(self, name: str) -> bool:
        """Whether `name` was registered with our key when we looked, and the cloud can tell."""
        key = self._known.get(name)
        prints = self._calls.dialect.key_prints
        return prints and key is not None and is_same_key(key, self._access.public_key)

    async def names(self) -> list[str]:
        """The names of all key pairs that are registered.

        Raises:
            CloudError: The cloud did not say.
        """
        return [*await self._registered()]

    async def drop(self, tokens: Iterable[str]) -> None:
        """Delete the key pairs of launches of earlier processes of which nothing is left.

        Raises:
            CloudError: One can't be deleted.
        """
        if self._calls.dialect.mark != "key":
            return
        wanted = {launch_key(token) for token in tokens}
        for name in [*await self._registered()] if wanted else []:
            # of a launch in several calls each has one, with a number behind it
            if name in wanted or name.rpartition("-")[0] in wanted:
                await self._delete(name)

    async def ended(self, ids: Sequence[str]) -> None:
        """Delete the key pairs of launches of which nothing is left.

        Raises:
            CloudError: One can't be deleted; it is tried again in `release`.
        """
        for name, left in [*self._of_launches.items()]:
            if left.intersection(ids):
                left.difference_update(ids)
                if not left:
                    await self._delete(name)

    async def release(self) -> None:
        """Delete the key pairs of all launches.

        Raises:
            CloudError: One can't be deleted.
        """
        for name in [*self._of_launches]:
            await self._delete(name)

    async def _delete(self, name: str) -> None:
        await self._calls.ask("DeleteKeyPair", {"KeyName": name}, truth_of)
        self._of_launches.pop(name, None)


def launch_key(token: str) -> str:
    """The name of the key pair that is the mark of the launch named `token`."""
    return f"precip_{token}"


def _blob(public_line: str) -> bytes:
    words = public_line.split()
    try:
        return base64.b64decode(words[1], validate=True)
    except (IndexError, binascii.Error):
        return b""


def _der(blob: bytes) -> bytes:
    """The key of an SSH blob as X.509 has it: what Amazon makes fingerprints of RSA keys of."""
    fields = []
    while len(blob) >= 4:  # noqa: PLR2004 - a length has 4 bytes
        length = int.from_bytes(blob[:4], "big")
        fields.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    match fields:
        case [b"ssh-ed25519", key]:
            return _ED25519_DER + key
        case [b"ssh-rsa", exponent, modulus]:
            numbers = _tagged(0x30, _tagged(0x02, modulus) + _tagged(0x02, exponent))
            return _tagged(0x30, _RSA_DER + _tagged(0x03, b"\0" + numbers))
    return b""


def _tagged(tag: int, content: bytes) -> bytes:
    """`content` as an element of ASN.1."""
    length = len(content)
    if length < 0x80:  # noqa: PLR2004 - where the long form begins
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def _plain(fingerprint: str) -> str:
    """A fingerprint without colons, padding and the name of its algorithm."""
    text = fingerprint.strip().removeprefix("SHA256:").removeprefix("MD5:").rstrip("=")
    bare = text.replace(":", "")
    return bare.lower() if all(c in "0123456789abcdefABCDEF" for c in bare) else text
