"""Credentials of the standard chain: what keeps them from being had, and where they are not."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async.clouds.ec2_credentials import Redactor
from precip_async.errors import NotAuthorized
from tests.clouds.ec2_peer import Reply, cloud_at, fault, peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHAIN: dict[str, Any] = {"access_key": None, "secret_key": None}
CONNECTION = {"Connection": "close"}  # the vendor's other client keeps its own open
ROLE = """
[profile base]
aws_access_key_id = AKIABASE
aws_secret_access_key = baseOfTheRole
[default]
role_arn = arn:aws:iam::123456789012:role/trial
source_profile = base
region = us-east-1
"""
ASSUMED = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<Credentials><AccessKeyId>ASIATEMPORARY</AccessKeyId>
<SecretAccessKey>temporary/Secret+42</SecretAccessKey><SessionToken>temporaryToken4242==</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""


@pytest.fixture
def configure(clean_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
    """Writes what the configuration of AWS says."""
    path = clean_environment / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    return path.write_text


async def test_a_role_that_is_refused_is_told(
    configure: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another service than the one that is asked for instances, in its own words."""
    configure(ROLE)
    refused = Reply(status=403, body=fault("AccessDenied", "not you").body, headers=CONNECTION)
    async with peer({"AssumeRole": refused}) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        with pytest.raises(NotAuthorized, match=r"no usable credentials: .*AccessDenied.*not you"):
            async with cloud_at(server.url, **CHAIN):
                pytest.fail("it was taken")


@pytest.mark.parametrize(
    ("helper", "said"),
    [("/nonexistent/helper", "No such file"), (f"{sys.executable} -c print([])", "AttributeError")],
)
async def test_a_helper_that_is_no_use_is_told(
    configure: Callable[[str], object], helper: str, said: str
) -> None:
    """Whatever class of error the vendor lets pass for it."""
    configure(f"[default]\ncredential_process = {helper}\n")
    async with peer() as server:
        with pytest.raises(NotAuthorized, match=f"no usable credentials: .*{said}"):
            async with cloud_at(server.url, **CHAIN):
                pytest.fail("it was taken")


async def test_what_a_helper_printed_hangs_on_no_error(configure: Callable[[str], object]) -> None:
    """Nonsense may be half of the truth: the parser's own error holds all that it has read."""
    secret = "half-of-the-secret"
    configure(f"[default]\ncredential_process = {sys.executable} -c 'print(\"{secret}\")'\n")
    async with peer() as server:
        with pytest.raises(NotAuthorized) as caught:
            async with cloud_at(server.url, **CHAIN):
                pytest.fail("it was taken")

    chain: list[BaseException] = [caught.value]
    while below := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(below)
    assert "JSONDecodeError" in str(caught.value)
    assert [one for one in chain if secret in f"{one!r} {vars(one)}{getattr(one, 'doc', '')}"] == []


async def test_a_helper_that_hangs_holds_nobody(
    configure: Callable[[str], object], tmp_path: Path
) -> None:
    """Keys that are renewed in the middle of an experiment: who stops waiting is let go."""
    slow, pipe = tmp_path / "slow", tmp_path / "pipe"
    helper = tmp_path / "helper.py"
    helper.write_text(
        "import json, os, pathlib, datetime as dt\n"
        f"if pathlib.Path({str(slow)!r}).exists(): open({str(pipe)!r}).read()\n"
        "soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': 'AKIAHELPER', 'SecretAccessKey': 'x',\n"
        "    'SessionToken': 't', 'Expiration': soon.isoformat()}))\n"
    )
    from precip_async.clouds.ec2_credentials import Credentials

    os.mkfifo(pipe)
    configure(f"[default]\ncredential_process = {sys.executable} {helper}\n")
    keys = Credentials(None, None, None, None)
    await anyio.to_thread.run_sync(keys.find)
    slow.touch()
    try:
        with anyio.move_on_after(0.5) as scope, anyio.fail_after(10):
            await keys.current()
    finally:
        with pipe.open("w"):  # lets the helper go
            pass

    assert scope.cancelled_caught


async def test_keys_that_are_handed_to_us_are_in_no_log(
    configure: Callable[[str], object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The vendor logs the answer that they come in, before anybody knows what is secret in it."""
    configure(ROLE)
    caplog.set_level(logging.DEBUG)
    async with peer({"AssumeRole": Reply(body=ASSUMED, headers=CONNECTION)}) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        async with cloud_at(server.url, **CHAIN):
            assert "ASIATEMPORARY" in server.requests[-1].headers["authorization"]

    assert "<SecretAccessKey>***</SecretAccessKey>" in caplog.text
    for secret in ("baseOfTheRole", "temporary/Secret+42", "temporaryToken4242"):
        assert secret not in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        '{"SecretAccessKey": "hush", "Token" : "hush"}',
        "{'WebIdentityToken': 'hush', 'RoleArn': 'shown'}",
        "Action=AssumeRole&WebIdentityToken=hush&RoleArn=shown",
        "'x-amz-sso_bearer_token': 'hush'",
        '{"accessToken":"hush","clientSecret":"hush","refreshToken":"hush"}',
        "Authorization via http://me:hush@proxy:3128/",
    ],
)
def test_what_is_called_a_secret_is_not_logged(text: str) -> None:
    """By its name, in any of the forms that the vendor's chain meets it in."""
    from precip_async.clouds.ec2_credentials import Credentials

    record = logging.LogRecord("botocore", logging.DEBUG, "", 0, "%s", (text,), None)
    Redactor(Credentials("AKIA", "x-secret", None, None).clean).filter(record)

    assert "hush" not in record.getMessage()
    assert ("shown" in text) == ("shown" in record.getMessage())


def test_what_tells_requests_apart_is_logged() -> None:
    """Tokens that are no secrets stay: they are what a log is read for."""
    record = logging.LogRecord("botocore", logging.DEBUG, "", 0, "'ClientToken': 'one'", (), None)
    Redactor(str).filter(record)

    assert record.getMessage() == "'ClientToken': 'one'"
