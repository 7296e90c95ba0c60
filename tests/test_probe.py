"""The probe: what is asked of an instance that has user data, and what is made of the answer."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from anyio import fail_after, run_process

from precip_async import Experiment, InvalidArgument
from precip_async.clouds.base import CLOUD_INIT_STATE
from precip_async.errors import BootTimeout
from precip_async.events import InstanceReady, Warned
from tests.fakes import QUICK, Bench, FakeCloud, bench, faked_ssh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONFIG = "#cloud-config\n"
BUSY, DONE = 75, 0
AT_FINAL = json.dumps({"v1": {"stage": "modules-final"}}).encode()
FINE = json.dumps({"v1": {"errors": []}}).encode()
BROKEN = json.dumps({"v1": {"errors": ["1 scripts failed", "and more"]}}).encode()
SHELLS = [name for name in ("sh", "bash", "dash", "ash", "ksh", "zsh") if shutil.which(name)]


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench with an in-memory cloud and in-memory SSH."""
    async with bench(tmp_path / "home") as made:
        yield made


def answering(at: Bench, *replies: tuple[bytes, int]) -> None:
    """Have commands exit so in turn, and from then on as the last of them."""
    left = list(replies)
    at.connector.reply = lambda _: left.pop(0) if len(left) > 1 else left[0]


# -- who is asked ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reads", "given", "asked"),
    [
        ("gave", {}, False),
        ("gave", {"user_data": ""}, False),
        ("gave", {"user_data": CONFIG}, True),
        ("gave", {"user_data": CONFIG, "cloud_init": False}, False),
        ("all", {}, True),
        ("all", {"cloud_init": False}, False),
        ("none", {"user_data": CONFIG}, False),
    ],
)
async def test_only_who_was_sent_user_data_is_asked(
    tmp_path: Path, reads: Any, given: dict[str, Any], asked: bool
) -> None:
    """The cloud's own counts as well as the user's, and the user can waive it."""
    async with bench(tmp_path / "home", cloud_init=reads) as at:
        (instance,) = await at.provision(**given)

        await at.boot.wait([instance], 5)

        (line,) = at.connector.lines
        assert ("cloud-init" in line) is asked
        assert line.endswith(" true") is not asked


async def test_the_waiver_is_among_the_options_and_not_for_the_cloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launch's own options overrule the experiment's, and the cloud sees neither of them."""
    cloud, ssh = FakeCloud(), faked_ssh(monkeypatch)
    waived: dict[str, Any] = {"WaitForCloudInit": False, "EbsOptimized": True}
    async with Experiment(cloud, home=tmp_path, limits=QUICK, options=waived) as exp:
        await exp.provision(user_data=CONFIG)
        await exp.wait(timeout=5)
        await exp.provision(user_data=CONFIG, options={"WaitForCloudInit": True})
        await exp.wait(timeout=5)

    sent = [request.options for name, request in cloud.calls if name == "launch"]
    assert sent == [{"EbsOptimized": True}] * 2
    assert ["cloud-init" in line for line in ssh.lines] == [False, True]


async def test_a_waiver_is_a_bool(tmp_path: Path) -> None:
    """What is neither yes nor no is refused before anything starts, wherever it is given."""
    wrong = {"WaitForCloudInit": "no"}
    cloud = FakeCloud()
    with pytest.raises(InvalidArgument, match="WaitForCloudInit must be True or False, not 'no'"):
        Experiment(cloud, options=wrong)
    async with Experiment(cloud, home=tmp_path, limits=QUICK) as exp:
        with pytest.raises(InvalidArgument, match="WaitForCloudInit"):
            await exp.provision(options=wrong)

    assert cloud.count("launch") == 0


# -- what is made of the answer --------------------------------------------------------------


async def test_it_is_asked_again_until_cloud_init_is_done(at: Bench) -> None:
    """Over the one connection, one command each time."""
    answering(at, (AT_FINAL, BUSY), (b"", BUSY), (FINE, DONE))
    (instance,) = await at.provision(user_data=CONFIG)

    await at.boot.wait([instance], 5)

    assert instance.state == "ready"
    assert len(at.connector.lines) == 3
    assert len(at.connector.attempts) == 1
    assert at.of(Warned) == []


@pytest.mark.parametrize(
    ("said", "stage"),
    [
        (AT_FINAL, ", at its stage modules-final"),
        (b'{"v1": {"stage": null}}', ""),
        (b'{"v1": []}', ""),
        (b"[]", ""),
        (b"\xff", ""),
        (b"", ""),
    ],
)
async def test_what_is_waited_for_is_told(at: Bench, said: bytes, stage: str) -> None:
    """The error names cloud-init, how far it is if it says so, and how not to wait for it."""
    answering(at, (said, BUSY))
    (instance,) = await at.provision(user_data=CONFIG)

    with pytest.raises(BootTimeout, match=r"cloud-init-output\.log.*WaitForCloudInit") as caught:
        await at.boot.wait([instance], 0.3)

    diagnosis = caught.value.diagnoses[instance.id]
    assert (diagnosis.stage, diagnosis.seen) == ("reachable", f"waiting for cloud-init{stage}")
    assert instance.state == "reachable"


async def test_errors_of_cloud_init_are_warned_of_once(at: Bench) -> None:
    """The instance is usable all the same; the first error is named, and where to look."""
    answering(at, (AT_FINAL, BUSY), (BROKEN, DONE))
    instances = await at.provision(2, user_data=CONFIG)

    await at.boot.wait(instances, 5)
    await at.boot.wait(instances, 5)

    assert {instance.state for instance in instances} == {"ready"}
    warned = [warning.text for warning in at.of(Warned)]
    assert sorted(text.split()[0] for text in warned) == sorted(one.id for one in instances)
    assert all("finished with errors: 1 scripts failed; see /var/log/" in text for text in warned)


async def test_one_that_is_never_done_is_replaced_after_its_boot_timeout(at: Bench) -> None:
    """With boot_timeout=, like any other that is late; what takes its place is waited for too."""
    answering(at, *[(AT_FINAL, BUSY)] * 4, (FINE, DONE))
    (instance,) = await at.provision(user_data=CONFIG, boot_timeout=0.25)

    await at.boot.wait([instance], 5)

    assert instance.launches == 2
    assert "cloud-init" in at.connector.lines[-1]
    assert len(at.of(InstanceReady)) == 1


@pytest.mark.parametrize("given", [{}, {"user_data": CONFIG}], ids=["plain", "with user data"])
async def test_a_command_that_fails_is_no_busy_cloud_init(at: Bench, given: dict[str, Any]) -> None:
    """An exit code that is not the one agreed on is told for what it is."""
    answering(at, (b"", 126))
    (instance,) = await at.provision(**given)

    with pytest.raises(BootTimeout, match="a command that does nothing exits with 126"):
        await at.boot.wait([instance], 0.3)


# -- what is asked ---------------------------------------------------------------------------

# Of releases before 0.7.3, which write neither of the other two; this computer may have had one.
FINISHED = Path("/var/lib/cloud/instance/boot-finished")
STATES: dict[str, tuple[list[str], int, str]] = {
    "no cloud-init": ([], DONE, ""),
    "disabled": (["", "disabled"], DONE, ""),
    "not begun": ([""], DONE if FINISHED.exists() else BUSY, ""),
    "busy": (["", "status.json"], BUSY, "status.json"),
    "done": (["", "status.json", "result.json"], DONE, "result.json"),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("state", STATES)
async def test_what_is_asked_is_understood_by_any_shell(
    at: Bench, tmp_path: Path, shell: str, state: str
) -> None:
    """As a login shell of any kind runs it, the line tells what cloud-init has written down."""
    files, code, told = STATES[state]
    (instance,) = await at.provision(user_data=CONFIG)
    await at.boot.wait([instance], 5)
    directory = tmp_path / "state of cloud-init"
    for name in files:
        directory.mkdir(exist_ok=True) if not name else (directory / name).write_text(name)

    path = shutil.which(shell) or ""
    with fail_after(10):
        ran = await run_process(
            [path, "-c", at.connector.lines[0]],
            env={"PATH": os.environ["PATH"], "SHELL": path, CLOUD_INIT_STATE: str(directory)},
            check=False,
        )

    assert (ran.returncode, ran.stdout.decode().partition("\n")[2]) == (code, told)
