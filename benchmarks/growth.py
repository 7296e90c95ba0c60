"""How cost grows with a fleet: CPU and memory for each host, of ever more of them.

    python benchmarks/growth.py --hosts 50,200,1000,4000 --rounds 3

As a user works: the limits are as shipped, and the fleet stays connected. The server is a light one
that plays all hosts, so that thousands fit beside their client on one machine; what it takes is not
counted. Prints one JSON document, and a table of the medians on stderr.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import _measure
from _crowd import crowd
from _script import Script

COMMAND = "echo hi"
WATCHED = ("silent", "observed", "idle")  # by nobody, by an observer of every event; see `sample`
RESTS = 5  # seconds
KIB = 1024


def main() -> None:
    script = Script(__doc__, WATCHED, rounds=3)
    script.option("--hosts", default="50,200,1000,4000", help="sizes of fleets")
    script.option("--warm", type=int, default=2, help="commands on open connections")
    given = script.parse(sample)
    if given is None:
        return
    variants = [f"{one} {size}" for size in given.hosts.split(",") for one in given.variants]
    with crowd() as server:
        most = max(map(int, given.hosts.split(",")))
        settings = {"warm": given.warm, "hosts": server.hosts(most), "key": server.facts["key"]}
        samples = _measure.interleaved(Path(__file__), variants, given.rounds, given.seed, settings)
    document = _measure.account(
        benchmark="growth",
        samples=samples,
        seed=given.seed,
        settings={"rounds": given.rounds, "warm": given.warm, "command": COMMAND},
        packages=("precip_async", "asyncssh", "anyio", "cryptography"),
        skipped=given.skipped,
    )
    print(json.dumps(document, indent=1))
    print(_measure.table(document["medians"], "", []), file=sys.stderr)


def sample(settings: dict[str, Any]) -> _measure.Figures:
    """Work on one fleet, once; the figures, each for a host."""
    from precip_async import HostsExperiment, Limits

    watched, size = settings["variant"].split()
    count, meter = int(size), _measure.Meter()
    seen: list[object] = []

    async def main() -> None:
        given: dict[str, Any] = {"ssh_key": settings["key"], "parallel": True}
        if watched == "observed":
            given["observer"] = seen.append
        if watched == "idle":
            given["limits"] = Limits(keepalive=1)
        with tempfile.TemporaryDirectory(prefix="precip-bench-") as home:
            exp = HostsExperiment(settings["hosts"][:count], home=home, **given)
            await exp.open()
            gc.collect()
            before = _measure.memory()
            with meter.phase("wait", per=count):
                await exp.provision(count=count)
                await exp.wait(timeout=None)
            if watched == "idle":
                with meter.phase("keepalive", per=count * RESTS):
                    await asyncio.sleep(RESTS)
                await exp.aclose()
                return
            seen.clear()
            gc.collect()
            meter.figures["kib_a_host"] = (_measure.memory() - before) * KIB / count
            with meter.phase("run", per=count * settings["warm"]):
                for _ in range(settings["warm"]):
                    ran = await exp.run((), COMMAND)
            assert ran[1] == ["hi\n"] * count
            with meter.phase("close", per=count):
                await exp.aclose()

    # `idle` sees what a connection costs that nobody uses: its peer is asked whether it lives, here
    # every second.
    asyncio.run(main())
    return meter.finish()


if __name__ == "__main__":
    main()
