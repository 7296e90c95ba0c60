"""Experiments on hosts that exist already: real OpenSSH servers, which stay as they were."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from precip_async import (
    BootError,
    BootTimeout,
    CapacityUnavailable,
    FleetError,
    HostKeyMismatch,
    HostsExperiment,
    Limits,
)
from tests.polling import eventually
from tests.servers import OpenSSHServer, free_port, make_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import TemporaryUser

pytestmark = pytest.mark.sshd

QUICK = Limits(poll_interval=0.1, probe_timeout=2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSSHServer]:
    """One server that plays many hosts; tests leave it as it was."""
    with OpenSSHServer(tmp_path_factory.mktemp("hosts"), address="0.0.0.0") as running:
        yield running


def on(server: OpenSSHServer, tmp_path: Path, hosts: Any = None, **shared: Any) -> HostsExperiment:
    """An experiment on the first addresses of `server`."""
    given = {"home": tmp_path / "home", "ssh_key": server.client_key_path, "limits": QUICK}
    given["ssh_port"] = server.port
    return HostsExperiment(server.hosts(3) if hosts is None else hosts, **{**given, **shared})


async def started(exp: HostsExperiment, count: int = 1) -> None:
    """Provision and wait."""
    await exp.provision(count=count)
    await exp.wait(timeout=20)


# -- taking and giving back ------------------------------------------------------------------


async def test_hosts_are_taken_in_order_and_worked_on(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """As the login user, who is the current one; nothing has to be installed there."""
    async with on(server, tmp_path) as exp:
        await started(exp, 3)
        results = await exp.run([], "id -un", parallel=True)

        assert [one.id for one in exp.instances()] == server.hosts(3)
        assert exp.get_public_hostnames() == server.hosts(3)
        assert results[1] == [f"{server.user}\n"] * 3
        assert {one.user for one in results.by_instance} == {server.user}


async def test_tags_of_the_mapping_reach_the_instances(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """Beside the tags of the launch."""
    one, other, third = server.hosts(3)
    async with on(server, tmp_path, {one: ["master", "big"], other: "worker", third: None}) as exp:
        await exp.provision(count=3, tags=["all"])

        assert [one.user_tags for one in exp.instances()] == [
            ("all", "master", "big"),
            ("all", "worker"),
            ("all",),
        ]
        await exp.wait("worker")
        assert (await exp.run(["worker", "all"], "echo x"))[1] == ["x\n"]


async def test_hosts_are_given_back_and_never_ended(server: OpenSSHServer, tmp_path: Path) -> None:
    """They can be taken again, by this experiment and by the next of its name."""
    for _ in range(2):
        async with on(server, tmp_path, name="again") as exp:
            await started(exp, 3)
            with pytest.raises(CapacityUnavailable, match="0 of the 3 given hosts are free"):
                await exp.provision()
            await exp.deprovision(server.hosts(3)[1])
            (back,) = await exp.provision(tags=["again"])
            await exp.wait()

            assert back.id == server.hosts(3)[1]
            assert (await exp.run("again", "echo on"))[1] == ["on\n"]
    await eventually(lambda: not server.sessions())


async def test_waiting_runs_no_command_on_a_host(server: OpenSSHServer, tmp_path: Path) -> None:
    """A login is enough: the host is not ours to try things on."""
    said = len(server.log())
    async with on(server, tmp_path) as exp:
        await started(exp, 2)
        log = server.log()[said:]

        assert log.count("Accepted publickey") == 2
        assert "Starting session" not in log
        await exp.run([], "true")
        await eventually(lambda: server.log()[said:].count("Starting session") == 2)


async def test_what_no_answer_comes_from_is_told(server: OpenSSHServer, tmp_path: Path) -> None:
    """A host that is off may come back: it is waited for, and then named."""
    port = free_port("127.0.0.1")
    async with on(server, tmp_path, [server.hosts(1)[0], f"127.0.0.1:{port}"]) as exp:
        await exp.provision(count=2)
        with pytest.raises(BootTimeout, match="refused") as caught:
            await exp.wait(timeout=2)

        assert list(caught.value.diagnoses) == [f"127.0.0.1:{port}"]
        assert (await exp.run(server.hosts(1), "echo x"))[1] == ["x\n"]


async def test_a_host_that_does_not_know_our_key_says_so_at_once(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """It would not know it in ten minutes either."""
    began = time.monotonic()
    async with on(server, tmp_path, ssh_key=None) as exp:  # the home's own key
        await exp.provision()
        with pytest.raises(BootError, match="does not accept our key") as caught:
            await exp.wait()

    assert not isinstance(caught.value, BootTimeout)
    assert time.monotonic() - began < 10


# -- host keys -------------------------------------------------------------------------------


async def test_a_host_key_is_kept_in_the_home_and_a_changed_one_refused(tmp_path: Path) -> None:
    """The next experiment knows the host; one that shows another key is not logged in to."""
    async with OpenSSHServer(tmp_path) as server:
        host = f"127.0.0.1:{server.port}"
        async with on(server, tmp_path, [host]) as exp:
            await started(exp)
        pinned = tmp_path / "home" / "host_keys"
        assert f"{host} {server.host_public_key}" in pinned.read_text()
        async with on(server, tmp_path, [host]) as exp:
            await started(exp)

        server.renew_host_keys()
        await anyio.to_thread.run_sync(server.restart)
        async with on(server, tmp_path, [host]) as exp:
            await exp.provision()
            with pytest.raises(BootError, match="another host key") as caught:
                await exp.wait()
            assert f"remove its line from {pinned}" in str(caught.value)
            assert "Accepted publickey" not in server.log().rpartition("Server listening")[2]

        pinned.write_text("")  # as the error says
        async with on(server, tmp_path, [host]) as exp:
            await started(exp)


async def test_a_key_that_changes_within_an_experiment_is_refused(tmp_path: Path) -> None:
    """The error says what to do about it."""
    async with OpenSSHServer(tmp_path) as server:
        host = f"127.0.0.1:{server.port}"
        async with on(server, tmp_path, [host]) as exp:
            await started(exp)
            server.renew_host_keys()
            await anyio.to_thread.run_sync(server.restart)

            with pytest.raises(HostKeyMismatch, match="another host key") as caught:
                await exp.run([], "echo never")

            (note,) = caught.value.__notes__
            assert note.startswith("find out who answers there; if the machine was reinstalled")
            with pytest.raises(FleetError):
                await exp.run([], "echo never", parallel=True)


async def test_known_hosts_are_the_only_ones_that_are_believed(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """With a file of known hosts there is no first meeting."""
    one, other = server.hosts(2)
    known = tmp_path / "known_hosts"
    known.write_text(f"[{one}]:{server.port} {server.host_public_key}\n")

    async with on(server, tmp_path, known_hosts=known) as exp:
        await exp.provision(count=2)
        with pytest.raises(BootError) as caught:
            await exp.wait()

        assert list(caught.value.diagnoses) == [other]
        assert str(known) in str(caught.value)
        assert (await exp.run(one, "echo x"))[1] == ["x\n"]


# -- users and ways --------------------------------------------------------------------------


@pytest.mark.root
async def test_a_host_can_have_its_own_user(
    server: OpenSSHServer, second_user: TemporaryUser, tmp_path: Path
) -> None:
    """``user@`` is who logs in there, whatever the others do."""
    one, other = server.hosts(2)
    async with on(server, tmp_path, [f"{second_user.name}@{one}", other]) as exp:
        await started(exp, 2)
        results = await exp.run([], "id -un", parallel=True)

        assert results[1] == [f"{second_user.name}\n", "root\n"]
        assert [one.user for one in results.by_instance] == [second_user.name, "root"]


@pytest.mark.root
async def test_login_user_is_who_logs_in_and_sudo_does_the_rest(
    server: OpenSSHServer, sudoer: TemporaryUser, second_user: TemporaryUser, tmp_path: Path
) -> None:
    """Another user is reached through sudo, files included."""
    (tmp_path / "x").write_text("x")
    async with on(server, tmp_path, login_user=sudoer.name) as exp:
        await started(exp)
        for user, name in ((None, sudoer.name), ("root", "root"), (second_user.name,) * 2):
            (result,) = (await exp.run([], "id -un", user)).by_instance
            assert (result.stdout, result.user) == (f"{name}\n", name)

        await exp.put([], tmp_path / "x", "from-precip", second_user.name)
        stated = await exp.run([], f"stat -c %U ~{second_user.name}/from-precip", "root")
        assert stated[1] == [f"{second_user.name}\n"]


@pytest.mark.root
async def test_root_logs_in_as_another_user_directly(
    server: OpenSSHServer, second_user: TemporaryUser, tmp_path: Path
) -> None:
    """As in 2012: the user must accept the key, and no sudo is needed."""
    async with on(server, tmp_path) as exp:
        await started(exp)
        (result,) = (await exp.run([], "id -un; echo $SUDO_USER", second_user.name)).by_instance

        assert (result.stdout, result.user) == (f"{second_user.name}\n\n", second_user.name)


async def test_an_ssh_config_says_what_nobody_else_has(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """Aliases, ports and keys, as OpenSSH's own client takes them."""
    config = tmp_path / "config"
    config.write_text(
        f"Host node\n  HostName 127.0.0.1\n  Port {server.port}\n  User {server.user}\n"
        f"  IdentityFile {server.client_key_path}\n"
    )
    async with on(server, tmp_path, ["node"], ssh_config=config, ssh_key=None, ssh_port=22) as exp:
        await started(exp)

        assert (await exp.run([], "echo through"))[1] == ["through\n"]


async def test_a_bastion_carries_every_connection(server: OpenSSHServer, tmp_path: Path) -> None:
    """With its own key; its host key is kept like a host's, and a changed one refused."""
    async with OpenSSHServer(tmp_path) as bastion:
        key = tmp_path / "bastion_key"
        bastion.authorized_keys = [make_key(key)]
        await anyio.to_thread.run_sync(bastion.restart)
        way = {"bastion": f"{bastion.user}@127.0.0.1:{bastion.port}", "bastion_key": key}
        async with on(server, tmp_path, **way) as exp:
            await started(exp, 2)
            assert (await exp.run([], "echo through", parallel=True))[1] == ["through\n"] * 2
        assert bastion.log().count("Accepted publickey") == 1

        bastion.renew_host_keys()
        await anyio.to_thread.run_sync(bastion.restart)
        async with on(server, tmp_path, **way) as exp:
            await exp.provision()
            with pytest.raises(BootError, match="host key"):
                await exp.wait()
