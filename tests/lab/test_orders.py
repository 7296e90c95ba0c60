"""Local machines as a cloud that is made of them orders them: keys, logins and faults of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncssh
import pytest

from precip_async.clouds.local.cloud import LocalCloud
from precip_async.clouds.local.faults import Orders
from tests.clouds.local_machines import PUBLIC, Box, access, request, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from precip_async.clouds.local.cloud import Isolation

STRANGER = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()


@pytest.fixture(params=["process", pytest.param("namespace", marks=[pytest.mark.root])])
async def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LocalCloud]:
    """A local cloud of either isolation."""
    isolation: Isolation = request.param
    cloud = LocalCloud(tmp_path, isolation=isolation)
    await cloud.prepare(access())
    yield cloud
    await cloud.aclose()


async def boxes(cloud: LocalCloud, *orders: Orders) -> list[Box]:
    """The machines that these orders make."""
    launched = await cloud.launch(request(len(orders)), orders=orders)
    machines = await settled(cloud, [machine.id for machine in launched])
    return [
        Box(m.id, m.public_address or "", m.ssh_port or 0, m.host_keys[0])
        for m in machines.values()
    ]


async def test_each_machine_authorises_the_key_it_was_ordered_with(cloud: LocalCloud) -> None:
    """Of two machines of one launch only that with our key lets us in."""
    ours, foreign = await boxes(
        cloud, Orders(authorized_key=PUBLIC), Orders(authorized_key=STRANGER)
    )

    assert await ours.run("echo in") == "in"
    with pytest.raises(asyncssh.PermissionDenied):
        await foreign.connect()


async def test_several_keys_are_authorised(cloud: LocalCloud) -> None:
    """A machine may be given more than one key, also where root is refused."""
    keys = f"{STRANGER.strip()}\n{PUBLIC}"
    order = Orders(authorized_key=keys, root_login=False, default_user="ubuntu")
    [box] = await boxes(cloud, order)

    assert await box.run("id -un", user="ubuntu") in ("ubuntu", "root")
    async with await box.connect() as connection:
        with pytest.raises(asyncssh.TimeoutError):  # the forced command sleeps for ten seconds
            await connection.run("echo in", check=True, timeout=1)


async def test_a_machine_may_be_late_and_refuse_root_as_well(cloud: LocalCloud) -> None:
    """What stock images refuse and what goes wrong are ordered apart."""
    order = Orders(
        authorized_key=PUBLIC,
        fault="ssh_late",
        ssh_late_by=0.5,
        root_login=False,
        default_user="ubuntu",
    )
    [box] = await boxes(cloud, order)

    assert await box.run("echo in", user="ubuntu") == "in"
    async with await box.connect() as connection:
        refused = await connection.create_process("echo in")
        assert "rather than the user" in await refused.stdout.readline()


async def test_the_default_user_is_there_beside_root(cloud: LocalCloud) -> None:
    """A stock image that lets root in has its own user all the same."""
    [box] = await boxes(cloud, Orders(authorized_key=PUBLIC, default_user="ubuntu"))

    assert await box.run("id -u") == "0"
    assert await box.run("echo $HOME", user="ubuntu") == "/home/ubuntu"
