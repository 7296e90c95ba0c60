"""What comes after a trial: `reap`, as somebody would call it an hour later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precip_async import reap
from tests.faults.child import LIMITS

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.lab.lab import Lab

__all__ = ["reaped"]

FAMILIES = {"amazon": "ec2", "ec2-api": "openstack", "nimbus": "nimbus"}


async def reaped(lab: Lab, endpoint: str, home: Path) -> list[str]:
    """End what an experiment left that died, spoken to at `endpoint`; what went wrong with it."""
    family = "openstack" if lab.dialect.startswith("nova") else lab.dialect.partition("-3")[0]
    found = await reap(
        end=True,
        unsure=True,  # nobody else has addresses in the lab
        cloud=FAMILIES.get(lab.dialect, family.removesuffix("-4")),
        endpoint=endpoint,
        region=lab.region if lab.dialect == "amazon" else None,
        access_key=lab.access_key,
        secret_key=lab.secret_key,
        verify=lab.ca_file or True,
        home=home,
        limits=LIMITS,
    )
    return [f"{one.kind} {one.id}: {one.problem}" for one in found if not one.ended]
