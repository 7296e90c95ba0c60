"""Machines in namespaces of the Linux kernel: as separate as this computer can make them cheaply.

::

    host ── prc1234abcd ══ cable ── bridge ── port1 ══ eth0  machine 1: sshd
             .1/22                    │
                                      └────── port2 ══ eth0  machine 2: sshd
                           the yard's namespaces   each machine's namespaces

One process holds the yard's namespaces of network, mounts and processes; the machines' namespaces
lie inside them. It lives as long as a pipe that the warden alone holds the other end of. So the
kernel itself sees to it that nothing outlives the warden: when the pipe ends the process ends, with
it every process of the yard, with those their mounts and networks, and with these the host's end of
the cable, its address and its route.

The machines are for experiments, not for prisoners: root on a machine is root of this computer's
kernel. It is kept from harming the host by mistake, not by intent.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from precip_async import descriptors
from precip_async.clouds.local.metadata import Service
from precip_async.clouds.local.metadata_http import ADDRESS, MetadataServer
from precip_async.clouds.local.namespace_ground import Ground, hear, last_line, vanishing
from precip_async.clouds.local.namespace_net import mac_of
from precip_async.clouds.local.namespace_probe import found, search_path
from precip_async.clouds.local.namespace_root import MACHINE_SCRIPT, SSHD_CONFIG, nameservers
from precip_async.clouds.local.processes import birth, kill
from precip_async.clouds.local.yard import (
    MachineSpec,
    Placement,
    YardError,
    log_path,
    refusing,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address
    from pathlib import Path

__all__ = ["NamespaceYard"]

STARTING_AT_ONCE: Final = 8  # more only queue for the kernel's one lock on network devices
START_TIMEOUT: Final = 60.0  # seconds for one machine, which takes about 0.1
STOP_TIMEOUT: Final = 60.0  # seconds for the kernel to take a machine apart, with hundreds in line


@dataclass(slots=True)
class _Machine:
    process: asyncio.subprocess.Process  # ends when the machine's process 1 has been reaped
    address: IPv4Address
    port: str
    pid: int = 0  # of its process 1, as we see it; 0 until it has said so
    born: str = ""
    metadata: MetadataServer | None = None
    stopping: bool = False

    def let_go(self) -> None:
        """Let go of its network."""
        if self.metadata is not None:
            self.metadata.close()


class NamespaceYard:
    """Machines in namespaces; see the module.

    Args:
        directory: The experiment's state directory.
        internet: Whether machines may reach what this computer can reach.
    """

    isolation = "namespace"
    shared_because = ""

    def __init__(self, directory: Path, *, internet: bool = False) -> None:
        self._directory = directory
        self._internet = internet
        self._ground = Ground(directory)
        self._machines: dict[str, _Machine] = {}
        self._addresses: Iterator[IPv4Address] = iter(())
        self._ports = itertools.count(1)
        self._open_files = 0  # what machines are given: the limit as we found it
        self._starting = asyncio.Semaphore(STARTING_AT_ONCE)

    async def open(self) -> None:
        """Hold the yard's namespaces, plug in the cable and, if asked, open the way out.

        Raises:
            YardError: One of these can't be had; nothing is kept.
        """
        await self._ground.open(internet=self._internet)
        descriptors.raised()  # a descriptor or two a machine
        self._open_files = descriptors.given()
        # An address is taken again as late as possible: old ones live on in caches and scripts.
        hosts = list(self._ground.network.hosts())[1:]
        self._addresses = itertools.cycle(hosts)

    async def start(self, spec: MachineSpec) -> Placement:
        """Start a machine: it has its address, and its SSH server is milliseconds from listening.

        Raises:
            YardError: It can't be started; nothing of it is left.

        If cancelled, it is started to the end and then ended: a process that is interrupted while
        it is being spawned may be one that nobody knows of.
        """
        async with self._starting:
            starting = asyncio.create_task(self._start(spec))
            try:
                return await asyncio.shield(starting)
            except asyncio.CancelledError:
                undoing = asyncio.create_task(self._undo(starting, spec.id))
                while not undoing.done():  # whoever cancels may do so again; both are bounded
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([undoing])
                raise

    async def stop(self, machine_id: str) -> None:
        """End a machine: its processes, mounts and network are gone on return."""
        machine = self._machines.get(machine_id)
        if machine is None:
            return
        machine.stopping = True
        machine.let_go()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                if machine.pid:  # every process of the machine goes before its process 1
                    kill(machine.pid, machine.born)
                elif machine.process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(machine.process.pid, signal.SIGKILL)
                await machine.process.wait()
                await vanishing(lambda: self._ground.has(machine.port))
        except TimeoutError as error:
            raise YardError(f"machine {machine_id} did not end in {STOP_TIMEOUT:.0f} s") from error
        self._machines.pop(machine_id, None)

    def died(self) -> set[str]:
        """The machines whose process 1 ended by itself since this was last asked."""
        ended = {
            machine_id
            for machine_id, machine in self._machines.items()
            if machine.process.returncode is not None and machine.pid and not machine.stopping
        }
        for machine_id in ended:
            self._machines.pop(machine_id).let_go()
        return ended

    async def release_ssh(self, machine_id: str) -> None:
        """Let the SSH server of a machine with the fault ``ssh_late`` start now."""
        machine = self._machines.get(machine_id)
        if machine is not None and machine.process.stdin is not None:
            machine.process.stdin.write(b"go\n")
            machine.process.stdin.close()

    async def aclose(self) -> None:
        """End all machines at once, then give back the cable and the way out."""
        for machine in self._machines.values():
            machine.stopping = True
            machine.let_go()
        await self._ground.aclose()
        for machine in self._machines.values():
            await machine.process.wait()  # its process 1 was killed with the yard's
        self._machines.clear()

    async def _start(self, spec: MachineSpec) -> Placement:
        if not self._ground.holds:
            raise YardError("the process that holds the machines' network has ended")
        log = log_path(self._directory, spec.id)
        machine = self._machines[spec.id] = await self._spawn(spec, log)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                pid = int(await hear(machine.process, "pid"))
                machine.pid, machine.born = pid, birth(pid)
                if spec.metadata is not None:
                    await hear(machine.process, "network")
                    await self._tell(machine, spec)
                await hear(machine.process, "up")
        except (TimeoutError, EOFError, OSError) as error:
            await self.stop(spec.id)
            why = last_line(log) or str(error) or "it took too long"
            raise YardError(f"machine {spec.id} could not be started: {why}") from error
        address = str(machine.address)
        return Placement(public_address=address, private_address=address, ssh_port=22)

    async def _tell(self, machine: _Machine, spec: MachineSpec) -> None:
        """Have the machine's metadata service listen, and the machine go on."""
        assert spec.metadata is not None
        assert machine.process.stdin is not None
        address, mac = str(machine.address), mac_of(machine.address)
        leaves = spec.metadata.leaves(address=address, mac=mac, hostname=spec.hostname)
        service = Service(spec.metadata, leaves)
        machine.metadata = await MetadataServer.open(service, machine.pid, address)
        machine.process.stdin.write(b"go\n")
        if spec.fault != "ssh_late":
            machine.process.stdin.close()

    async def _undo(self, starting: asyncio.Task[Placement], machine_id: str) -> None:
        await asyncio.wait([starting])
        await self.stop(machine_id)

    async def _spawn(self, spec: MachineSpec, log: Path) -> _Machine:
        address, port = self._free_address(), f"port{next(self._ports)}"
        waits = spec.metadata is not None or spec.fault == "ssh_late"  # for a line from us
        with log.open("ab") as console:
            process = await asyncio.create_subprocess_exec(
                *("nsenter", f"--target={self._ground.holder}", "--net", "--mount", "--pid", "--"),
                *("unshare", "--net", "--mount", "--uts", "--ipc", "--pid"),
                *("--fork", "--kill-child", "--", "sh", MACHINE_SCRIPT),
                stdin=subprocess.PIPE if waits else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=console,
                env=self._environment(spec, address, port),
                start_new_session=True,
            )
        return _Machine(process, address, port)

    def _environment(self, spec: MachineSpec, address: IPv4Address, port: str) -> dict[str, str]:
        keys = "" if spec.fault == "ssh_refuses_key" else spec.authorized_key.strip()
        return {
            "PATH": search_path(),
            "HOLDER": str(self._ground.holder),
            "PORT": port,
            "NAME": spec.hostname,
            "ADDRESS": str(address),
            "PREFIX": str(self._ground.network.prefixlen),
            "MAC": mac_of(address),
            "GATEWAY": str(self._ground.gateway),
            "GATEWAY_MAC": mac_of(self._ground.gateway),
            "DISK": f",size={spec.disk}g" if spec.disk else "",
            "SSHD": found("sshd") or "/usr/sbin/sshd",
            "SSHD_CONFIG": SSHD_CONFIG,
            "HOST_KEY": spec.host_key,
            "KEYS": keys,
            "ROOT_KEYS": refusing(keys) if spec.refuses_root else keys,
            "SUDOER": spec.sudoer,
            "CLOUD_INIT": spec.cloud_init,
            "POWER": spec.power,
            "METADATA": ADDRESS if spec.metadata else "",
            "RESOLV": nameservers() if self._internet else "",
            "INTERNET": "yes" if self._internet else "",
            "FAULT": spec.fault,
            "NOFILE": str(self._open_files),
        }

    def _free_address(self) -> IPv4Address:
        used = {machine.address for machine in self._machines.values()}
        limit = self._ground.network.num_addresses
        for address in itertools.islice(self._addresses, limit):
            if address not in used:
                return address
        raise YardError(f"all {len(used)} addresses of {self._ground.network} are in use")
