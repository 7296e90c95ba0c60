"""A fleet on the cloud that the lab plays: how often that is asked, which never has to refuse."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from precip_async.lab.lab import Lab
from precip_async.lab.scenario import Scenario
from tests.on_clouds import IMAGES, REGION, experiment_on

if TYPE_CHECKING:
    from pathlib import Path

FLEET = 1000
SLOW_BOOT = 4.0  # seconds


@pytest.mark.slow
async def test_a_thousand_are_launched_by_the_hundred_and_looked_at_once_a_second(
    tmp_path: Path,
) -> None:
    """Within Amazon's limits, none of whose refusals is ever met; and all of them are ended."""
    (tmp_path / "lab").mkdir()
    scenario = Scenario(visible=0, boot=(1.0, SLOW_BOOT))
    async with Lab(directory=tmp_path / "lab", fleet=True, scenario=scenario, region=REGION) as lab:
        async with experiment_on(lab, tmp_path / "home") as exp:
            await exp.provision(IMAGES["amazon"], count=FLEET)
            waited_from = len(lab.calls)
            ready = await exp.wait(timeout=45)
            looked = lab.calls[waited_from:]
        calls = Counter(call.action for call in lab.calls)

        assert len({one.id for one in ready}) == FLEET
        assert calls["RunInstances"] == FLEET / 100
        assert calls["TerminateInstances"] == 1
        assert sum(call.throttled for call in lab.calls) == 0
        assert {call.action for call in looked} == {"DescribeInstances"}
        rounds = [call.at for call in looked]
        assert len(rounds) >= SLOW_BOOT
        assert all(after - before > 0.9 for before, after in pairwise(rounds))
        assert [one.id for one in await lab.instances() if one.alive] == []
