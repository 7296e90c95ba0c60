"""One command on many hosts from one process and over two workers: what sharding costs, and where.

    python benchmarks/workers.py --hosts 1000 --rounds 3

Prints one JSON document, and a table of the medians on stderr. Figures are of CPU: `start` of the
workers, `cold` from no connection to the answers of a first command, `warm` a command on all.
`share_parent` and `share_least` are the parts of the parent and of the worker with the least in
cold and warm together. With fewer than six cores the server and the client wait for each other, so
that wall time says nothing of workers: it is not measured then. Everything stays on loopback.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _clients
import _measure
from _script import Script

BASE = "one"  # what ratios refer to
WORKERS = {"one": 0, "two": 2}
ENOUGH_CORES = 6  # for wall time: parent, two workers, and half of them for the server
TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    script = Script(__doc__, WORKERS, rounds=3)
    script.option("--hosts", type=int, default=1000, help="hosts, all in flight at once")
    script.option("--warm", type=int, default=4, help="commands on open connections")
    given = script.parse(sample)
    if given is None:
        return
    from _sshd import job, many_hosts

    with many_hosts() as server:
        samples = _measure.interleaved(
            Path(__file__),
            given.variants,
            given.rounds,
            given.seed,
            job(server, given.hosts, warm=given.warm),
        )
    cores = len(os.sched_getaffinity(0))
    few = {} if cores >= ENOUGH_CORES else {"wall": f"{cores} cores; {ENOUGH_CORES} are needed"}
    document = _measure.account(
        benchmark="workers",
        samples=samples,
        seed=given.seed,
        settings={
            "hosts": given.hosts,
            "rounds": given.rounds,
            "warm": given.warm,
            "command": _clients.COMMAND,
        },
        packages=("precip_async", "asyncssh", "cryptography"),
        skipped=few,
    )
    print(json.dumps(document, indent=1))
    ratios = ["cold_cpu_ms", "warm_cpu_ms", "all_cpu_s"]
    print(_measure.table(document["medians"], BASE, ratios), file=sys.stderr)


def sample(settings: dict[str, Any]) -> _measure.Figures:
    """Be one client, once; its figures."""
    workers = WORKERS[settings.pop("variant")]
    with tempfile.TemporaryDirectory(prefix="precip-bench-") as home:
        return asyncio.run(measured(_clients.Job(home=home, **settings), workers))


async def measured(job: _clients.Job, workers: int) -> dict[str, float]:
    """An experiment as a user writes it, and the CPU of all its processes."""
    from precip_async import HostsExperiment, Limits
    from precip_async.ssh.workers.remote import ShardedRemote

    count, walls = len(job.hosts), {}
    hosts = [f"{job.user}@{host}:{job.port}" for host in job.hosts]
    limits = Limits(ssh_workers=workers)
    async with HostsExperiment(hosts, ssh_key=job.key, home=job.home, limits=limits) as exp:
        await exp.provision(count=count)
        remote = exp._stage.remote  # noqa: SLF001 - to start workers before
        pids = [os.getpid()]
        if isinstance(remote, ShardedRemote):
            for shard in remote._shards:  # noqa: SLF001 - likewise
                await shard.started()
            pids += remote.pids
        before, began = [cpu(pid) for pid in pids], time.perf_counter()
        await exp.wait()
        ran = await exp.run((), _clients.COMMAND, parallel=count)
        between, walls["cold_wall_s"] = [cpu(pid) for pid in pids], time.perf_counter() - began
        for _ in range(job.warm):
            ran = await exp.run((), _clients.COMMAND, parallel=count)
        after, walls["all_wall_s"] = [cpu(pid) for pid in pids], time.perf_counter() - began
    assert [one.stdout.strip() for one in ran.by_instance] == [_clients.ANSWER] * count
    used = [end - start for start, end in zip(before, after, strict=True)]
    figures = {
        "start_cpu_s": sum(before[1:]),
        "cold_cpu_ms": (sum(between) - sum(before)) * 1000 / count,
        "warm_cpu_ms": (sum(after) - sum(between)) * 1000 / count / job.warm,
        "all_cpu_s": sum(used),
        "share_parent": used[0] / sum(used),
        "share_least": min(used[1:], default=used[0]) / sum(used),
    }
    return figures | (walls if len(os.sched_getaffinity(0)) >= ENOUGH_CORES else {})


def cpu(pid: int) -> float:
    """Seconds of CPU that a living process has used."""
    if pid == os.getpid():
        return time.process_time()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


if __name__ == "__main__":
    main()
