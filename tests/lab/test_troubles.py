"""Scenarios over the wire: each trouble shows as it does with a cloud, and the lab keeps count."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import asyncssh
import pytest
from botocore.exceptions import (
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    SSLError,
)

from precip_async.lab.lab import Lab
from precip_async.lab.scenario import Scenario
from tests.lab.clients import (
    OPEN_ROOT,
    box_of,
    client_of,
    code_of,
    lab_and_client,
    launch,
    opened,
    states,
    until_lab,
)

if TYPE_CHECKING:
    from pathlib import Path

CUT = (ConnectionClosedError, EndpointConnectionError, HTTPClientError)


def left_in(directory: Path) -> list[str]:
    """What labs have left behind."""
    return [path.name for path in directory.iterdir()]


def trouble(**given: Any) -> Scenario:
    """A scenario of a cloud that knows at once what it has launched."""
    return Scenario(visible=0, **given)


async def test_calls_are_throttled_at_a_rate(tmp_path: Path) -> None:
    """About half of all calls are one too many, each with the code for it, and are counted."""
    async with lab_and_client(tmp_path, trouble(throttled=0.5, seed=3)) as (lab, client):
        codes = [await code_of(client.describe_key_pairs()) for _ in range(40)]

        refused = codes.count("RequestLimitExceeded")
        assert 10 <= refused <= 30
        assert codes.count("accepted") == 40 - refused
        assert sum(call.throttled for call in lab.calls) == refused


async def test_calls_are_broken_by_ordinal(tmp_path: Path) -> None:
    """The second call is a 500, the third is reset, and neither does anything."""
    async with lab_and_client(tmp_path, trouble(errors=[1], resets=[2])) as (lab, client):
        await client.describe_instances()
        assert await code_of(launch(client)) == "InternalError"
        with pytest.raises(CUT):
            await launch(client)
        await client.describe_instances()

        assert await lab.instances() == ()
        assert [call.status for call in lab.calls] == [200, 500, 0, 200]
        assert [call.answered for call in lab.calls] == [True, True, False, True]


async def test_a_lost_reply_was_a_launch_all_the_same(tmp_path: Path) -> None:
    """The client hears nothing, the instances are there, and the token finds them."""
    async with lab_and_client(tmp_path, trouble(lost_launches=[0])) as (lab, client):
        with pytest.raises(CUT):
            await launch(client, 3, ClientToken="lost")

        assert len(await lab.instances()) == 3
        assert not lab.calls[0].answered
        again = await launch(client, 3, ClientToken="lost")
        assert sorted(again) == sorted(one.id for one in await lab.instances())


async def test_any_reply_can_be_lost(tmp_path: Path) -> None:
    """Also that of an ending, which happens."""
    async with lab_and_client(tmp_path, trouble(lost_replies=[1])) as (lab, client):
        [one] = await launch(client)
        with pytest.raises(CUT):
            await client.terminate_instances(InstanceIds=[one])

        await until_lab(lab, lambda seen: all(one.ended is not None for one in seen))


async def test_a_reply_can_be_slow(tmp_path: Path) -> None:
    """Slower than the client waits; others are answered meanwhile."""
    async with lab_and_client(tmp_path, trouble(slow=[0], slow_by=1.0)) as (_, client):
        began = anyio.current_time()
        took: list[float] = []

        async def ask() -> None:
            await client.describe_instances()
            took.append(anyio.current_time() - began)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            group.start_soon(ask)

        assert took[0] < 1.0 <= took[1]


async def test_a_certificate_for_another_host_is_one(tmp_path: Path) -> None:
    """A client that looks refuses it; the right one is accepted by its authority only."""
    async with Lab(directory=tmp_path, isolation="process", tls=True) as lab:
        async with client_of(lab) as client:
            assert await code_of(client.describe_instances()) == "accepted"
        async with client_of(lab, verify=True) as client:
            with pytest.raises(SSLError):
                await client.describe_instances()
        async with client_of(lab, verify=False) as client:
            assert await code_of(client.describe_instances()) == "accepted"
    assert left_in(tmp_path) == []
    wrong = Scenario(wrong_host=True)
    async with Lab(directory=tmp_path, isolation="process", tls=True, scenario=wrong) as lab:
        context = ssl.create_default_context(cafile=lab.ca_file)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError, match="not valid for"):
                await session.get(lab.endpoint, ssl=context)


async def test_a_boot_takes_its_time(tmp_path: Path) -> None:
    """Pending first, without an address, then running with one."""
    async with lab_and_client(tmp_path, trouble(boot=0.7)) as (lab, client):
        [one] = await launch(client)

        assert await states(client, one) == {one: "pending"}
        [seen] = await until_lab(lab, lambda seen: seen[0].ran is not None)
        assert seen.ran is not None
        assert seen.ran - seen.launched >= 0.7
        assert await states(client, one) == {one: "running"}


async def test_a_boot_can_fail_in_every_way(tmp_path: Path) -> None:
    """Never, by dying with a reason, late, without the key, or silently."""
    scenario = trouble(
        never_boots=[0],
        dies_booting=[1],
        dies_after=0.1,
        ssh_late=[2],
        ssh_late_by=1.0,
        ssh_refuses_key=[3],
        ssh_hangs=[4],
    )
    async with lab_and_client(tmp_path, scenario) as (lab, client):
        group = await opened(client)
        ids = await launch(client, 6, KeyName="mine", SecurityGroupIds=[group], UserData=OPEN_ROOT)
        late, refusing, silent, good = [await box_of(lab, one) for one in ids[2:]]
        await until_lab(lab, lambda seen: seen[1].ended is not None)

        assert (await states(client, *ids)) == dict(
            zip(ids, ["pending", "terminated", *["running"] * 4], strict=True)
        )
        reply = await client.describe_instances(InstanceIds=[ids[1]])
        dead = reply["Reservations"][0]["Instances"][0]
        assert dead["StateReason"]["Code"] == "Server.InternalError"
        assert await good.run("echo in") == "in"
        with pytest.raises(ConnectionRefusedError):
            await asyncssh.connect(late.address, late.port)
        assert await late.run("echo in") == "in"
        with pytest.raises(asyncssh.PermissionDenied):
            await refusing.connect()
        with pytest.raises(asyncssh.ConnectionLost):
            await silent.connect(login_timeout=0.5)


async def test_an_instance_can_vanish(tmp_path: Path) -> None:
    """The cloud forgets it, its id poisons batches, and its machine is ended."""
    async with lab_and_client(tmp_path, trouble(vanishes=[1])) as (lab, client):
        ids = await launch(client, 3)
        await until_lab(lab, lambda seen: seen[1].ended is not None)

        assert await code_of(client.describe_instances(InstanceIds=ids)) == (
            "InvalidInstanceID.NotFound"
        )
        assert sorted(await states(client)) == sorted([ids[0], ids[2]])


async def test_the_lab_counts_what_was_launched(tmp_path: Path) -> None:
    """Every instance in order, with its token, its fault and its times."""
    async with lab_and_client(tmp_path, trouble(never_boots=[1])) as (lab, client):
        first = await launch(client, 2, ClientToken="a")
        second = await launch(client, ClientToken="b")
        await client.terminate_instances(InstanceIds=second)
        seen = await until_lab(lab, lambda seen: seen[2].ended is not None and seen[0].ran)

        assert [one.id for one in seen] == [*first, *second]
        assert [one.token for one in seen] == ["a", "a", "b"]
        assert [one.fault for one in seen] == ["", "never_boots", ""]
        assert [one.alive for one in seen] == [True, True, False]
        assert 0 <= seen[0].launched <= (seen[0].ran or 0)
