"""Runs that were left on hosts that exist already are found by their marks, told, and ended."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from precip_async import HostsExperiment, Leftover, reap
from precip_async.home.names import default_name
from precip_async.reaping.marks import processes_in
from tests.polling import eventually
from tests.servers import OpenSSHServer, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests import processes

pytestmark = pytest.mark.sshd

LEAVE = "setsid sleep 987 >/dev/null 2>&1 </dev/null & setsid sleep 986 >/dev/null 2>&1 &"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSSHServer]:
    """One host."""
    with OpenSSHServer(tmp_path_factory.mktemp("host")) as running:
        yield running


def way(server: OpenSSHServer, home: Path) -> dict[str, Any]:
    """How the host is reached."""
    return {"home": home, "ssh_key": server.client_key_path, "ssh_port": server.port}


async def left(server: OpenSSHServer, home: Path, name: str, **given: Any) -> None:
    """Leave two processes of one run behind, as a command does that starts daemons."""
    async with HostsExperiment([server.host], name=name, **way(server, home), **given) as exp:
        await exp.provision()
        await exp.wait(timeout=20)
        await exp.run([], LEAVE)


async def reaped(server: OpenSSHServer, home: Path, **given: Any) -> list[Leftover]:
    """Reap the host."""
    return await reap(hosts=[server.host], **way(server, home), **given)


def sleepers(server: OpenSSHServer) -> list[processes.Process]:
    """What was left and runs, of all that the server's sessions started."""
    return [one for one in server.commands() if one.name == "sleep"]


async def test_a_run_that_was_left_is_listed_then_ended(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """All of its processes, by its mark; a look ends nothing, and nothing is left in the end."""
    await left(server, tmp_path / "home", "trial")

    (listed,) = await reaped(server, tmp_path / "home")
    running = len(sleepers(server))
    (ended,) = await reaped(server, tmp_path / "home", end=True)

    assert (listed.kind, listed.experiment, listed.mine) == ("run", "trial", True)
    assert "and 1 more: sleep 98" in listed.state
    assert listed.age is not None
    assert running == 2
    assert (ended.id, ended.ended) == (listed.id, True)
    await eventually(lambda: not sleepers(server))
    assert await reaped(server, tmp_path / "home") == []


@pytest.mark.slow
async def test_others_runs_and_those_in_use_go_on(server: OpenSSHServer, tmp_path: Path) -> None:
    """Another home's are not even listed; an experiment's that lives are, with its holder."""
    name = default_name()  # tests that run beside this one leave runs here as well
    await left(server, tmp_path / "home", name)

    others = await reaped(server, tmp_path / "other", end=True)
    shown = await reaped(server, tmp_path / "other", end=True, everyone=True, experiment=name)
    async with HostsExperiment([server.host], name=name, **way(server, tmp_path / "home")):
        (held,) = await reaped(server, tmp_path / "home", end=True)
    running = len(sleepers(server))
    await reaped(server, tmp_path / "other", end=True, owner=held.owner)

    assert others == []
    assert [(one.mine, one.ended) for one in shown] == [(False, False)]
    assert "process" in held.holder
    assert not held.ended
    assert running == 2
    await eventually(lambda: not sleepers(server))


@pytest.mark.slow
async def test_a_run_of_a_script_on_another_computer_goes_on(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """In a home that computers share nobody here can tell whether it lives: force only ends it."""
    name, home = default_name(), tmp_path / "home"
    await left(server, home, name, keep=True)
    with sqlite3.connect(home / "journal.sqlite") as journal:
        journal.execute("UPDATE launches SET machine = 'elsewhere', pid = 7")
    journal.close()

    (held,) = await reaped(server, home, experiment=name, end=True)
    running = len(sleepers(server))
    (forced,) = await reaped(server, home, experiment=name, end=True, force=True)

    assert (held.ended, held.holder) == (False, "process 7 on host elsewhere, unless it has ended")
    assert running == 2
    assert forced.ended
    await eventually(lambda: not sleepers(server))


@pytest.mark.slow
async def test_a_host_that_cannot_be_asked_is_told(server: OpenSSHServer, tmp_path: Path) -> None:
    """It is listed with the reason, and the others are reaped all the same."""
    await left(server, tmp_path / "home", "trial")
    dead = f"127.0.0.1:{free_port(server.host)}"

    found = await reap(hosts=[dead, server.host], end=True, **way(server, tmp_path / "home"))

    assert [(one.kind, one.ended) for one in found] == [("host", False), ("run", True)]
    assert "refused" in found[0].problem


def test_what_makes_no_sense_is_passed_over() -> None:
    """A host that lies can't make us end anything but marks: what is no mark is not read."""
    owner, mark = "0123456789abcdef" * 2, "0123456789abcdef"
    text = f"7 {mark} trial {owner} 12 sleep 9\n8 {mark} - - - sh\n9 $(reboot) - - - x\nx\n10\n"

    found = processes_in(text)

    assert [(one.pid, one.experiment, one.owner) for one in found] == [
        (7, "trial", owner),
        (8, "", ""),
    ]
    assert found[0].began is not None
    assert found[1].began is None
