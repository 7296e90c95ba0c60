"""The manual's Hello World, from its first line to its last: what a whole experiment takes.

    python benchmarks/experiment.py --instances 1,10,50 --rounds 3

On the lab's cloud, whose instances boot at once, by the blocking twin of `precip_async` and call by
call as precip 0.3 did; and on this machine, by `LocalExperiment`. Prints one JSON document, and a
table of the medians on stderr.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _boots
import _measure
from _lab import fleet
from _script import Script

if TYPE_CHECKING:
    from collections.abc import Callable

    from _boots import Job

COMMAND = "echo 'Hello world from a experiment instance'"


def main() -> None:
    script = Script(__doc__, LIVES, rounds=3, lacks=_boots.lacks)
    script.option("--instances", default="1,10,50", help="numbers of them")
    given = script.parse(sample)
    if given is None:
        return
    variants = [f"{one} {size}" for size in given.instances.split(",") for one in given.variants]
    samples = _measure.interleaved(Path(__file__), variants, given.rounds, given.seed, {})
    document = _measure.account(
        benchmark="experiment",
        samples=samples,
        seed=given.seed,
        settings={"rounds": given.rounds, "command": COMMAND},
        packages=_boots.PACKAGES,
        skipped=given.skipped,
    )
    print(json.dumps(document, indent=1))
    print(_measure.table(document["medians"], "", []), file=sys.stderr)


def sample(settings: dict[str, Any]) -> _measure.Figures:
    """Live one life, once; its figures."""
    life, size = settings["variant"].split()
    count, meter = int(size), _measure.Meter()
    with tempfile.TemporaryDirectory(prefix="precip-bench-") as home, fleet("") as lab:
        job = _boots.job_for(lab.facts, count, home, booted=bool)
        with meter.phase("life", per=count):
            LIVES[life](job)
        seen, calls = lab.ask("instances"), lab.ask("calls")
    assert not any(one["alive"] for one in seen), "some are left"
    meter.figures["calls"] = len(calls)
    return meter.finish()


def _on_cloud(job: Job, parallel: bool) -> None:
    from precip_async.sync import EC2Experiment

    facts = job.facts
    exp = EC2Experiment(
        facts["region"],
        facts["endpoint"],
        facts["access_key"],
        facts["secret_key"],
        home=job.home,
        ssh_port=facts["ssh_port"],
        quiet=True,
    )
    try:
        exp.provision(_boots.IMAGE, count=job.count, tags=["test1"])
        exp.wait()
        exp.list()
        assert exp.run(["test1"], COMMAND, parallel=parallel)[0] == [0] * job.count
    finally:
        exp.deprovision()
        exp.close()


def _locally(job: Job) -> None:
    from precip_async.sync import LocalExperiment

    with LocalExperiment(home=job.home, quiet=True) as exp:
        exp.provision(count=job.count, tags=["test1"])
        exp.wait()
        exp.list()
        assert exp.run(["test1"], COMMAND)[0] == [0] * job.count


def _as_in_2012(job: Job) -> None:
    client = _boots.vendor(job)
    addresses = _boots.as_in_2012(client, job)
    assert all(_boots.runs(job, address, COMMAND) for address in addresses.values())
    for one in addresses:
        client.terminate_instances(InstanceIds=[one])


LIVES: dict[str, Callable[[Job], None]] = {
    "serial": lambda job: _on_cloud(job, parallel=False),
    "parallel": lambda job: _on_cloud(job, parallel=True),
    "local": _locally,
    "2012": _as_in_2012,
}

if __name__ == "__main__":
    main()
