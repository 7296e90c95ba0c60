"""The guards that every test stands on are awake: they fail what they should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.sources import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # the guards are patient, and wait for what does not come

SUITE = """
from __future__ import annotations
import asyncio, os, signal, subprocess
import pytest

kept = []

@pytest.fixture(scope="module", autouse=True)
def cleaner():
    yield
    for kind, left in kept:
        left.kill() if kind == "child" else os.kill(left, signal.SIGKILL)
        if kind == "child":
            left.wait()

def test_child():
    kept.append(("child", subprocess.Popen(["sleep", "60"])))

def test_orphan():
    told = subprocess.run(
        ["sh", "-c", "setsid sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, check=True
    )
    kept.append(("orphan", int(told.stdout)))

async def test_task():
    kept_task = asyncio.get_running_loop().create_task(asyncio.Event().wait())
    asyncio.current_task().kept = kept_task

async def test_clean():
    assert "AWS_PROFILE" not in os.environ
    assert not os.listdir(os.environ["HOME"])
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()

def test_skipped():
    pytest.skip("for no reason")
"""


def run(tmp_path: Path, *arguments: str, **environment: str) -> str:
    """What pytest reports of the suite above under our guards."""
    (tmp_path / "test_suite.py").write_text(SUITE)
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-p", "no:asyncio", "-rA", "-q"]
    options += ["-o", "anyio_mode=auto", "--rootdir", str(tmp_path), str(tmp_path)]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "AWS_PROFILE": "somebody's", **environment},
    )
    return ran.stdout + ran.stderr


def test_what_a_test_leaves_behind_fails_it(tmp_path: Path) -> None:
    """A child, an orphan in a session of its own and a task left running are failures."""
    report = run(tmp_path, PRECIP_REQUIRE_ALL="0")

    assert "ERROR test_suite.py::test_child - Failed: left running by the test" in report
    assert "ERROR test_suite.py::test_orphan - Failed: left running by the test" in report
    assert re.search(r"FAILED test_suite.py::test_task\S* - AssertionError: tasks left", report)
    assert "ERROR test_suite.py::test_clean" not in report
    assert "PASSED test_suite.py::test_clean" in report
    assert "SKIPPED" in report


def test_where_all_is_required_a_skip_is_a_failure(tmp_path: Path) -> None:
    """With PRECIP_REQUIRE_ALL=1 nothing is left out silently; the reason is in the report."""
    report = run(tmp_path, "-k", "skipped", PRECIP_REQUIRE_ALL="1")

    assert "FAILED test_suite.py::test_skipped" in report
    assert "for no reason" in report
