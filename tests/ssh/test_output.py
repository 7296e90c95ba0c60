"""What becomes of output: its head in memory, all of it on disk, never more than was allowed."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from precip_async.limits import Limits
from precip_async.ssh.output import Budget, OutputFiles
from tests.polling import eventually
from tests.ssh.rig import Rig
from tests.ssh.trees import names

if TYPE_CHECKING:
    from tests.servers import OpenSSHServer

pytestmark = pytest.mark.sshd

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


async def test_what_fits_is_kept_in_memory_only(rig: Rig, tmp_path: Path) -> None:
    """No file is made for output within the limit."""
    result = await rig.run("head -c 100000 /dev/zero")

    assert result.stdout_bytes == bytes(100_000)
    assert (result.stdout_path, result.stderr_path) == (None, None)
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 3 * MIB])
async def test_what_outgrows_its_limit_is_whole_on_disk(
    server: OpenSSHServer, tmp_path: Path, size: int
) -> None:
    """The head stays in memory, the file has it all, and the result says where; by stream."""
    content = os.urandom(size)
    async with Rig(server, tmp_path, limits=Limits(output_limit=64 * KIB)) as rig:
        result = await rig.run("cat; echo few >&2", stdin=content)

    assert result.stdout_bytes == content[: 64 * KIB]
    assert result.stderr == "few\n"
    assert result.stderr_path is None
    if size <= 64 * KIB:
        assert result.stdout_path is None
    else:
        assert result.stdout_path == tmp_path / "spill.stdout"
        assert result.stdout_path.read_bytes() == content


@pytest.mark.in_process
async def test_a_fan_out_shares_what_it_may_keep(server: OpenSSHServer, tmp_path: Path) -> None:
    """Once all of it is taken, output goes to files, whatever each command could still keep."""
    budget = Budget(150_000)
    async with Rig(server, tmp_path) as rig:
        results = [
            await rig.run(
                "head -c 100000 /dev/zero",
                budget=budget,
                files=OutputFiles(tmp_path / f"spill{number}", always=False),
            )
            for number in range(3)
        ]

    assert [len(result.stdout_bytes) for result in results] == [100_000, 50_000, 0]
    assert results[0].stdout_path is None
    for result in results[1:]:
        assert result.stdout_path is not None
        assert result.stdout_path.read_bytes() == bytes(100_000)


async def test_named_files_get_all_output_and_memory_none(rig: Rig, tmp_path: Path) -> None:
    """Both files are there, also of a stream that says nothing."""
    files = OutputFiles(tmp_path / "a.b", always=True)

    result = await rig.run("echo one; echo two", files=files)

    assert (result.stdout_bytes, result.stderr_bytes) == (b"", b"")
    assert result.stdout_path == tmp_path / "a.b.stdout"
    assert result.stderr_path == tmp_path / "a.b.stderr"
    assert result.stdout_path.read_text() == "one\ntwo\n"
    assert result.stderr_path.read_bytes() == b""


async def test_output_on_disk_is_there_while_the_command_runs(rig: Rig, tmp_path: Path) -> None:
    """A long run can be watched by `tail -f`."""
    path = tmp_path / "log.stdout"
    files = OutputFiles(tmp_path / "log", always=True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(rig.run, "echo begun; sleep 60", files=files))
        await eventually(lambda: path.exists() and path.read_text() == "begun\n")
        tasks.cancel_scope.cancel()


async def test_a_slow_listener_holds_the_command_back(rig: Rig) -> None:
    """Who is shown output is not flooded: what is not dealt with yet stays at the instance."""
    shown: list[int] = []

    def listen(_stream: str, text: str) -> None:
        shown.append(len(text))

    result = await rig.run("head -c 20000000 /dev/zero", listener=listen)

    assert sum(shown) == 20_000_000
    assert max(shown) < 3 * MIB
    assert result.exit_code == 0


# What a child process does by itself, so that its memory is the run's and no test's.
HOG = """
import hashlib, resource, sys
from pathlib import Path

import anyio

from precip_async.limits import Limits
from precip_async.ssh.command import Order
from precip_async.ssh.openssh import AsyncsshConnector, Login
from precip_async.ssh.output import Budget, OutputFiles, run_command
from precip_async.ssh.pool import Pool
from precip_async.ssh.transport import Target

key, host_key, port, user, spill, count, size, limit, total = sys.argv[1:]
count, size = int(count), int(size)
limits = Limits(output_limit=int(limit), output_total=int(total))


class Known:
    def known(self, target):
        return (host_key,)


async def main():
    pool = Pool(AsyncsshConnector(Login(keys=(Path(key),)), Known(), limits), limits)
    budget = Budget(limits.output_total)
    results = {}

    async def one(number, size=size):
        name = f"i-{number}"
        host = f"127.0.1.{1 + number}"
        target = Target(instance_id=name, host=host, port=int(port), user=user, alias=name)
        results[number] = await run_command(
            pool,
            target,
            Order(command=f"head -c {size} /dev/zero", user=user),
            limits,
            index=number,
            budget=budget,
            files=OutputFiles(Path(spill) / name, always=False),
        )

    await one(count, 1000)  # what connecting and importing cost is not the output's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.clear()
    budget.left = limits.output_total
    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(one, number)
    await pool.aclose()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(f"{before} {after}\\n")
    for number in range(count):
        result = results[number]
        sys.stdout.write(f"{result.exit_code} {len(result.stdout_bytes)} {result.stdout_path}\\n")


anyio.run(main)
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("count", "size", "limit", "total"),
    [(1, GIB, 16 * MIB, GIB), (20, 256 * MIB, 4 * MIB, 40 * MIB)],
    ids=["one", "twenty"],
)
def test_huge_output_stays_within_its_bounds(
    server: OpenSSHServer, tmp_path: Path, count: int, size: int, limit: int, total: int
) -> None:
    """A GiB of one host, or of many at once: whole on disk, and in memory what was allowed."""
    assert shutil.disk_usage(tmp_path).free > 2 * count * size, "too little disk for this test"
    facts = (tmp_path, count, size, limit, total)

    ran = subprocess.run(
        [
            *(sys.executable, "-c", HOG),
            *(str(server.client_key_path), server.host_public_key, str(server.port), server.user),
            *map(str, facts),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    memory, *lines = ran.stdout.splitlines()
    before, after = map(int, memory.split())
    kept = 0
    for line in lines:
        exit_code, head, path = line.split()
        kept += int(head)
        assert exit_code == "0"
        assert int(head) <= limit
        with Path(path).open("rb") as whole:
            assert hashlib.file_digest(whole, "sha256").hexdigest() == zeros(size)
        Path(path).unlink()
    assert len(lines) == count
    assert kept == min(count * limit, total)
    assert (after - before) * KIB <= kept + 64 * MIB, f"{before} {after} {kept}"


@functools.cache
def zeros(size: int) -> str:
    """The digest of so many zeros."""
    digest = hashlib.sha256()
    for _ in range(size // MIB):
        digest.update(bytes(MIB))
    return digest.hexdigest()
