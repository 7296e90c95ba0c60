"""The manual's two examples, rehearsed from the text of the manual."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.manual import HELLO_WORLD, TWO_CLOUDS, for_python_3
from tests.rehearse.rig import rehearse

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = {
    "AMAZON_EC2_ACCESS_KEY": "AKIAREALREALREALREAL",
    "AMAZON_EC2_SECRET_KEY": "a/real+secret",
    "EC2_ACCESS_KEY": "realaccesskey",
    "EC2_SECRET_KEY": "realsecretkey",
}


def test_hello_world_runs_as_the_manual_prints_it(tmp_path: Path, clean_environment: Path) -> None:
    """It needs no account and no variable, shows what it did, and leaves the user's home alone."""
    ran = rehearse(tmp_path, for_python_3(HELLO_WORLD), fast=False)

    [place] = ran.facts["places"]
    [instance] = place["instances"]
    assert ran.code == 0, ran.stderr
    assert "'tags': ['precip', 'i-00000001', 'test1'," in ran.stdout
    assert "i-00000001  stdout: Hello world from a experiment instance\n" in ran.stderr
    assert place["dialect"] == "nova-essex"
    assert place["stands_for"].startswith("OpenStack ")
    assert (instance["image_id"], instance["tags"]) == ("ami-0000004c", ["test1"])
    assert (instance["end"], ran.facts["left"]) == ("ended", [])
    assert 0 <= instance["running"] < instance["ready"]
    assert list(clean_environment.iterdir()) == []


@pytest.mark.slow
def test_two_clouds_are_two_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cloud is played by its own kind, on a bad day, and no secret is ever shown."""
    monkeypatch.setenv("EC2_URL", "https://cloud.example.org:8773/services/Cloud")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # where nobody is
    bad_day = ("--scenario", "boot=1..2", "--scenario", "throttled=0.3", "--seed", "1")

    ran = rehearse(tmp_path, for_python_3(TWO_CLOUDS), *bad_day)

    assert ran.code == 0, ran.stderr
    assert "stdout: Hello world Amazon EC2\n" in ran.stderr
    assert "stdout: Hello world FutureGrid OpenStack\n" in ran.stderr
    assert [(place["dialect"], place["stands_for"]) for place in ran.facts["places"]] == [
        ("amazon", "Amazon EC2 https://ec2.us-west-2.amazonaws.com/ us-west-2"),
        ("nova-essex", "OpenStack https://cloud.example.org:8773/services/Cloud RegionOne"),
    ]
    assert [one["tags"] for one in ran.instances] == [["id=ec2_1"], ["id=fg_1"]]
    assert all(one["running"] >= 1 for one in ran.instances)
    for place in ran.facts["places"]:
        assert sum(calls["throttled"] for calls in place["calls"]) > 0
    said = ran.stdout + ran.stderr + (tmp_path / "report.json").read_text()
    assert [secret for secret in SECRETS.values() if secret in said] == []


def test_python_2_is_told_what_to_write(tmp_path: Path) -> None:
    """The example as it was printed: Python's own error, and the line as it should be."""
    ran = rehearse(tmp_path, HELLO_WORLD)

    assert ran.code == 1
    assert f'File "{tmp_path}{os.sep}script.py", line 4' in ran.stderr
    assert "SyntaxError: Missing parentheses in call to 'print'" in ran.stderr
    assert 'write: print("ERROR: %s" % e)\n' in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.facts["places"] == []
