"""Fleets that boot: how long after the slowest instance all are ready, and what that costs.

    python benchmarks/boot.py --instances 10,1000 --rounds 3 --variants precip_async,boto3

The cloud is the lab's, in a process of its own, with Amazon's limits on calls; its instances boot
in 2 to 20 seconds. Prints one JSON document, and a table of the medians on stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _boots
import _measure
from _lab import fleet
from _script import Script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _measure import Meter

BOOT = "2..20"  # seconds
SMALL = ("libcloud", "2012")  # which take a call or more an instance a round
MOST = 100  # instances of theirs


def main() -> None:
    script = Script(__doc__, _boots.CLIENTS, rounds=3, lacks=_boots.lacks)
    script.option("--instances", default="10,100,1000", help="sizes of fleets")
    given = script.parse(sample)
    if given is None:
        return
    sizes = [int(size) for size in given.instances.split(",")]
    skipped = dict(given.skipped)
    variants = [f"{one} {size}" for size in sizes for one in given.variants]
    for variant in variants:
        name, size = variant.split()
        if name in SMALL and int(size) > MOST:
            skipped[variant] = "it would take many minutes"
            print(f"skipped {variant}: {skipped[variant]}", file=sys.stderr)
    settings = {"boot": BOOT, "seed": given.seed}
    samples = _measure.interleaved(
        Path(__file__),
        [one for one in variants if one not in skipped],
        given.rounds,
        given.seed,
        settings,
    )
    document = _measure.account(
        benchmark="boot",
        samples=samples,
        seed=given.seed,
        settings={**settings, "rounds": given.rounds},
        packages=_boots.PACKAGES,
        skipped=skipped,
    )
    print(json.dumps(document, indent=1))
    print(_measure.table(document["medians"], "", []), file=sys.stderr)


def sample(settings: dict[str, Any]) -> _measure.Figures:
    """Boot one fleet, once; its figures."""
    client, size = settings["variant"].split()
    count, meter = int(size), _measure.Meter()
    scenario = f"boot={settings['boot']} seed={settings['seed']}"
    with tempfile.TemporaryDirectory(prefix="precip-bench-") as home, fleet(scenario) as lab:

        def booted() -> None:
            now = time.monotonic()
            seen = lab.ask("instances")
            last = max(one["ran"] for one in seen)
            meter.figures["slowest_s"] = last - min(one["launched"] for one in seen)
            meter.figures["after_the_last_s"] = now - lab.facts["opened"] - last

        job = _boots.job_for(lab.facts, count, home, booted)
        with watched(meter):
            _boots.CLIENTS[client](job, meter)
        seen, calls = lab.ask("instances"), lab.ask("calls")
    assert len(seen) == count, f"{len(seen)} were launched"
    assert not any(one["alive"] for one in seen), "some are left"
    asked = Counter(call["action"] for call in calls)
    meter.figures |= {
        "launch_calls": asked["RunInstances"],
        "describe_calls": asked["DescribeInstances"],
        "calls": len(calls),
        "throttled": sum(call["code"] == "throttled" for call in calls),
    }
    return meter.finish()


@contextlib.contextmanager
def watched(meter: Meter) -> Iterator[None]:
    """Measure the longest that a callback holds up an event loop, in CPU of its thread.

    `longest_callback_ms`, and `longest_gc_ms`, the longest garbage collection, which is part of
    whatever callback it happens in. Both are 0 where there is no event loop.
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
    meter.figures["longest_gc_ms"] = collected * 1000 if longest else 0.0


if __name__ == "__main__":
    main()
