"""The command's use: what it refuses, what its help says, what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from precip_async.cli import main
from precip_async.lab.scenario import Scenario
from precip_async.rehearsal.rehearse import Rehearsal

HEAVY = ("aioboto3", "aiohttp", "asyncssh", "botocore", "cryptography", "precip_async.lab.lab")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "which script is to be rehearsed"),
        (["missing.py"], "there is no script missing.py"),
        (["."], "there is no script ."),
        (["--cloud", "azure", "here.py"], "ec2, openstack, eucalyptus, nimbus"),
        (["--scenario", "boots=3", "here.py"], "scenario: there is no 'boots'"),
        (["--scenario", "throttled=1.5", "here.py"], "throttled must be a share from 0 to 1"),
        (["--report", "missing/r.json", "here.py"], "no directory for the report missing/r.json"),
    ],
)
def test_what_can_not_be_is_refused_at_once(
    options: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2 and one sentence, and the script has not run."""
    (tmp_path / "here.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)

    assert main(["rehearse", *options]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert says in said.err
    assert not Path("ran").exists()


def test_the_words_of_scenarios_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """``--scenario help`` names all that a scenario knows, and runs nothing."""
    assert main(["rehearse", "--scenario", "help"]) == 0

    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "}
    assert listed == {one.name for one in fields(Scenario)}


def test_seed_and_repeated_words_are_one_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn depends on the seed: a rehearsal that went wrong can be had again."""
    script = tmp_path / "script.py"
    script.touch()
    plots: list[Scenario] = []

    async def perform(rehearsal: Rehearsal) -> int:
        plots.append(rehearsal.plot)
        return 0

    monkeypatch.setattr(Rehearsal, "perform", perform)
    words = ["--scenario", "throttled=0.5", "--scenario", "boot=3", "--seed", "7"]

    assert main(["rehearse", *words, str(script)]) == 0
    assert plots == [Scenario.parse("throttled=0.5 boot=3 seed=7")]


def test_the_command_line_is_light() -> None:
    """Whoever asks for help does not wait for vendors or for the lab."""
    program = (
        "import sys, json, precip_async.cli\n"
        "try:\n precip_async.cli.main(['rehearse', '--help'])\n"
        "except SystemExit:\n sys.stderr.write(json.dumps(sorted(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )

    assert "usage: precip rehearse" in ran.stdout
    assert not set(json.loads(ran.stderr)) & set(HEAVY)
