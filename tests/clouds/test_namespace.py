"""Machines in namespaces: what each has of its own, and that nothing of it stays."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncssh
import pytest
from anyio import create_task_group, fail_after, move_on_after

from precip_async.clouds.local import namespace, namespace_ground, namespace_net
from precip_async.clouds.local.namespace import NamespaceYard
from precip_async.clouds.local.namespace_net import host_routes
from precip_async.clouds.local.yard import YardError, log_path
from tests import processes
from tests.clouds.local_machines import Box, content, host, links, start
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.servers import TemporaryUser

pytestmark = [pytest.mark.root, pytest.mark.sshd]


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[NamespaceYard]:
    """An open yard, and after it a host that is as it was."""
    before = host()
    yard = NamespaceYard(tmp_path)
    await yard.open()
    try:
        yield yard
    finally:
        await yard.aclose()
    assert yard._ground.link not in links()
    assert host() == before


@pytest.fixture
async def box(yard: NamespaceYard) -> Box:
    """A machine."""
    return await start(yard)


def processes_of(yard: NamespaceYard, box: Box) -> list[processes.Process]:
    """The machine's processes as this computer sees them, those that hold its place included."""
    pid = yard._machines[box.id].process.pid
    holder = processes.everything()[pid]
    return [holder, *processes.descendants([pid])]


async def test_three_machines_live_and_answer(yard: NamespaceYard) -> None:
    """Machines started together each answer at their own address under their own name."""
    boxes: list[Box] = []

    async def one(number: int) -> None:
        boxes.append(await start(yard, name=f"box-{number}"))

    async with create_task_group() as group:
        for number in range(3):
            group.start_soon(one, number)

    assert len({box.address for box in boxes}) == 3
    assert {await box.run("hostname; cat /etc/hostname") for box in boxes} == {
        f"box-{number}\nbox-{number}" for number in range(3)
    }


async def test_another_host_key_is_not_shown(yard: NamespaceYard, box: Box) -> None:
    """A machine shows the host key that it was given, not another machine's."""
    other = await start(yard)

    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await Box(box.id, box.address, box.port, other.host_key).connect()


async def test_its_process_tree_is_its_own(box: Box) -> None:
    """A machine sees its own processes only, and its SSH server is the first of them."""
    comm, *pids = (await box.run("cat /proc/1/comm; ls -d /proc/[0-9]*")).splitlines()

    assert comm == "sshd"
    assert len(pids) < 8


async def test_orphans_are_reaped(box: Box) -> None:
    """What a command leaves in the background is no zombie for ever once it has ended."""
    async with await box.connect() as connection:
        await connection.run("for i in 1 2 3; do setsid sh -c 'sleep 0.1' & done", check=True)

        async def zombies() -> str:
            ran = await connection.run("grep -lE '^State:.Z' /proc/[0-9]*/status; pgrep sleep")
            return str(ran.stdout)

        with fail_after(5):
            while await zombies():
                pass


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp", "/root", "/home", "/run", "/dev/shm"])
async def test_its_directories_are_its_own(yard: NamespaceYard, box: Box, place: str) -> None:
    """What a machine writes to its own directories is seen by nobody else."""
    other = await start(yard)
    name = f"{place}/precip-was-here"

    await box.run(f"echo mine >{name}")

    assert await box.run(f"cat {name}") == "mine"
    assert await other.run(f"ls {name} 2>/dev/null || echo none") == "none"
    assert content(name) is None


@pytest.mark.parametrize("name", ["/etc/passwd", "/usr/lib/os-release", "/etc/hosts"])
async def test_it_may_write_over_the_hosts_files(box: Box, name: str) -> None:
    """A machine sees this computer's files, may change them, and changes its own view only."""
    # Looked for by its mark: other tests add users to this computer, and take them away, meanwhile.
    mark = f"# changed {uuid4()}"

    await box.run(f"echo '{mark}' >>{name}")

    assert (await box.run(f"tail -n 1 {name}")).endswith(mark)
    assert mark.encode() not in (content(name) or b"")


async def test_the_hosts_keys_are_not_shown(box: Box) -> None:
    """A machine has one host key: its own."""
    assert await box.run("ls /etc/ssh/ssh_host_*") == "/etc/ssh/ssh_host_ed25519_key"


async def test_the_hosts_settings_are_shut_and_its_own_are_open(box: Box) -> None:
    """A machine can't change a setting of the whole computer, but can change its network's."""
    swappiness = content("/proc/sys/vm/swappiness")
    said = await box.run("echo 1 >/proc/sys/vm/swappiness || sysctl -w net.ipv4.ip_forward=1")

    assert said == "net.ipv4.ip_forward = 1"
    assert content("/proc/sys/vm/swappiness") == swappiness


async def test_it_cannot_set_the_hosts_clock(box: Box) -> None:
    """A machine lacks the capabilities to set the clock and to load modules."""
    mask = int(await box.run("sed -n 's/^CapBnd:\t//p' /proc/self/status"), 16)

    assert not mask & (1 << 25 | 1 << 16)  # CAP_SYS_TIME, CAP_SYS_MODULE


async def test_machines_reach_each_other(yard: NamespaceYard, box: Box) -> None:
    """A machine reaches another one's SSH server at its private address."""
    other = await start(yard)
    await other.run("true")

    hello = await box.run(f"bash -c 'read -r line </dev/tcp/{other.address}/22; echo $line'")

    assert hello.startswith("SSH-2.0-OpenSSH")


async def test_it_has_no_way_out(box: Box) -> None:
    """Without ``internet=True`` a machine has no route but to the others and to the host."""
    routes = (await box.run("ip route")).splitlines()

    assert len(routes) == 1
    assert "default" not in routes[0]


async def test_any_user_of_this_computer_may_log_in(
    tmp_path: Path, second_user: TemporaryUser
) -> None:
    """Another user than root is let in as well and has a home to write to."""
    yard = NamespaceYard(tmp_path)
    await yard.open()
    try:
        box = await start(yard)
        said = await box.run("id -un; pwd; echo hello >~/file && cat ~/file", second_user.name)
    finally:
        await yard.aclose()

    assert said.splitlines() == [second_user.name, said.splitlines()[1], "hello"]


async def test_its_disk_has_the_size_asked_for(yard: NamespaceYard) -> None:
    """With a disk size, its view of / and its own directories together have that much room."""
    box = await start(yard, disk=1)

    for place in ("/", "/root", "/tmp"):
        size = await box.run(f"df --output=size --block-size=1M {place} | tail -n 1")
        assert int(size) == 1024


async def test_stop_leaves_nothing(yard: NamespaceYard, box: Box) -> None:
    """When `stop` returns, no process of the machine is left, and no port on the bridge."""
    async with await box.connect() as connection:
        await connection.create_process("setsid sleep 1000")
        await eventually(lambda: "sleep" in [p.name for p in processes_of(yard, box)])
        before = processes_of(yard, box)
        port = yard._machines[box.id].port
        assert yard._ground.has(port)

        await yard.stop(box.id)

        assert not [process for process in before if process.alive()]
        assert not yard._ground.has(port)


async def test_stopping_what_is_unknown_does_nothing(yard: NamespaceYard, box: Box) -> None:
    """A machine is ended once; the next time, or with an unknown id, nothing happens."""
    await yard.stop(box.id)
    await yard.stop(box.id)
    await yard.stop("i-00000000000000000")

    assert yard.died() == set()


async def test_a_machine_that_ends_by_itself_is_noticed_once(yard: NamespaceYard, box: Box) -> None:
    """`died` names a machine whose first process ended, and names it once."""
    assert yard.died() == set()
    async with await box.connect() as connection:
        await connection.run("kill -TERM 1")

    assert await eventually(yard.died) == {box.id}
    assert yard.died() == set()


async def test_a_cancelled_start_leaves_nothing(
    yard: NamespaceYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling a start in its middle, and again, leaves neither a process nor an entry."""
    spawned = asyncio.Event()
    spawn = yard._spawn
    seen: list[processes.Process] = []

    async def watched(*args: object) -> object:
        machine = await spawn(*args)  # type: ignore[arg-type] # passed through
        seen.append(processes.everything()[machine.process.pid])
        spawned.set()
        return machine

    monkeypatch.setattr(yard, "_spawn", watched)
    async with create_task_group() as group:
        group.start_soon(start, yard)
        await spawned.wait()
        group.cancel_scope.cancel()

    assert seen
    assert not seen[0].alive()
    assert not yard._machines


async def test_a_start_that_fails_says_why_and_leaves_nothing(
    yard: NamespaceYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a tool complained about is in the error, and the machine is gone."""
    monkeypatch.setattr(namespace, "mac_of", lambda _: "not-a-mac")

    with pytest.raises(YardError, match=r"could not be started: .*not-a-mac"):
        await start(yard)

    assert not yard._machines


async def test_addresses_are_not_taken_again_soon(yard: NamespaceYard, box: Box) -> None:
    """The machine after one that was ended gets another address."""
    await yard.stop(box.id)

    assert (await start(yard)).address != box.address


async def test_what_the_ssh_server_says_is_on_the_console(
    tmp_path: Path, yard: NamespaceYard
) -> None:
    """The console shows the SSH server's own words."""
    box = await start(yard)
    await box.run("true")

    assert "Accepted publickey for root" in log_path(tmp_path, box.id).read_text()


async def test_ssh_late(yard: NamespaceYard) -> None:
    """A machine with this fault refuses connections until it is released."""
    box = await start(yard, fault="ssh_late")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(box.address, box.port)

    await yard.release_ssh(box.id)

    assert await box.run("echo here") == "here"


async def test_ssh_refuses_key(yard: NamespaceYard) -> None:
    """A machine with this fault speaks SSH and doesn't accept our key."""
    box = await start(yard, fault="ssh_refuses_key")

    with pytest.raises(asyncssh.PermissionDenied):
        await box.connect()


async def test_ssh_hangs(yard: NamespaceYard) -> None:
    """A machine with this fault accepts connections at once and never says a word."""
    box = await start(yard, fault="ssh_hangs")
    reader, writer = await asyncio.open_connection(box.address, box.port)

    said = b"nothing"
    with move_on_after(0.5):
        said = await reader.readline()
    writer.close()

    assert said == b"nothing"


async def test_root_refused(yard: NamespaceYard) -> None:
    """A machine with this fault answers root as stock images do, and lets ``ubuntu`` in."""
    box = await start(yard, fault="root_refused")

    async with await box.connect() as connection:
        process = await connection.create_process("id")
        said = await process.stdout.readline()

    assert said == 'Please login as the user "ubuntu" rather than the user "root".\n'
    assert await box.run("id -un; cd; pwd", "ubuntu") == "ubuntu\n/home/ubuntu"


async def test_two_yards_share_nothing(tmp_path: Path, yard: NamespaceYard, box: Box) -> None:
    """Two yards have different addresses, and one's machines don't reach the other's."""
    other = NamespaceYard(tmp_path / "other")
    (tmp_path / "other").mkdir()
    await other.open()
    try:
        away = await start(other)
        assert not yard._ground.network.overlaps(other._ground.network)

        said = await box.run(f"bash -c '</dev/tcp/{away.address}/22' 2>&1 || true")
    finally:
        await other.aclose()

    assert "unreachable" in said


async def test_who_chooses_the_same_addresses_chooses_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two yards that draw the same addresses at the same moment end with different ones."""
    same = IPv4Network("10.123.124.0/22")
    drawn: list[IPv4Network] = []
    both_drew = asyncio.Event()
    real_range, real_command = namespace_net.free_range, namespace_net.command

    def draw(taken: list[IPv4Network]) -> IPv4Network:
        drawn.append(same if len(drawn) < 2 else real_range([*taken, same]))
        if len(drawn) == 2:
            both_drew.set()
        return drawn[-1]

    async def plug(*argv: str, text: str = "") -> str:
        await both_drew.wait()
        return await real_command(*argv, text=text)

    monkeypatch.setattr(namespace_ground, "free_range", draw)
    monkeypatch.setattr(namespace_ground, "command", plug)
    yards = [NamespaceYard(tmp_path / name) for name in "ab"]
    for name in "ab":
        (tmp_path / name).mkdir()
    try:
        async with create_task_group() as group:
            for yard in yards:
                group.start_soon(yard.open)
        first, second = (yard._ground.network for yard in yards)
        ours = {yard._ground.link for yard in yards}
        routes = [network for link, network in await host_routes() if link in ours]
    finally:
        for yard in yards:
            await yard.aclose()

    assert not first.overlaps(second)
    assert set(filter(lambda network: network.prefixlen == 22, routes)) == {first, second}


async def test_an_open_that_fails_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without addresses a yard says so and ends the process that held its namespaces."""
    before = host()

    def none_left(_: object) -> IPv4Network:
        raise YardError("no range of addresses is left")

    monkeypatch.setattr(namespace_ground, "free_range", none_left)
    yard = NamespaceYard(tmp_path)

    with pytest.raises(YardError, match="no range"):
        await yard.open()

    assert processes.read(yard._ground.holder) is None
    assert yard._ground.link not in links()
    assert host() == before


async def test_twenty_start_together(yard: NamespaceYard) -> None:
    """Twenty machines started at once all answer, each at an address of its own."""
    boxes: list[Box] = []

    async def one() -> None:
        box = await start(yard)
        await box.run("true")
        boxes.append(box)

    with fail_after(20):
        async with create_task_group() as group:
            for _ in range(20):
                group.start_soon(one)

    assert len({IPv4Address(box.address) for box in boxes}) == 20
