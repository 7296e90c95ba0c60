"""A process yard for tests, in this process or in one of its own, and a client for its machines."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from precip_async.clouds.local.process import ProcessYard
from precip_async.clouds.local.yard import MachineSpec, Placement, YardError
from tests import processes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["USER_KEY", "Box", "Child", "Lot", "child_yard", "open_lot"]

USER_KEY = asyncssh.generate_private_key("ssh-ed25519")
PUBLIC = USER_KEY.export_public_key().decode().strip()

CHILD = """
import sys
from pathlib import Path
import anyio
from precip_async.clouds.local.process import ProcessYard
from precip_async.clouds.local.yard import MachineSpec

async def main(directory, private, machine_id, host_key, public):
    yard = ProcessYard(Path(directory), private=private == "True")
    await yard.open()
    placement = await yard.start(
        MachineSpec(
            id=machine_id, ordinal=0, hostname="box", host_key=host_key, authorized_key=public
        )
    )
    sys.stdout.write(f"{placement.public_address} {placement.ssh_port}\\n")
    sys.stdout.flush()
    await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:])
"""


@dataclass(frozen=True, slots=True)
class Box:
    """A machine, as its owner sees it."""

    spec: MachineSpec
    placement: Placement
    host_key: asyncssh.SSHKey

    def connect(self, user: str = "root", key: asyncssh.SSHKey = USER_KEY, **options: Any) -> Any:
        """A connection, to be entered or awaited; its host key is known."""
        return asyncssh.connect(
            self.placement.public_address,
            self.placement.ssh_port,
            username=user,
            client_keys=[key],
            known_hosts=([self.host_key], [], []),
            config=None,
            agent_path=None,
            **options,
        )

    async def run(self, command: str, user: str = "root", **options: Any) -> str:
        """What a command says that must succeed, on a connection of its own."""
        async with self.connect(user) as connection:
            ran = await connection.run(command, check=True, **options)
        return str(ran.stdout).strip()

    def living(self) -> list[processes.Process]:
        """The machine's processes, as this computer sees them."""
        return processes.marked(f"PRECIP_INSTANCE={self.spec.id}")


class Lot:
    """A yard, and machines on it."""

    def __init__(self, yard: ProcessYard) -> None:
        self.yard = yard
        self._launched = 0

    async def start(
        self, *, hostname: str = "box", fault: str = "", disk: int | None = None
    ) -> Box:
        """A new machine."""
        spec, host_key = specification(hostname=hostname, fault=fault, disk=disk)
        return Box(spec, await self.yard.start(spec), host_key)


def specification(**facts: Any) -> tuple[MachineSpec, asyncssh.SSHKey]:
    """A machine that could be started, and its public host key."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    spec = MachineSpec(
        **{"hostname": "box", **facts},
        id=f"i-{secrets.token_hex(9)[:17]}",
        ordinal=0,
        host_key=key.export_private_key().decode(),
        authorized_key=PUBLIC,
    )
    return spec, key.convert_to_public()


@contextlib.asynccontextmanager
async def open_lot(directory: Path, **options: Any) -> AsyncIterator[Lot]:
    """An open yard; skips the test where spaces are asked for and can't be had."""
    yard = ProcessYard(directory, **options)
    try:
        try:
            await yard.open()
        except YardError as exc:
            pytest.skip(str(exc))
        yield Lot(yard)
    finally:
        await yard.aclose()


class Child:
    """A yard with one machine in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], box: Box) -> None:
        self.process = process
        self.box = box

    def peak(self) -> int:
        """The most memory that it has used so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


@contextlib.contextmanager
def child_yard(directory: Path, *, private: bool) -> Iterator[Child]:
    """Start one; killed at the end, if not before."""
    spec, host_key = specification()
    argv = [str(directory), str(private), spec.id, spec.host_key, spec.authorized_key]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *argv], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().split()
            if not line:
                pytest.skip("no yard in a child here")
            placement = Placement(
                public_address=line[0], private_address=line[0], ssh_port=int(line[1])
            )
            yield Child(process, Box(spec, placement, host_key))
        finally:
            process.kill()
