"""Whose key pair is registered at the cloud, told by any fingerprint that a cloud may show."""

from __future__ import annotations

from typing import Any

import pytest

from precip_async.clouds.dialects import AMAZON, EC2_API, EUCALYPTUS_4, NIMBUS
from precip_async.clouds.ec2_documents import Key
from precip_async.clouds.ec2_keys import is_same_key, key_type
from precip_async.errors import InvalidArgument
from tests.clouds.ec2_peer import (
    OWNER,
    PUBLIC_KEY,
    RSA_KEY,
    Reply,
    Request,
    access,
    cloud_at,
    document,
    fault,
    peer,
)

ANOTHER = f"{PUBLIC_KEY[:-4]}AAAA"


@pytest.mark.parametrize(
    ("fingerprint", "line"),
    [
        # as ssh-keygen -l -E md5, openssl md5 -c of the DER form, and ssh-keygen -l say
        ("eb:28:a5:0a:6d:89:f8:ee:6e:94:6d:09:e6:4e:0d:c3", RSA_KEY),
        ("EB:28:A5:0A:6D:89:F8:EE:6E:94:6D:09:E6:4E:0D:C3", RSA_KEY),
        ("88:5b:89:7a:5b:d2:8e:93:ee:a4:0d:f4:9e:e2:24:4c", RSA_KEY),
        ("SHA256:VM15tVt0mh7F2SGEst4v4g+XhqiQyzup4IHrdZ+nIQo", PUBLIC_KEY),
        ("VM15tVt0mh7F2SGEst4v4g+XhqiQyzup4IHrdZ+nIQo=", PUBLIC_KEY),
    ],
)
def test_a_fingerprint_of_any_making_is_recognised(fingerprint: str, line: str) -> None:
    """MD5 of either form of the key, and SHA-256, with and without colons, padding and prefix."""
    key = Key(name="precip", fingerprint=fingerprint)

    assert is_same_key(key, line)
    assert not is_same_key(key, RSA_KEY if line == PUBLIC_KEY else PUBLIC_KEY)


def test_a_public_key_is_compared_without_its_comment() -> None:
    """Where the cloud shows the key itself, that decides."""
    key = Key(name="precip", fingerprint="none", public_key=f"{PUBLIC_KEY} me@here\n")

    assert is_same_key(key, PUBLIC_KEY)
    assert not is_same_key(key, ANOTHER)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (PUBLIC_KEY, "ed25519"),
        (RSA_KEY, "rsa"),
        ("ecdsa-sha2-nistp256 AAAA", "ecdsa-sha2-nistp256"),
    ],
)
def test_the_type_of_a_key_is_told(line: str, kind: str) -> None:
    """By how its line begins."""
    assert key_type(line) == kind


# -- at the cloud --------------------------------------------------------------------------------


class Register:
    """A cloud's key pairs."""

    def __init__(self, **keys: str) -> None:
        self.keys = keys
        self.answers: dict[str, Any] = {
            "DescribeKeyPairs": self.describe,
            "ImportKeyPair": self.take,
        }

    def describe(self, _: Request) -> str:
        """All of them, with public keys."""
        items = "".join(
            f"<item><keyName>{name}</keyName><publicKey>{key}</publicKey></item>"
            for name, key in self.keys.items()
        )
        return document("DescribeKeyPairs", f"<keySet>{items}</keySet>")

    def take(self, asked: Request) -> Reply | str:
        """A further one, whose name must be free."""
        if (name := asked.parameters["KeyName"]) in self.keys:
            return fault("InvalidKeyPair.Duplicate", f"The keypair '{name}' already exists.")
        self.keys[name] = "ours"
        return document("ImportKeyPair")


async def test_the_key_is_registered_once() -> None:
    """Where it is there already, it is used."""
    register = Register()
    async with peer(register.answers) as server:
        async with cloud_at(server.url):
            pass
        assert register.keys == {"precip": "ours"}
        register.keys["precip"] = PUBLIC_KEY
        async with cloud_at(server.url):
            pass

        assert len(server.asked("ImportKeyPair")) == 1


async def test_a_name_that_another_key_has_is_left_alone() -> None:
    """The key is then registered under the name of the account, and launches use that."""
    register = Register(precip=ANOTHER)
    async with peer(register.answers) as server, cloud_at(server.url):
        assert register.keys == {"precip": ANOTHER, f"precip_{OWNER}": "ours"}


async def test_a_home_with_two_keys_has_a_name_for_each() -> None:
    """A key of precip 0.3 under the account's name is not replaced."""
    register = Register(precip=ANOTHER, **{f"precip_{OWNER}": RSA_KEY})
    async with peer(register.answers) as server, cloud_at(server.url):
        (added,) = register.keys.keys() - {"precip", f"precip_{OWNER}"}

    assert added.startswith(f"precip_{OWNER}_")


@pytest.mark.parametrize("theirs", [PUBLIC_KEY, ANOTHER])
async def test_two_that_start_at_once_both_succeed(theirs: str) -> None:
    """Who comes second finds the name taken, and looks by whom."""
    register = Register()

    def beaten(asked: Request) -> Reply | str:
        if asked.parameters["KeyName"] == "precip":
            register.keys["precip"] = theirs
        return register.take(asked)

    async with peer(register.answers | {"ImportKeyPair": beaten}) as server, cloud_at(server.url):
        expected = {"precip"} if theirs == PUBLIC_KEY else {"precip", f"precip_{OWNER}"}
        assert register.keys.keys() == expected


async def test_on_nimbus_the_name_is_always_the_accounts() -> None:
    """It replaces keys without a word, and its fingerprints tell nothing."""
    register = Register()
    async with peer(register.answers) as server, cloud_at(server.url, NIMBUS):
        assert list(register.keys) == [f"precip_{OWNER}"]


@pytest.mark.parametrize("dialect", [EUCALYPTUS_4, EC2_API, NIMBUS])
async def test_a_key_that_the_cloud_does_not_take_is_refused(dialect: Any) -> None:
    """Nothing is registered, and the message says what is taken."""
    async with peer() as server, cloud_at(server.url, dialect, prepared=False) as cloud:
        assert cloud.key_type == "rsa"
        with pytest.raises(InvalidArgument, match="takes rsa keys, and this one is ed25519"):
            await cloud.prepare(access())

        assert not server.asked("ImportKeyPair")


async def test_amazon_takes_the_newer_type() -> None:
    """The type that is wanted is known beforehand."""
    async with peer() as server, cloud_at(server.url, AMAZON, prepared=False) as cloud:
        assert cloud.key_type == "ed25519"
