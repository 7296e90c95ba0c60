"""Fleets of machines, and labs in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import anyio

from precip_async.lab.scenario import Scenario
from tests.lab.clients import OPEN_ROOT, box_of, lab_and_client, launch, opened, until_lab

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_fleet_is_many_machines_with_addresses_of_their_own(tmp_path: Path) -> None:
    """Three hundred are launched, run within seconds, differ by address and home, and are gone."""
    scenario = Scenario(visible=0, buckets=False)
    async with lab_and_client(tmp_path, scenario, fleet=True) as (lab, client):
        group = await opened(client)
        ids: list[str] = []
        with anyio.fail_after(30):
            for _ in range(3):
                ids += await launch(
                    client, 100, KeyName="mine", SecurityGroupIds=[group], UserData=OPEN_ROOT
                )
            seen = await until_lab(lab, lambda seen: all(one.ran is not None for one in seen))
        assert len({one.address for one in seen}) == 300
        homes = {await (await box_of(lab, one)).run("echo $HOME") for one in ids[::100]}
        assert len(homes) == 3
        await client.terminate_instances(InstanceIds=ids)
        await until_lab(lab, lambda seen: all(one.ended is not None for one in seen))
    assert left_in(tmp_path) == []


def left_in(directory: Path) -> list[str]:
    """What labs have left behind."""
    return [path.name for path in directory.iterdir()]


def test_a_lab_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    """It says where it is, answers questions line by line, and ends with its input."""
    command = [
        *(sys.executable, "-W", "error", "-m", "precip_async.lab", "--directory", str(tmp_path)),
        *("--isolation", "process", "--scenario", "boot=0.1", "--dialect", "eucalyptus-4"),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        process.stdin.write("instances\ncalls\nnonsense\n")
        process.stdin.close()
        answers = [json.loads(line) for line in process.stdout]

    assert process.returncode == 0
    assert facts["endpoint"].endswith("/services/compute")
    assert facts["ssh_port"] == 2222
    assert facts["cloud_init"] is False
    assert answers[:2] == [[], []]
    assert "nonsense" in answers[2]["error"]


def test_a_lab_that_cannot_be_says_why() -> None:
    """One line, and an exit code."""
    command = [sys.executable, "-m", "precip_async.lab", "--scenario", "boot=fast"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "boot" in ran.stderr
