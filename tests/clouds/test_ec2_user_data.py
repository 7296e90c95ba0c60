"""User data: the user's and ours, in one document that cloud-init takes apart."""

from __future__ import annotations

import email
import gzip
import subprocess
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from precip_async.clouds.dialects import AMAZON, NIMBUS, NOVA_2012
from precip_async.clouds.ec2 import EC2Cloud
from precip_async.clouds.ec2_endpoint import parse_endpoint
from precip_async.clouds.ec2_user_data import MOST, cloud_config, merged
from precip_async.errors import InvalidArgument
from tests.clouds.ec2_peer import PUBLIC_KEY

if TYPE_CHECKING:
    from email.message import Message

    from precip_async.clouds.dialects import Dialect

OURS = cloud_config(PUBLIC_KEY)


def parts(data: bytes) -> list[tuple[str, bytes]]:
    """What cloud-init finds in `data`: it walks through all that is nested."""
    message = email.message_from_bytes(data)
    leaves = [part for part in message.walk() if not part.is_multipart()]
    return [(part.get_content_type(), content(part)) for part in leaves]


def content(part: Message) -> bytes:
    """What a part holds, decoded."""
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload


def test_our_part_lets_root_in() -> None:
    """By the experiment's key, and without the forced command."""
    assert OURS.splitlines() == [
        "#cloud-config",
        "merge_how: dict(no_replace,recurse_list)+list(prepend)+str()",
        "disable_root: false",
        "ssh_authorized_keys:",
        f"  - {PUBLIC_KEY}",
    ]


def test_alone_it_is_sent_as_it_is() -> None:
    """Without user data there is nothing to merge with."""
    assert merged(None, OURS) == merged("", OURS) == OURS.encode()


def test_nothing_to_say_is_nothing() -> None:
    """Nobody to be let in, and no end to be set."""
    assert cloud_config("") == ""
    assert "ssh_authorized_keys" not in cloud_config("", 60.0)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("#!/bin/sh\necho hello\n", "text/x-shellscript"),
        ("#cloud-config\npackages: [htop]\n", "text/cloud-config"),
        ("#cloud-config-archive\n- a\n", "text/cloud-config-archive"),
        ("#cloud-boothook\ntrue\n", "text/cloud-boothook"),
        ("#include\nhttp://example.org/x\n", "text/x-include-url"),
        ("#include-once\nhttp://example.org/x\n", "text/x-include-once-url"),
        ("#part-handler\n", "text/part-handler"),
        ("## template: jinja\n#cloud-config\n", "text/jinja2"),
        ("name=value\n", "text/plain"),
        (b"#!/bin/sh\necho bytes\n", "text/x-shellscript"),
        ("#!/bin/sh\necho 'ümläut → ✓'\n", "text/x-shellscript"),
        (b"\x00\xff\xfe binary", "application/octet-stream"),
    ],
)
def test_the_users_part_stays_as_it_was(given: str | bytes, kind: str) -> None:
    """It comes first, as what it is, to the byte; ours is added."""
    data = given.encode() if isinstance(given, str) else given

    assert parts(merged(given, OURS)) == [(kind, data), ("text/cloud-config", OURS.encode())]


def test_a_multipart_of_the_users_is_taken_over() -> None:
    """Its parts become parts of ours."""
    theirs = MIMEMultipart()
    theirs.attach(MIMEText("#!/bin/sh\ntrue\n", "x-shellscript"))
    theirs.attach(MIMEText("#cloud-config\n{}\n", "cloud-config"))

    kinds = [kind for kind, _ in parts(merged(theirs.as_string(), OURS))]
    assert kinds == ["text/x-shellscript", "text/cloud-config", "text/cloud-config"]


def test_a_single_mime_part_is_taken_over() -> None:
    """One with headers of its own."""
    theirs = MIMEText("#!/bin/sh\ntrue\n", "x-shellscript").as_bytes()

    assert parts(merged(theirs, OURS))[0] == ("text/x-shellscript", b"#!/bin/sh\ntrue\n")


def test_compressed_user_data_is_unpacked() -> None:
    """As cloud-init would."""
    packed = gzip.compress(b"#!/bin/sh\ntrue\n")

    assert parts(merged(packed, OURS))[0] == ("text/x-shellscript", b"#!/bin/sh\ntrue\n")


@pytest.mark.parametrize(
    "broken",
    [b"\x1f\x8bnonsense", gzip.compress(b"x" * 1000)[:-20], gzip.compress(b"\0" * (MOST + 1))],
    ids=["garbage", "cut off", "bomb"],
)
def test_what_can_not_be_unpacked_is_refused(broken: bytes) -> None:
    """Before anything is asked for; a bomb is not unfolded."""
    with pytest.raises(InvalidArgument, match="user_data"):
        merged(broken, OURS)


def test_the_same_launch_has_the_same_user_data() -> None:
    """A launch that is repeated must not differ, or the cloud refuses its token."""
    assert merged("#!/bin/sh\n", OURS) == merged("#!/bin/sh\n", OURS)


@pytest.mark.parametrize(
    ("dialect", "given", "whose"),
    [
        (AMAZON, {}, "all"),
        (NOVA_2012, {}, "all"),
        (AMAZON, {"root_login": False}, "gave"),
        (AMAZON, {"root_login": False, "max_lifetime": 60.0}, "all"),
        (NIMBUS, {}, "none"),
    ],
)
def test_whose_user_data_is_read_is_known(
    dialect: Dialect, given: dict[str, Any], whose: str
) -> None:
    """All have ours where there is something to say; and some images read none."""
    cloud = EC2Cloud(
        dialect=dialect,
        endpoint=parse_endpoint("https://localhost", dialect),
        access_key="a",
        secret_key="b",
        **given,
    )

    assert cloud.traits.cloud_init == whose


MERGING = """
import importlib.util, sys, yaml
from cloudinit import mergers
theirs, ours = map(yaml.safe_load, sys.argv[1:])
merger = mergers.construct(mergers.dict_extract_mergers(ours))
print(yaml.safe_dump(merger.merge(theirs, ours)))
"""


@pytest.mark.cloud_init
def test_the_real_one_counts_before_the_boot_commands_of_the_user() -> None:
    """One that never returns keeps nothing from ending; and what the user has said stays."""
    theirs = "#cloud-config\nbootcmd: [sleep infinity]\ndisable_root: true\n"
    python = Path("/usr/bin/cloud-init").read_text(encoding="utf-8").split("\n")[0].split()[0][2:]

    ran = subprocess.run(
        [python, "-c", MERGING, theirs, cloud_config(PUBLIC_KEY, 60)],
        capture_output=True,
        check=True,
        text=True,
    )

    boots = ran.stdout.index("bootcmd:")
    assert boots < ran.stdout.index("precip-lifetime", boots) < ran.stdout.index("sleep infinity")
    assert "disable_root: true" in ran.stdout
