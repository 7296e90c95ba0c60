"""What is left running is found, told, and ended when asked for."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from precip_async import LocalExperiment
from precip_async.cli import main
from precip_async.reaping import reap

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

    assert sorted(ids) == [one.instance_id for one in first] == [one.instance_id for one in second]
    assert not any(one.ended or one.holder for one in first + second)


async def test_what_nobody_answers_for_is_ended(tmp_path: Path) -> None:
    """When told to, reaping ends it, and the journal knows."""
    ids = await kept(tmp_path / "home")

    ended = await reap(home=tmp_path / "home", end=True)
    left = await reap(home=tmp_path / "home")

    assert [(one.instance_id, one.ended) for one in ended] == [(one, True) for one in sorted(ids)]
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

    assert [(one.instance_id, one.age, one.ended) for one in ended] == [(ids[0], None, True)]


async def test_another_computers_instances_are_left_to_it(tmp_path: Path) -> None:
    """In a home that computers share, each ends its own; the others' are listed."""
    ids = await kept(tmp_path / "home", count=1)
    with sqlite3.connect(tmp_path / "home" / "journal.sqlite") as journal:
        journal.execute("UPDATE launches SET endpoint = 'elsewhere'")
    journal.close()

    found = await reap(home=tmp_path / "home", end=True)
    again = await reap(home=tmp_path / "home")

    assert [(one.instance_id, one.cloud, one.ended) for one in again] == [
        (ids[0], "local (elsewhere)", False)
    ]
    assert (ids[0], "local (elsewhere)", False) in [
        (one.instance_id, one.cloud, one.ended) for one in found
    ]


def test_the_command_says_that_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nothing to reap, the command says so and succeeds."""
    code = main(["reap", "--home", str(tmp_path / "home")])

    assert code == 0
    assert capsys.readouterr().out == "Nothing is left running.\n"


def test_the_command_lists_then_ends(tmp_path: Path) -> None:
    """``precip reap`` tells what runs and how to end it; ``--yes`` ends it."""
    home = tmp_path / "home"
    script = (
        "from precip_async.sync import *\n"
        f"exp = LocalExperiment(name='kept', home={str(home)!r}, keep=True, quiet=True,"
        " isolation='process')\n"
        "exp.provision(); exp.close()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)

    def precip(*arguments: str) -> str:
        command = [sys.executable, "-m", "precip_async", "reap", "--home", str(home), *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=30
        ).stdout

    listed, ended, after = precip(), precip("--yes"), precip()

    assert "kept on local m1.small" in listed
    assert "nobody answers for it" in listed
    assert "--yes" in listed
    assert ": ended" in ended
    assert after == "Nothing is left running.\n"


def test_a_home_that_cannot_be_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """An error is a sentence on stderr and exit code 1, never a traceback."""
    code = main(["reap", "--home", "relative"])

    assert code == 1
    assert capsys.readouterr().err.startswith("precip: home must be an absolute path")


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """What is no command gets the usage and exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main(["sow"])

    assert caught.value.code == 2
    assert "reap" in capsys.readouterr().err
