"""What counts an instance's time down, run by a real shell: at its end, put off, after a reboot."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from precip_async.clouds.base import CLOUD_INIT_STATE
from precip_async.clouds.ec2_switch import NAME, counting, renewing, seconds_of, switched
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 20.0  # seconds for what takes two on an idle computer


class Counter:
    """What counts on an instance whose state is in a directory."""

    def __init__(self, state: Path, seconds: float) -> None:
        self.state = state
        self.process = subprocess.Popen(
            ["sh", "-c", counting(seconds), "precip", str(state)], start_new_session=True
        )
        until(lambda: self.text("left"), "it counts", within=PATIENCE)

    def text(self, name: str) -> str:
        """What it has written down."""
        path = self.state / NAME / name
        return path.read_text().strip() if path.exists() else ""

    def renew(self, seconds: float) -> int:
        """Put its end off; how the command line exits, which the root's shell reads."""
        env = {**os.environ, CLOUD_INIT_STATE: str(self.state)}
        return subprocess.run(["sh", "-c", renewing(seconds)], env=env, check=False).returncode

    def kill(self) -> None:
        """End it as a reboot would."""
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def counters() -> Iterator[list[Counter]]:
    """Those that a test has started; killed at its end."""
    started: list[Counter] = []
    yield started
    for one in started:
        one.kill()


def test_it_returns_when_the_time_is_up(tmp_path: Path, counters: list[Counter]) -> None:
    """And says by its exit code that it was not in vain."""
    counters.append(Counter(tmp_path, 1))

    assert counters[0].process.wait(PATIENCE) == 0


@pytest.mark.parametrize(("more", "left"), [(5000, "5000"), (10, "1000")])
def test_its_end_is_put_off_and_never_comes_earlier(
    more: int, left: str, tmp_path: Path, counters: list[Counter]
) -> None:
    """What is asked for counts once the command returns, where it is more than what is left."""
    counters.append(counter := Counter(tmp_path, 1000))

    assert counter.renew(more) == 0
    until(lambda: abs(int(counter.text("left")) - int(left)) < 30, within=PATIENCE)


def test_a_reboot_goes_on_from_what_was_left(tmp_path: Path, counters: list[Counter]) -> None:
    """Although user data says the whole lifetime again."""
    counters.append(first := Counter(tmp_path, 1000))
    first.renew(50)
    (tmp_path / NAME / "left").write_text("500\n")
    first.kill()
    counters.append(second := Counter(tmp_path, 1000))

    assert int(second.text("left")) <= 500


def test_what_does_not_count_is_not_put_off(tmp_path: Path, counters: list[Counter]) -> None:
    """Neither where nothing ever counted nor where somebody has ended it: the command fails."""
    counters.append(counter := Counter(tmp_path, 1000))
    counter.kill()

    assert counter.renew(2000) == 72
    counter.state = tmp_path / "elsewhere"
    assert counter.renew(2000) == 72


def test_cloud_init_is_told_in_one_line_of_yaml() -> None:
    """A list of words that runs a shell, powers off at the end, and can be told again."""
    head, line = switched(90.2)
    words = json.loads(line.removeprefix("  - "))

    assert head == "bootcmd:"
    assert words[:2] == ["sh", "-c"]
    assert words[4].rstrip().endswith("poweroff -ff")
    assert seconds_of(f"#cloud-config\n{head}\n{line}") == 91
    assert seconds_of("#cloud-config\nbootcmd:\n  - [echo, hello]") is None


def test_a_shell_of_cloud_inits_starts_it_and_goes_on(tmp_path: Path) -> None:
    """What ``bootcmd`` runs returns at once, and ends the instance later by what is at hand."""
    words = json.loads(switched(1)[1].removeprefix("  - "))
    words[4] = words[4].replace(
        "shutdown -P now || poweroff || poweroff -f || poweroff -ff", "touch off"
    )
    assert "poweroff" not in words[4]
    words[-1] = str(tmp_path / NAME)
    subprocess.run(words, check=True, timeout=PATIENCE)

    until((tmp_path / NAME / "off").exists, "it is off", within=PATIENCE)
