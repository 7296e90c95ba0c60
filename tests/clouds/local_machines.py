"""Clients of local machines, and looks at the host that they must leave as it was."""

from __future__ import annotations

import json
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh
from anyio import fail_after, sleep

from precip_async.clouds.base import Access, LaunchRequest, Machine
from precip_async.clouds.local.hostkeys import make_host_key
from precip_async.clouds.local.yard import MachineSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precip_async.clouds.local.cloud import LocalCloud
    from precip_async.clouds.local.yard import Placement, Yard

__all__ = ["Box", "access", "boxes_of", "content", "host", "links", "request", "settled", "start"]

USER_KEY = asyncssh.generate_private_key("ssh-ed25519")
PUBLIC = USER_KEY.export_public_key().decode().strip()
PATIENCE = 15.0  # seconds for what takes a fraction of one on an idle computer


@dataclass(frozen=True, slots=True)
class Box:
    """A machine as its owner sees it: where it is, and which host key it has to show."""

    id: str
    address: str
    port: int
    host_key: str

    async def connect(self, user: str = "root", **options: Any) -> asyncssh.SSHClientConnection:
        """A connection, once the SSH server listens."""
        with fail_after(PATIENCE):
            while True:
                try:
                    return await asyncssh.connect(
                        self.address,
                        self.port,
                        username=user,
                        client_keys=[USER_KEY],
                        known_hosts=([asyncssh.import_public_key(self.host_key)], [], []),
                        config=None,
                        agent_path=None,
                        **options,
                    )
                except ConnectionRefusedError:
                    await sleep(0.01)

    async def run(self, command: str, user: str = "root") -> str:
        """What a command says that must succeed."""
        async with await self.connect(user) as connection:
            ran = await connection.run(command, check=True)
        return str(ran.stdout).strip()


async def start(yard: Yard, *, fault: str = "", name: str = "box", **facts: Any) -> Box:
    """Start a machine in a yard."""
    private, public = make_host_key()
    spec = MachineSpec(
        id=f"i-{secrets.token_hex(9)[:17]}",
        ordinal=0,
        hostname=name,
        host_key=private,
        authorized_key=PUBLIC,
        fault=fault,
        **facts,
    )
    place: Placement = await yard.start(spec)
    return Box(spec.id, place.public_address, place.ssh_port, public)


def access(experiment: str = "hello", *, keep: bool = False) -> Access:
    """What lets `Box` in."""
    return Access(experiment=experiment, owner="me", public_key=PUBLIC, keep=keep)


def request(count: int = 1, *, first: int = 0, **facts: Any) -> LaunchRequest:
    """A launch of `count` machines."""
    given: dict[str, Any] = {"token": secrets.token_hex(8), "min_count": count} | facts
    return LaunchRequest(
        image_id="local", instance_type="m1.small", count=count, first=first, **given
    )


async def settled(
    cloud: LocalCloud, ids: Sequence[str], *, within: float = PATIENCE
) -> dict[str, Machine]:
    """The machines, once none is on its way from one state to another."""
    with fail_after(within):
        while True:
            machines = await cloud.describe(ids)
            if not {m.state for m in machines.values()} & {"pending", "shutting-down"}:
                return dict(machines)
            await sleep(0.02)


async def boxes_of(cloud: LocalCloud, count: int = 1, **facts: Any) -> list[Box]:
    """Launch machines and wait until they run."""
    launched = await cloud.launch(request(count, **facts))
    machines = await settled(cloud, [machine.id for machine in launched])
    boxes = []
    for machine in machines.values():
        assert machine.state == "running", machine
        assert machine.public_address is not None
        assert machine.ssh_port is not None
        boxes.append(
            Box(machine.id, machine.public_address, machine.ssh_port, machine.host_keys[0])
        )
    return boxes


def content(path: str) -> bytes | None:
    """What a file of this computer holds; ``None`` where there is none."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None


def links() -> set[str]:
    """The names of this computer's network devices."""
    return {link["ifname"] for link in _ip("link")}


def host() -> dict[str, list[str]]:
    """What this computer has of networks and mounts, but for what other tests make meanwhile.

    Those are other experiments' cables, and the file systems named ``small`` that fill up.
    """
    routes = [
        f"{route.get('dst')} {route.get('dev')} {route.get('table')}"
        for route in _ip("route", "show", "table", "all")
    ]
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return {
        "links": sorted(link for link in links() if not link.startswith("prc")),
        "routes": sorted(route for route in routes if " prc" not in route),
        "mounts": sorted(line.split()[4] for line in mounts if " - tmpfs small " not in line),
    }


def _ip(*words: str) -> Any:
    shown = subprocess.run(["ip", "-json", *words], capture_output=True, check=True)
    return json.loads(shown.stdout or "[]")
