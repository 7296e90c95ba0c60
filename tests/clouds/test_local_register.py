"""The warden's register: states as a cloud tells them, whatever a yard does."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import pytest

from precip_async.clouds.local.register import Register
from precip_async.clouds.local.yard import MachineSpec, Placement, YardError
from tests.polling import eventually


class Yard:
    """A yard without machines, that fails when told to."""

    isolation = "none"
    shared_because = ""

    def __init__(self) -> None:
        self.start_fails: Exception | None = None
        self.stop_fails: Exception | None = None
        self.dead: set[str] = set()
        self.log: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def open(self) -> None:
        """Take nothing."""

    async def start(self, spec: MachineSpec) -> Placement:
        """Start nothing, or fail."""
        await self.gate.wait()
        if self.start_fails is not None:
            raise self.start_fails
        self.log.append(f"start {spec.id}")
        return Placement(public_address="127.0.0.1", private_address="127.0.0.2", ssh_port=22)

    async def stop(self, machine_id: str) -> None:
        """Stop nothing, or fail."""
        if self.stop_fails is not None:
            raise self.stop_fails
        self.log.append(f"stop {machine_id}")

    def died(self) -> set[str]:
        """Those said to be dead."""
        dead, self.dead = self.dead, set()
        return dead

    async def release_ssh(self, machine_id: str) -> None:
        """Release nothing."""
        self.log.append(f"release {machine_id}")

    async def aclose(self) -> None:
        """Give nothing back."""


def machine(name: str = "i-1", fault: str = "", **facts: Any) -> dict[str, Any]:
    """What the warden is told of a machine."""
    spec = MachineSpec(
        id=name, ordinal=0, hostname="m", host_key="", authorized_key="", fault=fault
    )
    return {"spec": asdict(spec), "public_key": "ssh-ed25519 AAAA", **facts}


class Desk:
    """A register and its yard."""

    def __init__(self) -> None:
        self.yard = Yard()
        self.register = Register(self.yard)

    def view(self, name: str = "i-1") -> dict[str, Any]:
        """What is said of a machine."""
        (view,) = self.register.describe([name])
        return dict(view)

    async def until(self, state: str, name: str = "i-1") -> dict[str, Any]:
        """What is said of a machine once it is in a state."""
        await eventually(lambda: self.view(name)["state"] == state, f"{name} is {state}")
        return self.view(name)


@pytest.fixture
def desk() -> Desk:
    """An empty register."""
    return Desk()


async def test_the_usual_course(desk: Desk) -> None:
    """A machine is pending, running with its place, shutting down, and terminated without one."""
    (view,) = desk.register.launch("token", [machine()])
    assert (view["state"], view["public_address"]) == ("pending", None)

    view = await desk.until("running")
    assert (view["public_address"], view["private_address"]) == ("127.0.0.1", "127.0.0.2")
    assert view["host_keys"] == ["ssh-ed25519 AAAA"]

    (view,) = desk.register.terminate(["i-1"])
    assert view["state"] == "shutting-down"
    view = await desk.until("terminated")
    assert (view["reason"], view["public_address"]) == ("ended as asked", None)
    assert desk.yard.log == ["start i-1", "stop i-1"]


async def test_a_machine_that_cannot_be_started_has_failed(desk: Desk) -> None:
    """The yard's sentence is the reason."""
    desk.yard.start_fails = YardError("no more memory")
    desk.register.launch("token", [machine()])

    assert (await desk.until("failed"))["reason"] == "no more memory"


async def test_a_bug_of_the_yard_is_one_machines_failure(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """What should not happen fails the machine, is in the log, and can still be ended."""
    desk.yard.start_fails = ZeroDivisionError("a bug")
    desk.register.launch("token", [machine()])

    view = await desk.until("failed")

    assert "ZeroDivisionError('a bug')" in view["reason"]
    assert "Traceback" in capsys.readouterr().err
    desk.register.terminate(["i-1"])
    await desk.until("terminated")


async def test_a_machine_that_does_not_end_is_asked_again(desk: Desk) -> None:
    """Until a machine has ended it is shutting down, with the reason; asking again tries again."""
    desk.register.launch("token", [machine()])
    await desk.until("running")
    desk.yard.stop_fails = YardError("it did not end")
    desk.register.terminate(["i-1"])
    await eventually(lambda: desk.view()["reason"] == "it did not end")
    assert desk.view()["state"] == "shutting-down"

    desk.yard.stop_fails = None
    desk.register.terminate(["i-1"])

    assert (await desk.until("terminated"))["reason"] == "it did not end"


async def test_a_death_is_noticed(desk: Desk) -> None:
    """A machine that ended by itself is terminated, and not kept for."""
    desk.register.launch("token", [machine()])
    await desk.until("running")
    assert desk.register.any_alive()
    desk.yard.dead.add("i-1")

    assert not desk.register.any_alive()
    assert desk.view()["reason"] == "it ended by itself"
    assert desk.view()["state"] == "terminated"


async def test_ending_one_that_boots_waits_for_its_boot(desk: Desk) -> None:
    """A boot is cancelled before its machine is stopped, and has no last word."""
    desk.yard.gate.clear()
    desk.register.launch("token", [machine()])
    await asyncio.sleep(0)
    desk.register.terminate(["i-1"])

    await desk.until("terminated")

    desk.yard.gate.set()
    assert desk.yard.log == ["stop i-1"]


async def test_a_late_ssh_server_is_released(desk: Desk) -> None:
    """The fault ``ssh_late`` releases the server after its seconds."""
    desk.register.launch("token", [machine(fault="ssh_late", ssh_late_by=0.01)])

    await eventually(lambda: desk.yard.log == ["start i-1", "release i-1"])


async def test_abandoning_leaves_no_task(desk: Desk) -> None:
    """Boots and ends that are under way are let go of, for all machines are ended together."""
    before = asyncio.all_tasks()
    desk.register.launch("token", [machine("i-1", delay=1000.0), machine("i-2")])
    desk.register.terminate(["i-2"])
    assert len(asyncio.all_tasks() - before) == 3

    await desk.register.abandon()

    assert asyncio.all_tasks() == before
