"""What is a machine's own where the process isolation has spaces, and what ends with it."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from precip_async.clouds.local.process_space import SpaceTools
from precip_async.clouds.local.yard import YardError
from tests import processes
from tests.clouds.process_yard import open_lot
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.clouds.process_yard import Box, Lot

PLACES = ("/root", "/home", "/tmp", "/var/tmp", "/dev/shm")


@pytest.fixture(params=["plain", "user"] if os.geteuid() == 0 else ["user"])
async def lot(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lot]:
    """An open yard with spaces, made with a user namespace and, for root, also without."""
    find, user = SpaceTools.find, request.param == "user"
    monkeypatch.setattr(SpaceTools, "find", lambda **_: find(user=user))
    async with open_lot(tmp_path, private=True) as opened:
        yield opened


@pytest.fixture
async def box(lot: Lot) -> Box:
    """A machine."""
    return await lot.start(hostname="box-7")


def holder(box: Box) -> processes.Process:
    """The outermost of the machine's processes: the one that made the space."""
    (found,) = (one for one in box.living() if one.parent == os.getpid())
    return found


async def test_one_is_root(box: Box) -> None:
    """Whoever runs the experiment, and whatever the login is called, is root inside."""
    assert await box.run("id -u; echo $HOME; pwd") == "0\n/root\n/root"
    assert await box.run("id -u; pwd", user="alice") == "0\n/home/alice"


async def test_a_machine_knows_its_name(box: Box) -> None:
    """The host name is the machine's own, and resolves to its own address."""
    told = await box.run("hostname; getent hosts box-7")

    assert told.split() == ["box-7", box.placement.public_address, "box-7"]
    assert os.uname().nodename != "box-7"


async def test_sessions_of_a_machine_share_its_files(box: Box) -> None:
    """A path means the same in every session of one machine, whoever logs in."""
    for place in PLACES:
        await box.run(f"echo from-{place} > {place}/shared-file")

    for place in PLACES:
        assert await box.run(f"cat {place}/shared-file", user="alice") == f"from-{place}"


async def test_machines_share_no_files(lot: Lot, box: Box) -> None:
    """What a machine writes is seen by no other machine, nor by this computer."""
    other = await lot.start()
    name = box.spec.id
    for place in PLACES:
        await box.run(f"touch {place}/{name}")

    for place in PLACES:
        assert await other.run(f"test ! -e {place}/{name} && echo none") == "none"
        assert not seen(place, name)


def seen(place: str, name: str) -> bool:
    """Whether this computer has such a file."""
    return os.access(place, os.X_OK) and (Path(place) / name).exists()


async def test_a_machine_sees_its_own_processes_only(lot: Lot, box: Box) -> None:
    """The process tree begins with the machine's own pid 1, and ends with its own sessions."""
    other = await lot.start()
    await other.run("sleep 300 > /dev/null 2>&1 &")
    pids = await box.run("cd /proc; echo [0-9]*")

    assert pids.split()[0] == "1"
    assert len(pids.split()) < 5
    assert await box.run("pgrep sleep || echo none") == "none"


async def test_a_command_leads_its_own_group(box: Box) -> None:
    """A command can be ended by its group, as seen from another session of the machine."""
    async with box.connect() as connection:
        process = await connection.create_process("echo $$; sleep 300 & sleep 300; true")
        pid = (await process.stdout.readline()).strip()
        assert len([one for one in box.living() if one.name == "sleep"]) <= 2
        await box.run(f"kill -KILL -- -{pid}")
        await process.wait()

    assert process.exit_signal is not None
    assert process.exit_signal[0] == "KILL"
    await eventually(lambda: not [one for one in box.living() if one.name == "sleep"])


async def test_orphans_are_reaped(box: Box) -> None:
    """Processes whose parents have ended leave no zombies when they end."""

    def orphans() -> list[processes.Process]:  # the ended ones as well, until somebody reaps them
        below = processes.descendants([os.getpid()])
        return [one for one in below if one.name == "sleep"]

    await box.run("for n in 1 2 3 4 5; do (setsid sleep 0.5 > /dev/null 2>&1 &); done")
    await eventually(lambda: len(orphans()) == 5, "five orphans")

    await eventually(lambda: not orphans(), "an end of each")


async def test_orphans_are_reaped_without_bash_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pid 1 is another shell, it reaps them itself, and the machine works and ends."""
    if (dash := shutil.which("dash")) is None:
        pytest.skip("there is no dash here")
    find = SpaceTools.find

    def without_bash(*, user: bool) -> SpaceTools:
        return replace(find(user=user), sh=(dash,))

    monkeypatch.setattr(SpaceTools, "find", without_bash)
    async with open_lot(tmp_path, private=True) as lot:
        box = await lot.start()
        await test_orphans_are_reaped(box)
        assert (await box.run("cat /proc/1/comm")) == "dash"

        await lot.yard.stop(box.spec.id)

        assert not box.living()


async def test_a_disk_can_be_bounded(lot: Lot) -> None:
    """`disk` GiB are all that a machine's private directories hold together."""
    box = await lot.start(disk=1)

    for place in ("/root", "/tmp"):
        assert await box.run(f"df --output=size -B1 {place} | tail -n 1") == str(1024**3)
    assert await box.run("head -c 1200M /dev/zero > /root/fill || echo full") == "full"


async def test_a_machines_end_leaves_out_nobody(lot: Lot, box: Box) -> None:
    """Processes that have left session, group and environment behind end with the machine."""
    await box.run("setsid env -i sleep 271828 > /dev/null 2>&1 < /dev/null & echo")

    def strays() -> list[processes.Process]:
        return [
            one
            for one in processes.everything().values()
            if b"271828" in command_line(one.pid).split(b"\0")
        ]

    await eventually(strays, "the stray")
    await lot.yard.stop(box.spec.id)

    assert not strays()


def command_line(pid: int) -> bytes:
    """What `pid` was started with."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("whom", ["the holder", "pid 1"])
async def test_a_machine_that_dies_is_noticed(lot: Lot, box: Box, whom: str) -> None:
    """When its space is killed from outside, all of the machine goes, and `died` says so once."""
    await lot.start()
    await box.run("sleep 300 > /dev/null 2>&1 &")
    assert lot.yard.died() == set()
    killed = holder(box)
    if whom == "pid 1":
        (killed,) = (one for one in box.living() if one.parent == killed.pid)
    killed.signal(signal.SIGKILL)

    assert await eventually(lot.yard.died, "its death") == {box.spec.id}
    assert lot.yard.died() == set()
    await eventually(lambda: not box.living(), "the end of what ran on it")
    with pytest.raises(ConnectionRefusedError):
        await box.connect()
    await lot.yard.stop(box.spec.id)


async def test_a_machine_survives_what_its_root_can_do(box: Box) -> None:
    """Nobody inside can end pid 1, and killing everything else leaves a machine that works."""
    await box.run("kill -KILL 1; kill -STOP 1; kill -TERM 1; true")
    async with box.connect() as connection:
        ran = await connection.run("kill -KILL -1; echo alone")

    assert ran.stdout == "alone\n"
    assert await box.run("echo alive") == "alive"


async def test_everything_stopped_still_ends(lot: Lot, box: Box) -> None:
    """A machine whose processes are all stopped can be stopped for good."""
    async with box.connect() as connection:
        for _ in range(3):
            await connection.create_process("sleep 300; true")
        await eventually(lambda: len([one for one in box.living() if one.name == "sleep"]) == 3)
        await box.run("kill -STOP -1; true")
        await eventually(lambda: [one for one in box.living() if one.state == "T"], "a stop")

        await lot.yard.stop(box.spec.id)

    assert not box.living()


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence for who has no util-linux says what was looked for."""

    def nothing(*_args: Any, **_more: Any) -> None:
        return None

    monkeypatch.setattr(shutil, "which", nothing)
    with pytest.raises(YardError, match="mount, nsenter, setsid, unshare not found"):
        SpaceTools.find(user=True)
