"""Transfers that break: what was there stays as it was, and nothing half-done is left."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from precip_async.errors import ConnectionLost, TransferError
from precip_async.limits import Limits
from tests.peers import ChoppyProxy
from tests.polling import eventually
from tests.servers import OpenSSHServer
from tests.ssh.rig import Rig
from tests.ssh.trees import names, small_disk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.sshd

MIB = 1024 * 1024
LIMITS = Limits(kill_grace=0.5, drain_grace=0.2, keepalive=0.2, keepalive_count=2, close_grace=2)

ways = pytest.mark.parametrize("way", ["put", "get"])
kinds = pytest.mark.parametrize("kind", ["file", "tree"])


class Move:
    """One transfer of something large, over something small that is there already."""

    def __init__(self, here: Path, there: Path, way: str, kind: str, size: int = 20 * MIB) -> None:
        self.way, self.kind = way, kind
        source, self.target = (here, there) if way == "put" else (there, here)
        self.source, self.old = source / "new", self.target / "new"
        if kind == "tree":
            self.source.mkdir()
            (self.source / "a").write_text("new")
            (self.source / "z").write_bytes(b"x" * size)
            self.old.mkdir()
            (self.old / "a").write_text("old")
        else:
            self.source.write_bytes(b"x" * size)
            self.old.write_text("old")

    async def go(self, rig: Rig, **settings: Any) -> None:
        """Move it."""
        if self.way == "put":
            await rig.put(self.source, f"{self.target}/", **settings)
        else:
            await rig.get(self.source, f"{self.target}/", **settings)

    def under_way(self) -> list[Path]:
        """The temporary files of it, once some of it has come."""
        found = list(self.target.glob(".precip.*"))
        for path in found if self.way == "put" else [place / "content" for place in found]:
            if not path.exists() or not (names(path) if path.is_dir() else path.stat().st_size):
                return []
        return found

    def untouched(self) -> bool:
        """Whether the target is as it was, and nothing is beside it."""
        if names(self.target) != ["new"]:
            return False
        if self.kind == "tree":
            return names(self.old) == ["a"] and (self.old / "a").read_text() == "old"
        return self.old.read_text() == "old"


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[OpenSSHServer]:
    """A server that may be harmed."""
    async with OpenSSHServer(tmp_path) as server:
        yield server


@contextlib.asynccontextmanager
async def over_a_network(
    own: OpenSSHServer, directory: Path, limits: Limits = LIMITS
) -> AsyncIterator[tuple[Rig, ChoppyProxy]]:
    """A connected pool, over a network in between that can be made slow, and cut."""
    async with (
        ChoppyProxy(own.host, own.port) as slow,
        Rig(own, directory, limits=limits, port=slow.port) as rig,
    ):
        await rig.out("true")
        slow.delay = 0.02
        yield rig, slow


async def losing(move: Move, rig: Rig) -> None:
    """Do `move`, which is to lose its connection."""
    with anyio.fail_after(20), pytest.raises(ConnectionLost):
        await move.go(rig)


@ways
@kinds
async def test_a_connection_that_is_cut_leaves_all_as_it_was(
    own: OpenSSHServer, tmp_path: Path, here: Path, there: Path, way: str, kind: str
) -> None:
    """Here at once, there by the next connection at the latest."""
    move = Move(here, there, way, kind)
    async with over_a_network(own, tmp_path) as (rig, slow):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(losing, move, rig)
            await eventually(move.under_way)
            slow.cut()
        if way == "get":
            assert move.untouched()

        slow.delay = 0
        await rig.out("true")
        assert move.untouched()


@ways
async def test_a_peer_that_freezes_leaves_all_as_it_was(
    own: OpenSSHServer, tmp_path: Path, here: Path, there: Path, way: str
) -> None:
    """Whoever waits for input that never comes is ended by the next connection."""
    move = Move(here, there, way, "file")
    async with over_a_network(own, tmp_path) as (rig, slow):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(losing, move, rig)
            await eventually(move.under_way)
            slow.freeze()

        slow.delay = 0
        slow.thaw()
        await rig.out("true")
        assert move.untouched()
        assert not [process for process in own.commands() if process.name in ("cat", "tar")]


@ways
@kinds
async def test_a_transfer_that_is_cancelled_leaves_all_as_it_was(
    own: OpenSSHServer, tmp_path: Path, here: Path, there: Path, way: str, kind: str
) -> None:
    """When the scope is left, neither file nor process of it is left on either side."""
    move = Move(here, there, way, kind)
    async with over_a_network(own, tmp_path) as (rig, _):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(move.go, rig)
            await eventually(move.under_way)
            tasks.cancel_scope.cancel()

        assert move.untouched()
        assert not own.commands()


@pytest.mark.parametrize(("way", "kind"), [("put", "file"), ("get", "tree")])
async def test_a_transfer_that_takes_too_long_leaves_all_as_it_was(
    own: OpenSSHServer, tmp_path: Path, here: Path, there: Path, way: str, kind: str
) -> None:
    """The sentence names the limit."""
    move = Move(here, there, way, kind)
    async with over_a_network(own, tmp_path) as (rig, _):
        with pytest.raises(TransferError, match=r"not done within 0.3 s"):
            await move.go(rig, timeout=0.3)

        assert move.untouched()
        assert not own.commands()


async def test_who_is_ended_cleans_up_in_peace(
    own: OpenSSHServer, tmp_path: Path, here: Path, there: Path
) -> None:
    """Removing what is temporary may take its time; it is not ended like the rest."""
    (tmp_path / "bin").mkdir()
    slow = tmp_path / "bin" / "rm"
    slow.write_text('#!/bin/sh\nsleep 0.5\nexec /bin/rm "$@"\n')
    slow.chmod(0o755)
    (own.home / ".bashrc").write_text(f"PATH={slow.parent}:$PATH\n")
    move = Move(here, there, "put", "file")
    async with over_a_network(own, tmp_path, replace(LIMITS, kill_grace=5)) as (rig, _):
        with pytest.raises(TransferError, match="not done within"):
            await move.go(rig, timeout=0.3)

        assert move.untouched()
        assert not own.commands()


@ways
async def test_a_host_that_hangs_keeps_no_other_waiting(
    own: OpenSSHServer, tmp_path: Path, here: Path, there: Path, way: str
) -> None:
    """A transfer that goes no further holds no thread that others need."""
    move = Move(here, there, way, "tree")
    (here / "other").write_text("x")
    anyio.to_thread.current_default_thread_limiter().total_tokens = 1
    async with (
        over_a_network(own, tmp_path, Limits()) as (hanging, slow),
        Rig(own, tmp_path) as rig,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(move.go, hanging)
        await eventually(move.under_way)
        slow.freeze()
        with anyio.fail_after(10):
            await rig.put(here / "other", there / "other")
            await rig.get(there / "other", here / "back")
        slow.delay = 0
        slow.thaw()
        tasks.cancel_scope.cancel()


@pytest.mark.root
@ways
@kinds
async def test_a_full_disk_leaves_all_as_it_was(
    own: OpenSSHServer, tmp_path: Path, here: Path, there: Path, way: str, kind: str
) -> None:
    """On either side: the sentence says so, the old file is whole, and of the new one no part."""
    with small_disk(there if way == "put" else here, "4m"):
        move = Move(here, there, way, kind, size=8 * MIB)
        async with Rig(own, tmp_path, limits=LIMITS) as rig:
            with pytest.raises(TransferError, match="No space left on device"):
                await move.go(rig)

        assert move.untouched()
        assert not own.commands()


async def test_output_that_can_not_be_written_here_ends_the_command(
    own: OpenSSHServer, tmp_path: Path
) -> None:
    """A command whose output has no place is ended, and the sentence says where it should go."""
    (tmp_path / "spill.stdout").mkdir()
    async with Rig(own, tmp_path, limits=LIMITS) as rig:
        with pytest.raises(TransferError, match=r"output can't be written to .*spill.stdout"):
            await rig.run("head -c 30000000 /dev/zero; sleep 60")

        assert not own.commands()
        assert await rig.out("echo again") == "again"
        assert rig.connector.attempts == 1


@ways
async def test_a_source_that_shrinks_is_not_taken_for_whole(
    own: OpenSSHServer, tmp_path: Path, here: Path, there: Path, way: str
) -> None:
    """What was announced and did not come is missed, in either direction."""
    move = Move(here, there, way, "file")
    errors: list[TransferError] = []

    async def go() -> None:
        with pytest.raises(TransferError) as caught:
            await move.go(rig)
        errors.append(caught.value)

    async with over_a_network(own, tmp_path) as (rig, slow), anyio.create_task_group() as tasks:
        tasks.start_soon(go)
        await eventually(move.under_way)
        os.truncate(move.source, 100_000)
        slow.delay = 0

    assert ("in part" if way == "put" else "and no more") in str(errors[0])
    assert move.untouched()


async def test_a_file_that_can_not_be_read_there_is_named(rig: Rig, here: Path) -> None:
    """What the instance says of it is in the sentence, and no empty file is left here."""
    with pytest.raises(TransferError, match=r"/proc/self/mem: .*(cat|can't be read).*"):
        await rig.get("/proc/self/mem", here / "mem")

    assert names(here) == []


async def test_an_instance_without_tar_is_told(tmp_path: Path, here: Path, there: Path) -> None:
    """A tree needs tar on the instance; the sentence says so."""
    (here / "t").mkdir()
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "cat", "dirname", "mktemp", "rm", "mv", "mkdir", "bash", "chmod"):
        (tmp_path / "bin" / tool).symlink_to(f"/bin/{tool}")
    bare = [f'SetEnv "PATH={tmp_path / "bin"}"']
    async with OpenSSHServer(tmp_path, extra_config=bare) as server, Rig(server, tmp_path) as rig:
        (server.home / ".bashrc").write_text(f"PATH={tmp_path / 'bin'}\n")
        with pytest.raises(TransferError, match="no tar on the instance"):
            await rig.put(here / "t", there / "t")
        with pytest.raises(TransferError, match="no tar on the instance"):
            await rig.get(there, here / "got")

    assert names(there) == []
    assert names(here) == ["t"]
