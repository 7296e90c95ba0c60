"""A lab in a process of its own: ``python -m precip_async.lab --dialect amazon --fleet``.

It says what there is to say of it in one line of JSON, and then answers every line of its input by
one: ``instances`` or ``calls``. It ends, and everything with it, when its input does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import anyio

from precip_async.clouds.local.cloud import Isolation
from precip_async.errors import ExperimentException
from precip_async.lab.dialects import DIALECTS
from precip_async.lab.lab import Lab
from precip_async.lab.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a lab until the end of input; the exit code."""
    given = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="precip-lab-") as scratch:
            lab = Lab(
                given.dialect,
                directory=Path(given.directory or scratch),
                isolation=given.isolation,
                fleet=given.fleet,
                cloud_init=given.cloud_init,
                tls=given.tls,
                region=given.region,
                scenario=Scenario.parse(given.scenario),
            )
            anyio.run(_serve, lab)
    except ExperimentException as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


async def _serve(lab: Lab) -> None:
    async with lab:
        _say(
            {
                "dialect": lab.dialect,
                "endpoint": lab.endpoint,
                "access_key": lab.access_key,
                "secret_key": lab.secret_key,
                "region": lab.region,
                "ssh_port": lab.ssh_port,
                "isolation": lab.isolation,
                "cloud_init": lab.cloud_init,
                "ca_file": str(lab.ca_file) if lab.ca_file else None,
                "opened": lab.opened,
            }
        )
        while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            if line.strip() == "instances":
                _say([asdict(one) for one in await lab.instances()])
            elif line.strip() == "calls":
                _say([asdict(call) for call in lab.calls])
            else:
                _say({"error": f"{line.strip()!r} is neither 'instances' nor 'calls'"})


def _say(facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m precip_async.lab", description=__doc__)
    parser.add_argument("--dialect", choices=list(DIALECTS), default="amazon")
    parser.add_argument("--directory", help="where state is kept (default: a temporary one)")
    parser.add_argument("--isolation", choices=get_args(Isolation), default="auto")
    parser.add_argument("--fleet", action="store_true", help="thousands of machines, less apart")
    parser.add_argument(
        "--cloud-init",
        action=argparse.BooleanOptionalAction,
        help="whether machines run the real one (default: where it can be had)",
    )
    parser.add_argument("--tls", action="store_true", help="https")
    parser.add_argument("--region", default="us-west-2")
    parser.add_argument("--scenario", default="", help="such as 'boot=2..20 throttled=0.5'")
    return parser


if __name__ == "__main__":
    sys.exit(main())
