"""What a connection that nobody uses keeps in memory, ours beside its peers.

    python benchmarks/idle.py --hosts 1000 --rounds 3 --variants pool,parallel-ssh

Prints one JSON document, and a table of the medians on stderr. Everything stays on loopback.
`idle_kb` is KiB of resident memory for each open connection, above what was resident when all that
is needed was imported: so what is kept once for all of them is in it, and weighs less with more.
"""

from __future__ import annotations

import asyncio
import json
import resource
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
    script = Script(__doc__, IDLERS, rounds=3, lacks=_clients.lacks)
    script.option("--hosts", type=int, default=1000, help="connections, all open at once")
    given = script.parse(sample)
    if given is None:
        return
    from _sshd import many_hosts

    with many_hosts() as server:
        samples = _measure.interleaved(
            Path(__file__),
            given.variants,
            given.rounds,
            given.seed,
            {
                "hosts": server.hosts(given.hosts),
                "port": server.port,
                "user": server.user,
                "key": str(server.client_key_path),
                "host_key": server.host_public_key,
                "warm": 0,
            },
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
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    variant, meter = settings.pop("variant"), _measure.Meter()
    with tempfile.TemporaryDirectory(prefix="precip-bench-") as home:
        IDLERS[variant](_clients.Job(home=home, **settings), meter)
    return meter.finish()


if __name__ == "__main__":
    main()
