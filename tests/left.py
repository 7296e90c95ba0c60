"""Scripts that are killed while they have instances, on the lab's clouds and on this machine."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread

from precip_async import reap
from precip_async.limits import Limits
from tests.on_clouds import IMAGES
from tests.scripts import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from precip_async import Leftover
    from precip_async.lab.lab import Lab

__all__ = ["QUICK", "alive", "facts_of", "family_of", "killed", "left_by", "reaped"]

QUICK: Final = Limits(poll_interval=0.1, poll_interval_idle=0.5, terminate_timeout=20.0)

# Says what it is told to after each step, and waits for its end.
SCRIPT: Final = """
import anyio, json, sys
import precip_async
from precip_async.limits import Limits

facts = json.loads(sys.argv[1])

async def main():
    exp = getattr(precip_async, facts["class"])(
        *facts["args"], **facts["keywords"], limits=Limits(poll_interval=0.1)
    )
    {before}
    await exp.open()
    {steps}
    print("there", flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


def family_of(dialect: str) -> str:
    """What ``cloud=`` calls a dialect of the lab."""
    family = dialect.partition("-")[0]
    return {"amazon": "ec2", "nova": "openstack", "ec2": "openstack"}.get(family, family)


def facts_of(lab: Lab, home: Path, name: str) -> dict[str, Any]:
    """How an experiment called `name` is made on `lab`, in words that another process reads."""
    classes = {
        "ec2": "EC2Experiment",
        "openstack": "OpenStackExperiment",
        "eucalyptus": "EucalyptusExperiment",
        "nimbus": "NimbusExperiment",
    }
    family = family_of(lab.dialect)
    args = [endpoint_of(lab), lab.access_key, lab.secret_key]
    keywords: dict[str, Any] = {"name": name, "home": str(home), "ssh_port": lab.ssh_port}
    if lab.ca_file is not None:
        keywords["verify"] = str(lab.ca_file)
    return {
        "class": classes[family],
        "args": [lab.region, *args] if family == "ec2" else args,
        "keywords": keywords,
        "image": IMAGES[lab.dialect],
    }


def endpoint_of(lab: Lab) -> str:
    """Where `lab` is spoken to; a bare host would mean the path that OpenStack had longest."""
    bare = lab.dialect in ("nova-kilo", "ec2-api")
    return lab.endpoint.rstrip("/") + "/" * bare


@asynccontextmanager
async def left_by(
    facts: dict[str, Any],
    steps: str = "await exp.provision(facts['image'], count=2, tags=['a']); await exp.wait()",
    *,
    before: str = "pass",
) -> AsyncIterator[None]:
    """A script that has done `steps` and goes on living; it is killed at the end."""
    code = SCRIPT.format(steps=steps, before=before)
    with script(code, json.dumps(facts)) as running:
        await anyio.to_thread.run_sync(running.wait_for, "there")
        yield


async def killed(facts: dict[str, Any], *steps: str, before: str = "pass") -> None:
    """Let a script do `steps`, and kill it."""
    async with left_by(facts, *steps, before=before):
        pass


async def reaped(lab: Lab, home: Path, **given: Any) -> list[Leftover]:
    """Reap the cloud that `lab` plays, by the journal of `home` and by marks."""
    return await reap(
        **{
            "cloud": family_of(lab.dialect),
            "endpoint": endpoint_of(lab),
            "region": lab.region if lab.dialect == "amazon" else None,
            "access_key": lab.access_key,
            "secret_key": lab.secret_key,
            "verify": True if lab.ca_file is None else lab.ca_file,
            "home": home,
            "limits": QUICK,
        }
        | given
    )


async def alive(lab: Lab) -> list[str]:
    """The ids of the instances that run at the cloud, by the lab's own account."""
    return [one.id for one in await lab.instances() if one.alive]
