"""What is left running is found, told, and ended when asked for."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import socket
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest

from precip_async import (
    CloudError,
    HostsExperiment,
    Leftover,
    LocalExperiment,
    reap,
    reaping,
    sync,
)
from precip_async.cli import main
from precip_async.cli.reap import LEFT, add_reap, table
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.reaping.holders import Holders
from precip_async.reaping.leftover import Selection

if TYPE_CHECKING:
    from pathlib import Path


async def kept(home: Path, name: str = "kept", count: int = 2) -> list[str]:
    """The ids of instances that an experiment has left running on purpose."""
    async with LocalExperiment(name=name, home=home, keep=True, isolation="process") as exp:
        await exp.provision(count=count)
        return [instance.id for instance in await exp.wait()]


async def test_kept_instances_are_listed_and_not_ended(tmp_path: Path) -> None:
    """Without being told to, reaping only lists."""
    ids = await kept(tmp_path / "home")
    try:
        first = await reap(home=tmp_path / "home")
        second = await reap(home=tmp_path / "home")
    finally:
        await reap(home=tmp_path / "home", end=True)

    assert sorted(ids) == [one.id for one in first] == [one.id for one in second]
    assert not any(one.ended or one.holder for one in first + second)


async def test_what_nobody_answers_for_is_ended(tmp_path: Path) -> None:
    """When told to, reaping ends it, and the journal knows."""
    ids = await kept(tmp_path / "home")

    ended = await reap(home=tmp_path / "home", end=True)
    left = await reap(home=tmp_path / "home")

    assert [(one.id, one.ended) for one in ended] == [(one, True) for one in sorted(ids)]
    assert left == []


async def test_what_a_living_experiment_holds_is_never_ended(tmp_path: Path) -> None:
    """Instances in use are listed with their holder, and still run afterwards."""
    async with LocalExperiment(name="busy", home=tmp_path / "home", isolation="process") as exp:
        await exp.provision(count=1)
        await exp.wait()

        found = await reap(home=tmp_path / "home", end=True)

        assert [(one.experiment, one.ended) for one in found] == [("busy", False)]
        assert "process" in found[0].holder
        assert (await exp.run([], "echo here"))[1] == ["here\n"]


async def test_only_the_named_experiment_is_reaped(tmp_path: Path) -> None:
    """Another experiment's instances are neither listed nor ended."""
    await kept(tmp_path / "home", "one", 1)
    await kept(tmp_path / "home", "two", 1)
    try:
        ended = await reap(home=tmp_path / "home", experiment="one", end=True)
    finally:
        rest = await reap(home=tmp_path / "home", end=True)

    assert [one.experiment for one in ended] == ["one"]
    assert [one.experiment for one in rest] == ["two"]


async def test_a_lost_journal_hides_nothing_on_this_machine(tmp_path: Path) -> None:
    """Instances that only their keeper knows of are found and ended as well."""
    ids = await kept(tmp_path / "home", count=1)
    for path in (tmp_path / "home").glob("journal.sqlite*"):
        path.unlink()

    ended = await reap(home=tmp_path / "home", end=True)

    assert [(one.id, one.age, one.ended) for one in ended] == [(ids[0], None, True)]


async def test_another_computers_instances_are_left_to_it(tmp_path: Path) -> None:
    """In a home that computers share, each ends its own; the others' are listed."""
    ids = await kept(tmp_path / "home", count=1)
    with sqlite3.connect(tmp_path / "home" / "journal.sqlite") as journal:
        journal.execute("UPDATE launches SET endpoint = 'elsewhere', machine = 'elsewhere'")
    journal.close()

    found = await reap(home=tmp_path / "home", end=True)
    again = await reap(home=tmp_path / "home")

    assert ids[0] in [one.id for one in found if not one.ended]
    assert [(one.id, one.cloud, one.endpoint) for one in again] == [(ids[0], "local", "elsewhere")]
    assert "another computer: reap there" in again[0].problem
    assert "on host elsewhere" in again[0].holder


async def test_a_launch_that_started_nothing_here_is_over(tmp_path: Path) -> None:
    """Its script died before its keeper heard of it; one that a living script asked for is not."""
    home = tmp_path / "home"

    def intend() -> None:
        journal = Journal.open(Home.open(home))
        facts: dict[str, Any] = {"cloud": "local", "endpoint": socket.gethostname()}
        facts |= {"image_id": "i", "instance_type": "t", "count": 1, "first": 0}
        for name in ("dead", "busy"):
            journal.intend(token=f"of-{name}", experiment=name, **facts)
        journal.close()

    def believed() -> list[str]:
        journal = Journal.open(Home.open(home))
        try:
            return [row.token for row in journal.alive()]
        finally:
            journal.close()

    async with LocalExperiment(name="busy", home=home, isolation="process"):
        await anyio.to_thread.run_sync(intend)
        found = await reap(home=home)
        left = await anyio.to_thread.run_sync(believed)

    assert found == []
    assert left == ["of-busy"]


async def test_another_homes_instances_are_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Homes may share a journal: neither reaping nor a namesake touches what another keeps."""
    monkeypatch.setenv("PRECIP_STATE", str(tmp_path / "state"))
    there: dict[str, Any] = {"home": tmp_path / "there", "isolation": "process"}
    here: dict[str, Any] = {"home": tmp_path / "here", "isolation": "process"}
    async with LocalExperiment(name="busy", **there) as exp:
        await exp.provision()

        (seen,) = await reap(home=tmp_path / "here", everyone=True, end=True, force=True)
        async with LocalExperiment(name="busy", **here):
            pass
        (held,) = await reap(home=tmp_path / "there", end=True)

    assert (seen.ended, seen.mine) == (False, False)
    assert "another home: reap there" in seen.problem
    assert (held.ended, held.holder[:7]) == (False, "process")


async def test_what_was_started_just_before_the_name_was_free_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is looked at once nobody can add to it: another script may have gone on."""
    home, went = tmp_path / "home", list[str]()
    await kept(home, count=1)
    ask = Holders.of

    async def late(holders: Holders, name: str, *given: Any) -> str:
        if not went:
            went.append("on")
            attach = LocalExperiment.attach("kept", home=home, isolation="process", keep=True)
            async with await attach as exp:
                await exp.provision()
        return await ask(holders, name, *given)

    monkeypatch.setattr(Holders, "of", late)
    ended = await reap(home=home, end=True)

    assert [one.ended for one in ended] == [True, True]
    assert await reap(home=home) == []


async def test_instances_here_end_together_or_not_at_all(tmp_path: Path) -> None:
    """They have one keeper: where some of them are not meant, all go on and are told so."""
    ids = await kept(tmp_path / "home", count=2)
    with sqlite3.connect(tmp_path / "home" / "journal.sqlite") as journal:
        journal.execute(
            "UPDATE instances SET expires = '2020-01-01T00:00:00+00:00' WHERE id = ?", ids[:1]
        )
    journal.close()
    try:
        (one,) = await reap(home=tmp_path / "home", expired=True, end=True)
    finally:
        rest = await reap(home=tmp_path / "home", end=True)

    assert (one.id, one.ended) == (ids[0], False)
    assert "1 are not meant" in one.problem
    assert all(one.ended for one in rest)


async def test_force_ends_what_a_living_experiment_holds(tmp_path: Path) -> None:
    """Asked for in so many words; its experiment then hears that they have ended."""
    async with LocalExperiment(name="busy", home=tmp_path / "home", isolation="process") as exp:
        await exp.provision(count=1)

        (one,) = await reap(home=tmp_path / "home", force=True, end=True)

        assert one.ended
        assert "process" in one.holder


def leftover(**facts: Any) -> Leftover:
    """One that nobody answers for."""
    return Leftover(**{"kind": "instance", "id": "i-1", "cloud": "Amazon EC2", **facts})


def test_a_selection_takes_what_all_of_it_takes() -> None:
    """By experiment, owner, age and expiry; of an unknown age nothing is old."""
    now = datetime.now(UTC)
    old = leftover(experiment="x", launched_at=now - timedelta(hours=3))
    past = leftover(expires=now - timedelta(minutes=1), owner="b", mine=False)

    assert Selection(experiment="x", older_than=3600.0).takes(old)
    assert not Selection(older_than=4 * 3600.0).takes(old)
    assert not Selection(older_than=1.0).takes(past)
    assert not Selection(expired=True).takes(old)
    assert not Selection(expired=True).takes(past)
    assert Selection(expired=True, everyone=True).takes(past)
    assert Selection(owner="b").takes(past)
    assert not Selection(owner="a").takes(past)


def test_nobody_elses_is_ended_unless_they_are_named() -> None:
    """To show everyone's is not to end them, whatever else is said."""
    theirs = leftover(owner="b", mine=False)
    held = leftover(owner="b", mine=False, holder="process 1")

    assert not Selection(end=True, everyone=True, force=True).ends(theirs)
    assert Selection(end=True, owner="b").ends(theirs)
    assert not Selection(end=True, owner="b").ends(held)
    assert Selection(end=True, owner="b", force=True).ends(held)
    assert not Selection(owner="b", force=True).ends(held)


def test_a_table_moves_no_cursor() -> None:
    """What a cloud says is a stranger's text: it is written as one line of printable characters."""
    text = table(
        [leftover(experiment="\x1b[2J\x1b]0;x\x07\nroot", zone="z\u202e", problem="a\r\nb" * 900)]
    )

    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text.split("\n")) == 4
    assert max(map(len, text.split("\n"))) < 1100


async def test_a_host_that_a_dead_experiment_took_is_given_back(tmp_path: Path) -> None:
    """Nothing runs on it that could be told from here; the journal hears that it is free."""
    async with HostsExperiment(["127.0.0.1"], name="x", home=tmp_path / "home", keep=True) as exp:
        await exp.provision()
        (held,) = await reap(home=tmp_path / "home", end=True)

    (listed,) = await reap(home=tmp_path / "home")
    (ended,) = await reap(home=tmp_path / "home", end=True)

    assert (held.kind, held.id, held.ended) == ("host", "127.0.0.1", False)
    assert "process" in held.holder
    assert (listed.ended, listed.state) == (False, "taken")
    assert ended.ended
    assert await reap(home=tmp_path / "home") == []


async def test_a_host_that_another_experiment_has_as_well_stays_that_ones(tmp_path: Path) -> None:
    """To give back what a dead one had taken strikes nothing of a living one from the journal."""
    home = tmp_path / "home"
    async with HostsExperiment(["127.0.0.1"], name="dead", home=home, keep=True) as exp:
        await exp.provision()
    async with HostsExperiment(["127.0.0.1"], name="busy", home=home) as exp:
        await exp.provision()
        ended = await reap(home=home, end=True)
        left = await reap(home=home)
        async with HostsExperiment(["127.0.0.1"], name="third", home=home) as more:
            await more.provision()
        still = await reap(home=home)

    assert [(one.experiment, one.ended) for one in ended] == [("dead", True), ("busy", False)]
    assert [one.experiment for one in left] == ["busy"] == [one.experiment for one in still]


def test_what_others_launched_is_said_to_need_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--yes`` does not end it: whoever lists it is told what does, and only then."""
    found = [leftover(owner="a" * 32, mine=False)]

    async def find(**_: Any) -> list[Leftover]:
        return found

    monkeypatch.setattr(reaping, "reap", find)
    main(["reap", "--everyone"])
    theirs = capsys.readouterr().out
    found[:] = [leftover()]
    main(["reap", "--everyone"])
    mine = capsys.readouterr().out

    assert theirs.endswith("ended with --owner only.\n")
    assert mine.endswith("with --yes ends what nobody answers for.\n")


def test_an_error_moves_no_cursor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a cloud says in an error is a stranger's text as well."""

    async def refuse(**_: Any) -> None:
        raise CloudError("no\x1b[2J\r\nroot", cloud="Amazon EC2", operation="reap")

    monkeypatch.setattr(reaping, "reap", refuse)

    assert main(["reap"]) == 1
    assert capsys.readouterr().err.rstrip("\n").isprintable()


def test_an_age_is_read_as_people_write_it() -> None:
    """With a unit or in seconds; anything else is wrong use."""
    parser = argparse.ArgumentParser()
    add_reap(parser.add_subparsers())

    read = [parser.parse_args(["reap", "--older-than", one]).older_than for one in ("90", "1.5h")]
    with pytest.raises(SystemExit):
        parser.parse_args(["reap", "--older-than", "yesterday"])

    assert read == [90.0, 5400.0]


def test_the_twin_is_called_alike() -> None:
    """The blocking `reap` has the signature of the one that is awaited."""
    assert inspect.signature(sync.reap) == inspect.signature(reap)


def test_the_command_says_that_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nothing to reap, the command says so, and where it has looked, and succeeds."""
    home = str(tmp_path / "home")
    codes = [main(["reap", "--home", home]), main(["reap", "--home", home, "--expired"])]

    assert codes == [0, 0]
    assert capsys.readouterr().out == (
        "Nothing is left running by the journal and on this machine; --cloud looks for marks at a "
        "cloud itself.\nNothing of that kind is left running.\n"
    )


def test_the_command_lists_then_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``precip reap`` tells what runs and how to end it, and by its exit code that it does."""
    home = str(tmp_path / "home")
    exp = sync.LocalExperiment(name="kept", home=home, keep=True, quiet=True, isolation="process")
    exp.provision()
    exp.close()

    codes = [main(["reap", "--home", home])]
    listed = capsys.readouterr().out
    codes.append(main(["reap", "--home", home, "--json"]))
    (told,) = json.loads(capsys.readouterr().out)
    codes.append(main(["reap", "--home", home, "--yes"]))
    ended = capsys.readouterr().out
    codes.append(main(["reap", "--home", home]))

    assert re.search(r"i-\w+ +kept +me +local +m1.small .*\d s ", listed)
    assert "Nothing was ended; the same command with --yes ends" in listed
    assert (told["experiment"], told["kind"], told["ended"]) == ("kept", "instance", False)
    assert " ended" in ended
    assert "All has ended." in ended
    assert codes == [LEFT, LEFT, 0, 0]


def test_a_home_that_cannot_be_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong use is a sentence on stderr and exit code 2, never a traceback."""
    code = main(["reap", "--home", "relative"])

    assert code == 2
    assert capsys.readouterr().err.startswith("precip: home must be an absolute path")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--hosts", ""], "neither a host name nor an address"),
        (["--hosts", "a", "--cloud", "local"], "do not go together"),
        (["--experiment", ""], "a name must be"),
        (["--owner", ""], "32 hexadecimal digits"),
        (["--owner", "0945ebaa"], "--json` shows them whole"),
        (["--cloud", "ec2", "--region", ""], "region is empty"),
    ],
)
def test_an_empty_word_does_not_mean_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    """A shell's variable that was never set narrows nothing down: it is refused."""
    code = main(["reap", "--yes", "--home", str(tmp_path / "home"), *flags])

    assert code == 2
    assert said in capsys.readouterr().err


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """What is no command gets the usage and exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main(["sow"])

    assert caught.value.code == 2
    assert "reap" in capsys.readouterr().err
