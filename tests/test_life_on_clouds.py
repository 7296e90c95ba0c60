"""The whole life of an experiment on each cloud of the manual, as the lab plays it.

The lab was written from what is known of the clouds, not from our client: where the two meet, each
is the other's test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from precip_async import EC2Experiment, sync
from precip_async.lab.lab import Lab
from tests.on_clouds import IMAGES, REGION, experiment_on

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("dialect", "image"), IMAGES.items(), ids=IMAGES)
async def test_an_experiment_lives_and_leaves_nothing(
    tmp_path: Path, dialect: str, image: str
) -> None:
    """All the verbs work there, and afterwards the cloud itself has nothing of it."""
    sent, script = tmp_path / "sent", tmp_path / "script.sh"
    sent.write_text("there and back\n")
    script.write_text('#!/bin/sh\necho "$1"\n')
    (tmp_path / "lab").mkdir()

    async with Lab(dialect, directory=tmp_path / "lab", isolation="process", region=REGION) as lab:
        async with experiment_on(lab, tmp_path / "home") as exp:
            await exp.provision(image, count=3, tags=["worker"])
            ready = await exp.wait(timeout=45)
            names = await exp.run(["worker"], "id -un", parallel=True)
            await exp.put([], sent, "/root/sent", parallel=True)
            got = await exp.get([], "/root/sent", tmp_path / "got", parallel=True)
            said = await exp.copy_and_run([], script, ["it's $(here)"], parallel=True)
            listed = exp.list(["worker"])

        assert names == [[0] * 3, ["root\n"] * 3, [""] * 3]
        assert [path.read_text() for path in got] == ["there and back\n"] * 3
        assert said[1] == ["it's $(here)\n"] * 3
        assert [one["id"] for one in listed] == [instance.id for instance in ready]
        assert all(one["public_address"] for one in listed)
        assert [one.id for one in await lab.instances() if one.alive] == []
        assert lab.addresses() == ()


async def test_the_blocking_twin_opens_in_its_constructor(tmp_path: Path) -> None:
    """Bad credentials raise where the experiment is made, as in 2012, and say which it is."""
    import anyio.to_thread

    (tmp_path / "lab").mkdir()
    async with Lab(directory=tmp_path / "lab", isolation="process", region=REGION) as lab:

        def wrong() -> None:
            with pytest.raises(sync.NotAuthorized, match="Amazon EC2"):
                sync.EC2Experiment(
                    REGION, lab.endpoint, lab.access_key, "wrong", home=tmp_path / "h", quiet=True
                )

        await anyio.to_thread.run_sync(wrong)


@pytest.mark.parametrize("key", ["access_key", "secret_key"])
async def test_no_secret_is_in_a_repr(key: str) -> None:
    """An experiment that is printed shows no credential."""
    given = {"access_key": "AKIAEXAMPLE", "secret_key": "verysecret"}
    exp = EC2Experiment(
        "us-west-2c", access_key=given["access_key"], secret_key=given["secret_key"]
    )

    assert given[key] not in f"{exp!r} {vars(exp)!r}"
