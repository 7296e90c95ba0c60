"""Instances described and ended, whatever their cloud makes of dead and of newborn ids."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from precip_async.clouds.dialects import AMAZON, EUCALYPTUS_3, NOVA_2012, Dialect
from precip_async.clouds.ec2_documents import Seen
from precip_async.clouds.ec2_roster import OUT_OF_SIGHT, Roster
from precip_async.errors import CloudError, Throttled
from tests.clouds.ec2_peer import Peer, Reply, Request, cloud_at, described, fault, item, peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from precip_async.clouds.ec2 import EC2Cloud


class Living:
    """The instances of a cloud; asking for any other is an error that names some of those."""

    def __init__(self, ids: Iterable[str], *, names: int = 1000, omits: bool = False) -> None:
        self.ids, self.names, self.omits = [*ids], names, omits
        self.state = "running"
        self.answers: dict[str, Any] = {
            "DescribeInstances": self.describe,
            "TerminateInstances": self.terminate,
        }

    def describe(self, asked: Request) -> Reply | str:
        """Those asked for, or all."""
        return self._answer(asked, "DescribeInstances")

    def terminate(self, asked: Request) -> Reply | str:
        """The end of those asked for, or of none."""
        return self._answer(asked, "TerminateInstances")

    def _answer(self, asked: Request, action: str) -> Reply | str:
        wanted = asked.listed("InstanceId") or self.ids
        known = [one for one in wanted if one.lower() in {name.lower() for name in self.ids}]
        dead = [one for one in wanted if one not in known]
        if dead and not self.omits:
            said = ", ".join(dead[: self.names]) or "some"
            return fault("InvalidInstanceID.NotFound", f"The IDs '{said}' do not exist")
        return described(*(item(one, self.state) for one in known), action=action)


@asynccontextmanager
async def at(
    living: Living, dialect: Dialect = AMAZON, **given: Any
) -> AsyncIterator[tuple[EC2Cloud, Peer]]:
    """A cloud of ours where `living` are."""
    async with peer(living.answers) as server, cloud_at(server.url, dialect, **given) as cloud:
        yield cloud, server


def ids(count: int, start: int = 0) -> list[str]:
    """So many."""
    return [f"i-{n:017x}" for n in range(start, start + count)]


async def states(cloud: EC2Cloud, wanted: list[str]) -> list[str]:
    """How `wanted` are."""
    seen = await cloud.describe(wanted)
    return [seen[one].state for one in wanted]


# -- looking -------------------------------------------------------------------------------------


async def test_one_call_a_round_serves_all() -> None:
    """By ids, so that the answer holds nothing else; a thousand in one call."""
    async with at(Living(ids(1000))) as (cloud, server):
        assert {*await states(cloud, ids(1000))} == {"running"}
        assert len(server.asked("DescribeInstances")) == 1
        assert {*await states(cloud, ids(3))} == {"running"}
        assert len(server.asked("DescribeInstances")[-1].listed("InstanceId")) == 3


async def test_more_than_a_thousand_are_asked_for_in_parts() -> None:
    """As many as a call may have."""
    async with at(Living(ids(1001))) as (cloud, server):
        assert len(await cloud.describe(ids(1001))) == 1001
        counts = [len(one.listed("InstanceId")) for one in server.asked("DescribeInstances")]

    assert sorted(counts) == [1, 1000]


async def test_nothing_to_describe_is_no_call() -> None:
    """Nothing is asked for."""
    async with at(Living([])) as (cloud, server):
        assert await cloud.describe([]) == {}
        assert not server.asked("DescribeInstances")


async def test_the_dead_do_not_hide_the_living() -> None:
    """Where the cloud names all of them, two calls do."""
    async with at(Living(ids(5))) as (cloud, server):
        seen = await states(cloud, [*ids(300, 100), *ids(5)])
        assert len(server.asked("DescribeInstances")) == 2

    assert seen == ["terminated"] * 300 + ["running"] * 5


async def test_the_dead_that_nobody_names_are_found() -> None:
    """By halves, where everything must not be listed."""
    async with at(Living(ids(5), names=0)) as (cloud, server):
        seen = await states(cloud, [*ids(3), *ids(2, 100), *ids(2, 3)])
        assert all(one.listed("InstanceId") for one in server.asked("DescribeInstances"))

    assert seen == ["running"] * 3 + ["terminated"] * 2 + ["running"] * 2


async def test_the_dead_that_are_named_one_by_one_cost_no_call_each() -> None:
    """Where everything can be listed, it is: nova names the first one only."""
    async with at(Living(ids(5), names=1), NOVA_2012, public=False) as (cloud, server):
        seen = await states(cloud, [*ids(300, 100), *ids(5)])
        assert len(server.asked("DescribeInstances")) == 4

    assert seen == ["terminated"] * 300 + ["running"] * 5


async def test_the_dead_that_are_left_out_are_gone() -> None:
    """Eucalyptus 3.2 says nothing of them."""
    async with at(Living(ids(2), omits=True), EUCALYPTUS_3) as (cloud, _):
        assert await states(cloud, [*ids(2), *ids(1, 9)]) == ["running", "running", "terminated"]


async def test_ids_are_compared_without_case() -> None:
    """Eucalyptus 3.2 writes them in capitals, and people do as they please."""
    async with at(Living(["i-3F2A00BC"], omits=True), EUCALYPTUS_3) as (cloud, _):
        seen = await cloud.describe(["i-3f2a00bc"])

    assert seen["i-3f2a00bc"].state == "running"


async def test_a_cloud_that_is_out_of_breath_is_given_time() -> None:
    """Refusals for the pace are asked again, until patience ends."""
    refused = fault("RequestLimitExceeded", "slow down", 503)
    async with at(Living(ids(1))) as (cloud, server):
        server.answers["DescribeInstances"] = [refused, refused, described(item(ids(1)[0]))]
        assert await states(cloud, ids(1)) == ["running"]
        assert len(server.asked("DescribeInstances")) == 3


@pytest.mark.slow
async def test_a_cloud_that_stays_out_of_breath_is_told() -> None:
    """Within seconds: rounds are made again by who asked for this one."""
    async with at(Living([])) as (cloud, server):
        server.answers["DescribeInstances"] = fault("RequestLimitExceeded", "slow down", 503)
        with pytest.raises(Throttled, match="asked of too often"):
            await cloud.describe(ids(1))


@pytest.mark.parametrize(
    "trouble",
    [
        fault("InternalError", "oh", 500),
        Reply(status=502, body="<html><body>Bad Gateway</body></html>"),
        Reply(status=503),
        Reply(cut=True),
        Reply(body="<DescribeInstancesResp"),
        Reply(body=""),
    ],
)
async def test_passing_trouble_is_borne(trouble: Reply) -> None:
    """Errors of the server, cut connections and broken documents: looking is safe to repeat."""
    async with at(Living(ids(1))) as (cloud, server):
        server.answers["DescribeInstances"] = [trouble, trouble, described(item(ids(1)[0]))]

        assert await states(cloud, ids(1)) == ["running"]


# -- the meaning of absence ----------------------------------------------------------------------


class Clock:
    """Time that stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """What it shows."""
        return self.now


@asynccontextmanager
async def roster_at(
    living: Living, dialect: Dialect = AMAZON
) -> AsyncIterator[tuple[Roster, Clock, Peer]]:
    """A roster where `living` are, and its clock."""
    async with at(living, dialect, public=False) as (cloud, server):
        clock = Clock()
        assert cloud._parts is not None
        yield Roster(cloud._parts.calls, clock), clock, server


NEW = ids(1)[0]


@pytest.mark.parametrize("dialect", [AMAZON, NOVA_2012], ids=lambda dialect: dialect.name)
async def test_what_was_launched_just_now_is_not_there_yet(dialect: Dialect) -> None:
    """Until the grace of its cloud is over."""
    async with roster_at(Living([]), dialect) as (roster, clock, _):
        roster.launched([Seen(id=NEW)])
        assert await roster.look([NEW]) == {}
        assert roster.missing(NEW) == "pending"
        clock.now += dialect.grace

        assert roster.missing(NEW) == "terminated"


async def test_what_nobody_launched_here_is_gone() -> None:
    """Such as instances of an earlier process."""
    async with roster_at(Living([])) as (roster, _, _):
        assert roster.missing(NEW) == "terminated"


async def test_what_an_earlier_process_launched_just_now_may_be_invisible() -> None:
    """As one of our own may; an old one that is not there is gone."""
    async with roster_at(Living([])) as (roster, _, _):
        old = ids(2)[1]
        roster.remember({NEW: AMAZON.grace / 2, old: AMAZON.grace})

        assert roster.missing(NEW) == "pending"
        assert roster.missing(old) == "terminated"


async def test_what_was_there_and_is_not_is_gone_where_the_ended_vanish() -> None:
    """Nova forgets them at once."""
    living = Living([NEW])
    async with roster_at(living, NOVA_2012) as (roster, _, _):
        roster.launched([Seen(id=NEW)])
        await roster.look([NEW])

        assert roster.missing(NEW) == "terminated"


async def test_what_was_there_is_out_of_sight_for_a_moment_where_the_ended_stay() -> None:
    """Amazon's servers do not all know the same; one that stays away is gone."""
    async with roster_at(Living([NEW])) as (roster, clock, _):
        roster.launched([Seen(id=NEW)])
        await roster.look([NEW])
        assert roster.missing(NEW) == "pending"
        clock.now += OUT_OF_SIGHT

        assert roster.missing(NEW) == "terminated"


async def test_what_was_ended_is_gone_when_it_is_away() -> None:
    """However young."""
    async with roster_at(Living([NEW])) as (roster, _, _):
        roster.launched([Seen(id=NEW)])
        await roster.end([NEW])

        assert roster.missing(NEW) == "terminated"
        assert not roster.is_ours(NEW)


# -- ending --------------------------------------------------------------------------------------


async def test_the_dead_do_not_keep_the_living_from_ending() -> None:
    """One bad id makes Amazon end none: it is left out."""
    living = Living(ids(3))
    living.state = "shutting-down"
    async with at(living) as (cloud, server):
        ended = await cloud.terminate([*ids(2, 100), *ids(3)])
        last = server.asked("TerminateInstances")[-1]

    assert last.listed("InstanceId") == ids(3)
    assert [ended[one].state for one in ids(3)] == ["shutting-down"] * 3
    assert [ended[one].state for one in ids(2, 100)] == ["terminated"] * 2


async def test_the_dead_that_nobody_names_are_looked_for() -> None:
    """Then only those are ended that are there."""
    async with at(Living(ids(3), names=0)) as (cloud, server):
        await cloud.terminate([*ids(1, 100), *ids(3)])

        assert server.asked("TerminateInstances")[-1].listed("InstanceId") == ids(3)


async def test_what_can_not_be_seen_yet_is_ended_when_it_can() -> None:
    """Its end was asked for, and must not be forgotten."""
    living = Living([])
    async with roster_at(living) as (roster, _, server):
        roster.launched([Seen(id=NEW)])
        assert await roster.end([NEW]) == {}
        assert roster.missing(NEW) == "pending"
        assert not roster.is_ours(NEW)
        living.ids.append(NEW)
        await roster.look([NEW])

        assert server.asked("TerminateInstances")[-1].listed("InstanceId") == [NEW]
        assert roster.missing(NEW) == "terminated"


async def test_ending_is_asked_again_after_trouble() -> None:
    """It is safe to repeat."""
    async with at(Living(ids(1))) as (cloud, server):
        ended = described(item(ids(1)[0], "shutting-down"), action="TerminateInstances")
        server.answers["TerminateInstances"] = [Reply(cut=True), Reply(status=500), ended]

        assert (await cloud.terminate(ids(1)))[ids(1)[0]].state == "shutting-down"


async def test_an_end_that_is_refused_is_told() -> None:
    """Such as one that the account must not ask for."""
    async with at(Living(ids(1))) as (cloud, server):
        server.answers["TerminateInstances"] = fault("OperationNotPermitted", "protected")
        with pytest.raises(CloudError, match="protected"):
            await cloud.terminate(ids(1))


# -- listing -------------------------------------------------------------------------------------


async def test_long_lists_come_in_pages() -> None:
    """All of them are read, also empty ones, and a token that repeats itself ends it."""
    pages = [
        described(item("i-1"), token="a"),
        described(token="b"),
        described(item("i-2"), token="b"),
    ]
    async with roster_at(Living([])) as (roster, _, server):
        server.answers["DescribeInstances"] = [*pages]
        found = await roster.everything({"tag:a": "b"})

        asked = server.asked("DescribeInstances")
        assert [one.id for one in found] == ["i-1", "i-2"]
        assert [one.parameters.get("NextToken") for one in asked] == [None, "a", "b"]
        assert {one.parameters["MaxResults"] for one in asked} == {"1000"}
        assert asked[0].parameters["Filter.1.Name"] == "tag:a"


async def test_one_that_is_on_two_pages_is_one() -> None:
    """Pages shift as instances come and go; the last word counts. Tokens may go in circles."""
    pages = [
        described(item("i-1", "pending"), token="a"),
        described(item("i-1", "running"), item("i-2"), token="b"),
        described(item("i-3"), token="a"),
    ]
    async with roster_at(Living([])) as (roster, _, server):
        server.answers["DescribeInstances"] = [*pages]
        found = await roster.everything()

        assert [one.id for one in found] == ["i-1", "i-2", "i-3"]
        assert found[0].state == "running"
        assert len(server.asked("DescribeInstances")) == 3


async def test_a_cloud_without_pages_and_filters_is_not_asked_for_them() -> None:
    """Eucalyptus 3.2 would refuse the call."""
    async with roster_at(Living(ids(2)), EUCALYPTUS_3) as (roster, _, server):
        assert len(await roster.everything({"tag:a": "b"})) == 2
        sent = server.asked("DescribeInstances")[-1].parameters

    assert not [name for name in sent if name.startswith(("Filter", "MaxResults"))]
