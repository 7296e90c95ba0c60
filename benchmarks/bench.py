"""The short set of benchmarks, or the full one: run, written down, and drawn.

    python benchmarks/bench.py          # at most six minutes on two idle cores
    python benchmarks/bench.py --full   # an hour
    python benchmarks/bench.py --only fan_out-50,growth

Each scenario's document goes to `benchmarks/results/<name>.json`; then `charts.py` draws them.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
LIBRARIES = "precip_async,precip_async-public,precip_async-workers,asyncssh,parallel-ssh,fabric"
# `pool` and `pool-public` are left out: nobody uses the pool by itself.
PEERS = f"{LIBRARIES},parallel-ssh-libssh,2012,ssh-xargs,ssh-mux,pdsh,clustershell,pyinfra,ansible"
EVERY = "precip_async,precip_async-workers,asyncssh,parallel-ssh"

# By the name of its result: the script's command line, short and full.
SCENARIOS = {
    "fan_out-50": (
        f"fan_out.py --hosts 50 --rounds 2 --warm 8 --variants {PEERS}",
        f"fan_out.py --hosts 50 --rounds 5 --warm 8 --variants {PEERS}",
    ),
    "fan_out-200": (
        f"fan_out.py --hosts 200 --rounds 2 --warm 3 --variants {EVERY}",
        f"fan_out.py --hosts 200 --rounds 5 --variants {LIBRARIES}",
    ),
    "fan_out-1000": (
        "fan_out.py --hosts 1000 --rounds 1 --warm 2 --variants precip_async,parallel-ssh",
        f"fan_out.py --hosts 1000 --rounds 3 --variants {LIBRARIES}",
    ),
    "growth": (
        "growth.py --hosts 50,200,1000 --rounds 1",
        "growth.py --hosts 50,200,1000,4000 --rounds 3",
    ),
    "transfer": (
        "transfer.py --cases 1x50 --rounds 2",
        "transfer.py --cases 1x200,64x20 --rounds 5",
    ),
    "boot": (
        "boot.py --instances 100 --rounds 1 --variants precip_async,boto3",
        "boot.py --instances 10,100,1000 --rounds 3",
    ),
    "experiment": (
        "experiment.py --instances 1,10 --rounds 1",
        "experiment.py --instances 1,10,50 --rounds 5",
    ),
}


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="more hosts, more rounds")
    parser.add_argument("--only", default=",".join(SCENARIOS), help="of the scenarios, some")
    given = parser.parse_args()
    wanted = given.only.split(",")
    if unknown := [one for one in wanted if one not in SCENARIOS]:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    RESULTS.mkdir(exist_ok=True)
    failed = [name for name in wanted if not run(name, SCENARIOS[name][given.full])]
    drawn = subprocess.run([sys.executable, HERE / "charts.py"], check=False)
    if failed:
        print(f"failed, and their old results kept: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else drawn.returncode


def run(name: str, command: str) -> bool:
    """Run one scenario; write its document down only when it is whole."""
    began, partial = time.monotonic(), RESULTS / f"{name}.json.partial"
    print(f"== {name}: {command}", file=sys.stderr, flush=True)
    script, *arguments = shlex.split(command)
    try:
        with partial.open("w") as out:
            line = [sys.executable, HERE / script, *arguments]
            if subprocess.run(line, stdout=out, check=False).returncode:
                return False
        partial.replace(RESULTS / f"{name}.json")
    finally:
        partial.unlink(missing_ok=True)
    print(f"== {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
