"""Fleets that boot: how long after the slowest instance `wait` returns, and what it costs.

    python benchmarks/boot.py --instances 1000 --rounds 3

The cloud is the lab's, in a process of its own, with Amazon's limits on calls; its instances boot
in 2 to 20 seconds. Prints one JSON document, and a table of the medians on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import _measure
from _lab import Lab, fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _measure import Meter

BOOT = "2..20"  # seconds
IMAGE = "ami-0abcdef1234567890"
PACKAGES = ("precip_async", "aioboto3", "aiobotocore", "asyncssh", "anyio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--instances", default="10,100,1000", help="sizes of fleets")
    parser.add_argument("--rounds", type=int, default=3, help="samples of each")
    parser.add_argument("--seed", type=int, default=1, help="of boots, and of the order")
    parser.add_argument("--sample", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sample:
        sample(json.loads(given.sample))
        return
    sizes = [int(size) for size in given.instances.split(",")]
    settings = {"boot": BOOT, "seed": given.seed}
    samples = _measure.interleaved(
        Path(__file__),
        [f"precip_async {size}" for size in sizes],
        given.rounds,
        given.seed,
        settings,
    )
    document = _measure.account(
        benchmark="boot",
        samples=samples,
        seed=given.seed,
        settings={**settings, "rounds": given.rounds},
        packages=PACKAGES,
        skipped={},
    )
    print(json.dumps(document, indent=1))
    print(_measure.table(document["medians"], "", []), file=sys.stderr)


def sample(settings: dict) -> None:
    """Boot one fleet, once; print its figures."""
    count = int(settings["variant"].split()[1])
    meter = _measure.Meter()
    # The lab draws by its seed: each round meets other boots.
    scenario = f"boot={settings['boot']} seed={settings['seed']}"
    with tempfile.TemporaryDirectory(prefix="precip-bench-") as home, fleet(scenario) as lab:
        asyncio.run(experiment(lab, count, home, meter))
        seen, calls = lab.ask("instances"), lab.ask("calls")
    assert len(seen) == count, f"{len(seen)} were launched"
    assert not any(one["alive"] for one in seen), "some are left"
    asked = Counter(call["action"] for call in calls)
    rounds = [call["at"] for call in calls if call["action"] == "DescribeInstances"]
    meter.figures |= {
        "launch_calls": asked["RunInstances"],
        "describe_calls": asked["DescribeInstances"],
        "describes_a_s": len(rounds) / max(1.0, rounds[-1] - rounds[0]),
        "calls": len(calls),
        "throttled": sum(call["code"] == "throttled" for call in calls),
    }
    print(json.dumps(meter.finish()))


async def experiment(lab: Lab, count: int, home: str, meter: Meter) -> None:
    """Provision, wait, end; as a user would, and look at the loop meanwhile."""
    from precip_async import EC2Experiment

    facts = lab.facts
    with watched(meter):
        async with EC2Experiment(
            facts["region"],
            facts["endpoint"],
            facts["access_key"],
            facts["secret_key"],
            home=home,
            ssh_port=facts["ssh_port"],
        ) as exp:
            with meter.phase("provision", per=count):
                await exp.provision(IMAGE, count=count)
            with meter.phase("wait", per=count):
                await exp.wait()
            returned = time.monotonic()
            seen = await asyncio.to_thread(lab.ask, "instances")
            last = facts["opened"] + max(one["ran"] for one in seen)
            meter.figures["after_the_last_s"] = returned - last
            began = time.perf_counter()
        meter.figures["close_wall_s"] = time.perf_counter() - began


@contextlib.contextmanager
def watched(meter: Meter) -> Iterator[None]:
    """Measure the longest that a callback holds up the loop, in CPU of its thread.

    `longest_callback_ms`, and `longest_gc_ms`, the longest full garbage collection, which is part
    of whatever callback it happens in.
    """
    longest = collected = since = 0.0
    run = asyncio.Handle._run  # noqa: SLF001 - the one place that every callback passes through

    def timed(handle: asyncio.Handle) -> None:
        nonlocal longest
        began = time.thread_time()
        run(handle)
        longest = max(longest, time.thread_time() - began)

    def collecting(phase: str, _: dict) -> None:
        nonlocal collected, since
        if phase == "start":
            since = time.thread_time()
        else:
            collected = max(collected, time.thread_time() - since)

    asyncio.Handle._run = timed  # noqa: SLF001 - likewise
    gc.callbacks.append(collecting)
    try:
        yield
    finally:
        asyncio.Handle._run = run  # noqa: SLF001 - likewise
        gc.callbacks.remove(collecting)
    meter.figures["longest_callback_ms"] = longest * 1000
    meter.figures["longest_gc_ms"] = collected * 1000


if __name__ == "__main__":
    main()
