"""The whole life of an experiment at a second opinion: moto, whose instances are reached."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.clouds.moto_world import NETWORKS
from tests.sources import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.root
@pytest.mark.sshd
async def test_an_experiment_lives_at_moto_and_leaves_nothing(tmp_path: Path) -> None:
    """Three instances, reached at the public addresses that moto gives them, and all verbs."""
    world = [sys.executable, "-m", "tests.clouds.moto_world", str(tmp_path)]
    with anyio.fail_after(50):
        ran = await anyio.run_process(["unshare", "--net", *world], check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr.decode()
    seen = json.loads(ran.stdout.splitlines()[-1])

    ids = [one["id"] for one in seen["listed"]]
    assert len({*ids}) == 3
    addresses = [one["public_address"] for one in seen["listed"]]
    assert len({*addresses}) == 3
    assert {one.split(".")[0] for one in addresses} <= {*NETWORKS}
    assert seen["ran"] == [[0] * 3, [f"root\n{one}\n" for one in ids], [""] * 3]
    assert seen["got"] == ["there and back\n"] * 3
    assert seen["said"] == [[0] * 3, [f"it's {place}\n" for place in range(3)], [""] * 3]
    assert seen["left"] == []
    assert seen["states"] == ["terminated"] * 3
