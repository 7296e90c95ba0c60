"""What goes to many: read once for all of them, whoever lags behind, and in bounded memory."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import pytest

from precip_async.errors import TransferError
from precip_async.limits import Limits
from precip_async.ssh import source as sources
from precip_async.ssh import tree
from precip_async.ssh.conversation import Conversation
from precip_async.ssh.source import Source
from tests.peers import ChoppyProxy
from tests.polling import eventually
from tests.processes import opened
from tests.ssh.fakes import FakeChannel
from tests.ssh.rig import Rig
from tests.ssh.trees import facts, free, names, plant, small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from tests.servers import OpenSSHServer

MIB = 1024 * 1024
LIMITS = Limits()
SMALL, LARGE = LIMITS.small_file, 9 * MIB  # of the blocks of a large file not all are kept


@pytest.fixture(autouse=True)
def freed(tmp_path: Path) -> Iterator[None]:
    """What a test made can be removed."""
    yield
    free(tmp_path)


@pytest.fixture
def spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    (tmp_path / "spools").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spools"))
    return tmp_path / "spools"


class Taking(FakeChannel):
    """A channel that keeps what is written to it, and after each piece wants a rest."""

    def __init__(self, talk: Conversation, *, rests: bool = False) -> None:
        self.talk, self.rests = talk, rests
        self.taken, self.ended = bytearray(), False
        talk.channel = self

    def write(self, data: bytes | memoryview) -> None:
        """See `Channel.write`."""
        self.taken += data
        if self.rests:
            self.talk.writable(False)

    def write_eof(self) -> None:
        """See `Channel.write_eof`."""
        self.ended = True


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where each read of a large file began."""
    found: list[int] = []
    real = os.pread

    def pread(file: int, size: int, start: int) -> bytes:
        found.append(start)
        return real(file, size, start)

    monkeypatch.setattr(os, "pread", pread)
    return found


# -- one reading for all -------------------------------------------------------------------------


@pytest.mark.sshd
@pytest.mark.parametrize("size", [10, SMALL, SMALL + 1, LARGE])
async def test_a_file_is_for_all_what_it_was_for_the_first(
    rig: Rig, here: Path, there: Path, size: int
) -> None:
    """A file that is replaced meanwhile does not reach the instances in two versions."""
    content = secrets.token_bytes(size)
    (here / "file").write_bytes(content)

    with Source(here / "file", LIMITS, users=2) as source:
        assert await rig.send(source, there / "first") == size
        (here / "file").unlink()
        (here / "file").write_text("another")
        assert await rig.send(source, there / "second") == size

    assert (there / "first").read_bytes() == content
    assert (there / "second").read_bytes() == content


@pytest.mark.in_process
@pytest.mark.sshd
async def test_a_tree_is_packed_once_for_all(
    rig: Rig, here: Path, there: Path, spools: Path
) -> None:
    """What changes in it meanwhile reaches nobody; nothing of the packing is left."""
    (here / "tree").mkdir()
    plant(here / "tree")
    wanted = facts(here / "tree")

    with Source(here / "tree", LIMITS, users=3) as source:
        size = await rig.send(source, there / "first")
        assert names(spools) == []
        shutil.rmtree(here / "tree")
        assert await rig.send(source, there / "second") == size

    assert facts(there / "first") == wanted
    assert facts(there / "second") == wanted
    assert opened(spools) == []


@pytest.mark.in_process
@pytest.mark.sshd
@pytest.mark.parametrize("users", [1, 2])
async def test_a_large_tree_is_packed_for_each(
    rig: Rig, here: Path, there: Path, spools: Path, users: int
) -> None:
    """One that has no room, or only one who wants it, goes without a temporary file."""
    (here / "tree").mkdir()
    plant(here / "tree")

    with Source(here / "tree", Limits(packed_tree=100_000), users=users) as source:
        await rig.send(source, there / "first")
        assert opened(spools) == []
        if users > 1:
            (here / "tree" / "run").write_text("changed")
            await rig.send(source, there / "second")
            assert (there / "second" / "run").read_text() == "changed"

    assert facts(there / "first").keys() == facts(here / "tree").keys()


@pytest.mark.in_process
@pytest.mark.sshd
@pytest.mark.root
async def test_a_tree_goes_to_all_without_room_for_temporary_files(
    rig: Rig, here: Path, there: Path, spools: Path
) -> None:
    """A full disk for temporary files is no reason to fail."""
    (here / "tree").mkdir()
    plant(here / "tree")

    with small_disk(spools, "128k"), Source(here / "tree", LIMITS, users=2) as source:
        await rig.send(source, there / "first")
        await rig.send(source, there / "second")

    for name in ("first", "second"):
        assert facts(there / name) == facts(here / "tree")


@pytest.mark.in_process
@pytest.mark.sshd
async def test_a_tree_goes_to_all_without_a_place_for_temporary_files(
    rig: Rig, here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a missing directory for them."""
    (here / "tree").mkdir()
    plant(here / "tree")
    monkeypatch.setattr(tempfile, "tempdir", str(here / "missing"))

    with Source(here / "tree", LIMITS, users=2) as source:
        await rig.send(source, there / "copy")

    assert facts(there / "copy") == facts(here / "tree")


async def test_those_who_keep_pace_share_each_reading(here: Path, reads: list[int]) -> None:
    """However many take a large file at once, each part of it is read once."""
    data = secrets.token_bytes(LARGE)
    (here / "file").write_bytes(data)
    takers = [Taking(Conversation("")) for _ in range(5)]

    with Source(here / "file", LIMITS, users=5) as source:

        async def take(taker: Taking) -> None:
            async with source.content() as content:
                await content.body.feed(taker.talk)

        async with anyio.create_task_group() as tasks:
            for taker in takers:
                tasks.start_soon(take, taker)

    assert [bytes(taker.taken) for taker in takers] == [data] * 5
    assert reads == list(range(0, LARGE, sources.BLOCK))


async def test_who_lags_behind_reads_on_by_himself(here: Path, reads: list[int]) -> None:
    """The others need not wait for him, nor is what he lacks kept: he gets it all the same."""
    data = secrets.token_bytes(LARGE)
    (here / "file").write_bytes(data)
    slow, quick = Taking(Conversation(""), rests=True), Taking(Conversation(""))

    with Source(here / "file", LIMITS, users=2) as source:

        async def take(taker: Taking) -> None:
            async with source.content() as content:
                await content.body.feed(taker.talk)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, slow)
            await eventually(lambda: slow.taken)
            await take(quick)
            assert len(slow.taken) < sources.BLOCK
            slow.rests = False
            slow.talk.writable(True)

    assert slow.taken == quick.taken == data
    assert len(reads) > LARGE / sources.BLOCK


async def test_who_is_cancelled_while_opening_leaves_it_to_the_next(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who gives up spoils it for nobody; packing stops as soon as nobody wants it."""
    (here / "tree").mkdir()
    packing, real = anyio.Event(), tree.pack

    def endless(_root: Path, out: BinaryIO) -> int:
        anyio.from_thread.run_sync(packing.set)
        while True:
            out.write(b"x")

    async def take() -> None:
        async with source.content():
            pass

    with Source(here / "tree", LIMITS, users=2) as source:
        monkeypatch.setattr(tree, "pack", endless)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await packing.wait()
            tasks.cancel_scope.cancel()
        monkeypatch.setattr(tree, "pack", real)

        async with source.content() as content:
            assert content.is_tree


@pytest.mark.sshd
async def test_what_can_not_be_read_is_so_for_all(rig: Rig, here: Path, there: Path) -> None:
    """Packing that fails is not tried again for each; each hears why."""
    (here / "t").mkdir()
    with (
        Source(here / "t", LIMITS, users=2) as source,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        listener.bind(str(here / "t" / "sock"))
        for _ in range(2):
            with pytest.raises(TransferError, match=r"t/sock is a socket or a device"):
                await rig.send(source, there / "t")
            (here / "t" / "sock").unlink(missing_ok=True)

    assert names(there) == []


@pytest.mark.in_process
@pytest.mark.sshd
async def test_its_last_user_closes_it(rig: Rig, here: Path, there: Path) -> None:
    """A thousand different files for a thousand instances are not all open until the end."""
    (here / "file").write_bytes(bytes(LARGE))

    with Source(here / "file", LIMITS, users=2) as source:
        await rig.send(source, there / "first")
        assert opened(here) == [str(here / "file")]
        await rig.send(source, there / "second")
        assert opened(here) == []


@pytest.mark.sshd
async def test_a_host_that_hangs_keeps_no_other_from_the_same_file(
    server: OpenSSHServer, tmp_path: Path, here: Path, there: Path
) -> None:
    """Not even amid a file that both are sent."""
    (here / "file").write_bytes(bytes(20 * MIB))
    async with (
        ChoppyProxy(server.host, server.port) as slow,
        Rig(server, tmp_path, port=slow.port) as hanging,
        Rig(server, tmp_path) as rig,
    ):
        slow.delay = 0.02
        with Source(here / "file", LIMITS, users=2) as source:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hanging.send, source, there / "slow")
                await eventually(lambda: list(there.glob(".precip.*")))
                slow.freeze()
                with anyio.fail_after(10):
                    await rig.send(source, there / "quick")
                slow.delay = 0
                slow.thaw()

    for name in ("slow", "quick"):
        assert (there / name).stat().st_size == 20 * MIB


# -- memory --------------------------------------------------------------------------------------

# Moves a file to COUNT hosts, then from them, in a process of its own; says by how many KiB its
# memory grew at most.
MOVER = """
import sys
from pathlib import Path

import anyio

from precip_async.limits import Limits
from precip_async.ssh import download, upload
from precip_async.ssh.command import Order
from precip_async.ssh.openssh import AsyncsshConnector, Login
from precip_async.ssh.output import Budget, OutputFiles, run_command
from precip_async.ssh.pool import Pool
from precip_async.ssh.source import Source
from precip_async.ssh.transport import Target

key, host_key, port, user, here, there, count = sys.argv[1:]
limits = Limits()


class Known:
    def known(self, target):
        return (host_key,)


def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


async def main():
    pool = Pool(AsyncsshConnector(Login(keys=(Path(key),)), Known(), limits), limits)
    targets = [
        Target(
            instance_id=f"i-{number}",
            host=f"127.0.1.{1 + number}",
            port=int(port),
            user=user,
            alias=f"i-{number}",
        )
        for number in range(int(count))
    ]

    async def everywhere(move):
        async with anyio.create_task_group() as tasks:
            for target in targets:
                tasks.start_soon(move, target)

    async def put(target):
        order = Order(command="", user=user)
        await upload.put(pool, target, order, limits, source, f"{there}/{target.alias}")

    async def get(target):
        order = Order(command="", user=user)
        path = f"{here}/{target.alias}"
        await download.get(pool, target, order, limits, f"{here}/big", path)

    with Source(Path(here, "small"), limits, users=len(targets)) as source:
        await everywhere(put)  # what connecting and importing cost is not the file's
    before = memory("VmRSS")
    with Source(Path(here, "big"), limits, users=len(targets)) as source:
        await everywhere(put)
    await everywhere(get)
    after = memory("VmHWM")
    await pool.aclose()
    sys.stdout.write(str(after - before))


anyio.run(main)
"""


@pytest.mark.sshd
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_large_file_to_many_costs_little_memory(
    server: OpenSSHServer, tmp_path: Path, here: Path, there: Path
) -> None:
    """64 MiB to twenty hosts and back from them: at most 64 MiB more than before."""
    count, size = 20, 64 * MIB
    assert shutil.disk_usage(tmp_path).free > 4 * count * size, "too little disk for this test"
    (here / "small").write_text("x")
    with (here / "big").open("wb") as big:
        big.write(secrets.token_bytes(MIB) * (size // MIB))

    ran = subprocess.run(
        [
            *(sys.executable, "-c", MOVER),
            *(str(server.client_key_path), server.host_public_key, str(server.port), server.user),
            *(here, there, str(count)),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) <= 64 * 1024
    for place in (here, there):
        assert [path.stat().st_size for path in place.glob("i-*")] == [size] * count


async def test_packing_ends_with_its_scope_however_fast_it_is_taken(tmp_path: Path) -> None:
    """Where there is always room nothing waits, and what waits for nothing is not cancelled."""

    class Greedy(FakeChannel):
        taken = 0

        def write(self, data: bytes | memoryview) -> None:
            self.taken += len(data)
            scope.cancel()

    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "large").write_bytes(bytes(LARGE))
    talk, channel = Conversation("mark"), Greedy()
    talk.channel = channel
    with anyio.CancelScope() as scope, Source(tmp_path / "tree", LIMITS) as source:
        async with source.content() as content:
            await content.body.feed(talk)

    assert scope.cancelled_caught
    assert 0 < channel.taken < MIB
