"""One file to many hosts and back from them: what it costs the client, ours beside its peers.

    python benchmarks/transfer.py --cases 1x200,64x20 --rounds 5 --variants precip_async,scp

A case is MiB x hosts. Prints one JSON document, and tables of the medians on stderr. `put_cpu_ms`
is for each host, `put_s_per_gib` for each GiB moved, `put_growth_mb` what memory grew by at most.
Everything stays on loopback.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import _measure
import _movers
from _script import Script

BASE = "parallel-ssh-sftp"  # what ratios refer to
MIB = 1024 * 1024
GIB = 1024 * MIB


def main() -> None:
    script = Script(__doc__, _movers.MOVERS, rounds=3, lacks=_movers.lacks)
    script.option("--cases", default="1x50,64x20", help="MiB x hosts, all in flight at once")
    given = script.parse(sample)
    if given is None:
        return
    from _sshd import many_hosts

    cases = [tuple(map(int, case.split("x"))) for case in given.cases.split(",")]
    documents = []
    with many_hosts() as server:
        for size, hosts in cases:
            samples = _measure.interleaved(
                Path(__file__),
                given.variants,
                given.rounds,
                given.seed,
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
                    seed=given.seed,
                    settings={"mib": size, "hosts": hosts, "rounds": given.rounds},
                    packages=_movers.PACKAGES,
                    skipped=given.skipped,
                )
            )
    print(json.dumps({"benchmark": "transfer", "cases": documents}, indent=1))
    for (size, hosts), document in zip(cases, documents, strict=True):
        print(f"\n{size} MiB, {hosts} hosts", file=sys.stderr)
        ratios = ["put_cpu_ms", "get_cpu_ms"]
        print(_measure.table(document["medians"], BASE, ratios), file=sys.stderr)


def sample(settings: dict[str, Any]) -> _measure.Figures:
    """Be one client, once; its figures."""
    variant, meter = settings.pop("variant"), _measure.Meter()
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
    return figures


if __name__ == "__main__":
    main()
