"""Labs that are killed: their machines go with them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from precip_async.clouds.local.remains import clear_dead, left_behind
from precip_async.clouds.local.state import experiments_in
from tests import processes
from tests.polling import until
from tests.scripts import script

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
import anyio
from tests.lab.clients import lab_and_client, launch, until_lab

async def main(base, isolation):
    async with lab_and_client(Path(base), isolation=isolation) as (lab, client):
        await launch(client, 2)
        await until_lab(lab, lambda seen: all(one.ran is not None for one in seen))
        sys.stdout.write("running\\n")
        await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:])
"""


@pytest.mark.parametrize(
    "isolation", ["process", pytest.param("namespace", marks=[pytest.mark.root, pytest.mark.sshd])]
)
def test_a_lab_that_is_killed_leaves_no_machine(isolation: str, tmp_path: Path) -> None:
    """After ``kill -9`` every process of the lab's machines ends by itself."""
    with script(SCRIPT, str(tmp_path), isolation) as running:
        running.wait_for("running")
        (record,) = left_behind(tmp_path)
        warden = processes.read(record.pid)
        assert warden is not None
        everything = [warden, *processes.descendants([record.pid])]
        running.signal(signal.SIGKILL)

        until(lambda: not any(one.alive() for one in everything), within=15)
        until(lambda: experiments_in(tmp_path) == [], within=15)
    clear_dead(tmp_path)
