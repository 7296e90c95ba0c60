"""One command on many hosts at once: what it costs the client, ours beside its peers.

    python benchmarks/fan_out.py --hosts 200 --rounds 5 --variants precip_async,parallel-ssh

Prints one JSON document, and a table of the medians on stderr. Everything stays on loopback.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import _clients
import _measure
from _script import Script

BASE = "parallel-ssh"  # what ratios refer to


def main() -> None:
    script = Script(__doc__, _clients.CLIENTS, rounds=5, lacks=_clients.lacks)
    script.option("--hosts", type=int, default=200, help="hosts, all in flight at once")
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
    document = _measure.account(
        benchmark="fan_out",
        samples=samples,
        seed=given.seed,
        settings={
            "hosts": given.hosts,
            "rounds": given.rounds,
            "warm": given.warm,
            **_clients.SETTINGS,
        },
        packages=_clients.PACKAGES,
        skipped=given.skipped,
    )
    print(json.dumps(document, indent=1))
    print(
        _measure.table(document["medians"], BASE, ["cold_cpu_ms", "warm_cpu_ms"]), file=sys.stderr
    )


def sample(settings: dict[str, Any]) -> _measure.Figures:
    """Be one client, once; its figures."""
    variant, meter = settings.pop("variant"), _measure.Meter()
    with tempfile.TemporaryDirectory(prefix="precip-bench-") as home:
        _clients.CLIENTS[variant](_clients.Job(home=home, **settings), meter)
    return meter.finish()


if __name__ == "__main__":
    main()
