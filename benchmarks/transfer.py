"""One file to many hosts and back from them: what it costs the client, ours beside its peers.

    python benchmarks/transfer.py --cases 1x200,64x20 --rounds 5 --variants verbs,scp

A case is MiB x hosts. Prints one JSON document, and tables of the medians on stderr. `put_cpu_ms`
is for each host, `put_s_per_gib` for each GiB moved, `put_growth_mb` what memory grew by at most.
Everything stays on loopback.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import _clients
import _measure
import _movers

BASE = "parallel-ssh-sftp"  # what ratios refer to
MIB = 1024 * 1024
GIB = 1024 * MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", default="1x50,64x20", help="MiB x hosts, all in flight at once")
    parser.add_argument("--rounds", type=int, default=3, help="samples of each variant and case")
    parser.add_argument("--variants", default=",".join(_movers.MOVERS), help="of them, some")
    parser.add_argument("--seed", type=int, default=1, help="of the order within a round")
    parser.add_argument("--sample", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sample:
        sample(json.loads(given.sample))
        return
    wanted = given.variants.split(",")
    if unknown := set(wanted) - set(_movers.MOVERS):
        known = ", ".join(_movers.MOVERS)
        parser.error(f"no such variant: {', '.join(unknown)}; there are {known}")
    cases = [tuple(map(int, case.split("x"))) for case in given.cases.split(",")]
    compare(wanted, cases, rounds=given.rounds, seed=given.seed)


def compare(wanted: list[str], cases: list[tuple[int, ...]], *, rounds: int, seed: int) -> None:
    """Measure, and tell."""
    from _sshd import many_hosts

    lacking = {one: _clients.missing(one, _movers.NEEDS) for one in wanted}
    skipped = {one: f"{lack} is not installed" for one, lack in lacking.items() if lack}
    for variant, why in skipped.items():
        print(f"skipped {variant}: {why} (pip install '.[bench]')", file=sys.stderr)
    variants = [one for one in wanted if one not in skipped]
    documents = []
    with many_hosts() as server:
        for size, hosts in cases:
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
                    "size": size * MIB,
                },
            )
            documents.append(
                _measure.account(
                    benchmark="transfer",
                    samples=samples,
                    seed=seed,
                    settings={"mib": size, "hosts": hosts, "rounds": rounds},
                    packages=_movers.PACKAGES,
                    skipped=skipped,
                )
            )
    print(json.dumps({"benchmark": "transfer", "cases": documents}, indent=1))
    for (size, hosts), document in zip(cases, documents, strict=True):
        print(f"\n{size} MiB, {hosts} hosts", file=sys.stderr)
        ratios = ["put_cpu_ms", "get_cpu_ms"]
        print(_measure.table(document["medians"], BASE, ratios), file=sys.stderr)


def sample(settings: dict[str, Any]) -> None:
    """Be one client, once; print its figures."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    variant = settings.pop("variant")
    meter = _measure.Meter()
    with tempfile.TemporaryDirectory(prefix="precip-bench-") as directory:
        places = {name: f"{directory}/{name}" for name in ("there", "here", "home")}
        for place in places.values():
            Path(place).mkdir(mode=0o700)
        source = Path(directory, "source")
        content = bytes(MIB)
        with source.open("wb") as file:
            for _ in range(settings["size"] // MIB):
                file.write(content)
        _movers.MOVERS[variant](_movers.Job(source=str(source), **places, **settings), meter)
    figures = meter.finish()
    for way in ("put", "get"):
        figures[f"{way}_s_per_gib"] = figures[f"{way}_cpu_ms"] / 1000 / (settings["size"] / GIB)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
