"""Machines in one process: no privileges, no programs that have to be installed.

Every machine is an SSH server of this process, at an address of its own where the system has them
(Linux), else at a port of its own. Where the kernel lets us, each also has a space of its own (see
`process_space`): private ``/root``, ``/home`` and ``/tmp``, a process tree, a host name. Where not,
machines are told apart by their home directories only: they share ``/tmp`` and the process table
with this computer. Network, users and the rest of the file system are this computer's in any case,
and whatever name a client logs in by, it is whoever runs the experiment; in a space, as root.

A machine ends whole. In a space the kernel sees to it, also when this process is killed; without,
`process_sweep` does.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from precip_async import descriptors
from precip_async.clouds.local import process_sweep
from precip_async.clouds.local.process_addresses import Addresses
from precip_async.clouds.local.process_children import Child, Streams
from precip_async.clouds.local.process_machine import Machine
from precip_async.clouds.local.process_space import Space, SpaceTools
from precip_async.clouds.local.process_sweep import READY
from precip_async.clouds.local.yard import YardError, log_path

if TYPE_CHECKING:
    from precip_async.clouds.local.yard import MachineSpec, Placement

__all__ = ["ProcessYard"]

STARTS: Final = 8  # machines started at once; more only wait for the same two cores
CLOSE_GRACE: Final = 30.0  # seconds for a cleanup that nobody may interrupt
GUARD_TIMEOUT: Final = 30.0  # seconds until the guard stands; 0.1 on an idle computer
PROBE_EXIT: Final = 42


class ProcessYard:
    """The `Yard` of the process isolation.

    Args:
        directory: The experiment's state directory, for consoles and, without spaces, homes.
        private: Whether machines get spaces of their own; ``None``: where that works.
        own_addresses: Whether machines get addresses of their own; ``None``: where that works.

    Attributes:
        private: Known once `open` has returned.
        shared_because: Why machines have no spaces; empty where they do.
    """

    isolation = "process"

    def __init__(
        self, directory: Path, *, private: bool | None = None, own_addresses: bool | None = None
    ) -> None:
        self.private = bool(private)
        self.shared_because = "" if private is not False else "asked for"
        self._wanted = private
        self._directory = directory
        self._addresses = Addresses(own=own_addresses)
        self._tools: SpaceTools | None = None
        self._machines: dict[str, Machine] = {}
        self._died: set[str] = set()
        self._starts = anyio.Semaphore(STARTS)
        self._open_files = 1024
        self._guard: Child | None = None
        self._guard_line: socket.socket | None = None

    async def open(self) -> None:
        """Find out what this computer allows; see `Yard`."""
        self._raise_limit()
        if self._wanted is not False:
            await self._probe()
        if self._tools is None:
            await self._start_guard()

    async def start(self, spec: MachineSpec) -> Placement:
        """Start a machine; see `Yard`."""
        if spec.id in self._machines:
            raise YardError(f"there is a machine {spec.id} already")
        async with self._starts:
            try:
                machine = self._machines[spec.id] = self._make(spec)
            except OSError as exc:
                raise YardError(f"{spec.id} can't be started: {exc}") from exc
            try:
                await machine.start()
            except BaseException as exc:
                with anyio.move_on_after(CLOSE_GRACE, shield=True):
                    await self.stop(spec.id)
                if isinstance(exc, OSError | YardError):
                    raise YardError(f"{spec.id} can't be started: {exc}") from exc
                raise
        return machine.placement

    async def stop(self, machine_id: str) -> None:
        """End a machine; see `Yard`."""
        if machine := self._machines.get(machine_id):
            await machine.end()
            self._machines.pop(machine_id, None)

    def died(self) -> set[str]:
        """The machines that ended by themselves since this was last asked."""
        died = set(self._died)
        self._died.clear()
        return died

    async def release_ssh(self, machine_id: str) -> None:
        """Let a late SSH server start; see `Yard`."""
        if machine := self._machines.get(machine_id):
            await machine.listen()

    async def aclose(self) -> None:
        """End all machines and the guard; see `Yard`."""
        with anyio.move_on_after(CLOSE_GRACE, shield=True):
            for machine in self._machines.values():
                machine.collapse()  # all begin to end before we wait for the first
            async with anyio.create_task_group() as group:
                for machine_id in list(self._machines):
                    group.start_soon(self.stop, machine_id)
            if self._guard_line is not None:
                self._guard_line.close()
            if self._guard is not None:
                await self._guard.wait()

    def _make(self, spec: MachineSpec) -> Machine:
        place = self._addresses.take()
        try:
            return Machine(
                spec,
                place=place,
                log=log_path(self._directory, spec.id),
                directory=self._homes / spec.id,
                tools=self._tools,
                open_files=self._open_files,
                died=self._died.add,
            )
        except BaseException:
            place.close()
            raise

    @property
    def _homes(self) -> Path:
        return self._directory / "machines"

    def _raise_limit(self) -> None:
        # About five descriptors a machine and four a session. Sessions get the old limit.
        descriptors.raised()
        self._open_files = descriptors.given()

    async def _probe(self) -> None:
        """Make a space, run something in it, end it: nothing less tells whether they work."""
        reasons = []
        for user in (False, True) if os.geteuid() == 0 else (True,):
            try:
                tools = SpaceTools.find(user=user)
                await _try_space(tools)
            except (OSError, YardError) as exc:
                reasons.append(str(exc))
            else:
                self.private, self._tools = True, tools
                return
        self.private, self.shared_because = False, "; ".join(reasons)
        if self._wanted:
            raise YardError(f"machines can't have spaces of their own here: {self.shared_because}")

    async def _start_guard(self) -> None:
        self._homes.mkdir(mode=0o700, exist_ok=True)
        self._guard_line, theirs = socket.socketpair()
        with theirs:
            line = theirs.fileno()
            # -P: the current directory is the user's, and may hold a random.py of theirs.
            argv = [sys.executable, "-P", "-m", process_sweep.__name__, str(self._homes)]
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, _where_we_are()))}
            try:
                self._guard = Child(
                    argv, env=env, streams=Streams(stdin=line, stdout=line, stderr=2)
                )
            except OSError as exc:
                raise YardError(f"the guard of the machines can't be started: {exc}") from exc
        with anyio.move_on_after(GUARD_TIMEOUT):
            await anyio.wait_readable(self._guard_line)
            if self._guard_line.recv(64) == READY:
                return
        raise YardError("the guard of the machines does not start; stderr says why")


def _where_we_are() -> tuple[str, str]:
    root = Path(__file__).resolve().parents[3]
    return os.environ.get("PYTHONPATH", ""), str(root)


async def _try_space(tools: SpaceTools) -> None:
    with tempfile.TemporaryFile() as log:
        space = Space(tools, mark="PRECIP_PROBE=1", log=log.fileno(), ended=lambda: None)
        try:
            await space.start(hostname="probe", address="127.0.0.1", disk=None)
            fd = log.fileno()
            script = f'[ "$(id -u)" = 0 ] && kill -0 "-$$" && exit {PROBE_EXIT}'
            argv = space.enter(["/bin/sh", "-c", script])
            child = Child(argv, env={}, streams=Streams(stdin=fd, stdout=fd, stderr=fd))
            code = await child.wait()
            if code != PROBE_EXIT:
                raise YardError(f"a command in a namespace ended with {code}")
        finally:
            with anyio.move_on_after(CLOSE_GRACE, shield=True):
                await space.end(lambda: None)
