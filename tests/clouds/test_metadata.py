"""What a metadata service says, and to whom: as EC2's does."""

from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precip_async.clouds.local.metadata import Ask, Metadata, Reply, Service

TTL, TOKEN = "x-aws-ec2-metadata-token-ttl-seconds", "x-aws-ec2-metadata-token"
MAC = "02:70:0a:40:00:02"
FACTS = {
    "instance-id": "i-1",
    "placement/availability-zone": "us-west-2a",
    "public-keys/0/openssh-key": "ssh-ed25519 AAAA",
    "interface/vpc-id": "vpc-1",
}
KNOWN = Metadata(
    facts=FACTS,
    identity={"instanceId": "i-1"},
    key_name="mine",
    user_data=base64.b64encode(b"\x1f\x8b binary").decode(),
)


def service(metadata: Metadata = KNOWN) -> Service:
    """The service of a machine of which this is known."""
    leaves = metadata.leaves(address="10.64.0.2", mac=MAC, hostname="box")
    return Service(metadata, leaves)


def get(asked: Service, path: str, token: str | None = None, method: str = "GET") -> Reply:
    """What is said to a request."""
    headers = {} if token is None else {TOKEN: token}
    return asked.answer(Ask(method=method, path=path, headers=headers))


def put(asked: Service, ttl: str = "60", **more: str) -> Reply:
    """What is said to a request for a token."""
    return asked.answer(Ask(method="PUT", path="/latest/api/token", headers={TTL: ttl, **more}))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("meta-data/instance-id", b"i-1"),
        ("meta-data/placement/availability-zone", b"us-west-2a"),
        ("meta-data/local-ipv4", b"10.64.0.2"),
        ("meta-data/public-ipv4", b"10.64.0.2"),
        ("meta-data/hostname", b"box"),
        ("meta-data/public-keys/0/openssh-key", b"ssh-ed25519 AAAA"),
        (f"meta-data/network/interfaces/macs/{MAC}/vpc-id", b"vpc-1"),
        ("user-data", b"\x1f\x8b binary"),
        ("user-data?x=1", b"\x1f\x8b binary"),
    ],
)
@pytest.mark.parametrize("version", ["latest", "2009-04-04", "/latest"])
def test_a_leaf_is_its_text(version: str, path: str, said: bytes) -> None:
    """Whatever the version, and however many slashes."""
    assert get(service(), f"/{version}/{path}") == Reply(status=200, body=said)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/latest", {"dynamic/", "meta-data/", "user-data"}),
        ("/latest/meta-data/placement/", {"availability-zone"}),
        ("/latest/meta-data/network/interfaces/macs/", {f"{MAC}/"}),
        ("/latest/meta-data/public-keys/", {"0=mine"}),
        ("/latest/meta-data/public-keys/0/", {"openssh-key"}),
    ],
)
def test_a_directory_lists_what_is_in_it(path: str, names: set[str]) -> None:
    """Directories end in a slash, and keys are named."""
    reply = get(service(), path)

    assert (reply.status, set(reply.body.decode().split("\n"))) == (200, names)


def test_the_identity_document_is_json() -> None:
    """With the address that the machine has come to have."""
    reply = get(service(), "/latest/dynamic/instance-identity/document")

    assert json.loads(reply.body) == {"instanceId": "i-1", "privateIp": "10.64.0.2"}


@pytest.mark.parametrize(
    "path",
    ["/latest/meta-data/nothing", "/latest/meta-dat", "/1999-01-01/meta-data", "/favicon.ico"],
)
def test_what_is_not_there_is_not_found(path: str) -> None:
    """Neither as a leaf nor as a directory."""
    assert get(service(), path).status == 404


@pytest.mark.parametrize("path", ["user-data", "meta-data/public-keys", "meta-data/public-ipv4"])
def test_what_a_launch_did_not_give_is_not_found(path: str) -> None:
    """No user data, no key, no public address."""
    assert get(service(Metadata(public=False)), f"/latest/{path}").status == 404


# -- tokens ----------------------------------------------------------------------------------


def test_a_token_opens_what_requires_one() -> None:
    """Not before it was asked for; the reply says for how long, and how far it may travel."""
    asked = service(Metadata(facts=FACTS, tokens_required=True, hop_limit=3))

    before = get(asked, "/latest/meta-data/instance-id")
    token = put(asked, "60")
    after = get(asked, "/latest/meta-data/instance-id", token.body.decode())

    assert before.status == 401
    assert (token.status, token.headers, token.hop_limit) == (200, {TTL: "60"}, 3)
    assert (after.status, after.body, after.hop_limit) == (200, b"i-1", None)


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("token", ["x", "1e9-00", "another's"])
def test_a_token_that_is_none_is_refused(required: bool, token: str) -> None:
    """Also where none is required; and one service's token is nothing to another."""
    asked = service(Metadata(facts=FACTS, tokens_required=required))
    if token == "another's":
        token = put(service()).body.decode()

    assert get(asked, "/latest/meta-data/instance-id", token).status == 401


def test_a_token_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the seconds that were asked for."""
    asked = service()
    token, now = put(asked, "60").body.decode(), time.monotonic()

    def after(seconds: float) -> int:
        monkeypatch.setattr("time.monotonic", lambda: now + seconds)
        return get(asked, "/latest/meta-data/", token).status

    assert [after(59), after(61)] == [200, 401]


@pytest.mark.parametrize("ttl", ["", "0", "21601", "-1", "6e1", "٣"])
def test_a_token_lives_for_a_bounded_time(ttl: str) -> None:
    """From a second to six hours."""
    assert put(service(), ttl).status == 400


def test_a_request_that_was_forwarded_gets_no_token() -> None:
    """A proxy that can be made to fetch a URL is what tokens are against."""
    assert put(service(), **{"x-forwarded-for": "192.0.2.1"}).status == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/latest/api/token"), ("POST", "/latest/api/token"), ("PUT", "/latest/user-data")],
)
def test_another_method_is_refused(method: str, path: str) -> None:
    """Only tokens are put, and nothing else is done to them."""
    assert get(service(), path, method=method).status == 405


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_one_that_was_turned_off_answers_nobody(method: str) -> None:
    """Whatever is asked."""
    asked = service(Metadata(facts=FACTS, enabled=False))

    assert get(asked, "/latest/meta-data/", method=method).status == 403
    assert put(asked).status == 403


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=20))
def test_nothing_makes_it_fall_over(path: str, token: str, ttl: str) -> None:
    """Whatever is asked, there is an answer."""
    asked = service()

    assert get(asked, path, token).status in (200, 401, 404)
    assert put(asked, ttl).status in (200, 400)
