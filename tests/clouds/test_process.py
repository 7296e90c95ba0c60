"""The yard of the process isolation: machines come, go, fail on purpose and leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import asyncssh
import pytest

from precip_async.clouds.local import process_addresses, process_space
from precip_async.clouds.local.process import ProcessYard
from precip_async.clouds.local.process_addresses import Addresses
from precip_async.clouds.local.process_space import SpaceTools
from precip_async.clouds.local.yard import YardError, log_path
from tests import processes
from tests.clouds.process_yard import child_yard, open_lot, specification
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.clouds.process_yard import Box, Lot

both = pytest.mark.parametrize("private", [True, False], ids=["space", "shared"])


@pytest.fixture(params=[True, False], ids=["space", "shared"])
async def lot(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lot]:
    """An open yard of either kind."""
    async with open_lot(tmp_path, private=request.param) as opened:
        yield opened


def descriptors() -> set[str]:
    """What this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            found.add(f"{entry.name} {entry.readlink()}")
    return found


def files(directory: Path) -> list[Path]:
    """Every file below `directory`."""
    return [path for path in directory.rglob("*") if path.is_file()]


def refused(box: Box) -> bool:
    """Whether nobody listens at the machine's place."""
    try:
        socket.create_connection(
            (box.placement.public_address, box.placement.ssh_port), timeout=5
        ).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_a_machine_lets_its_owner_in_under_its_own_host_key(lot: Lot) -> None:
    """Once `start` has returned, a client that knows the host key runs a command."""
    box = await lot.start()

    assert await box.run("echo here") == "here"


async def test_nobody_else_is_let_in(lot: Lot) -> None:
    """Another key than the machine's is refused."""
    box = await lot.start()

    with pytest.raises(asyncssh.PermissionDenied):
        await box.connect(key=asyncssh.generate_private_key("ssh-ed25519"))


async def test_a_name_that_no_system_would_take_is_refused(lot: Lot) -> None:
    """A user name becomes a directory's; one that would lead elsewhere can't log in."""
    box = await lot.start()

    for name in ("../../etc", "..", "a/b", ""):
        with pytest.raises(asyncssh.PermissionDenied):
            await box.connect(user=name)


async def test_machines_have_addresses_of_their_own(lot: Lot) -> None:
    """Two machines share neither address nor, where there is but one, port."""
    first, second = await lot.start(), await lot.start()

    assert first.placement.public_address != second.placement.public_address
    assert first.placement.public_address.startswith("127.")


async def test_machines_share_an_address_where_there_is_but_one(tmp_path: Path) -> None:
    """Where the system has a single loopback address, machines differ by port."""
    async with open_lot(tmp_path, private=False, own_addresses=False) as lot:
        first, second = await lot.start(), await lot.start()

        assert {first.placement.public_address, second.placement.public_address} == {"127.0.0.1"}
        assert first.placement.ssh_port != second.placement.ssh_port
        assert await second.run("echo second") == "second"


def test_a_place_is_given_once() -> None:
    """Two yards that pick the same block get different places in it."""
    places = [Addresses(), Addresses()]
    for addresses in places:
        addresses._block, addresses._taken = "127.201.7", 0
    with places[0].take() as mine, places[1].take() as theirs:
        assert mine.getsockname() != theirs.getsockname()


def test_another_port_will_do_where_ours_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who listens at our port on every address does not keep machines from starting."""
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr(process_addresses, "PORT", port)
        with Addresses(own=True).take() as place:
            assert place.getsockname()[0] != "127.0.0.1"
            assert place.getsockname()[1] != port


async def test_a_stopped_machine_is_gone(lot: Lot, tmp_path: Path) -> None:
    """After `stop` nothing listens, nothing runs, and nothing but its console is on disk."""
    box = await lot.start()
    await box.run("echo x > ~/file; echo x > ${TMPDIR:-/tmp}/file")
    await box.run(
        "setsid sleep 300 > /dev/null 2>&1 < /dev/null & nohup sleep 300 > /dev/null 2>&1 &"
    )
    assert len(box.living()) >= 2

    await lot.yard.stop(box.spec.id)

    assert refused(box)
    assert not box.living()
    assert files(tmp_path) == [log_path(tmp_path, box.spec.id)]


async def test_stopping_ends_connections_and_what_runs_on_them(lot: Lot) -> None:
    """A client of a machine that is stopped loses its connection at once."""
    box = await lot.start()
    async with box.connect() as connection:
        process = await connection.create_process("echo up; exec sleep 300")
        await process.stdout.readline()

        await lot.yard.stop(box.spec.id)

        with anyio.fail_after(10):
            await connection.wait_closed()
        assert process.exit_status is None


async def test_stopping_is_repeatable_and_concurrent(lot: Lot) -> None:
    """Twice at once, once more, or somebody unknown: none is an error."""
    box = await lot.start()

    async with anyio.create_task_group() as group:
        group.start_soon(lot.yard.stop, box.spec.id)
        group.start_soon(lot.yard.stop, box.spec.id)
    await lot.yard.stop(box.spec.id)
    await lot.yard.stop("i-unknown")

    assert refused(box)


async def test_machines_leave_no_descriptors(lot: Lot) -> None:
    """Machines that came, worked and went leave nothing open in the yard's process."""
    before = None
    for _ in range(3):
        box = await lot.start()
        await box.run("echo x")
        await lot.yard.stop(box.spec.id)
        if before is None:
            before = descriptors()  # what the first use loads stays

    await eventually(lambda: descriptors() == before, "the descriptors of before")


async def test_a_cancelled_start_leaves_nothing(lot: Lot) -> None:
    """Wherever `start` is interrupted, no process, no directory and no machine remain."""
    await lot.yard.stop((await lot.start()).spec.id)
    for turns in (1, 2, 3, 5, 8, 13):
        spec, _ = specification()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lot.yard.start, spec)
                for _ in range(turns):
                    await anyio.sleep(0.001)
                scope.cancel()
        if not scope.cancelled_caught:
            await lot.yard.stop(spec.id)

        assert not lot.yard._machines
        assert not processes.marked(f"PRECIP_INSTANCE={spec.id}")


async def test_the_same_machine_is_not_started_twice(lot: Lot) -> None:
    """An id stands for one machine."""
    box = await lot.start()

    with pytest.raises(YardError, match="already"):
        await lot.yard.start(box.spec)


async def test_closing_ends_all_machines(tmp_path: Path) -> None:
    """After `aclose`, which may come twice, no machine is left, nor guard, nor directory."""
    for private in (True, False):
        async with open_lot(tmp_path, private=private) as lot:
            boxes = [await lot.start() for _ in range(3)]
            for box in boxes:
                await box.run("sleep 300 > /dev/null 2>&1 &")

            await lot.yard.aclose()
            await lot.yard.aclose()

            assert all(refused(box) for box in boxes)
            assert not any(box.living() for box in boxes)
            assert not (tmp_path / "machines").exists()


async def test_a_yard_never_opened_closes(tmp_path: Path) -> None:
    """`aclose` is no error where `open` was not called or did not get far."""
    await ProcessYard(tmp_path).aclose()


@both
async def test_the_death_of_the_yards_process_leaves_nothing(tmp_path: Path, private: bool) -> None:
    """SIGKILL of the process that runs the yard ends every process and removes every home."""
    with child_yard(tmp_path, private=private) as child:
        await child.box.run("echo x > ~/file")
        await child.box.run("setsid sleep 300 > /dev/null 2>&1 < /dev/null &")
        async with child.box.connect() as connection:
            process = await connection.create_process("kill -STOP $$")
            await eventually(lambda: any(one.state == "T" for one in child.box.living()))
            assert len(child.box.living()) >= 2

            child.process.kill()
            await process.wait_closed()

        await eventually(lambda: not child.box.living(), f"the end of {child.box.living()}")
        await eventually(lambda: not (tmp_path / "machines").exists(), "no homes")
        assert refused(child.box)


# Faults.


async def test_a_late_server_refuses_connections_until_released(lot: Lot) -> None:
    """With ``ssh_late`` nobody listens before `release_ssh`, which may be called again."""
    box = await lot.start(fault="ssh_late")
    assert refused(box)

    await lot.yard.release_ssh(box.spec.id)
    await lot.yard.release_ssh(box.spec.id)
    await lot.yard.release_ssh("i-unknown")

    assert await box.run("echo late") == "late"


async def test_a_machine_can_refuse_our_key(lot: Lot) -> None:
    """With ``ssh_refuses_key`` the owner's key is not accepted, for any user."""
    box = await lot.start(fault="ssh_refuses_key")

    for user in ("root", "ubuntu"):
        with pytest.raises(asyncssh.PermissionDenied):
            await box.connect(user=user)


async def test_a_machine_can_accept_and_never_speak(lot: Lot) -> None:
    """With ``ssh_hangs`` TCP connects and no byte ever comes; stopping it ends the connection."""
    box = await lot.start(fault="ssh_hangs")
    reader, writer = await asyncio.open_connection(
        box.placement.public_address, box.placement.ssh_port
    )
    try:
        with anyio.move_on_after(0.2) as silent:
            await reader.read(1)
        assert silent.cancelled_caught

        await lot.yard.stop(box.spec.id)
        with anyio.fail_after(5), contextlib.suppress(ConnectionResetError):
            assert await reader.read(1) == b""
    finally:
        writer.close()


@pytest.mark.slow
async def test_a_machine_can_refuse_root_as_stock_images_do(lot: Lot) -> None:
    """With ``root_refused`` root is told whom to log in as, and ubuntu works."""
    box = await lot.start(fault="root_refused")
    async with box.connect() as connection:
        ran = await connection.run("echo never")

    assert str(ran.stdout).startswith('Please login as the user "ubuntu" rather than')
    assert ran.exit_status == 142
    assert await box.run("echo $USER", user="ubuntu") == "ubuntu"


async def test_root_is_told_at_once_whom_to_log_in_as(lot: Lot) -> None:
    """What cloud-init makes root's login say comes before its pause, whatever was asked for."""
    box = await lot.start(fault="root_refused")
    async with box.connect() as connection:
        process = await connection.create_process("echo never")
        with anyio.fail_after(5):
            line = await process.stdout.readline()

    assert '"ubuntu"' in line


# Where there are no spaces.


async def test_without_util_linux_machines_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the programs are missing, machines have no spaces, and the yard says why."""
    monkeypatch.setattr(process_space, "SEARCH_PATH", "/nowhere")
    async with open_lot(tmp_path) as lot:
        box = await lot.start()

        assert not lot.yard.private
        assert "unshare not found" in lot.yard.shared_because
        assert await box.run("echo shared") == "shared"
        with pytest.raises(YardError, match="not found"):
            await ProcessYard(tmp_path, private=True).open()


@pytest.mark.parametrize(
    ("tool", "why"), [("unshare", "can't be made"), ("nsenter", "a command in a namespace ended")]
)
async def test_without_permission_machines_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, why: str
) -> None:
    """Where the kernel forbids namespaces, whatever part of them, machines have no spaces."""
    find = SpaceTools.find

    def forbidden(*, user: bool) -> SpaceTools:
        changed: dict[str, Any] = {tool: "/bin/false"}
        return replace(find(user=user), **changed)

    monkeypatch.setattr(SpaceTools, "find", forbidden)
    async with open_lot(tmp_path) as lot:
        box = await lot.start()

        assert why in lot.yard.shared_because
        assert await box.run("echo shared") == "shared"


async def test_no_machines_without_their_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the guard of machines without spaces can't stand, the yard does not open."""
    yard = ProcessYard(tmp_path, private=False)
    monkeypatch.setattr(sys, "executable", "/bin/true")
    try:
        with pytest.raises(YardError, match="guard of the machines does not start"):
            await yard.open()
    finally:
        await yard.aclose()


async def test_whom_one_becomes_on_a_shared_machine_has_a_home_there_too(tmp_path: Path) -> None:
    """Not root's home on this computer, which sudo would go to; what else it is asked is sudo's."""
    async with open_lot(tmp_path, private=False) as lot:
        box = await lot.start()
        became = await box.run("exec sudo -n -H -u root -- sh -c 'pwd; cd; pwd; echo $0' x", "ann")
        other = await box.run("sudo --version || echo not here")

        ann, root, said = became.splitlines()
        assert (Path(ann).name, Path(root).name, said) == ("home-ann", "home-root", "x")
        assert Path(root).is_relative_to(tmp_path)
        assert "Sudo version" in other or other == "not here"


async def test_a_shared_machine_has_a_home_of_its_own(tmp_path: Path) -> None:
    """Without spaces each machine, and each user on it, still has a private home directory."""
    async with open_lot(tmp_path, private=False) as lot:
        first, second = await lot.start(), await lot.start()
        logins = [(first, "root"), (second, "root"), (first, "alice")]
        homes = {await box.run("pwd; stat -c %a .", user) for box, user in logins}

        assert len(homes) == 3
        assert all(home.startswith(f"{tmp_path}/") for home in homes)
        assert all(home.endswith("\n700") for home in homes)


async def test_a_shared_machines_end_spares_the_others(tmp_path: Path) -> None:
    """Stopping one machine ends its own processes and nobody else's."""
    async with open_lot(tmp_path, private=False) as lot:
        first, second = await lot.start(), await lot.start()
        for box in (first, second):
            await box.run("sleep 300 > /dev/null 2>&1 &")

        await lot.yard.stop(first.spec.id)

        assert not first.living()
        assert second.living()


@pytest.mark.slow
@both
async def test_a_hundred_machines_work_at_once(tmp_path: Path, private: bool) -> None:
    """A hundred machines start together, and each answers eight sessions at once."""
    async with open_lot(tmp_path, private=private) as lot:
        boxes: list[Box] = []

        async def launch() -> None:
            boxes.append(await lot.start())

        async def work(box: Box) -> None:
            token = secrets.token_hex(4)
            async with (
                box.connect(login_timeout=60) as connection,
                anyio.create_task_group() as group,
            ):
                for _ in range(8):
                    group.start_soon(ask, connection, token)

        async def ask(connection: asyncssh.SSHClientConnection, token: str) -> None:
            assert (await connection.run(f"echo {token}", check=True)).stdout == f"{token}\n"

        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(launch)
        assert len({box.placement for box in boxes}) == 100
        async with anyio.create_task_group() as group:
            for box in boxes:
                group.start_soon(work, box)
