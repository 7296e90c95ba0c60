"""What a connection that nobody uses costs: it is most of them, most of the time."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.ssh.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from precip_async.ssh.transport import Target
    from tests.servers import OpenSSHServer

pytestmark = [pytest.mark.sshd, pytest.mark.slow, pytest.mark.in_process]

MANY = 60
MOST_BYTES = 8_000  # of Python's memory; asyncssh's own way takes 22,000
MOST_OBJECTS = 40  # that the garbage collector goes through; 70


async def opened(rig: Rig, targets: Sequence[Target]) -> None:
    """Have a connection to each of `targets`."""

    async def one(target: Target) -> None:
        async with rig.pool.lease(target):
            pass

    async with anyio.create_task_group() as tasks:
        for target in targets:
            tasks.start_soon(one, target)


async def test_a_connection_that_is_idle_keeps_little(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """Of memory and of work for the garbage collector, which each connection pays for all."""
    async with Rig(server, tmp_path, fast=True) as rig:  # the public path keeps what asyncssh keeps
        targets = [rig.on(host, n) for n, host in enumerate(server.hosts(2 * MANY))]
        await opened(rig, targets[:MANY])  # also what is made once
        gc.collect()
        objects = len(gc.get_objects())
        tracemalloc.start()
        try:
            await opened(rig, targets[MANY:])
            await anyio.wait_all_tasks_blocked()
            gc.collect()
            kept = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        objects = len(gc.get_objects()) - objects
        assert rig.pool.statistics().idle == 2 * MANY

    assert kept / MANY <= MOST_BYTES
    assert objects / MANY <= MOST_OBJECTS
