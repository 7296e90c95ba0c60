"""The verbs on instances in namespaces: machines of their own, with OpenSSH and users."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest

from precip_async import AuthenticationFailed, LocalExperiment
from tests.polling import eventually
from tests.ssh.rig import Nap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.sshd]


@pytest.fixture(scope="module")
async def exp(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalExperiment]:
    """Two instances that are ready, with a user bob on each."""
    async with LocalExperiment(
        name="machines",
        isolation="namespace",
        home=tmp_path_factory.mktemp("namespace") / "home",
    ) as made:
        await made.provision(count=2)
        await made.wait()
        # '*' is no password and, unlike useradd's '!', does not lock the account for sshd.
        await made.run([], "useradd -m -s /bin/sh -p '*' bob", parallel=True)
        yield made


async def test_instances_are_machines_of_their_own(exp: LocalExperiment) -> None:
    """Name, address, processes and files."""
    results = await exp.run([], "hostname; hostname -I; echo own > /etc/own; cat /etc/own")

    for one, result in zip(exp.instances(), results.by_instance, strict=True):
        name, address, own = result.stdout.split()
        assert name == f"machines-{one.index}"
        assert address == one.public_address == one.private_address
        assert own == "own"
    assert [one["isolation"] for one in exp.list()] == ["namespace"] * 2


async def test_another_user_is_logged_in_as_directly(exp: LocalExperiment, tmp_path: Path) -> None:
    """Files that are put so are that user's, and scripts run as that user."""
    (tmp_path / "x").write_text("#!/bin/sh\nid -un; echo $HOME\n")

    ran = await exp.run([], "id -un; pwd", "bob", parallel=True)
    await exp.put([], tmp_path / "x", "mine", "bob", parallel=True)
    owner = await exp.run([], "stat -c '%U %n' ~bob/mine", parallel=True)
    script = await exp.copy_and_run([], tmp_path / "x", user="bob", parallel=True)
    (back, _) = await exp.get([], "mine", tmp_path / "back", "bob")

    assert ran[1] == ["bob\n/home/bob\n"] * 2
    assert {one.user for one in ran.by_instance} == {"bob"}
    assert owner[1] == ["bob /home/bob/mine\n"] * 2
    assert script[1] == ["bob\n/home/bob\n"] * 2
    assert back.read_text() == (tmp_path / "x").read_text()


async def test_a_user_that_is_not_there_is_told(exp: LocalExperiment) -> None:
    """By the name of the instance and of the user."""
    with pytest.raises(AuthenticationFailed, match="nobody-such"):
        await exp.run([], "true", "nobody-such")


async def test_asyncios_own_timeout_leaves_nothing_running(exp: LocalExperiment) -> None:
    """Of another user's command either."""
    nap = Nap()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(exp.run([], f"setsid {nap} & {nap}", "bob", parallel=True), 1)

    await eventually(lambda: not nap.sleepers(), within=0.1)


async def test_one_that_is_shut_off_does_not_hold_up_the_other(exp: LocalExperiment) -> None:
    """Machines fail on their own: the fan-out tells which."""
    with anyio.fail_after(30):
        results = await exp.run(
            [], lambda one: "kill -9 $$" if one.index else "echo on", None, False, parallel=True
        )

    assert results[0] == [0, -9]
    assert results[1] == ["on\n", ""]
