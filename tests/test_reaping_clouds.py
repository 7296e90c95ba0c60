"""What is left at a cloud is found by the journal and by its marks, told, and ended when asked for.

The lab says what there is; our own books are not asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread
import pytest

from precip_async import InvalidArgument, NameInUse, reap
from precip_async.cli import main
from precip_async.cli.reap import LEFT
from precip_async.clouds.ec2_documents import addresses_of
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.lab.scenario import Scenario
from precip_async.reaping import targets
from tests.lab.clients import PLAIN, client_of, launch
from tests.left import QUICK, alive, facts_of, killed, reaped
from tests.on_clouds import IMAGES, experiment_on, rehearsed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.on_clouds import Rehearsal

T = TypeVar("T")

FAST = ("amazon",)
DIALECTS = [
    pytest.param(one, marks=() if one in FAST else pytest.mark.slow, id=one) for one in IMAGES
]


@contextlib.asynccontextmanager
async def left(
    tmp_path: Path, dialect: str = "amazon", count: int = 2, **given: Any
) -> AsyncIterator[Rehearsal]:
    """A cloud at which an experiment has left instances running on purpose."""
    async with rehearsed(tmp_path, dialect, **{"keep": True, "name": "trial", **given}) as one:
        async with one.exp:
            await one.exp.provision(one.image, count=count, tags=["a"])
        yield one


def rewritten(home: Path, *statements: str) -> None:
    """Change the journal behind everybody's back."""
    with contextlib.closing(sqlite3.connect(home / "journal.sqlite")) as db, db:
        for statement in statements:
            db.execute(statement)


async def in_the_journal(home: Path) -> tuple[list[str], list[str]]:
    """What the journal believes to be alive, and which addresses to be held."""

    def read(journal: Journal) -> tuple[list[str], list[str]]:
        ids = [row.instance_id or row.token for row in journal.alive()]
        return ids, [row.ip or row.key for row in journal.addresses()]

    return await with_journal(home, read)


async def with_journal(home: Path, use: Callable[[Journal], T]) -> T:
    """What `use` makes of the journal of `home`."""

    def in_thread() -> T:
        journal = Journal.open(Home.open(home))
        try:
            return use(journal)
        finally:
            journal.close()

    return await anyio.to_thread.run_sync(in_thread)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_a_killed_script_left_is_ended(tmp_path: Path, dialect: str) -> None:
    """After kill -9: listed first, then ended, with its addresses and key pairs; then nothing."""
    async with rehearsed(tmp_path, dialect) as one:
        lab, home = one.lab, one.home
        await killed(facts_of(lab, home, "trial"))

        listed = await reaped(lab, home)
        running = await alive(lab)
        ended = await reaped(lab, home, end=True)

        assert sorted(one.id for one in listed) == sorted(running)
        assert [(one.experiment, one.mine, one.holder) for one in listed] == [
            ("trial", True, "")
        ] * 2
        assert all(one.ended for one in ended)
        assert await reaped(lab, home) == []
        await one.account()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_marks_alone_find_what_the_journal_lost(tmp_path: Path, dialect: str) -> None:
    """Without a journal: by tags, by key pair, and on Nimbus by the name of the home's own key."""
    async with left(tmp_path, dialect) as one:
        for path in one.home.glob("journal.sqlite*"):
            path.unlink()

        ended = await reaped(one.lab, one.home, end=True)

        assert len(ended) == 2
        assert all(one.ended and one.mine and one.known_by != "the journal" for one in ended)
        assert await alive(one.lab) == []


@pytest.mark.slow
async def test_a_living_experiment_keeps_its_instances(tmp_path: Path) -> None:
    """What a process holds is listed with its holder, ended with force only."""
    async with rehearsed(tmp_path, name="busy") as one, one.exp as exp:
        await exp.provision(one.image)

        (held,) = await reaped(one.lab, one.home, end=True)
        still = await alive(one.lab)
        (forced,) = await reaped(one.lab, one.home, end=True, force=True)

        assert (held.ended, held.id) == (False, still[0])
        assert f"process {os.getpid()}" in held.holder
        assert forced.ended
        assert await alive(one.lab) == []


@pytest.mark.slow
async def test_another_computers_process_is_taken_to_live(tmp_path: Path) -> None:
    """In a home that computers share nobody here can tell; it is ended with force only."""
    async with left(tmp_path, count=1) as one:
        rewritten(one.home, "UPDATE launches SET machine = 'elsewhere', pid = 7")

        (held,) = await reaped(one.lab, one.home, end=True)
        (forced,) = await reaped(one.lab, one.home, end=True, force=True)

        assert (held.ended, held.holder) == (
            False,
            "process 7 on host elsewhere, unless it has ended",
        )
        assert forced.ended


async def test_what_bears_no_mark_is_never_touched(tmp_path: Path) -> None:
    """Whatever the flags: neither a colleague's instance, nor one that only looks like ours."""
    async with left(tmp_path, count=1, scenario=PLAIN) as one, client_of(one.lab) as client:
        theirs = await launch(client, count=2)
        tags = [{"Key": "precip:experiment", "Value": "trial"}]
        await client.create_tags(Resources=theirs[:1], Tags=tags)

        found = await reaped(one.lab, one.home, end=True, everyone=True, force=True, unsure=True)

        assert [one.ended for one in found] == [True]
        assert sorted(await alive(one.lab)) == sorted(theirs)


@pytest.mark.slow
async def test_others_are_shown_when_asked_for_and_ended_when_named(tmp_path: Path) -> None:
    """Another home's instances, by their tags: not seen, seen, and ended by their owner's id."""
    async with left(tmp_path, count=1) as one:
        mine = tmp_path / "mine"

        unseen = await reaped(one.lab, mine, end=True)
        (seen,) = await reaped(one.lab, mine, end=True, everyone=True, force=True)
        running = await alive(one.lab)
        (ended,) = await reaped(one.lab, mine, end=True, owner=seen.owner)

        assert unseen == []
        assert (seen.id, seen.mine, seen.ended) == (running[0], False, False)
        assert (seen.experiment, seen.known_by, seen.zone) == ("trial", "its tags", "us-east-1a")
        assert ended.ended
        assert await alive(one.lab) == []


@pytest.mark.slow
async def test_a_lost_answer_is_found_by_its_token(tmp_path: Path) -> None:
    """A script that died between the question and the answer: what it started is its launch's."""
    async with left(tmp_path) as one:
        rewritten(one.home, "DELETE FROM instances", "UPDATE launches SET answered_at = NULL")

        ended = await reaped(one.lab, one.home, end=True)

        assert [one.ended for one in ended] == [True, True]
        assert {one.known_by for one in ended} == {"the journal"}
        assert await in_the_journal(one.home) == ([], [])
        assert await alive(one.lab) == []


@pytest.mark.slow
async def test_a_newborn_that_cannot_be_seen_yet_is_not_written_off(tmp_path: Path) -> None:
    """A cloud may deny for minutes what it has just started: the name is held, and it is ended."""
    async with left(tmp_path, scenario=Scenario(visible=9.0)) as one:
        with pytest.raises(NameInUse, match="precip reap"):
            await experiment_on(one.lab, one.home, name="trial", limits=QUICK).open()

        ended = await reaped(one.lab, one.home, end=True)

        assert [one.ended for one in ended] == [True, True]
        assert await alive(one.lab) == []
        assert await in_the_journal(one.home) == ([], [])


@pytest.mark.slow
async def test_a_launch_without_an_answer_is_watched_for_a_while(tmp_path: Path) -> None:
    """It may still start something, so that it is listed; after a quarter of an hour it has not."""
    async with rehearsed(tmp_path, name="trial") as one:
        async with one.exp:
            endpoint = one.exp._stage.cloud.traits.endpoint

        def intend(journal: Journal) -> None:
            facts: dict[str, Any] = {"cloud": "Amazon EC2", "endpoint": endpoint, "image_id": "i"}
            facts |= {"experiment": "trial", "instance_type": "t", "count": 1, "first": 0}
            journal.intend(token="t1", **facts)

        await with_journal(one.home, intend)

        (young,) = await reaped(one.lab, one.home, end=True)
        long_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        rewritten(one.home, f"UPDATE launches SET asked_at = '{long_ago}'")
        old = await reaped(one.lab, one.home)

        assert (young.kind, young.id, young.ended) == ("launch", "t1", False)
        assert "not answered" in young.problem
        assert old == []
        assert await in_the_journal(one.home) == ([], [])


async def allocated(one: Rehearsal) -> str:
    """An address that somebody has taken at the cloud of `one`, whose experiment is open."""
    calls = one.exp._stage.cloud._prepared("test").calls  # type: ignore[attr-defined] # an EC2Cloud
    (address,) = await calls.ask("AllocateAddress", {}, addresses_of)
    return str(address.ip)


async def test_an_address_that_nobody_uses_is_released(tmp_path: Path) -> None:
    """One that is ours for sure; that of a lost answer may be a colleague's, and is asked about."""
    async with rehearsed(tmp_path, "nova-essex", name="trial") as one:
        async with one.exp:
            ours, unsure, others = [await allocated(one) for _ in range(3)]
            endpoint = one.exp._stage.cloud.traits.endpoint
        where = {"experiment": "trial", "cloud": "OpenStack", "endpoint": endpoint}

        def take(journal: Journal) -> None:
            journal.wanting_address("k1", **where)
            journal.took_address("k1", ours)
            journal.wanting_address("k2", others=[ours, others], **where)

        await with_journal(one.home, take)

        first = await reaped(one.lab, one.home, end=True)
        between = {one.public for one in one.lab.addresses()}
        (second,) = await reaped(one.lab, one.home, end=True, unsure=True)

        assert {(one.kind, one.id, one.ended) for one in first} == {
            ("address", ours, True),
            ("address", unsure, False),
        }
        assert "somebody else's" in next(one.problem for one in first if not one.ended)
        assert between == {unsure, others}
        assert (second.id, second.ended) == (unsure, True)
        assert {one.public for one in one.lab.addresses()} == {others}


@pytest.mark.slow
async def test_an_address_is_in_the_journal_before_it_is_taken(tmp_path: Path) -> None:
    """Each that an experiment takes, until it gives it back."""
    async with rehearsed(tmp_path, "nova-essex", name="trial") as one:
        async with one.exp as exp:
            await exp.provision(one.image)
            await exp.wait()
            _, held = await in_the_journal(one.home)
            taken = [one.public for one in one.lab.addresses()]

        assert held == taken != []
        assert await in_the_journal(one.home) == ([], [])


@pytest.mark.slow
async def test_a_cloud_that_cannot_be_asked_hides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the journal has there is listed with the reason; the exit code says that it is left."""
    async with left(tmp_path, "nova-kilo", count=1) as one:
        (found,) = await reap(home=one.home, limits=QUICK)
        assert "set EC2_ACCESS_KEY and EC2_SECRET_KEY" in found.problem
        assert (found.experiment, found.ended) == ("trial", False)

        await reaped(one.lab, one.home, end=True)
    rewritten(
        one.home, "UPDATE launches SET ended_at = NULL", "UPDATE instances SET ended_at = NULL"
    )

    arguments = ["reap", "--home", str(one.home), "--json", "--yes"]
    code = await anyio.to_thread.run_sync(main, arguments)

    (told,) = json.loads(capsys.readouterr().out)
    assert (code, told["ended"]) == (LEFT, False)


@pytest.mark.slow
async def test_the_journal_says_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has to be named where the environment has the keys: the rest is in the journal."""
    async with left(tmp_path, count=1) as one:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", one.lab.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", one.lab.secret_key)

        (ended,) = await reap(home=one.home, end=True, limits=QUICK)

        assert (ended.ended, ended.problem) == (True, "")
        assert await alive(one.lab) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cloud": "azure"}, "cloud must be one of ec2, openstack"),
        ({"cloud": "openstack"}, "say where it is"),
        ({"cloud": "ec2"}, "say where it is"),
        ({"endpoint": "http://127.0.0.1:9/"}, "say which cloud"),
        ({"access_key": "a", "secret_key": "b"}, "say which cloud"),
        ({"older_than": -1}, "older_than"),
    ],
)
async def test_what_does_not_go_together_is_refused(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    """Before anything is looked at, in a sentence that says what is missing."""
    with pytest.raises(InvalidArgument, match=said):
        await reap(home=tmp_path / "home", **given)


def test_keys_of_one_cloud_are_not_shown_to_another() -> None:
    """A private cloud is asked with its own keys, never with those of Amazon's chain."""
    target = targets.Target(family="openstack", url="http://127.0.0.1:8773/", region="RegionOne")

    with pytest.raises(InvalidArgument, match="there are no keys for OpenStack"):
        target.cloud(targets.Keys(), verify=True)
