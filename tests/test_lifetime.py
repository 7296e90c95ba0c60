"""Instances that end by themselves: whatever becomes of their script, and as late as it said."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from precip_async import (
    EucalyptusExperiment,
    Experiment,
    HostsExperiment,
    InvalidArgument,
    LocalExperiment,
    NimbusExperiment,
    RemoteError,
    lifetime,
)
from precip_async.clouds.local.remains import clear_dead, left_behind
from precip_async.clouds.local.state import experiments_in
from precip_async.errors import FleetError
from precip_async.events import Extended
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.lab import ordering
from tests.fakes import FakeCloud
from tests.on_clouds import rehearsed
from tests.polling import until
from tests.scripts import script

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.home.journal import Row

HOUR = 3600.0
PATIENCE = 30.0  # seconds for what takes some on an idle computer
NAMESPACE = pytest.param("namespace", marks=[pytest.mark.root, pytest.mark.sshd, pytest.mark.slow])

LOCAL = """
import sys
import anyio
from precip_async import LocalExperiment

async def main(home, isolation):
    async with LocalExperiment(home=home, isolation=isolation, keep=True, max_lifetime=5) as exp:
        await exp.provision(count=2)
        await exp.wait()
        sys.stdout.write("ready\\n")
        await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:])
"""

ON_A_LAB = """
import json, sys
import anyio
from precip_async import EC2Experiment

async def main(facts):
    facts = json.loads(facts)
    region, endpoint, keys = facts.pop("region"), facts.pop("endpoint"), facts.pop("keys")
    async with EC2Experiment(region, endpoint, *keys, **facts) as exp:
        await exp.provision("ami-0abcdef1234567890", count=2)
        await exp.wait()
        sys.stdout.write("ready\\n")
        await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:])
"""


async def rows(home: Path) -> list[Row]:
    """What the journal of `home` believes to be running."""

    def read() -> list[Row]:
        journal = Journal.open(Home.open(home))
        try:
            return journal.alive()
        finally:
            journal.close()

    return await anyio.to_thread.run_sync(read)


# -- whatever becomes of the script --------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["process", NAMESPACE])
def test_kept_instances_end_after_their_script_was_killed(isolation: str, tmp_path: Path) -> None:
    """On this computer their warden ends them, and then itself, with nobody left to ask for it."""
    base = tmp_path / "local"
    with script(LOCAL, str(tmp_path), isolation) as running:
        running.wait_for("ready")
        running.signal(signal.SIGKILL)
        running.end()
        assert [len(record.machines) for record in left_behind(base)] == [2]

        until(lambda: not left_behind(base), "they have ended", within=PATIENCE)
        until(lambda: experiments_in(base) == [], within=PATIENCE)
    clear_dead(base)


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["process", NAMESPACE])
async def test_a_clouds_instances_end_after_their_script_was_killed(
    isolation: Any, tmp_path: Path
) -> None:
    """Each counts for itself, powers itself off, and that is its end: the launch has said so."""
    async with rehearsed(tmp_path, isolation=isolation) as at:
        facts = {
            "region": at.lab.region,
            "endpoint": at.lab.endpoint,
            "keys": [at.lab.access_key, at.lab.secret_key],
            "ssh_port": at.lab.ssh_port,
            "home": str(tmp_path / "home"),
            "max_lifetime": 12 if isolation == "namespace" else 6,  # a boot has to fit in
        }

        def killed() -> None:
            with script(ON_A_LAB, json.dumps(facts)) as running:
                running.wait_for("ready")
                running.signal(signal.SIGKILL)

        await anyio.to_thread.run_sync(killed)
        with anyio.fail_after(PATIENCE):
            while any(one.alive for one in await at.lab.instances()):  # noqa: ASYNC110 - the lab's
                await anyio.sleep(0.05)

        assert [one.state for one in await at.lab.instances()] == ["terminated"] * 2
        assert at.calls("TerminateInstances") == []
        assert [row.expires is not None for row in await rows(tmp_path / "home")] == [True, True]


# -- what is told of it --------------------------------------------------------------------------


async def test_the_end_is_in_the_marks_the_journal_and_the_instance(tmp_path: Path) -> None:
    """All three say the same, to the second, and putting it off rewrites all three."""
    async with rehearsed(tmp_path, max_lifetime=HOUR) as at, at.exp as exp:
        asked = datetime.now(UTC)
        (instance,) = await exp.provision(at.image)
        await exp.wait()
        first = instance.expires_at
        assert first is not None
        assert abs(first - asked - timedelta(seconds=HOUR)) < timedelta(seconds=PATIENCE)
        assert [row.expires for row in await rows(at.home)] == [first]
        (launch,) = at.calls("RunInstances")
        assert f"{first:%Y-%m-%dT%H:%M:%SZ}" in launch.parameters.values()

        assert await exp.extend(2 * HOUR) == [instance]
        second = instance.expires_at
        assert second is not None
        assert second - first > timedelta(seconds=HOUR - PATIENCE)
        assert [row.expires for row in await rows(at.home)] == [second]
        (tagging,) = at.calls("CreateTags")
        assert tagging.parameters == {
            "ResourceId.1": instance.id,
            "Tag.1.Key": "precip:expires",
            "Tag.1.Value": f"{second:%Y-%m-%dT%H:%M:%SZ}",
        }
        (said,) = [event for event in at.heard if isinstance(event, Extended)]
        assert (said.instance_id, said.until) == (instance.id, second)
        left = (await exp.run([], "cat ${PRECIP_CLOUD_INIT_STATE:?}/precip-lifetime/left"))[1][0]
        assert 2 * HOUR - PATIENCE < int(left) <= 2 * HOUR


async def test_who_is_no_root_puts_an_end_off_by_sudo(tmp_path: Path) -> None:
    """As the user of a stock image: what counts there is found, and is told of the new end."""
    async with rehearsed(tmp_path, max_lifetime=HOUR, login_user="ubuntu") as at, at.exp as exp:
        (instance,) = await exp.provision(at.image)
        await exp.wait()

        assert await exp.extend(2 * HOUR) == [instance]
        left = (await exp.run([], "cat ${PRECIP_CLOUD_INIT_STATE:?}/precip-lifetime/left"))[1][0]
        assert HOUR < int(left) <= 2 * HOUR


async def test_an_end_is_never_brought_forward(tmp_path: Path) -> None:
    """Asking for less than there is changes nothing, and says so by an empty answer."""
    async with rehearsed(tmp_path, max_lifetime=HOUR) as at, at.exp as exp:
        (instance,) = await exp.provision(at.image)
        await exp.wait()
        before = instance.expires_at

        assert await exp.extend(60) == []
        assert instance.expires_at == before
        assert at.calls("CreateTags") == []


async def test_one_that_does_not_hear_of_its_new_end_keeps_its_old_one(tmp_path: Path) -> None:
    """The error names it, the others are put off, and asking again asks for that one too."""
    async with rehearsed(tmp_path, max_lifetime=HOUR) as at, at.exp as exp:
        deaf, hears = await exp.provision(at.image, count=2)
        await exp.wait()
        before = deaf.expires_at
        counter = "${PRECIP_CLOUD_INIT_STATE:?}/precip-lifetime/counter"
        await exp.run(deaf.id, f"mv {counter} {counter}.hidden")

        with pytest.raises(FleetError, match=f"1 of 2 instances failed:\n *{deaf.id}"):
            await exp.extend(2 * HOUR)

        assert deaf.expires_at == before
        assert before is not None
        assert hears.expires_at is not None
        assert hears.expires_at > before
        await exp.run(deaf.id, f"mv {counter}.hidden {counter}")
        assert deaf in await exp.extend(2 * HOUR)
        assert (deaf.expires_at or before) > before


async def test_a_replacement_has_a_whole_life_of_its_own(tmp_path: Path) -> None:
    """Its time is counted from its own launch."""
    async with rehearsed(tmp_path, max_lifetime=HOUR) as at, at.exp as exp:
        (instance,) = await exp.provision(at.image)
        before = instance.expires_at
        await exp._stage.launcher.replace(instance, "it was slow")

        assert instance.expires_at is not None
        assert before is not None
        assert instance.expires_at > before
        assert {row.expires for row in await rows(at.home)} == {instance.expires_at}


async def test_an_instance_that_would_live_on_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the image's cloud-init has not done as it was told, `wait` says that nothing counts."""
    monkeypatch.setattr(ordering, "read_lifetime", lambda _: None)
    monkeypatch.setattr(lifetime, "BEGINNING", 0.1)
    async with rehearsed(tmp_path, max_lifetime=HOUR) as at, at.exp as exp:
        await exp.provision(at.image)
        with pytest.raises(FleetError, match="may not end by itself") as caught:
            await exp.wait()

        assert isinstance(caught.value.failed[0], RemoteError)


async def test_one_whose_time_was_up_is_not_worked_on(tmp_path: Path) -> None:
    """A verb says why at once, instead of waiting for somebody who is gone."""
    async with LocalExperiment(home=tmp_path, isolation="process", max_lifetime=HOUR) as exp:
        (instance,) = await exp.provision()
        await exp.wait()
        instance.expires_at = datetime.now(UTC) - timedelta(seconds=5)

        with pytest.raises(InvalidArgument, match=f"the time of {instance.id} was up 5 s ago"):
            await exp.run([], "true")
        with pytest.raises(InvalidArgument, match="was up"):
            await exp.extend()
        await exp.deprovision()


async def test_a_local_end_is_put_off(tmp_path: Path) -> None:
    """The warden ends an instance at its new time and not at its old one."""
    async with LocalExperiment(home=tmp_path, isolation="process", max_lifetime=3) as exp:
        stays, goes = await exp.provision(tags=["stays"]) + await exp.provision(tags=["goes"])
        await exp.wait()
        await exp.extend(HOUR, "stays")
        cloud = exp._stage.cloud

        with anyio.fail_after(PATIENCE):
            while (await cloud.describe([goes.id]))[goes.id].state == "running":  # noqa: ASYNC110 - it has no event
                await anyio.sleep(0.05)
        both = await cloud.describe([stays.id, goes.id])
        assert both[goes.id].reason == "its time was up (max_lifetime)"
        assert both[stays.id].state == "running"


# -- refused -------------------------------------------------------------------------------------


def test_hosts_that_exist_are_never_ended() -> None:
    """So they can't be given a lifetime, nor can a user's own cloud that knows nothing of it."""
    with pytest.raises(InvalidArgument, match="of 'hosts' can't end by themselves"):
        HostsExperiment(["one"], max_lifetime=60)
    with pytest.raises(InvalidArgument, match="can't end by themselves"):
        Experiment(FakeCloud(), max_lifetime=60)


@pytest.mark.parametrize(
    ("dialect", "why"),
    [("ec2-api", "only stopped"), ("eucalyptus-3", "only stopped"), ("nimbus", "no user data")],
)
async def test_a_cloud_that_cannot_keep_to_it_refuses(
    dialect: str, why: str, tmp_path: Path
) -> None:
    """Before anything is launched, and with the reason."""
    with pytest.raises(InvalidArgument, match=why):
        async with rehearsed(tmp_path, dialect, max_lifetime=60) as at, at.exp:
            pytest.fail("it was opened")


def test_what_can_be_known_at_once_is_refused_at_once() -> None:
    """Where no release of a cloud can, the constructor says so; else opening finds out."""
    with pytest.raises(InvalidArgument, match="Nimbus"):
        NimbusExperiment("host", "key", "secret", max_lifetime=60)
    EucalyptusExperiment("host", "key", "secret", max_lifetime=60)


async def test_stopping_at_a_shutdown_and_a_lifetime_exclude_each_other(tmp_path: Path) -> None:
    """The user's own word on what a shutdown does would make the end a stop, which costs."""
    async with rehearsed(tmp_path, max_lifetime=HOUR) as at, at.exp as exp:
        with pytest.raises(InvalidArgument, match="only be stopped"):
            await exp.provision(at.image, options={"InstanceInitiatedShutdownBehavior": "stop"})


async def test_what_has_no_end_cannot_be_extended(tmp_path: Path) -> None:
    """An experiment without ``max_lifetime=`` says so."""
    async with LocalExperiment(home=tmp_path, isolation="process") as exp:
        with pytest.raises(InvalidArgument, match="no max_lifetime="):
            await exp.extend(60)


async def test_seconds_are_seconds(tmp_path: Path) -> None:
    """Zero and less are refused, and nothing is put off."""
    async with LocalExperiment(home=tmp_path, isolation="process", max_lifetime=HOUR) as exp:
        with pytest.raises(InvalidArgument, match="seconds must be"):
            await exp.extend(0)
