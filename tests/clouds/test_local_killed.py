"""Scripts and wardens that are killed: nothing of their machines stays, unless it is to be kept."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from precip_async.clouds.local.cloud import LocalCloud
from precip_async.clouds.local.remains import clear_dead, end_left_behind, left_behind
from precip_async.clouds.local.state import experiments_in
from tests import processes
from tests.clouds.local_machines import access, boxes_of, content, links
from tests.polling import eventually, until
from tests.scripts import PYTHON, script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from precip_async.clouds.local.cloud import Isolation
    from tests.scripts import Script

NAMESPACE = pytest.param("namespace", marks=[pytest.mark.root, pytest.mark.sshd])
PATIENCE = 15.0  # seconds for what takes one on an idle computer

SCRIPT = """
import os, signal, sys
from pathlib import Path
import anyio
from precip_async.clouds.local.cloud import LocalCloud
from tests.clouds.local_machines import access, request, settled

async def main(base, isolation, count, keep, fork):
    cloud = LocalCloud(Path(base), isolation=isolation)
    await cloud.prepare(access(keep=keep == "keep"))
    if fork == "fork":
        child = os.fork()
        if not child:
            signal.pause()
        sys.stdout.write(f"{child}\\n")
    sys.stdout.write("prepared\\n")
    launched = await cloud.launch(request(int(count)))
    await settled(cloud, [machine.id for machine in launched])
    sys.stdout.write("running\\n")
    await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:])
"""


@pytest.fixture(params=[NAMESPACE, "process"])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    """Either isolation."""
    chosen: Isolation = request.param
    return chosen


@dataclass(frozen=True)
class Scene:
    """A script with machines that run, and all processes that belong to them."""

    script: Script
    base: Path
    warden: int
    everything: list[processes.Process]
    link: str

    def nothing_left(self) -> bool:
        """Whether no process of it lives, and its network is gone."""
        return not any(one.alive() for one in self.everything) and self.link not in links()


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """The directory of all state; after the test what died there is cleared."""
    yield tmp_path / "local"
    clear_dead(tmp_path / "local")
    assert experiments_in(tmp_path / "local") == []


def scene(running: Script, base: Path) -> Scene:
    """What there is once a script has said that its machines run."""
    running.wait_for("running")
    (record,) = left_behind(base)
    own = processes.read(record.pid)
    assert own is not None
    taken: dict[str, Any] = json.loads(content(f"{base}/hello/taken.json") or b"{}")
    everything = [own, *processes.descendants([record.pid])]
    assert len(everything) > 1
    return Scene(running, base, record.pid, everything, taken.get("link", ""))


def test_a_script_that_is_killed_takes_its_machines_along(isolation: str, base: Path) -> None:
    """After ``kill -9`` of the script all is gone by itself, the state directory included."""
    with script(SCRIPT, str(base), isolation, "3", "", "") as running:
        seen = scene(running, base)
        running.signal(signal.SIGKILL)

        until(seen.nothing_left, within=PATIENCE)
        until(lambda: experiments_in(base) == [], within=PATIENCE)


def test_a_fork_of_the_script_does_not_keep_machines(isolation: str, base: Path) -> None:
    """A child that inherited everything from the script that was killed keeps nothing alive."""
    with script(SCRIPT, str(base), isolation, "1", "", "fork") as running:
        seen = scene(running, base)
        fork = processes.read(int(running.lines[0]))
        assert fork is not None
        running.signal(signal.SIGKILL)
        try:
            until(seen.nothing_left, within=PATIENCE)
            assert fork.alive()
        finally:
            fork.signal(signal.SIGKILL)


def test_a_warden_that_is_killed_takes_its_machines_along(isolation: str, base: Path) -> None:
    """After ``kill -9`` of the warden alone its machines and their network go by themselves."""
    with script(SCRIPT, str(base), isolation, "3", "", "") as running:
        seen = scene(running, base)
        os.kill(seen.warden, signal.SIGKILL)

        until(seen.nothing_left, within=PATIENCE)
        clear_dead(base)
        assert experiments_in(base) == []


async def test_the_next_start_clears_what_was_killed_with_its_warden(
    isolation: Isolation, base: Path
) -> None:
    """When script and warden are killed at once, a script of the same name starts as if afresh."""
    with script(SCRIPT, str(base), isolation, "2", "", "") as running:
        seen = scene(running, base)
        running.signal(signal.SIGKILL)
        os.kill(seen.warden, signal.SIGKILL)

    cloud = LocalCloud(base, isolation=isolation)
    await cloud.prepare(access())
    try:
        (box,) = await boxes_of(cloud)
        assert await box.run("echo afresh") == "afresh"
        await eventually(seen.nothing_left, within=PATIENCE)
    finally:
        await cloud.aclose()


async def test_kept_machines_survive_a_script_that_is_killed(
    isolation: Isolation, base: Path
) -> None:
    """With ``keep`` machines go on after ``kill -9``, and are ended when asked for."""
    with script(SCRIPT, str(base), isolation, "1", "keep", "") as running:
        seen = scene(running, base)
    for process in seen.everything:
        assert process.alive()

    assert await end_left_behind(base, "hello")

    await eventually(seen.nothing_left, within=PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_the_terminals_signals_are_not_the_wardens(number: int, base: Path) -> None:
    """Ctrl-C and a closed terminal reach the script, which decides; never its warden."""
    with script(SCRIPT, str(base), "process", "1", "keep", "") as running:
        seen = scene(running, base)
        assert os.getsid(seen.warden) not in (os.getsid(0), seen.warden)
        os.kill(seen.warden, number)
        running.signal(signal.SIGKILL)
        running.end()

        assert all(process.alive() for process in seen.everything)
        os.kill(seen.warden, signal.SIGTERM)
        until(seen.nothing_left, within=PATIENCE)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["script", "warden"])
def test_killed_at_any_moment_nothing_stays(isolation: str, base: Path, victim: str) -> None:
    """Killed while twenty machines start, script or warden, all is gone a little later."""
    moments = random.Random(20)  # the same each time
    for _ in range(6):
        kill_after(moments.uniform(0.0, 0.6), victim, isolation, base)
        clear_dead(base)
        assert experiments_in(base) == []


def kill_after(seconds: float, victim: str, isolation: str, base: Path) -> None:
    """Start machines, kill script or warden in their middle, and see everything go."""
    with script(SCRIPT, str(base), isolation, "20", "", "") as running:
        running.wait_for("prepared")
        (record,) = left_behind(base)
        taken: dict[str, Any] = json.loads(content(f"{base}/hello/taken.json") or b"{}")
        threading.Event().wait(seconds)
        seen = processes.descendants([record.pid])
        if victim == "script":
            running.signal(signal.SIGKILL)
        else:
            os.kill(record.pid, signal.SIGKILL)

        until(lambda: not record.alive, within=PATIENCE)
        until(lambda: not any(one.alive() for one in seen), within=PATIENCE)
        until(lambda: taken.get("link") not in links(), within=PATIENCE)


ROUTED = """
import json, os, signal, subprocess, sys
from pathlib import Path
import anyio
from precip_async.clouds.local.cloud import LocalCloud
from precip_async.clouds.local.remains import left_behind
from tests.clouds.local_machines import access, boxes_of
from tests.polling import until

def state():
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
    seen.append([forwarding, rules.count("MASQUERADE")])

async def main(base):
    state()
    cloud = LocalCloud(Path(base), isolation="namespace", internet=True)
    await cloud.prepare(access())
    (box,) = await boxes_of(cloud)
    seen.append((await box.run("ip route show default")).startswith("default via 10."))
    state()
    (record,) = left_behind(Path(base))
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not record.alive)
    state()
    cloud = LocalCloud(Path(base), isolation="namespace", internet=True)
    await cloud.prepare(access())
    state()
    await cloud.aclose()
    state()

seen = []
anyio.run(main, sys.argv[1])
sys.stdout.write(json.dumps(seen))
"""


@pytest.mark.root
@pytest.mark.sshd
def test_the_way_out_is_given_back_after_a_kill(tmp_path: Path) -> None:
    """With ``internet=True`` a rule and forwarding outlive a killed warden until the next start."""
    ran = subprocess.run(
        ["unshare", "--net", *PYTHON, "-c", ROUTED, str(tmp_path / "local")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert not ran.returncode, ran.stderr
    assert json.loads(ran.stdout) == [["0", 0], True, ["1", 1], ["1", 1], ["1", 1], ["0", 0]]
