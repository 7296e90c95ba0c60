"""One command on many hosts at once: what it costs the client, ours beside its peers.

    python benchmarks/fan_out.py --hosts 200 --rounds 5 --variants verbs,parallel-ssh

Prints one JSON document, and a table of the medians on stderr. Everything stays on loopback.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path

import _clients
import _measure

BASE = "parallel-ssh"  # what ratios refer to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=200, help="hosts, all in flight at once")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each variant")
    parser.add_argument("--warm", type=int, default=4, help="commands on open connections")
    parser.add_argument("--variants", default=",".join(_clients.CLIENTS), help="of them, some")
    parser.add_argument("--seed", type=int, default=1, help="of the order within a round")
    parser.add_argument("--sample", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sample:
        sample(json.loads(given.sample))
        return
    wanted = given.variants.split(",")
    if unknown := set(wanted) - set(_clients.CLIENTS):
        known = ", ".join(_clients.CLIENTS)
        parser.error(f"no such variant: {', '.join(unknown)}; there are {known}")
    compare(wanted, hosts=given.hosts, rounds=given.rounds, warm=given.warm, seed=given.seed)


def compare(wanted: list[str], *, hosts: int, rounds: int, warm: int, seed: int) -> None:
    """Measure, and tell."""
    from _sshd import many_hosts

    skipped = {one: f"{lack} is not installed" for one in wanted if (lack := _clients.missing(one))}
    for variant, why in skipped.items():
        print(f"skipped {variant}: {why} (pip install '.[bench]')", file=sys.stderr)
    variants = [one for one in wanted if one not in skipped]
    with many_hosts() as server:
        samples = _measure.interleaved(
            Path(__file__),
            variants,
            rounds,
            seed,
            {
                "hosts": server.hosts(hosts),
                "port": server.port,
                "user": server.user,
                "key": str(server.client_key_path),
                "host_key": server.host_public_key,
                "warm": warm,
            },
        )
    document = _measure.account(
        benchmark="fan_out",
        samples=samples,
        seed=seed,
        settings={"hosts": hosts, "rounds": rounds, "warm": warm, "command": _clients.COMMAND},
        packages=_clients.PACKAGES,
        skipped=skipped,
    )
    print(json.dumps(document, indent=1))
    print(
        _measure.table(document["medians"], BASE, ["cold_cpu_ms", "warm_cpu_ms"]), file=sys.stderr
    )


def sample(settings: dict) -> None:
    """Be one client, once; print its figures."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    variant = settings.pop("variant")
    meter = _measure.Meter()
    with tempfile.TemporaryDirectory(prefix="precip-bench-") as home:
        _clients.CLIENTS[variant](_clients.Job(home=home, **settings), meter)
    print(json.dumps(meter.finish()))


if __name__ == "__main__":
    main()
