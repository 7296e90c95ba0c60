"""How instances are reached on a cloud: by whom, at which address, through what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from precip_async import BootTimeout
from precip_async.fanout import task_group
from precip_async.lab.scenario import Scenario
from precip_async.limits import Limits
from tests.on_clouds import rehearsed
from tests.polling import eventually
from tests.servers import OpenSSHServer

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 45.0  # seconds of a wait for what takes about one


async def test_the_user_that_an_image_wants_is_named(tmp_path: Path) -> None:
    """An image that refuses root whatever it is told: the error says which user to take."""
    scenario, limits = Scenario(root_refused=True), Limits(probe_timeout=1.5)
    async with rehearsed(tmp_path, scenario=scenario, limits=limits) as on, on.exp as exp:
        (instance,) = await exp.provision(on.image)
        async with task_group() as tasks:
            tasks.start_soon(exp.wait, (), PATIENCE)
            await eventually(lambda: "ubuntu" in str(instance.diagnosis), within=PATIENCE)
            tasks.cancel_scope.cancel()
        with pytest.raises(BootTimeout, match='wants user ubuntu; give login_user="ubuntu"'):
            await exp.wait(timeout=0.2)


@pytest.mark.root
@pytest.mark.sshd
async def test_a_stock_image_is_worked_on_as_its_own_user(tmp_path: Path) -> None:
    """Root is refused, nothing is asked of cloud-init, and sudo does what root would do."""
    sent, script = tmp_path / "sent", tmp_path / "script.sh"
    sent.write_text("there and back\n")
    script.write_text("#!/bin/sh\nid -un; pwd\n")
    async with rehearsed(tmp_path, isolation="namespace", login_user="ubuntu") as on:
        async with on.exp as exp:
            await exp.provision(on.image, count=2)
            await exp.wait(timeout=PATIENCE)
            as_root = await exp.run([], "id -un; echo $HOME; echo $SUDO_USER", parallel=True)
            as_itself = await exp.run([], "id -un", "ubuntu", parallel=True)
            await exp.put([], sent, "/root/sent", parallel=True)
            owners = await exp.run([], "stat -c %U /root/sent", parallel=True)
            got = await exp.get([], "/root/sent", tmp_path / "got", parallel=True)
            said = await exp.copy_and_run([], script, parallel=True)

        assert as_root[1] == ["root\n/root\nubuntu\n"] * 2
        assert as_itself[1] == ["ubuntu\n"] * 2
        assert owners[1] == ["root\n"] * 2
        assert [path.read_text() for path in got] == ["there and back\n"] * 2
        assert said[1] == ["root\n/tmp\n"] * 2
        assert "UserData" not in on.calls("RunInstances")[0].parameters
        await on.account()


@pytest.mark.parametrize("dialect", ["amazon", "nova-havana"])
async def test_instances_are_reached_at_their_private_addresses(
    tmp_path: Path, dialect: str
) -> None:
    """No other is waited for, and where those cost none is asked for."""
    async with rehearsed(tmp_path, dialect, fleet=True, address="private") as on:
        async with on.exp as exp:
            await exp.provision(on.image, count=2)
            ready = await exp.wait(timeout=PATIENCE)
            ran = await exp.run([], "echo in", parallel=True)

            assert [one.host for one in ran.by_instance] == [one.private_address for one in ready]
            assert ran[1] == ["in\n"] * 2
            assert on.lab.addresses() == ()
        assert on.calls("AllocateAddress") == []
        await on.account()


@pytest.mark.sshd
async def test_a_fleet_is_reached_through_a_bastion(tmp_path: Path) -> None:
    """Forty instances through one sshd, which would refuse so many handshakes at once."""
    async with OpenSSHServer(tmp_path) as bastion:
        way, key = f"{bastion.user}@127.0.0.1:{bastion.port}", bastion.client_key_path
        async with rehearsed(tmp_path, fleet=True, bastion=way, bastion_key=key) as on:
            async with on.exp as exp:
                await exp.provision(on.image, count=40)
                await exp.wait(timeout=PATIENCE)
                said = await exp.run([], "echo $SSH_CONNECTION", parallel=True)

            assert len({line.split()[2] for line in said[1]}) == 40
            await on.account()
        log = bastion.log()

    assert log.count("Accepted publickey") == 1  # one connection carries them all
    assert "MaxStartups" not in log
