"""A killed script's commands go on, and who attaches to its instances has all that they said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import precip_async
from precip_async import Experiment, reap
from tests.left import alive, facts_of, killed
from tests.on_clouds import BRISK, rehearsed

if TYPE_CHECKING:
    from pathlib import Path

INSTANCES = 10
LINES = 60  # of each command on each stream, in some seconds

# Two commands on each of the instances. The script dies while it follows one of them.
STEPS = f"""
    await exp.provision(facts["image"], count={INSTANCES}, tags=["worker"])
    await exp.wait()
    for name in ("first", "second"):
        lines = "i=0; while [ $i -lt {LINES} ]; do echo $PRECIP_INDEX " + name + " $i;"
        lines += " echo $i >&2; i=$((i+1)); sleep 0.05; done; exit 7"
        run = await exp.start("worker", lines, name=name, parallel=True)
    async for chunk in run.follow():
        break
"""


async def followed(exp: Experiment) -> int:
    """Follow every command that there is to its end; how many there were."""
    count = 0
    for run in await exp.started(parallel=True):
        said = {job.instance.id: {"stdout": "", "stderr": ""} for job in run}
        async for chunk in run.follow():
            said[chunk.instance_id][chunk.stream] += chunk.text
        for job in run:
            numbers = [str(number) for number in range(LINES)]
            assert said[job.instance.id]["stderr"].split() == numbers
            words = [line.split() for line in said[job.instance.id]["stdout"].splitlines()]
            assert words == [[str(job.instance.index), run.name, number] for number in numbers]
            assert job.exit_code == 7
            count += 1
    return count


def made(facts: dict[str, Any]) -> Any:
    """The class of the experiment that `facts` describe."""
    return getattr(precip_async, facts["class"])


@pytest.mark.slow
async def test_what_a_killed_script_began_on_local_instances_is_followed(tmp_path: Path) -> None:
    """Twenty commands on ten kept instances, to the byte; then all is ended."""
    home = tmp_path / "home"
    keywords: dict[str, Any] = {"home": str(home), "isolation": "process"}
    facts = {
        "class": "LocalExperiment",
        "args": [],
        "image": "local",
        "keywords": {"name": "going", "keep": True, **keywords},
    }
    await killed(facts, STEPS)

    async with await made(facts).attach("going", **keywords, limits=BRISK) as exp:
        assert await followed(exp) == 2 * INSTANCES
    assert await reap(home=home) == []


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["amazon", "nova-havana"])
async def test_what_a_killed_script_began_on_a_cloud_is_followed(
    tmp_path: Path, dialect: str
) -> None:
    """The same on instances of a cloud, of which nothing is left either."""
    async with rehearsed(tmp_path, dialect) as on:
        facts = facts_of(on.lab, tmp_path / "home", "going")
        await killed(facts, STEPS)

        keywords = {key: value for key, value in facts["keywords"].items() if key != "name"}
        exp = await made(facts).attach("going", *facts["args"], **keywords, limits=BRISK)
        async with exp:
            assert await followed(exp) == 2 * INSTANCES
        assert await alive(on.lab) == []
        assert on.lab.addresses() == ()
