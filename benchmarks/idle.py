"""What a connection that nobody uses keeps in memory, ours beside its peers.

    python benchmarks/idle.py --hosts 1000 --rounds 3 --variants pool,parallel-ssh

Prints one JSON document, and a table of the medians on stderr. Everything stays on loopback.
`idle_kb` is KiB of resident memory for each open connection, above what was resident when all that
is needed was imported: so what is kept once for all of them is in it, and weighs less with more.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _clients
import _measure
from _script import Script

if TYPE_CHECKING:
    from collections.abc import Callable

    from _clients import Job
    from _measure import Meter

AT_ONCE = 64  # handshakes in flight, for those who leave that to us
BASE = "parallel-ssh"  # what ratios refer to


def _verbs(job: Job, meter: Meter) -> None:
    """An experiment of ours whose hosts are ready."""
    import precip_async.ssh.openssh  # noqa: F401 - experiments import it when they are opened
    from precip_async import HostsExperiment

    async def main() -> None:
        hosts = [f"{job.user}@{host}:{job.port}" for host in job.hosts]
        with meter.kept("idle", per=len(hosts)):
            exp = HostsExperiment(hosts, ssh_key=job.key, home=job.home)
            await exp.__aenter__()
            await exp.provision(count=len(hosts))
            await exp.wait()
        await exp.aclose()

    asyncio.run(main())


def _pool(job: Job, meter: Meter) -> None:
    """The connection pool of ours alone."""
    import anyio

    import precip_async.ssh.openssh  # noqa: F401 - as above
    from precip_async.limits import Limits

    async def main() -> None:
        with meter.kept("idle", per=len(job.hosts)):
            pool, targets = _clients.pool_for(job, Limits(max_connects=AT_ONCE))

            async def one(target: object) -> None:
                async with pool.lease(target):
                    pass

            async with anyio.create_task_group() as tasks:
                for target in targets:
                    tasks.start_soon(one, target)
        assert pool.statistics().idle == len(targets)
        await pool.aclose()

    asyncio.run(main())


def _asyncssh(job: Job, meter: Meter) -> None:
    """The way asyncssh's own examples show."""
    import asyncssh

    async def main() -> None:
        turn = asyncio.Semaphore(AT_ONCE)

        async def connected(host: str) -> asyncssh.SSHClientConnection:
            async with turn:
                return await asyncssh.connect(
                    host, job.port, username=job.user, client_keys=[job.key], known_hosts=None
                )

        with meter.kept("idle", per=len(job.hosts)):
            connections = await asyncio.gather(*map(connected, job.hosts))
        for one in connections:
            one.close()
        await asyncio.gather(*(one.wait_closed() for one in connections))

    asyncio.run(main())


def _parallel_ssh(job: Job, meter: Meter) -> None:
    """parallel-ssh with its native client, on libssh2."""
    from gevent import joinall
    from pssh.clients import ParallelSSHClient

    with meter.kept("idle", per=len(job.hosts)):
        client = ParallelSSHClient(
            job.hosts,
            user=job.user,
            port=job.port,
            pkey=job.key,
            pool_size=AT_ONCE,
            allow_agent=False,
        )
        joinall(client.connect_auth(), raise_error=True)


IDLERS: dict[str, Callable[[Job, Meter], None]] = {
    "precip_async": _verbs,
    "pool": _pool,
    "asyncssh": _asyncssh,
    "parallel-ssh": _parallel_ssh,
}


def main() -> None:
    script = Script(__doc__, IDLERS, rounds=3, lacks=_clients.lacks)
    script.option("--hosts", type=int, default=1000, help="connections, all open at once")
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
            job(server, given.hosts, warm=0),
        )
    document = _measure.account(
        benchmark="idle",
        samples=samples,
        seed=given.seed,
        settings={"hosts": given.hosts, "rounds": given.rounds, "at_once": AT_ONCE},
        packages=_clients.PACKAGES,
        skipped=given.skipped,
    )
    print(json.dumps(document, indent=1))
    print(_measure.table(document["medians"], BASE, ["idle_kb"]), file=sys.stderr)


def sample(settings: dict[str, Any]) -> _measure.Figures:
    """Be one client, once; its figures."""
    variant, meter = settings.pop("variant"), _measure.Meter()
    with tempfile.TemporaryDirectory(prefix="precip-bench-") as home:
        IDLERS[variant](_clients.Job(home=home, **settings), meter)
    return meter.finish()


if __name__ == "__main__":
    main()
