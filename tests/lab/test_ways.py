"""What each cloud does in its own way, as the facts have it; also where that hurts a client.

A section (§) is one of the collection of facts, clouds.md.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from precip_async.lab.scenario import Scenario
from tests.clouds.local_machines import PUBLIC
from tests.lab.clients import client_of, code_of, lab_and_client, post, states, until_lab
from tests.lab.columns import column_of, columns, opened_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.lab.columns import Column

    Call = Callable[[Any, dict[str, Any]], Awaitable[Any]]

NEVER = Scenario(visible=0, never_boots=True)  # where only the API is looked at
STRAY = "i-0000ffff"


def run(**changed: Any) -> Call:
    """A launch that differs in one thing."""
    return lambda client, launch: client.run_instances(
        **{"MinCount": 1, "MaxCount": 1, **launch, **changed}
    )


def call(name: str, **given: Any) -> Call:
    """Some other call."""
    return lambda client, _: getattr(client, name)(**given)


async def refusal(awaitable: Awaitable[Any]) -> tuple[str, int]:
    """The code and the HTTP status that a call is refused with."""
    try:
        await awaitable
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return error.response.get("Error", {}).get("Code", ""), status
    return "accepted", 200


STRAY_DESCRIBED = call("describe_instances", InstanceIds=[STRAY])
STRAY_ENDED = call("terminate_instances", InstanceIds=[STRAY])
NO_KEY_DESCRIBED = call("describe_key_pairs", KeyNames=["nobody"])
NO_KEY_RUN = run(KeyName="nobody")
KEY_AGAIN = call("import_key_pair", KeyName="mine", PublicKeyMaterial=PUBLIC.encode())
MODERN_KEY = call("import_key_pair", KeyName="modern", PublicKeyMaterial=PUBLIC.encode())
NO_GROUP = run(SecurityGroups=["nobody"])
GROUP_AGAIN = call("create_security_group", GroupName="open", Description="x")
TAGS = [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}]
TAGGED_RUN = run(TagSpecifications=TAGS)
BAD_TYPE = run(InstanceType="nobody")
UNKNOWN_ACTION = call("describe_spot_price_history")
DRY_RUN = run(DryRun=True)
METADATA = run(MetadataOptions={"HttpTokens": "required"})

#: Cloud, what is asked for, the code and the status that answer it.
REFUSALS: dict[str, list[tuple[Call, str, int]]] = {
    "nova-essex": [  # §2 "Errors", left
        (STRAY_DESCRIBED, "accepted", 200),
        (STRAY_ENDED, "InstanceNotFound", 400),
        (NO_KEY_DESCRIBED, "EC2APIError", 400),
        (NO_KEY_RUN, "KeypairNotFound", 400),
        (KEY_AGAIN, "KeyPairExists", 400),
        (MODERN_KEY, "accepted", 200),
        (NO_GROUP, "SecurityGroupNotFoundForProject", 400),
        (GROUP_AGAIN, "EC2APIError", 400),
        (TAGGED_RUN, "accepted", 200),
        (BAD_TYPE, "InstanceTypeNotFoundByName", 400),
        (UNKNOWN_ACTION, "InvalidRequest", 400),
        (DRY_RUN, "accepted", 200),
        (call("create_tags", Resources=[STRAY], Tags=TAGS[0]["Tags"]), "InvalidRequest", 400),
        (run(KeyName="123"), "UnknownError", 400),
    ],
    "nova-havana": [  # §2 "Errors", right
        (STRAY_DESCRIBED, "InvalidInstanceID.NotFound", 404),
        (STRAY_ENDED, "InvalidInstanceID.NotFound", 404),
        (NO_KEY_DESCRIBED, "InvalidKeyPair.NotFound", 404),
        (NO_KEY_RUN, "InvalidKeyPair.NotFound", 404),
        (KEY_AGAIN, "InvalidKeyPair.Duplicate", 400),
        (NO_GROUP, "SecurityGroupNotFoundForProject", 404),
        (GROUP_AGAIN, "InvalidGroup.Duplicate", 400),
        (TAGGED_RUN, "accepted", 200),
        (BAD_TYPE, "InstanceTypeNotFoundByName", 404),
        (DRY_RUN, "accepted", 200),
        (
            call("create_security_group", GroupName="x", Description="y", VpcId="z"),
            "TypeError",
            500,
        ),
        (
            call("create_security_group", GroupName="a.b", Description="y"),
            "InvalidParameterValue",
            400,
        ),
        (run(KeyName="123"), "TypeError", 500),
        (run(MinCount=2, MaxCount=1), "InvalidInput", 400),
    ],
    "nova-kilo": [
        (BAD_TYPE, "FlavorNotFoundByName", 404),
        (METADATA, "accepted", 200),
    ],
    "ec2-api": [  # §3
        (STRAY_DESCRIBED, "InvalidInstanceID.NotFound", 400),
        (NO_KEY_DESCRIBED, "InvalidKeyPair.NotFound", 400),
        (TAGGED_RUN, "TypeError", 500),
        (METADATA, "TypeError", 500),
        (DRY_RUN, "TypeError", 500),
        (BAD_TYPE, "InvalidParameterValue", 400),
        (UNKNOWN_ACTION, "InvalidRequest", 400),
        (run(SecurityGroupIds=["sg-00000000"]), "InvalidParameterCombination", 400),
        (
            call(
                "authorize_security_group_ingress",
                GroupName="open",
                IpProtocol="tcp",
                FromPort=1,
                ToPort=1,
                CidrIp="0.0.0.0/0",
            ),
            "TypeError",
            500,
        ),
        (call("describe_instances", MaxResults=4), "InvalidParameterValue", 400),
        (call("describe_instances", MaxResults=1001), "accepted", 200),
    ],
    "eucalyptus-3": [  # §4
        (STRAY_DESCRIBED, "accepted", 200),
        (STRAY_ENDED, "accepted", 200),
        (NO_KEY_DESCRIBED, "accepted", 200),
        (NO_KEY_RUN, "RunInstancesType", 406),
        (KEY_AGAIN, "ImportKeyPairType", 406),
        (MODERN_KEY, "ImportKeyPairType", 406),
        (GROUP_AGAIN, "CreateSecurityGroupType", 406),
        (TAGGED_RUN, "400 Bad Request", 400),
        (METADATA, "400 Bad Request", 400),
        (DRY_RUN, "400 Bad Request", 400),
        (run(InstanceInitiatedShutdownBehavior="terminate"), "400 Bad Request", 400),
        (run(SecurityGroupIds=["sg-1"]), "400 Bad Request", 400),
        (
            call("describe_instances", Filters=[{"Name": "a", "Values": ["b"]}]),
            "400 Bad Request",
            400,
        ),
        (call("describe_instances", MaxResults=5), "400 Bad Request", 400),
        (
            call(
                "authorize_security_group_ingress",
                GroupName="open",
                IpPermissions=[{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1}],
            ),
            "400 Bad Request",
            400,
        ),
    ],
    "eucalyptus-4": [  # §4
        (STRAY_DESCRIBED, "InvalidInstanceID.NotFound", 400),
        (NO_KEY_DESCRIBED, "InvalidKeyPair.NotFound", 400),
        (MODERN_KEY, "InvalidKey.Format", 400),
        (TAGGED_RUN, "accepted", 200),
        (METADATA, "400 Bad Request", 400),
        (DRY_RUN, "400 Bad Request", 400),
        (UNKNOWN_ACTION, "400 Bad Request", 400),
        (call("describe_instances", MaxResults=5), "accepted", 200),
    ],
    "nimbus": [  # §5
        (STRAY_DESCRIBED, "accepted", 200),
        (STRAY_ENDED, "accepted", 200),
        (call("describe_instances", InstanceIds=["i-x"]), "GeneralError", 400),
        (NO_KEY_DESCRIBED, "accepted", 200),
        (NO_KEY_RUN, "GeneralError", 400),
        (KEY_AGAIN, "accepted", 200),
        (TAGGED_RUN, "accepted", 200),
        (BAD_TYPE, "GeneralError", 400),
        (UNKNOWN_ACTION, "InvalidAction", 400),
        (DRY_RUN, "accepted", 200),
        (call("create_security_group", GroupName="a", Description="b"), "InvalidAction", 400),
        (call("describe_addresses"), "InvalidAction", 400),
    ],
}


@pytest.mark.parametrize("name", list(REFUSALS))
async def test_refusals_are_in_the_clouds_own_words(name: str, tmp_path: Path) -> None:
    """The code and the status of what can't be are those of the cloud, for each situation."""
    async with opened_in(column_of(name), tmp_path, NEVER) as (_, client, launch):
        expected = [(code, status) for _, code, status in REFUSALS[name]]
        seen = [await refusal(ask(client, launch)) for ask, _, _ in REFUSALS[name]]

    assert list(enumerate(seen)) == list(enumerate(expected))


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [
        ("amazon", "AuthFailure", 401),
        ("nova-essex", "AuthFailure", 401),
        ("nova-havana", "AuthFailure", 401),
        ("nova-kilo", "AuthFailure", 401),
        ("ec2-api", "AuthFailure", 404),
        ("eucalyptus-3", "403 Forbidden", 403),
        ("eucalyptus-4", "403 Forbidden", 403),
        ("nimbus", "InvalidClientTokenId", 400),
    ],
)
async def test_strangers_are_told_so(name: str, code: str, status: int, tmp_path: Path) -> None:
    """An access key that nobody has, in each cloud's words."""
    column = column_of(name)
    async with (
        opened_in(column, tmp_path) as (lab, _, _),
        client_of(lab, signature=column.signature, aws_access_key_id="nobody") as stranger,
    ):
        assert await refusal(stranger.describe_instances()) == (code, status)


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [
        ("nova-essex", "Unauthorized", 400),
        ("nova-havana", "AuthFailure", 400),
        ("eucalyptus-3", "403 Forbidden", 403),
        ("nimbus", "MissingClientTokenId", 400),
    ],
)
async def test_old_clouds_read_no_new_signature(
    name: str, code: str, status: int, tmp_path: Path
) -> None:
    """Signature version 4 counts for nothing with those that came before it (§0)."""
    async with (
        opened_in(column_of(name), tmp_path) as (lab, _, _),
        client_of(lab, signature="v4") as modern,
    ):
        assert await refusal(modern.describe_instances()) == (code, status)


@pytest.mark.parametrize("name", ["nova-kilo", "ec2-api", "eucalyptus-4"])
async def test_clouds_between_read_both_signatures(name: str, tmp_path: Path) -> None:
    """From Juno and Eucalyptus 3.3 on (§0); the region is nobody's business."""
    async with opened_in(column_of(name), tmp_path) as (lab, _, _):
        for signature in ("v2", "v4"):
            async with client_of(lab, signature=signature, region_name="RegionOne") as client:
                assert await code_of(client.describe_instances()) == "accepted"


@pytest.mark.parametrize("name", ["nova-havana", "ec2-api"])
async def test_a_request_out_of_time_meets_a_web_page(name: str, tmp_path: Path) -> None:
    """OpenStack's answer is HTML (§2, §3 "Auth"), which has no code to read."""
    signing = {"signature": "v2"}
    column = column_of(name)
    async with (
        opened_in(column, tmp_path) as (lab, _, _),
        client_of(lab, **signing) as client,
    ):
        lab._account.scenario = Scenario(clock_skew=400)
        assert await refusal(client.describe_instances()) == ("", 403)


@columns
async def test_tokens_do_what_they_do_there(column: Column, tmp_path: Path) -> None:
    """The same token twice: the same instance, or another one where tokens are ignored (§0)."""
    async with opened_in(column, tmp_path, NEVER) as (lab, client, launch):
        for _ in range(2):
            await run(ClientToken="7d0e-once")(client, launch)

        ignored = column.name in ("nova-essex", "eucalyptus-3")
        assert len(await lab.instances()) == (2 if ignored else 1)


@pytest.mark.parametrize(
    ("name", "code"),
    [("amazon", "IdempotentParameterMismatch"), ("nimbus", "IdempotentParameterMismatch")]
    + [(name, "accepted") for name in ("nova-havana", "ec2-api", "eucalyptus-4")],
)
async def test_tokens_with_other_parameters(name: str, code: str, tmp_path: Path) -> None:
    """Amazon and Nimbus look whether it is the same request; the others don't."""
    async with opened_in(column_of(name), tmp_path, NEVER) as (lab, client, launch):
        await run(ClientToken="7d0e-once")(client, launch)
        other = run(ClientToken="7d0e-once", InstanceType="m1.large")

        assert await code_of(other(client, launch)) == code
        assert len(await lab.instances()) == 1


@pytest.mark.parametrize(("name", "freed"), [("nova-havana", True), ("eucalyptus-4", False)])
async def test_tokens_after_the_end(name: str, freed: bool, tmp_path: Path) -> None:
    """Nova forgets a token with its instances (§2 "RunInstances")."""
    async with opened_in(column_of(name), tmp_path) as (lab, client, launch):
        first = await run(ClientToken="7d0e-once")(client, launch)
        one = first["Instances"][0]["InstanceId"]
        await client.terminate_instances(InstanceIds=[one])
        await until_lab(lab, lambda seen: seen[0].ended is not None)
        again = await run(ClientToken="7d0e-once")(client, launch)

        assert (again["Instances"][0]["InstanceId"] != one) == freed


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("amazon", r"i-[0-9a-f]{17}"),
        ("nova-essex", r"i-0000000[12]"),
        ("ec2-api", r"i-[0-9a-f]{8}"),
        ("eucalyptus-3", r"i-[0-9A-F]{8}"),
        ("eucalyptus-4", r"i-[0-9a-f]{8}"),
        ("nimbus", r"i-[0-9a-f]{8}"),
    ],
)
async def test_ids_have_the_clouds_shape(name: str, shape: str, tmp_path: Path) -> None:
    """Long, short, counted, or in upper case; and compared whatever their case."""
    async with opened_in(column_of(name), tmp_path, NEVER) as (_, client, launch):
        reply = await run(MaxCount=2, MinCount=2)(client, launch)
        ids = [one["InstanceId"] for one in reply["Instances"]]

        assert all(re.fullmatch(shape, one) for one in ids)
        assert sorted(await states(client, *[one.lower() for one in ids])) == sorted(ids)


async def test_nimbus_launches_the_least_and_says_where_at_once(tmp_path: Path) -> None:
    """Of 2 to 5 it starts 2 (§5); they have addresses before they have booted, and answer after."""
    async with opened_in(column_of("nimbus"), tmp_path, Scenario(boot=1.0)) as (
        lab,
        client,
        launch,
    ):
        reply = await run(MinCount=2, MaxCount=5)(client, launch)
        launched = reply["Instances"]

        assert len(launched) == 2
        assert {one["State"]["Name"] for one in launched} == {"pending"}
        assert all(one["PublicIpAddress"] for one in launched)
        seen = await until_lab(lab, lambda seen: all(one.state == "running" for one in seen))
        assert {one.address for one in seen} == {one["PublicIpAddress"] for one in launched}


async def test_nimbus_forgets_what_a_key_was(tmp_path: Path) -> None:
    """Anything can be a key, and takes the place of what had the name (§5 "Keys")."""
    async with opened_in(column_of("nimbus"), tmp_path) as (lab, client, launch):
        await client.import_key_pair(KeyName="mine", PublicKeyMaterial=b"no key at all")
        shown = (await client.describe_key_pairs())["KeyPairs"]

        assert [pair["KeyFingerprint"] for pair in shown] == ["N0:KE:YF:IN:GE:RP:RI:NT"]
        await run()(client, launch)
        await until_lab(lab, lambda seen: seen[0].ran is not None)
        assert await code_of(client.delete_key_pair(KeyName="mine")) == "accepted"


@pytest.mark.parametrize("name", ["nova-essex", "nova-havana"])
async def test_novas_volumes_have_times_that_nobody_can_read(name: str, tmp_path: Path) -> None:
    """The real `-`, or nothing, where a moment should be: botocore falls over it (§1.8)."""
    async with opened_in(column_of(name), tmp_path) as (lab, client, launch):
        disk = [{"DeviceName": "/dev/vdb", "Ebs": {"VolumeSize": 10}}]
        with pytest.raises(ValueError, match=r"timestamp|Invalid|-"):
            await run(BlockDeviceMappings=disk)(client, launch)

        assert len(await lab.instances()) == 1


async def test_kilos_rules_have_ports_that_nobody_can_read(tmp_path: Path) -> None:
    """A group as a source has empty ports: botocore falls over them (§1.8)."""
    async with opened_in(column_of("nova-kilo"), tmp_path) as (_, client, _):
        await client.authorize_security_group_ingress(
            GroupName="open", SourceSecurityGroupName="open"
        )
        with pytest.raises(ValueError, match="int"):
            await client.describe_security_groups(GroupNames=["open"])


async def test_essex_shows_private_addresses_as_public_ones(tmp_path: Path) -> None:
    """Without a floating address `ipAddress` is the fixed one, and `dnsName` a host's name (§2)."""
    async with opened_in(column_of("nova-essex"), tmp_path) as (lab, client, launch):
        await run()(client, launch)
        await until_lab(lab, lambda seen: seen[0].ran is not None)
        reply = await client.describe_instances()
        [one] = reply["Reservations"][0]["Instances"]

        assert one["PublicIpAddress"] == one["PrivateIpAddress"]
        assert one["PublicDnsName"] == "server-1"


async def test_later_nova_shows_none(tmp_path: Path) -> None:
    """From Havana on there is no public address before there is one (§2)."""
    async with opened_in(column_of("nova-havana"), tmp_path) as (lab, client, launch):
        await run()(client, launch)
        await until_lab(lab, lambda seen: seen[0].ran is not None)
        reply = await client.describe_instances()
        [one] = reply["Reservations"][0]["Instances"]

        assert "PublicIpAddress" not in one
        assert one["PublicDnsName"] == ""


async def test_eucalyptus_shows_nowhere_while_pending(tmp_path: Path) -> None:
    """0.0.0.0 first, names that lead nowhere later, and nothing after the end (§4 "Addresses")."""
    async with opened_in(column_of("eucalyptus-4"), tmp_path, Scenario(boot=0.5)) as (
        lab,
        client,
        launch,
    ):
        reply = await run()(client, launch)
        [one] = reply["Instances"]
        assert one["PublicIpAddress"] == one["PrivateIpAddress"] == "0.0.0.0"
        await until_lab(lab, lambda seen: seen[0].ran is not None)
        shown = (await client.describe_instances())["Reservations"][0]["Instances"][0]
        assert shown["PublicDnsName"].startswith("euca-127-")
        await client.terminate_instances(InstanceIds=[one["InstanceId"]])
        await until_lab(lab, lambda seen: seen[0].ended is not None)
        dead = (await client.describe_instances())["Reservations"][0]["Instances"][0]
        assert dead["PublicIpAddress"] == dead["PublicDnsName"] == ""
        await client.terminate_instances(InstanceIds=[one["InstanceId"]])
        assert await states(client) == {}


async def test_nova_still_says_running_while_it_ends(tmp_path: Path) -> None:
    """TerminateInstances' own reply says so (§2 "States"), and then the instance is unknown."""
    async with opened_in(column_of("nova-havana"), tmp_path) as (lab, client, launch):
        one = (await run()(client, launch))["Instances"][0]["InstanceId"]
        await until_lab(lab, lambda seen: seen[0].ran is not None)
        reply = await client.terminate_instances(InstanceIds=[one])

        assert reply["TerminatingInstances"][0]["CurrentState"]["Name"] in ("running", "terminated")
        await until_lab(lab, lambda seen: seen[0].ended is not None)
        assert await code_of(client.describe_instances(InstanceIds=[one])) == (
            "InvalidInstanceID.NotFound"
        )


async def test_essex_ends_those_before_a_bad_one(tmp_path: Path) -> None:
    """One by one, until it comes to an id that isn't there (§2 "States")."""
    async with opened_in(column_of("nova-essex"), tmp_path) as (lab, client, launch):
        reply = await run(MinCount=2, MaxCount=2)(client, launch)
        first, second = [one["InstanceId"] for one in reply["Instances"]]
        ended = client.terminate_instances(InstanceIds=[first, STRAY, second])

        assert await code_of(ended) == "InstanceNotFound"
        seen = await until_lab(lab, lambda seen: seen[0].ended is not None)
        assert [one.alive for one in seen] == [False, True]


@pytest.mark.parametrize(
    ("name", "state"),
    [("nova-essex", "error"), ("ec2-api", "error"), ("eucalyptus-4", "terminated")],
)
async def test_a_boot_that_fails_shows_as_it_does_there(
    name: str, state: str, tmp_path: Path
) -> None:
    """OpenStack has a state of its own for it, which stays until somebody ends the instance."""
    scenario = Scenario(dies_booting=True, dies_after=0.0)
    async with opened_in(column_of(name), tmp_path, scenario) as (lab, client, launch):
        one = (await run()(client, launch))["Instances"][0]["InstanceId"]
        await until_lab(lab, lambda seen: seen[0].ended is not None)

        assert await states(client, one) == {one: state}
        assert [seen.alive for seen in await lab.instances()] == [state == "error"]
        await client.terminate_instances(InstanceIds=[one])
        assert await states(client) == {}
        assert [seen.alive for seen in await lab.instances()] == [False]


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [
        ("nova-essex", "TooManyInstances", 400),
        ("nova-havana", "ResourceLimitExceeded", 413),
        ("ec2-api", "Forbidden", 403),
        ("eucalyptus-3", "RunInstancesType", 406),
        ("eucalyptus-4", "InstanceLimitExceeded", 400),
        ("nimbus", "InstanceLimitExceeded", 400),
    ],
)
async def test_quotas_are_refused_in_the_clouds_words(
    name: str, code: str, status: int, tmp_path: Path
) -> None:
    """Ten are wanted, seven allowed."""
    scenario = Scenario(visible=0, never_boots=True, quota=7)
    async with opened_in(column_of(name), tmp_path, scenario) as (lab, client, launch):
        assert await refusal(run(MinCount=10, MaxCount=10)(client, launch)) == (code, status)
        assert await lab.instances() == ()


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [
        ("eucalyptus-4", "InsufficientInstanceCapacity", 503),
        ("nimbus", "InstanceLimitExceeded", 400),
    ],
)
async def test_full_clouds_refuse(name: str, code: str, status: int, tmp_path: Path) -> None:
    """Those that look before they launch."""
    scenario = Scenario(never_boots=True, capacity=1)
    async with opened_in(column_of(name), tmp_path, scenario) as (_, client, launch):
        assert await refusal(run(MinCount=2, MaxCount=2)(client, launch)) == (code, status)


async def test_a_full_nova_launches_and_fails(tmp_path: Path) -> None:
    """Scheduling comes after the launch: what finds no room turns into an error (§2 "States")."""
    scenario = Scenario(capacity=1, dies_after=0.0)
    async with opened_in(column_of("nova-havana"), tmp_path, scenario) as (lab, client, launch):
        await run(MinCount=2, MaxCount=2)(client, launch)
        await until_lab(lab, lambda seen: seen[0].ran and seen[1].ended is not None)

        assert sorted((await states(client)).values()) == ["error", "running"]


async def test_an_accident_at_eucalyptus_says_nothing(tmp_path: Path) -> None:
    """A 500 whose document has no error in it (§4 "Errors"): botocore itself falls over it."""
    scenario = Scenario(visible=0, errors=[3])
    async with opened_in(column_of("eucalyptus-4"), tmp_path, scenario) as (lab, client, _):
        with pytest.raises(TypeError):
            await client.describe_instances()

        assert lab.calls[-1].status == 500


async def test_old_eucalyptus_writes_what_is_no_xml(tmp_path: Path) -> None:
    """An ampersand in a message is left as it is (§4 "Errors"): no parser reads that."""
    async with opened_in(column_of("eucalyptus-3"), tmp_path) as (_, client, _):
        made = client.create_security_group(GroupName="a&b", Description="c")
        await made
        again = client.create_security_group(GroupName="a&b", Description="c")
        with pytest.raises(ResponseParserError):
            await again


async def test_a_refusal_at_old_eucalyptus_comes_with_a_stack_trace(tmp_path: Path) -> None:
    """Where others have a request's id (§4 "Errors")."""
    async with opened_in(column_of("eucalyptus-3"), tmp_path) as (_, client, launch):
        with pytest.raises(ClientError) as error:
            await NO_KEY_RUN(client, launch)

        assert "ReplyQueue.java" in error.value.response["ResponseMetadata"]["RequestId"]


@pytest.mark.parametrize(
    ("name", "begins"), [("nova-havana", "req-"), ("ec2-api", "req-"), ("nimbus", "")]
)
async def test_requests_have_ids_or_none(name: str, begins: str, tmp_path: Path) -> None:
    """OpenStack's say what they are; Nimbus has none (§5 "Version")."""
    async with opened_in(column_of(name), tmp_path) as (_, client, _):
        reply = await client.describe_key_pairs()
        request_id = reply["ResponseMetadata"].get("RequestId", "")

        assert request_id.startswith(begins)
        assert bool(request_id) == bool(begins)


@pytest.mark.parametrize("name", ["nova-essex", "eucalyptus-3", "eucalyptus-4"])
async def test_endpoints_are_where_the_clouds_have_them(name: str, tmp_path: Path) -> None:
    """The path is part of the address; elsewhere there is only a web page (§0 "default URL")."""
    async with opened_in(column_of(name), tmp_path) as (lab, _, _):
        path = {"e": "/services/", "n": "/services/Cloud"}[name[0]]
        assert path in lab.endpoint
        lab.endpoint = lab.endpoint.replace("/services/", "/elsewhere/")
        status, text = await post(lab, b"Action=DescribeInstances")

        assert (status, "404" in text) == (404, True)


async def test_pages_and_filters_are_ignored_where_they_are(tmp_path: Path) -> None:
    """Everything comes at once, whatever was asked for (§0)."""
    filters = [{"Name": "image-id", "Values": ["nobody"]}]
    async with opened_in(column_of("nimbus"), tmp_path, NEVER) as (_, client, launch):
        await run(MinCount=7, MaxCount=7)(client, launch)
        reply = await client.describe_instances(MaxResults=5, Filters=filters)

        assert sum(len(r["Instances"]) for r in reply["Reservations"]) == 7
        assert "NextToken" not in reply


async def test_ec2_api_takes_the_first_source_of_a_rule(tmp_path: Path) -> None:
    """Of a permission's sources one counts (§3 "Security groups"), a group before addresses."""
    async with opened_in(column_of("ec2-api"), tmp_path) as (_, client, _):
        rule = {
            "IpProtocol": "tcp",
            "FromPort": 80,
            "ToPort": 80,
            "IpRanges": [{"CidrIp": "10.0.0.0/8"}, {"CidrIp": "11.0.0.0/8"}],
            "UserIdGroupPairs": [{"GroupName": "open"}],
        }
        await client.authorize_security_group_ingress(GroupName="open", IpPermissions=[rule])
        reply = await client.describe_security_groups(GroupNames=["open"])
        [added] = [
            one for one in reply["SecurityGroups"][0]["IpPermissions"] if one["FromPort"] == 80
        ]

        assert added["IpRanges"] == []
        assert len(added["UserIdGroupPairs"]) == 1


async def test_duplicate_rules_at_eucalyptus_are_false(tmp_path: Path) -> None:
    """Not an error, but not true either (§4 "Errors")."""
    async with opened_in(column_of("eucalyptus-4"), tmp_path) as (_, client, _):
        reply = await client.authorize_security_group_ingress(
            GroupName="open", IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
        )

        assert reply["Return"] is False


async def test_only_instances_have_tags_with_nova(tmp_path: Path) -> None:
    """CreateTags takes instances (§0), and filters by their tags work, others don't count."""
    async with opened_in(column_of("nova-havana"), tmp_path, NEVER) as (_, client, launch):
        reply = await run(MinCount=2, MaxCount=2)(client, launch)
        ids = [one["InstanceId"] for one in reply["Instances"]]
        tags = [{"Key": "who", "Value": "me"}]
        await client.create_tags(Resources=ids[:1], Tags=tags)

        other = client.create_tags(Resources=["vol-00000001"], Tags=tags)
        assert await code_of(other) == "InvalidParameterValue"
        by_tag = [{"Name": "tag:who", "Values": ["me"]}]
        assert sorted(await states(client, Filters=by_tag)) == ids[:1]
        by_image = [{"Name": "image-id", "Values": ["nobody"]}]
        assert sorted(await states(client, Filters=by_image)) == sorted(ids)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nova-essex", "UnknownError"),  # §2 "Authorize", at the end
        ("nova-havana", "InvalidGroup"),
        ("ec2-api", "DependencyViolation"),  # §3 "Security groups"
        ("eucalyptus-4", "InvalidGroup.InUse"),  # §4 "Errors": "InUse (classic)"
    ],
)
async def test_a_group_that_is_in_use_stays(tmp_path: Path, name: str, code: str) -> None:
    """Each cloud has its own word for it."""
    async with opened_in(column_of(name), tmp_path) as (_, client, launch):
        await client.run_instances(MinCount=1, MaxCount=1, **launch)

        assert await code_of(client.delete_security_group(GroupName="open")) == code


async def test_the_oldest_cloud_has_trouble_with_no_500(tmp_path: Path) -> None:
    """§2 "Errors": its own trouble is a 400 like all else, and says that it is unknown."""
    scenario = Scenario(visible=0, errors=True)
    async with lab_and_client(
        tmp_path, scenario, dialect="nova-essex", signing={"signature": "v2"}
    ) as (lab, client):
        assert await code_of(client.describe_instances()) == "UnknownError"
        assert [(call.status, call.code) for call in lab.calls] == [(400, "broken")]
