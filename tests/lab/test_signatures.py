"""Signatures: what botocore signs is accepted, and nothing that was changed on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import SigV2Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from precip_async.lab.messages import FORM, Request
from precip_async.lab.signatures import Unsigned, read_v2, read_v4, version_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from precip_async.lab.signatures import Claim

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
KEYS = Credentials("AKIDEXAMPLE", SECRET, token=None)
TEXT = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=20)
FORMS = st.dictionaries(TEXT, TEXT, min_size=1, max_size=6)


def signed_v4(
    form: Mapping[str, str], url: str = "http://localhost:8773/services/Cloud", method: str = "POST"
) -> Request:
    """A request as botocore signs it, version 4."""
    body = encoded(form) if method == "POST" else b""
    target = url if method == "POST" else f"{url}?{encoded(form).decode()}"
    request = AWSRequest(method=method, url=target, data=body, headers={"Content-Type": FORM})
    SigV4Auth(KEYS, "ec2", "us-west-2").add_auth(request)
    return as_sent(request, method, body)


def signed_v2(
    form: Mapping[str, str], url: str = "http://localhost:8773/services/Cloud"
) -> Request:
    """A request as botocore signs it, version 2."""
    data = dict(form)
    request = AWSRequest(method="POST", url=url, data=data, headers={"Content-Type": FORM})
    SigV2Auth(KEYS).add_auth(request)
    return as_sent(request, "POST", encoded(data))


def as_sent(request: AWSRequest, method: str, body: bytes) -> Request:
    """The request as a server sees it."""
    url = urlsplit(str(request.url))
    headers = [("host", url.netloc)]
    headers += [(name.lower(), str(value)) for name, value in request.headers.items()]
    return Request(method=method, path=url.path, query=url.query, headers=tuple(headers), body=body)


def encoded(form: Mapping[str, str]) -> bytes:
    """A form as it is sent."""
    return "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in form.items()).encode()


def claim_v2(request: Request) -> Claim:
    """What a request claims that is signed among its parameters."""
    return read_v2(request, [*request.query_pairs(), *request.form_pairs()])


@given(
    form=FORMS, path=st.sampled_from(["", "/", "/services/Cloud", "/services/Cloud/", "/a b~/*"])
)
def test_what_botocore_signs_by_version_4_holds(form: dict[str, str], path: str) -> None:
    """Whatever the parameters and the path, a signature of botocore's is accepted."""
    claim = read_v4(signed_v4(form, f"https://h:8773{quote(path)}"))

    assert claim.holds(SECRET)
    assert (claim.access_key, claim.region, claim.service) == ("AKIDEXAMPLE", "us-west-2", "ec2")


@given(form=FORMS)
def test_the_query_is_signed_too(form: dict[str, str]) -> None:
    """Parameters of a GET are covered like those of a POST."""
    request = signed_v4(form, method="GET")

    assert read_v4(request).holds(SECRET)
    assert not read_v4(replace(request, query=request.query + "&More=1")).holds(SECRET)


@given(form=FORMS.filter(lambda form: not {"Signature", "Expires", "SecurityToken"} & set(form)))
def test_what_botocore_signs_by_version_2_holds(form: dict[str, str]) -> None:
    """Likewise with version 2."""
    claim = claim_v2(signed_v2(form))

    assert claim.holds(SECRET)
    assert claim.access_key == "AKIDEXAMPLE"


@pytest.mark.parametrize("signed", [signed_v4, signed_v2])
def test_another_secret_does_not_hold(signed: type) -> None:
    """A signature made with another secret is refused, whatever the version."""
    request = signed({"Action": "DescribeInstances"})
    claim = read_v4(request) if version_of(request, []) == 4 else claim_v2(request)

    assert claim.holds(SECRET)
    assert not claim.holds(SECRET + "x")
    assert not claim.holds("")


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "GET"},
        {"path": "/services/Other"},
        {"query": "Action=TerminateInstances"},
        {"body": b"Action=TerminateInstances"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_request_that_was_changed_does_not_hold(changed: dict[str, object]) -> None:
    """Method, path, query and body are all covered by a version 4 signature."""
    request = signed_v4({"Action": "DescribeInstances"})

    assert not read_v4(replace(request, **changed)).holds(SECRET)  # type: ignore[arg-type] # any of them


def test_signed_headers_are_covered() -> None:
    """A signed header that was changed, or is there twice, breaks the signature."""
    request = signed_v4({"Action": "DescribeInstances"})
    other = tuple((k, "evil:80" if k == "host" else v) for k, v in request.headers)

    assert not read_v4(replace(request, headers=other)).holds(SECRET)
    doubled = (*request.headers, ("host", "evil:80"))
    assert not read_v4(replace(request, headers=doubled)).holds(SECRET)


@pytest.mark.parametrize(
    ("name", "value"),
    [("Action", "TerminateInstances"), ("Timestamp", "2030-01-01T00:00:00Z"), ("More", "1")],
)
def test_a_parameter_that_was_changed_does_not_hold(name: str, value: str) -> None:
    """All parameters are covered by a version 2 signature."""
    request = signed_v2({"Action": "DescribeInstances"})
    form = dict(request.form_pairs()) | {name: value}

    assert not claim_v2(replace(request, body=encoded(form))).holds(SECRET)


@pytest.mark.parametrize(
    "header",
    [
        "Basic dXNlcjpwYXNz",
        "AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=host, Signature=" + "0" * 64,
        "AWS4-HMAC-SHA256 Credential=a/20260101/r/ec2/aws4_request, SignedHeaders=x-amz-date,"
        " Signature=" + "0" * 64,
        "AWS4-HMAC-SHA256 Credential=a/b/r/ec2/aws4_request, SignedHeaders=host, Signature=short",
        "AWS4-HMAC-SHA256 " + "Credential=" * 10_000,
    ],
)
def test_an_authorization_that_is_none_is_unsigned(header: str) -> None:
    """What can't be read, or leaves out the host or the date, counts as no signature."""
    request = signed_v4({"Action": "x"})
    headers = tuple((k, header if k == "authorization" else v) for k, v in request.headers)

    with pytest.raises(Unsigned):
        read_v4(replace(request, headers=headers))


@pytest.mark.parametrize(
    "changes",
    [
        {"SignatureVersion": "1"},
        {"SignatureMethod": "HmacMD5"},
        {"Timestamp": "yesterday"},
        {"Expires": "2030-01-01T00:00:00Z"},
    ],
    ids=str,
)
def test_version_2_without_its_parts_is_unsigned(changes: dict[str, str]) -> None:
    """Version, method and exactly one moment have to be there."""
    request = signed_v2({"Action": "DescribeInstances"})
    form = dict(request.form_pairs()) | changes

    with pytest.raises(Unsigned):
        claim_v2(replace(request, body=encoded(form)))


def test_a_claim_does_not_show_what_it_was_made_of() -> None:
    """The representation of a claim holds no part of a signature."""
    request = signed_v2({"Action": "DescribeInstances"})

    assert dict(request.form_pairs())["Signature"] not in repr(claim_v2(request))
