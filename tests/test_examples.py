"""The examples and the demo, each run as a newcomer runs it: a process of its own, a fresh home."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.manual import HELLO_WORLD, for_python_3
from tests.polling import until
from tests.servers import OpenSSHServer
from tests.sources import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = ROOT / "examples"
LONGEST = 40  # lines of an example: what one screen shows
PATIENCE = 50.0  # seconds for an example, which takes about one
PYTHON = (sys.executable, "-u", "-W", "error")
INSTANCE = r"i-[0-9a-f]{17}"

# Runs the example that the second argument names, with local instances of the first's isolation.
ISOLATED = """
import functools, runpy, sys
import precip_async, precip_async.sync
isolation, *sys.argv = sys.argv[1:]
for faces in (precip_async, precip_async.sync):
    made = functools.partial(faces.LocalExperiment, isolation=isolation)
    faces.LocalExperiment = made
runpy.run_path(sys.argv[0], run_name="__main__")
"""

CHANGES = (
    ("from precip import *", "from precip_async.sync import *"),
    (
        """OpenStackExperiment(
            os.environ['EC2_URL'],
            os.environ['EC2_ACCESS_KEY'],
            os.environ['EC2_SECRET_KEY'])""",
        "LocalExperiment()",
    ),
)

isolations = pytest.mark.parametrize(
    "isolation", [pytest.param("namespace", marks=[pytest.mark.root, pytest.mark.sshd]), "process"]
)


def run(arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with `arguments` in the empty directory `cwd`."""
    return subprocess.run(
        [*PYTHON, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def example(name: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the example `name`."""
    return run([str(EXAMPLES / name), *arguments], cwd)


def isolated(name: str, isolation: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the example `name` on local instances of one isolation."""
    return run(["-c", ISOLATED, isolation, str(EXAMPLES / name)], cwd)


def test_no_example_is_longer_than_a_screen() -> None:
    """An example shows one idea, in at most forty lines; the demo may take some more."""
    sizes = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}

    assert sizes.pop("demo.py") <= LONGEST * 1.6
    assert {name: size for name, size in sizes.items() if size > LONGEST} == {}


def test_every_example_is_run_by_a_test() -> None:
    """No example is there that nobody runs."""
    tests = Path(__file__).read_text()

    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tests] == []


@isolations
def test_the_demo_tells_what_it_did(isolation: str, tmp_path: Path) -> None:
    """Three instances, a command on each, a file both ways, and the isolation that was chosen."""
    ran = isolated("demo.py", isolation, tmp_path)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"Isolation  {isolation}: " in ran.stdout
    assert len(re.findall(rf"{INSTANCE} at [\d.]+\n", ran.stdout)) == 3
    assert re.findall(rf"{INSTANCE} exit 0: \S+, (\d) of 3, as root\n", ran.stdout) == [
        "1",
        "2",
        "3",
    ]
    assert len(re.findall(rf"answer.txt.{INSTANCE}: Are you far\? Yes, says ", ran.stdout)) == 3
    assert "Deprovisioned" in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_demo_says_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that can't be had ends the demo with a sentence and exit code 1, not a traceback."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRECIP_HOME", str(tmp_path / "file" / "home"))

    ran = example("demo.py", tmp_path)

    assert ran.returncode == 1
    assert ran.stderr.startswith(f"The demo failed: {tmp_path}/file")
    assert len(ran.stderr.splitlines()) == 1


def test_the_demo_can_be_interrupted(tmp_path: Path) -> None:
    """After Ctrl-C nothing of it is left (see `nothing_left_running`), and it says so."""
    demo = subprocess.Popen(
        [*PYTHON, str(EXAMPLES / "demo.py")],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    said = ""
    while "Isolation" not in said and (line := demo.stdout.readline()):
        said += line
    demo.send_signal(signal.SIGINT)
    rest, errors = demo.communicate(timeout=PATIENCE)

    assert demo.returncode == 1
    assert errors == "Interrupted; the instances are gone.\n"
    assert "Deprovisioned" not in said + rest


@pytest.mark.slow
def test_a_killed_demo_is_cleared_up_by_the_next(tmp_path: Path, clean_environment: Path) -> None:
    """After ten kills at different moments one more demo leaves no process, mount or address."""
    before = traces(clean_environment)
    killed = 0
    for moment in range(10):
        demo = subprocess.Popen(
            [*PYTHON, str(EXAMPLES / "demo.py")], cwd=tmp_path, stdout=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):  # a fast machine is done by then
            demo.wait(0.15 + moment * 0.05)
        demo.kill()
        killed += demo.wait() == -signal.SIGKILL

    ran = example("demo.py", tmp_path)

    assert killed > 0
    assert (ran.returncode, ran.stderr) == (0, "")
    until(lambda: traces(clean_environment) <= before, "all is as it was")


def traces(home: Path) -> set[str]:
    """The network devices and mounts that there are, and the directories of local instances."""
    devices, mounts, local = Path("/sys/class/net"), Path("/proc/mounts"), home / ".precip/local"
    found = {str(path) for folder in (devices, local) for path in folder.glob("*/")}
    return found | set(mounts.read_text().splitlines() if mounts.exists() else ())


def test_hello_world_async_prints_the_result(tmp_path: Path) -> None:
    """The awaited Hello World prints instance, exit code and output, and nothing to stderr."""
    ran = example("hello_world_async.py", tmp_path)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.search(
        rf"^{INSTANCE} 0 Hello world from a experiment instance\n", ran.stdout, re.MULTILINE
    )


def test_hello_world_sync_shows_what_it_never_printed(tmp_path: Path) -> None:
    """The classic one prints only the list; the output of its instance is on stderr."""
    ran = example("hello_world_sync.py", tmp_path)

    assert ran.returncode == 0
    assert "'tags': ['precip', 'i-" in ran.stdout
    assert "Hello world" not in ran.stdout
    assert re.search(rf"{INSTANCE}  stdout: Hello world from a experiment instance\n", ran.stderr)
    assert "WARNING" not in ran.stderr


def test_the_manuals_hello_world_runs_with_three_changes(tmp_path: Path) -> None:
    """The manual's own text, its import, constructor and `print` changed, shows the output."""
    text = for_python_3(HELLO_WORLD)
    for old, new in CHANGES:
        assert text.count(old) == 1
        text = text.replace(old, new)

    ran = run(["-c", text], tmp_path)

    assert ran.returncode == 0
    assert "'tags': ['precip', 'i-" in ran.stdout
    assert re.search(rf"{INSTANCE}  stdout: Hello world from a experiment instance\n", ran.stderr)


@isolations
def test_two_groups_talk_to_each_other(isolation: str, tmp_path: Path) -> None:
    """Each worker fetches the work from the master, which has heard each of them."""
    ran = isolated("two_groups.py", isolation, tmp_path)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count('"GET /work.txt HTTP/1.1" 200') == 3
    assert len(re.findall(rf"{INSTANCE} got: three sacks of peas\n", ran.stdout)) == 3


def test_fan_out_reaches_fifty(tmp_path: Path) -> None:
    """Fifty instances run a command at once, and the one that fails stops no other."""
    ran = example("fan_out.py", tmp_path)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "the first says '0 of 50', the last '49 of 50'" in ran.stdout
    assert re.search(r"a command took \d+ ms in the median, \d+ ms at most", ran.stdout)
    assert re.search(rf"49 succeeded; {INSTANCE} did not", ran.stdout)


def test_notebook_style_works_in_a_running_loop(tmp_path: Path) -> None:
    """Blocking twins and awaited classes work side by side in one running event loop."""
    ran = example("notebook_style.py", tmp_path)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(re.findall(rf"{INSTANCE} ready\n", ran.stdout)) == 2
    assert ran.stdout.endswith(
        "['hello\\n', 'hello\\n']\n"
        "['and hello again\\n', 'and hello again\\n']\n"
        "['awaited\\n']\n"
        "closed: True\n"
    )


@pytest.mark.sshd
def test_my_own_hosts_asks_each_host(tmp_path: Path) -> None:
    """Real OpenSSH servers, named as on a command line, answer under their own names."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    with OpenSSHServer(tmp_path) as one, OpenSSHServer(tmp_path) as two:
        two.authorized_keys.append(one.client_public_key)
        two.restart()
        hosts = [f"{server.host}:{server.port}" for server in (one, two)]
        arguments = ["--key", str(one.client_key_path), hosts[0], f"{two.user}@{hosts[1]}"]

        ran = example("my_own_hosts.py", folder, *arguments)

    assert (ran.returncode, ran.stderr) == (0, "")
    for host in hosts:
        assert f"{host} ({one.user}), exit code 0:\n{os.uname().nodename}\n" in ran.stdout


def test_my_own_hosts_says_which_host_is_missing(tmp_path: Path) -> None:
    """A host that can't be parsed is refused with a sentence and exit code 1."""
    ran = example("my_own_hosts.py", tmp_path, "good", "node1:ssh")

    assert ran.returncode == 1
    assert ran.stderr.startswith("ERROR: hosts can't be used as given: 'node1:ssh'")
