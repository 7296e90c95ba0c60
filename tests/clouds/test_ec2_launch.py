"""Launches: none doubled, none forgotten, and nothing left of one that was refused."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from precip_async.clouds.dialects import (
    AMAZON,
    EC2_API,
    EUCALYPTUS_3,
    EUCALYPTUS_4,
    NIMBUS,
    NOVA_2012,
    NOVA_2014,
    Dialect,
)
from precip_async.errors import (
    CapacityUnavailable,
    CloudError,
    EndpointUnreachable,
    ImageNotFound,
    InvalidArgument,
    QuotaExceeded,
)
from tests.clouds.ec2_peer import (
    TOKEN,
    Peer,
    Reply,
    Request,
    cloud_at,
    described,
    document,
    fault,
    item,
    peer,
    request,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from precip_async.clouds.ec2 import EC2Cloud

CUT = Reply(cut=True)
TROUBLE = fault("InternalError", "oh", 500)
FULL = fault("InsufficientInstanceCapacity", "no room", 503)
NO_MORE = fault("InstanceLimitExceeded", "no more")


class Farm:
    """A cloud that launches, and knows what it has launched.

    Attributes:
        born: By id: the parameters of its launch.
        fates: What becomes of the launch calls, in order: ``None``: all is well; a reply: that
            instead, and nothing is launched; ``"lost"``: launched, and the answer is lost.
        heeds: Whether it heeds tokens.
        room: How many it has room for.
    """

    def __init__(self, *fates: Any, heeds: bool = True, room: int = 10_000) -> None:
        self.born: dict[str, dict[str, str]] = {}
        self.ended: list[str] = []
        self.fates = [*fates]
        self.heeds, self.room = heeds, room
        self.count = itertools.count()
        self.answers: dict[str, Any] = {
            "RunInstances": self.run,
            "DescribeInstances": self.describe,
            "TerminateInstances": self.terminate,
        }

    def run(self, asked: Request) -> Reply | str:
        """Launch as many as there is room for."""
        fate = self.fates.pop(0) if self.fates else None
        if isinstance(fate, Reply):
            return fate
        sent = asked.parameters
        ids = [one for one, of in self.born.items() if of["ClientToken"] == sent["ClientToken"]]
        if not ids or not self.heeds:
            count = min(int(sent["MaxCount"]), self.room - len(self.born))
            if count < int(sent["MinCount"]):
                return FULL
            ids = [f"i-{next(self.count):08x}" for _ in range(count)]
            self.born |= dict.fromkeys(ids, sent)
        if fate == "lost":
            return CUT
        return described(*(self.item(one) for one in ids), action="RunInstances")

    def item(self, one: str) -> str:
        """How an instance is described."""
        sent = self.born[one]
        tags = "".join(
            f"<item><key>{sent[key]}</key><value>{sent[key.replace('Key', 'Value')]}</value></item>"
            for key in sent
            if key.startswith("TagSpecification.1.Tag.") and key.endswith("Key")
        )
        key = f"<keyName>{sent['KeyName']}</keyName><tagSet>{tags}</tagSet>"
        return item(one, "pending", key)

    def describe(self, asked: Request) -> str:
        """Those asked for, or all."""
        wanted = asked.listed("InstanceId") or self.born
        return described(*(self.item(one) for one in wanted if one in self.born))

    def terminate(self, asked: Request) -> str:
        """End some."""
        ids = asked.listed("InstanceId")
        self.ended += ids
        items = [item(one, "shutting-down") for one in ids]
        return described(*items, action="TerminateInstances")


@asynccontextmanager
async def at(
    farm: Farm, dialect: Dialect = AMAZON, **given: Any
) -> AsyncIterator[tuple[EC2Cloud, Peer]]:
    """A cloud of ours at the farm."""
    async with peer(farm.answers) as server, cloud_at(server.url, dialect, **given) as cloud:
        yield cloud, server


async def test_one_call_launches_all() -> None:
    """With the token of the request, and both counts."""
    farm = Farm()
    async with at(farm) as (cloud, server):
        machines = await cloud.launch(request(count=100, min_count=60))
        (sent,) = [one.parameters for one in server.asked("RunInstances")]

    assert [machine.id for machine in machines] == [*farm.born]
    assert (sent["MinCount"], sent["MaxCount"], sent["ClientToken"]) == ("60", "100", TOKEN)


async def test_a_large_launch_is_several_calls() -> None:
    """Of a hundred at most, each with a token of its own, in order."""
    farm = Farm()
    async with at(farm) as (cloud, server):
        machines = await cloud.launch(request(count=250))
        sent = [one.parameters for one in server.asked("RunInstances")]

    assert len({machine.id for machine in machines}) == 250
    assert sorted(int(one["MinCount"]) for one in sent) == [50, 100, 100]
    assert {one["ClientToken"] for one in sent} == {f"{TOKEN}-{n}" for n in range(3)}
    assert all(len(one["ClientToken"]) <= 64 for one in sent)


@pytest.mark.parametrize("dialect", [AMAZON, EUCALYPTUS_4, NIMBUS], ids=lambda d: d.name)
@pytest.mark.parametrize("trouble", [CUT, TROUBLE, "lost"], ids=["cut", "trouble", "lost"])
async def test_a_launch_without_an_answer_is_asked_for_again(
    dialect: Dialect, trouble: Any
) -> None:
    """With its token, so that nothing is launched twice."""
    farm = Farm(trouble, trouble)
    async with at(farm, dialect) as (cloud, server):
        machines = await cloud.launch(request(count=3))
        tokens = {one.parameters["ClientToken"] for one in server.asked("RunInstances")}

    assert [machine.id for machine in machines] == [*farm.born]
    assert len(farm.born) == 3
    assert len(tokens) == 1


async def test_a_launch_that_was_refused_for_the_pace_is_asked_for_again() -> None:
    """It was not carried out, anywhere."""
    slow = fault("RequestLimitExceeded", "slow down", 503)
    farm = Farm(slow, slow, heeds=False)
    async with at(farm, NOVA_2012, public=False) as (cloud, _):
        assert len(await cloud.launch(request(count=3))) == 3

    assert len(farm.born) == 3


async def test_a_key_that_was_just_registered_may_be_invisible() -> None:
    """Amazon's servers do not all know the same at once."""
    hidden = fault("InvalidKeyPair.NotFound", "The key pair 'precip' does not exist")
    farm = Farm(hidden)
    async with at(farm) as (cloud, _):
        assert len(await cloud.launch(request())) == 1


OLD = pytest.mark.parametrize("dialect", [NOVA_2012, EUCALYPTUS_3], ids=lambda d: d.name)
KEYED = pytest.mark.parametrize(
    "dialect", [NOVA_2012, NOVA_2014, EC2_API, EUCALYPTUS_3], ids=lambda d: d.name
)


@KEYED
async def test_a_lost_launch_is_found_by_its_key(dialect: Dialect) -> None:
    """Where tokens are ignored or unreliable it has a key pair of its own, and is found."""
    farm = Farm("lost", heeds=False)
    async with at(farm, dialect, public=False) as (cloud, server):
        machines = await cloud.launch(request(count=3))
        assert len(server.asked("RunInstances")) == 1

        names = [one.parameters["KeyName"] for one in server.asked("ImportKeyPair")]
        assert names == [f"precip_{TOKEN}"]
    assert [machine.id for machine in machines] == [*farm.born]
    assert len(farm.born) == 3


@OLD
async def test_a_launch_that_is_not_found_is_not_asked_for_again(dialect: Dialect) -> None:
    """It may be under way: the error says why, and the experiment looks for it."""
    farm = Farm(CUT, heeds=False)
    async with at(farm, dialect, public=False) as (cloud, server):
        with pytest.raises(EndpointUnreachable, match="does not tell a launch from its repet"):
            await cloud.launch(request(count=3))

        assert len(server.asked("RunInstances")) == 1


@KEYED
async def test_a_launch_after_which_the_cloud_has_trouble_is_looked_for_first(
    dialect: Dialect,
) -> None:
    """It answered: nothing is under way, and if there is nothing, it is asked for again."""
    farm = Farm(TROUBLE, heeds=False)
    async with at(farm, dialect, public=False) as (cloud, server):
        assert len(await cloud.launch(request(count=2))) == 2
        actions = [one.action for one in server.requests]

    assert len(farm.born) == 2
    first, second = [n for n, action in enumerate(actions) if action == "RunInstances"]
    assert "DescribeInstances" in actions[first:second]


@pytest.mark.parametrize("dialect", [NOVA_2014, EC2_API], ids=lambda d: d.name)
async def test_a_launch_that_broke_off_is_asked_for_again_where_tokens_are_heeded(
    dialect: Dialect,
) -> None:
    """Once it was looked for in vain."""
    farm = Farm(CUT)
    async with at(farm, dialect, public=False) as (cloud, _):
        assert len(await cloud.launch(request(count=2))) == 2

    assert len(farm.born) == 2


async def test_a_launch_that_is_found_in_part_is_left_to_the_experiment() -> None:
    """The rest may be on its way."""
    farm = Farm("lost", heeds=False, room=2)
    async with at(farm, NOVA_2012, public=False) as (cloud, server):
        with pytest.raises(EndpointUnreachable):
            await cloud.launch(request(count=3, min_count=1))

        assert len(server.asked("RunInstances")) == 1
        assert len(await cloud.find(TOKEN)) == 2


async def test_the_keys_of_launches_go_with_their_instances() -> None:
    """One of instances that live on goes when the cloud is closed."""
    farm = Farm()
    async with at(farm, EUCALYPTUS_3) as (cloud, server):
        first = await cloud.launch(request(token="first-token"))
        await cloud.launch(request(token="second-token"))
        await cloud.terminate([first[0].id])
        names = [one.parameters["KeyName"] for one in server.asked("DeleteKeyPair")]
        assert names == ["precip_first-token"]
        await cloud.aclose()

        names = [one.parameters["KeyName"] for one in server.asked("DeleteKeyPair")]
        assert names == ["precip_first-token", "precip_second-token"]


# -- finding -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dialect",
    [AMAZON, EUCALYPTUS_4, NOVA_2012, NOVA_2014, EC2_API, EUCALYPTUS_3],
    ids=lambda d: d.name,
)
async def test_a_launch_is_found_by_its_token(dialect: Dialect) -> None:
    """By another process as well, in all its parts, and without those of other launches."""
    farm = Farm()
    async with at(farm, dialect, public=False) as (cloud, server):
        await cloud.launch(request(count=120))
        await cloud.launch(request(token="another-token"))
        async with cloud_at(server.url, dialect, public=False) as other:
            found = await other.find(TOKEN)

    ours = {one for one, sent in farm.born.items() if TOKEN in sent["ClientToken"]}
    assert {machine.id for machine in found} == ours
    assert len(ours) == 120


async def test_on_nimbus_a_launch_is_found_by_asking_again() -> None:
    """Its token is the only mark; of what an earlier process launched the journal knows."""
    farm = Farm()
    async with at(farm, NIMBUS) as (cloud, server):
        await cloud.launch(request(count=2))
        assert len(await cloud.find(TOKEN)) == 2
        async with cloud_at(server.url, NIMBUS) as other:
            assert await other.find(TOKEN) == []

    assert len(farm.born) == 2


async def test_an_administrator_sees_keys_otherwise() -> None:
    """Nova adds the project and the host for them."""
    farm = Farm()
    async with at(farm, NOVA_2012, public=False) as (cloud, server):
        await cloud.launch(request())
        key = f"precip_{TOKEN}"
        text = farm.describe(server.requests[-1]).replace(key, f"{key} (project, host)")
        server.answers["DescribeInstances"] = text

        assert len(await cloud.find(TOKEN)) == 1


# -- not enough ----------------------------------------------------------------------------------


async def test_as_many_as_there_is_room_for() -> None:
    """From the least on that was asked for."""
    async with at(Farm(room=7)) as (cloud, _):
        assert len(await cloud.launch(request(count=10, min_count=5))) == 7


async def test_fewer_than_the_least_is_an_error_and_nothing_is_left() -> None:
    """The cloud's own."""
    farm = Farm(room=7)
    async with at(farm) as (cloud, _):
        with pytest.raises(CapacityUnavailable, match="ask for fewer, or in another zone"):
            await cloud.launch(request(count=10))

    assert not farm.born


async def test_nothing_is_left_of_parts_when_one_is_refused() -> None:
    """Parts that were launched already are ended again."""
    farm = Farm(None, NO_MORE, None)
    async with at(farm) as (cloud, _):
        with pytest.raises(QuotaExceeded, match="have the quota raised"):
            await cloud.launch(request(count=300))

    assert len(farm.born) == 200
    assert {*farm.ended} == {*farm.born}


async def test_parts_are_enough_where_fewer_are_enough() -> None:
    """What was launched stays."""
    farm = Farm(None, FULL, None)
    async with at(farm) as (cloud, _):
        assert len(await cloud.launch(request(count=300, min_count=150))) == 200

    assert not farm.ended


async def test_another_refusal_is_no_matter_of_room() -> None:
    """However few would be enough."""
    farm = Farm(None, fault("InvalidAMIID.NotFound", "no such image"))
    async with at(farm) as (cloud, _):
        with pytest.raises(ImageNotFound):
            await cloud.launch(request(count=200, min_count=1))

    assert {*farm.ended} == {*farm.born}


async def test_what_can_not_be_ended_again_is_handed_over() -> None:
    """The experiment ends it then, or says that it can't."""
    farm = Farm(None, NO_MORE)
    async with at(farm) as (cloud, server):
        server.answers["TerminateInstances"] = fault("UnauthorizedOperation", "no")
        machines = await cloud.launch(request(count=200))

    assert {machine.id for machine in machines} == {*farm.born}


@pytest.mark.slow
async def test_a_lost_part_leaves_the_search_to_the_experiment() -> None:
    """Which looks for all parts, by the token of the whole."""
    farm = Farm(None, *[CUT] * 20)
    async with at(farm) as (cloud, _):
        with pytest.raises(EndpointUnreachable):
            await cloud.launch(request(count=200))
        assert len(await cloud.find(TOKEN)) == 100

    assert not farm.ended


async def test_what_a_refused_launch_has_left_is_ended() -> None:
    """Servers stay behind at ec2-api when the quota ends in the middle."""
    farm = Farm()

    def leaking(asked: Request) -> Reply:
        farm.run(asked)
        return fault("Forbidden", "Quota exceeded for instances", 403)

    async with at(farm, EC2_API, public=False) as (cloud, server):
        server.answers["RunInstances"] = leaking
        with pytest.raises(QuotaExceeded):
            await cloud.launch(request(count=3))

    assert len(farm.born) == 3
    assert farm.ended == [*farm.born]


async def test_nimbus_is_asked_for_all_and_else_for_the_least() -> None:
    """It launches ``MinCount``, and never fewer."""
    farm = Farm(NO_MORE)
    async with at(farm, NIMBUS) as (cloud, server):
        assert len(await cloud.launch(request(count=5, min_count=2))) == 2
        counts = [
            (one.parameters["MinCount"], one.parameters["MaxCount"])
            for one in server.asked("RunInstances")
        ]

    assert counts == [("5", "5"), ("2", "2")]


# -- what is sent --------------------------------------------------------------------------------


@KEYED
async def test_only_what_is_accepted_goes_over_the_wire(dialect: Dialect) -> None:
    """Not one parameter more than the dialect's list, as the cloud spells them."""
    spelled = {
        "SecurityGroup": "SecurityGroups",
        "SecurityGroupId": "SecurityGroupIds",
        "BlockDeviceMapping": "BlockDeviceMappings",
    }
    farm = Farm()
    async with at(farm, dialect, public=False) as (cloud, server):
        await cloud.launch(request(tags=("a",)))
        sent = {name.split(".")[0] for name in server.asked("RunInstances")[0].parameters}

    own = {
        *("Action", "Version", "AWSAccessKeyId", "Signature", "SignatureMethod"),
        *("SignatureVersion", "Timestamp"),
    }
    assert {spelled.get(name, name) for name in sent - own} <= dialect.accepts["RunInstances"]


async def test_instances_are_tagged_afterwards_where_that_is_all_there_is() -> None:
    """For people's eyes; that it is refused does no harm."""
    farm = Farm()
    async with at(farm, NOVA_2014, public=False) as (cloud, server):
        await cloud.launch(request(tags=("worker",)))
        (sent,) = [one.parameters for one in server.asked("CreateTags")]
        server.answers["CreateTags"] = fault("Weird", "no")
        assert await cloud.launch(request(token="another-token"))

    tags = {sent[f"Tag.{n}.Key"]: sent[f"Tag.{n}.Value"] for n in range(1, 7)}
    assert sent["ResourceId.1"] == "i-00000000"
    assert (tags["precip:token"], tags["precip:first"]) == (TOKEN, "n0")
    assert tags["precip:tag:worker"] == "yes"


async def test_options_that_can_not_be_are_refused_before_anything_is_done() -> None:
    """No key, no group, no launch."""
    async with at(Farm(), EUCALYPTUS_3) as (cloud, server):
        before = len(server.requests)
        with pytest.raises(InvalidArgument):
            await cloud.launch(request(options={"MetadataOptions": {}}))
        with pytest.raises(InvalidArgument):
            cloud.check_options({"MinCount": 1})

        assert len(server.requests) == before


async def test_a_console_is_shown_where_there_is_one() -> None:
    """The latest where the type has that, else what there is; Nimbus has none."""
    saying = document("GetConsoleOutput", "<output>bG9naW46IA==</output>")
    unsupported = fault("UnsupportedOperation", "not on this type")
    async with peer({"GetConsoleOutput": [unsupported, saying]}) as server:
        async with cloud_at(server.url) as cloud:
            assert await cloud.console("i-1") == "login: "
            assert [one.parameters.get("Latest") for one in server.asked("GetConsoleOutput")] == [
                "true",
                None,
            ]
        async with cloud_at(server.url, NIMBUS) as cloud:
            assert await cloud.console("i-1") == ""


async def test_a_quota_of_a_cloud_that_is_not_amazon_is_one() -> None:
    """With what it says."""
    async with at(Farm(fault("TooManyInstances", "Quota exceeded")), NOVA_2012) as (cloud, _):
        with pytest.raises(QuotaExceeded, match="OpenStack: RunInstances: Quota exceeded"):
            await cloud.launch(request())


@pytest.mark.slow
async def test_silence_in_the_middle_of_a_launch_is_unknown() -> None:
    """The error is one that makes the experiment look for it."""
    farm = Farm(*[CUT] * 20)
    async with at(farm) as (cloud, _):
        with pytest.raises(CloudError) as caught:
            await cloud.launch(request())

    assert isinstance(caught.value, EndpointUnreachable)


@pytest.mark.slow
async def test_trouble_in_the_middle_of_a_launch_is_unknown() -> None:
    """It may have launched all the same, and went on to say so: likewise."""
    farm = Farm(*[fault("InternalError", "An internal error has occurred", 500)] * 20)
    async with at(farm) as (cloud, _):
        with pytest.raises(EndpointUnreachable, match=r"internal error .*\(InternalError\)"):
            await cloud.launch(request())
