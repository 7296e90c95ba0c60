"""What marks say, by dialect; and what of an earlier process is taken over, or left alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from precip_async.clouds.base import HeldAddress
from precip_async.clouds.dialects import AMAZON, EC2_API, NIMBUS, NOVA_2012, Dialect
from tests.clouds.ec2_peer import (
    OWNER,
    RSA_KEY,
    TOKEN,
    Request,
    access,
    cloud_at,
    described,
    document,
    item,
    peer,
)

if TYPE_CHECKING:
    from precip_async.clouds.base import Marked

LAUNCH_KEY = f"precip_{TOKEN}"


def tagged(**tags: str) -> str:
    """The tags of an instance in a document; a double underscore stands for the colon."""
    items = "".join(
        f"<item><key>{key.replace('__', ':')}</key><value>{value}</value></item>"
        for key, value in tags.items()
    )
    return f"<tagSet>{items}</tagSet>"


def ours(first: str, *, owner: str = OWNER, **more: str) -> str:
    """The tags that we give."""
    return tagged(
        precip__experiment="trial",
        precip__owner=owner,
        precip__token=TOKEN,
        precip__first=first,
        **more,
    )


def keyed(name: str) -> str:
    """The key pair of an instance in a document."""
    return f"<keyName>{name}</keyName>"


async def marked(dialect: Dialect, *items: str, keys: tuple[str, ...] = ()) -> list[Marked]:
    """What a cloud with these instances says of marks, whose key pairs `keys` hold our key."""
    registered = "".join(
        f"<item><keyName>{one}</keyName><publicKey>{RSA_KEY}</publicKey></item>" for one in keys
    )
    answers: dict[str, Any] = {
        "DescribeInstances": described(*items),
        "DescribeKeyPairs": document("DescribeKeyPairs", f"<keySet>{registered}</keySet>"),
    }
    async with peer(answers) as server, cloud_at(server.url, dialect, prepared=False) as cloud:
        await cloud.prepare(access(rsa=cloud.key_type == "rsa", purpose="look"))
        found = await cloud.marked()
        assert {one.action for one in server.requests} <= {"DescribeInstances", "DescribeKeyPairs"}
        return found


async def test_tags_say_all() -> None:
    """Experiment, owner, launch, place, the user's tags, and when it is to end."""
    facts = (
        "<instanceType>m1.small</instanceType><amiLaunchIndex>2</amiLaunchIndex>"
        "<placement><availabilityZone>us-west-2c</availabilityZone></placement>"
        "<launchTime>2026-01-02T03:04:05.000Z</launchTime>"
    )
    tags = {"precip__tag:a": "yes", "precip__tag:b c": "yes", "Name": "trial"}
    (one,) = await marked(
        AMAZON,
        item("i-1", "pending", facts + ours("4", precip__expires="2026-01-03T00:00:00Z", **tags)),
    )

    assert (one.experiment, one.owner, one.token, one.ordinal) == ("trial", OWNER, TOKEN, 6)
    assert (one.tags, one.zone, one.instance_type) == (("a", "b c"), "us-west-2c", "m1.small")
    assert one.launched_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert one.expires == datetime(2026, 1, 3, tzinfo=UTC)


async def test_a_launch_in_several_calls_is_in_order() -> None:
    """Each call counts its own instances from 0; its token says which call it was."""

    def nth(call: int, index: int) -> str:
        token = f"<clientToken>{TOKEN}-{call}</clientToken>"
        return token + f"<amiLaunchIndex>{index}</amiLaunchIndex>" + ours("10")

    found = await marked(AMAZON, item("i-1", more=nth(0, 99)), item("i-2", more=nth(2, 1)))

    assert [one.ordinal for one in found] == [109, 10 + 2 * AMAZON.batch + 1]


async def test_what_has_ended_or_bears_no_mark_is_not_found() -> None:
    """Nor does a name that only looks like ours make a mark."""
    found = await marked(
        AMAZON,
        item("i-1", "terminated", ours("0")),
        item("i-2", "shutting-down", ours("0")),
        item("i-3", more=tagged(precip__experiment="trial", Name="precip")),
        item("i-4", more=keyed("precip")),
    )

    assert found == []


async def test_a_key_pair_says_which_launch_and_perhaps_whose() -> None:
    """Whose it is says its fingerprint, where the key is ours."""
    other = LAUNCH_KEY.replace("6fa459ea", "00000000")
    found = await marked(
        NOVA_2012,
        item("i-1", more=keyed(f"{LAUNCH_KEY}-3 (project, host)")),
        item("i-2", more=keyed(other)),
        item("i-3", more=keyed("precip_mine")),
        item("i-4", more=keyed(f"precip_{OWNER}")),
        keys=(f"{LAUNCH_KEY}-3",),
    )

    assert [(one.machine.id, one.owner, one.experiment) for one in found] == [
        ("i-1", OWNER, ""),
        ("i-2", "", ""),
    ]
    assert found[0].token == TOKEN


async def test_mangled_tags_are_read_as_they_were() -> None:
    """A value that the cloud would take for a number was sent with a letter before it."""
    owner = "12345678901234567890123456789012"
    (one,) = await marked(
        EC2_API, item("i-1", more=keyed(LAUNCH_KEY) + ours("n7", owner=f"n{owner}"))
    )

    assert (one.ordinal, one.owner, one.experiment) == (7, owner, "trial")


async def test_the_name_of_the_homes_key_says_whose_it_is() -> None:
    """All that Nimbus has; a key pair of a launch is no mark there."""
    found = await marked(
        NIMBUS, item("i-1", more=keyed(f"precip_{OWNER}")), item("i-2", more=keyed(LAUNCH_KEY))
    )

    assert [(one.machine.id, one.owner, one.experiment) for one in found] == [("i-1", OWNER, "")]


@pytest.mark.parametrize("bad", ["", "yesterday", "2026-13-01T00:00:00Z"])
async def test_a_time_that_makes_no_sense_is_none(bad: str) -> None:
    """Tags can be written by anybody."""
    (one,) = await marked(AMAZON, item("i-1", more=ours("x", precip__expires=bad)))

    assert (one.expires, one.ordinal) == (None, None)


async def test_an_address_that_others_have_now_is_not_given_back() -> None:
    """Of those that an earlier process took: the free one, and that of what has ended with it."""
    released: list[str] = []

    def release(asked: Request) -> str:
        released.append(asked.parameters["PublicIp"])
        return document("ReleaseAddress", "<return>true</return>")

    holders = {"10.0.0.1": "", "10.0.0.2": "i-ended", "10.0.0.3": "i-stranger"}
    items = "".join(
        f"<item><publicIp>{ip}</publicIp><instanceId>{one}</instanceId></item>"
        for ip, one in holders.items()
    )
    answers: dict[str, Any] = {
        "DescribeAddresses": document("DescribeAddresses", f"<addressesSet>{items}</addressesSet>"),
        "DisassociateAddress": document("DisassociateAddress", "<return>true</return>"),
        "ReleaseAddress": release,
    }
    held = [HeldAddress(key=ip, ip=ip) for ip in (*holders, "10.0.0.4")]
    async with peer(answers) as server, cloud_at(server.url, NOVA_2012) as cloud:
        await cloud.remains.give_back(held, ["i-ended"])

    assert sorted(released) == ["10.0.0.1", "10.0.0.2"]
