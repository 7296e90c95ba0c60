"""What comes after a trial: everything that its journal knows of is ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio.to_thread

from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from tests.faults.child import LIMITS
from tests.on_clouds import experiment_on

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.lab.lab import Lab

__all__ = ["reaped"]


async def reaped(lab: Lab, endpoint: str, home: Path) -> list[str]:
    """End what an experiment left that died, spoken to at `endpoint`; what went wrong with it."""
    in_thread = anyio.to_thread.run_sync
    journal = await in_thread(Journal.open, await in_thread(Home.open, home))
    try:
        rows = await in_thread(journal.alive)
        if not rows:
            return []
        given = {"endpoint": endpoint, "name": "reaper", "limits": LIMITS}
        async with experiment_on(lab, home, **given) as exp:
            cloud = exp._stage.cloud
            for row in rows:
                ids = [row.instance_id] if row.instance_id else []
                if not ids:
                    ids = [one.id for one in await cloud.find(row.token)]
                    if ids:
                        await in_thread(journal.answered, row.token, ids)
                    else:
                        await in_thread(journal.refused, row.token, "none was found")
                if ids:
                    await cloud.terminate(ids)
                    await in_thread(journal.ended, ids)
    finally:
        await in_thread(journal.close)
    return []
