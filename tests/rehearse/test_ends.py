"""How rehearsals end: what is left running, and signals to the rehearsal or its script."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests import processes
from tests.conftest import MARK
from tests.polling import until
from tests.rehearse.rig import LAUNCH, rehearse, rehearsing

if TYPE_CHECKING:
    from pathlib import Path

LEFT = LAUNCH + "import os; os._exit({code})\n"
KEPT = LAUNCH.replace("quiet=True", "quiet=True, keep=True")
WORKING = (
    LAUNCH
    + """
import os
try:
    print("working as", os.getpid(), flush=True)
    exp.run([], "sleep 1000")
finally:
    print("unwinding", flush=True)
"""
)
STUBBORN = (
    LAUNCH
    + """
import signal, time
signal.signal(signal.SIGINT, lambda *_: print("no", flush=True))
print("working as", flush=True)
while True:
    signal.pause()
"""
)


@pytest.mark.parametrize(("code", "expected"), [(0, 1), pytest.param(4, 4, marks=pytest.mark.slow)])
def test_what_is_left_running_is_a_failure(tmp_path: Path, code: int, expected: int) -> None:
    """A script that ends well but leaves an instance has failed; a failed one keeps its code."""
    ran = rehearse(tmp_path, LEFT.format(code=code))

    [instance] = ran.instances
    assert (ran.code, ran.facts["exit_code"]) == (expected, code)
    assert ran.facts["left"] == [instance["id"]]
    assert f"LEFT RUNNING, and nobody said keep=True: {instance['id']}" in ran.stderr


@pytest.mark.slow
def test_what_is_kept_on_purpose_is_none(tmp_path: Path) -> None:
    """With keep=True it is said what would go on running; the rehearsal ends it all the same."""
    ran = rehearse(tmp_path, KEPT)

    assert (ran.code, [one["end"] for one in ran.instances]) == (0, ["kept"])
    assert "Kept running, as keep=True says: i-" in ran.stderr


def test_ctrl_c_lets_the_script_unwind(tmp_path: Path) -> None:
    """The script ends what it does and its instances; then there is a report."""
    with rehearsing(tmp_path, WORKING) as running:
        running.wait_for("working as")
        running.interrupt()
        code, out, errors = running.end()

    assert (code, out) == (130, "unwinding\n")
    assert "KeyboardInterrupt" in errors
    assert "ended by SIGINT" in errors
    assert "Nothing was left running." in errors


@pytest.mark.slow
def test_a_second_ctrl_c_kills(tmp_path: Path) -> None:
    """A script that does not listen is killed, and what it had is told and ended."""
    with rehearsing(tmp_path, STUBBORN) as running:
        running.wait_for("working as")
        running.interrupt()
        running.wait_for("no")
        running.interrupt()
        code, _, errors = running.end()

    assert code == 137
    assert "ended by SIGKILL" in errors
    assert "LEFT RUNNING" in errors


@pytest.mark.slow
def test_sigterm_is_passed_on(tmp_path: Path) -> None:
    """A rehearsal that is asked to end asks its script."""
    with rehearsing(tmp_path, WORKING) as running:
        running.wait_for("working as")
        running.process.terminate()
        code, out, errors = running.end()

    assert (code, out) == (143, "unwinding\n")
    assert "Nothing was left running." in errors


@pytest.mark.slow
def test_a_killed_script_is_told_of_and_cleared_up(tmp_path: Path) -> None:
    """After ``kill -9`` of the script the report says what a cloud would still run."""
    with rehearsing(tmp_path, WORKING) as running:
        pid = int(running.wait_for("working as"))
        os.kill(pid, signal.SIGKILL)
        code, _, errors = running.end()

    assert code == 137
    assert "ended by SIGKILL" in errors
    assert "LEFT RUNNING, and nobody said keep=True: i-" in errors


def test_a_killed_rehearsal_takes_all_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``kill -9`` of the rehearsal no script, no machine and no file is left."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    with rehearsing(tmp_path, WORKING) as running:
        running.wait_for("working as")
        assert [path.name[:16] for path in scratch.iterdir()] == ["precip-rehearsal"]
        everything = processes.marked(f"{MARK}={os.environ[MARK]}")  # the wardens, too
        running.process.kill()

        until(lambda: not any(one.alive() for one in everything), within=15)
        _, _, errors = running.end()

    assert len(everything) >= 3
    assert "the rehearsal has been ended from outside" in errors
    until(lambda: not any(scratch.iterdir()), "its directory is gone", within=15)
