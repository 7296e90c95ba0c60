"""What is asked again and what is not, and which of several dialects a cloud speaks."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from precip_async.clouds.dialects import EUCALYPTUS, NIMBUS, OPENSTACK, Dialect
from precip_async.clouds.ec2_calls import MOST_BLIND, Calls, together
from precip_async.clouds.ec2_documents import truth_of
from precip_async.clouds.ec2_pace import AT_ONCE, Pace
from precip_async.errors import CapacityUnavailable, CloudError, EndpointUnreachable, NotAuthorized
from tests.clouds.ec2_peer import Reply, access, cloud_at, document, fault, peer

if TYPE_CHECKING:
    from precip_async.clouds.ec2 import EC2Cloud

CUT = Reply(cut=True)
TROUBLE = fault("InternalError", "oh", 500)
TAGGING: dict[str, Any] = {"Resources": ["i-1"], "Tags": []}


def calls_of(cloud: EC2Cloud) -> Calls:
    """What `cloud` asks with."""
    assert cloud._parts is not None
    return cloud._parts.calls


async def asked_times(answers: list[Reply | str], *, repeat: bool = True) -> int:
    """How often a call is made that is answered so; it must succeed in the end."""
    async with peer({"CreateTags": answers}) as server, cloud_at(server.url) as cloud:
        await calls_of(cloud).ask("CreateTags", TAGGING, truth_of, repeat=repeat)
        return len(server.asked("CreateTags"))


@pytest.mark.parametrize("trouble", [CUT, TROUBLE], ids=["cut", "trouble"])
async def test_what_is_safe_is_asked_again(trouble: Reply) -> None:
    """Where asking twice does no more than asking once."""
    assert await asked_times([trouble, document("CreateTags")]) == 2


@pytest.mark.parametrize("trouble", [CUT, TROUBLE], ids=["cut", "trouble"])
async def test_what_is_not_safe_is_not_asked_again(trouble: Reply) -> None:
    """It may have been done."""
    with pytest.raises(CloudError):
        await asked_times([trouble, document("CreateTags")], repeat=False)


async def test_what_was_refused_for_the_pace_was_not_done() -> None:
    """It is asked again also where asking twice does more."""
    slow = fault("RequestLimitExceeded", "slow down", 503)

    assert await asked_times([slow, document("CreateTags")], repeat=False) == 2


@pytest.mark.slow
async def test_trouble_that_does_not_pass_is_told_after_some_time() -> None:
    """And not asked about for ever."""
    async with peer({"CreateTags": TROUBLE}) as server, cloud_at(server.url) as cloud:
        with pytest.raises(CloudError, match="InternalError"):
            await calls_of(cloud).ask("CreateTags", TAGGING, truth_of)

        assert len(server.asked("CreateTags")) == MOST_BLIND


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (fault("InsufficientInstanceCapacity", "no room", 503), CapacityUnavailable),
        (fault("TypeError", "Unknown error occurred.", 500), CloudError),
        (fault("AuthFailure", "no", 401), NotAuthorized),
        (fault("InvalidParameterValue", "no"), CloudError),
    ],
)
async def test_what_stays_as_it_is_is_not_asked_again(reply: Reply, kind: Any) -> None:
    """Also at 5xx, where the vendor's library would."""
    async with peer({"CreateTags": reply}) as server, cloud_at(server.url) as cloud:
        with pytest.raises(kind):
            await calls_of(cloud).ask("CreateTags", TAGGING, truth_of)

        assert len(server.asked("CreateTags")) == 1


async def test_patience_ends() -> None:
    """A call that others make again anyway is given up soon."""
    slow = fault("RequestLimitExceeded", "slow down", 503)
    async with peer({"CreateTags": slow}) as server, cloud_at(server.url) as cloud:
        with anyio.fail_after(5), pytest.raises(CloudError):
            await calls_of(cloud).ask("CreateTags", TAGGING, truth_of, patience=0.5)


async def test_silence_ends() -> None:
    """A call has a time for its answer."""
    async with peer({"CreateTags": Reply(never=True)}) as server, cloud_at(server.url) as cloud:
        with pytest.raises(EndpointUnreachable, match="no answer within 0 s"):
            await calls_of(cloud).ask("CreateTags", TAGGING, truth_of, repeat=False, timeout=0.2)


async def test_a_cancelled_call_ends_at_once() -> None:
    """And leaves the client usable."""
    async with peer({"CreateTags": Reply(never=True)}) as server, cloud_at(server.url) as cloud:
        with anyio.move_on_after(0.2) as scope:
            await calls_of(cloud).ask("CreateTags", TAGGING, truth_of)
        assert scope.cancelled_caught
        server.answers["CreateTags"] = document("CreateTags")

        assert await calls_of(cloud).ask("CreateTags", TAGGING, truth_of)


async def test_what_a_cloud_has_not_is_not_asked_for() -> None:
    """An operation that the dialect does not know."""
    async with peer() as server, cloud_at(server.url, NIMBUS) as cloud:
        with pytest.raises(CloudError, match="Nimbus has no such thing"):
            await calls_of(cloud).ask("CreateTags", TAGGING, truth_of)

        assert not server.asked("CreateTags")


async def test_a_cloud_is_asked_of_few_things_at_once() -> None:
    """However many want something: more at once only make each other late."""
    now = most = 0

    class Slow:
        """A client whose answers take a moment."""

        async def ask(self, *_: object, **__: object) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await anyio.lowlevel.checkpoint()
            now -= 1

    calls = Calls(NIMBUS, Slow(), Pace(NIMBUS))  # type: ignore[arg-type] # all that is used
    ask = functools.partial(calls.ask, "DescribeInstances", {}, truth_of)
    await together([ask] * 40)

    assert most == AT_ONCE


async def test_one_of_several_may_be_refused() -> None:
    """Its error is in its place; a fault of ours is not hidden."""
    error = CloudError("no", cloud="c", operation="o")

    async def refused() -> str:
        raise error

    async def well() -> str:
        return "well"

    async def wrong() -> str:
        raise KeyError("a bug")

    assert await together([well, refused, well]) == ["well", error, "well"]
    with pytest.RaisesGroup(KeyError):
        await together([well, wrong])


# -- which dialect -------------------------------------------------------------------------------

UNKNOWN = fault("InvalidRequest", "The request is invalid")
UNBOUND = fault("400 Bad Request", "Failed to bind the following fields: Filter.1.Name")


@pytest.mark.parametrize(
    ("family", "answers", "name"),
    [
        (OPENSTACK, {"DescribeVpcs": document("DescribeVpcs")}, "ec2-api"),
        (
            OPENSTACK,
            {"DescribeVpcs": UNKNOWN, "DescribeTags": document("DescribeTags")},
            "nova-2014",
        ),
        (OPENSTACK, {"DescribeVpcs": UNKNOWN, "DescribeTags": UNKNOWN}, "nova-2012"),
        (EUCALYPTUS, {"DescribeInstances": document("DescribeInstances")}, "eucalyptus-4"),
        (EUCALYPTUS, {"DescribeInstances": UNBOUND}, "eucalyptus-3"),
    ],
)
async def test_the_age_of_a_cloud_is_found_out(
    family: tuple[Dialect, ...], answers: dict[str, Any], name: str
) -> None:
    """By harmless calls that an older one refuses; before anything is made there."""
    async with peer(answers) as server, cloud_at(server.url, family) as cloud:
        assert cloud.dialect.name == name
        actions = [one.action for one in server.requests]

    assert [one for one in actions[: len(answers)] if one.startswith("Describe")] == [*answers]


@pytest.mark.parametrize("family", [OPENSTACK, EUCALYPTUS], ids=["openstack", "eucalyptus"])
async def test_wrong_credentials_say_nothing_of_a_clouds_age(family: tuple[Dialect, ...]) -> None:
    """They are told at once."""
    no = fault("AuthFailure", "no", 401)
    async with (
        peer({"DescribeVpcs": no, "DescribeInstances": no}) as server,
        cloud_at(server.url, family, prepared=False) as cloud,
    ):
        with pytest.raises(NotAuthorized, match="check the access key"):
            await cloud.prepare(access(rsa=True))

        assert len(server.requests) == 1
