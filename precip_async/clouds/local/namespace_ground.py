"""What the machines of a yard share: the process that holds their namespaces, cable, way out."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
from dataclasses import asdict
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from precip_async.clouds.local.namespace_net import (
    Outbound,
    command,
    free_range,
    host_routes,
    mac_of,
)
from precip_async.clouds.local.namespace_probe import search_path
from precip_async.clouds.local.namespace_root import fstab
from precip_async.clouds.local.processes import birth, kill
from precip_async.clouds.local.yard import YardError

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

__all__ = ["Ground", "clear_taken", "hear", "last_line", "vanishing"]

OPEN_TIMEOUT: Final = 60.0  # seconds; it takes about 0.2
CLOSE_TIMEOUT: Final = 60.0  # seconds for the kernel to take hundreds of networks apart
_TAKEN: Final = "taken.json"
_SCRIPTS: Final = Path(__file__).parent


class Ground:
    """The namespaces of a yard, joined to the host by one cable.

    Attributes:
        network: The machines' addresses; the host has the first of them.
        holder: The number of the process that holds the namespaces.
        link: The host end of the cable: a network device.
    """

    def __init__(self, directory: Path) -> None:
        self.network = IPv4Network("0.0.0.0/32")
        self.holder = 0
        self._directory = directory
        self.link = f"prc{secrets.token_hex(4)}"
        self._process: asyncio.subprocess.Process | None = None
        self._outbound: Outbound | None = None
        self._taken: dict[str, Any] = {}

    @property
    def gateway(self) -> IPv4Address:
        """The host's address."""
        return self.network.network_address + 1

    @property
    def holds(self) -> bool:
        """Whether the namespaces are there."""
        return self._process is not None and self._process.returncode is None

    async def open(self, *, internet: bool) -> None:
        """Make the namespaces and the cable and, if asked, the way out.

        Raises:
            YardError: One of these can't be had; nothing is kept.
        """
        try:
            await self._hold()
            await self._plug_in()
            if internet:
                self._outbound = Outbound.planned(self.link, self.network)
                self._record(outbound=asdict(self._outbound))
                await asyncio.to_thread(self._outbound.take)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """End every process in the namespaces, then give back the cable and the way out."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()  # the end of the pipe that all of it hangs on
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await process.wait()
                await vanishing(self._cable_is_there)
        outbound, self._outbound = self._outbound, None
        if outbound is not None:
            await asyncio.to_thread(outbound.give_back)

    def has(self, port: str) -> bool:
        """Whether the bridge's network still has the device `port`."""
        try:
            devices = Path(f"/proc/{self.holder}/net/dev").read_text(encoding="ascii")
        except OSError:  # the holder has ended, and all networks with it
            return False
        return f"{port}:" in devices.split()

    async def _hold(self) -> None:
        environment = {
            "PATH": search_path(),
            "FSTAB": fstab(),
            "MACHINE": (_SCRIPTS / "machine.sh").read_text(encoding="utf-8"),
        }
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--"),
                *("sh", "-c", (_SCRIPTS / "yard.sh").read_text(encoding="utf-8")),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self.holder = int(await self._hear("pid"))
        self._record(holder=[self.holder, birth(self.holder)], link=self.link)

    async def _plug_in(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        while True:
            self.network = free_range([network for _, network in await host_routes()])
            lines = [
                f"address add {self.gateway}/{self.network.prefixlen} dev {self.link}",
                f"link set {self.link} addrgenmode none",  # no IPv6 address of its own making
                f"link set {self.link} address {mac_of(self.gateway)} up",
            ]
            if not self._cable_is_there():
                peer = f"peer name cable netns {self.holder}"
                lines.insert(0, f"link add {self.link} type veth {peer}")
            await command("ip", "-batch", "-", text="\n".join(lines) + "\n")
            if not await self._taken_by_another():
                break
            await command("ip", "address", "flush", "dev", self.link)
        self._process.stdin.write(b"plugged in\n")
        await self._hear("open")

    async def _taken_by_another(self) -> bool:
        """Whether somebody else chose these addresses as well: who looks last sees both."""
        routes = await host_routes()
        return any(link != self.link and net.overlaps(self.network) for link, net in routes)

    def _cable_is_there(self) -> bool:
        return Path("/sys/class/net", self.link).exists()

    async def _hear(self, word: str) -> str:
        assert self._process is not None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                return await hear(self._process, word)
        except (TimeoutError, EOFError) as error:
            why = last_line(self._log) or "it took too long"
            raise YardError(f"the machines' network could not be made: {why}") from error

    @property
    def _log(self) -> Path:
        return self._directory / "yard.log"

    def _record(self, **facts: Any) -> None:
        """Write down what is taken, or about to be, for whoever clears up if we are killed."""
        self._taken |= facts
        draft = self._directory / f"{_TAKEN}.new"
        draft.write_text(json.dumps(self._taken), encoding="utf-8")
        draft.replace(self._directory / _TAKEN)


def clear_taken(directory: Path) -> None:
    """Give back what a yard that was killed had taken of the host. Blocks."""
    try:
        taken = json.loads((directory / _TAKEN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    if "holder" in taken:
        kill(*taken["holder"])
    if "outbound" in taken:
        Outbound.from_json(taken["outbound"]).give_back()
    if Path("/sys/class/net", taken["link"]).exists():
        subprocess.run(["ip", "link", "delete", taken["link"]], capture_output=True, check=False)


async def hear(process: asyncio.subprocess.Process, word: str) -> str:
    """What one of our scripts says after `word`, which is to be the next thing it says.

    Raises:
        EOFError: It ended instead, or said something else.
    """
    assert process.stdout is not None
    first, _, rest = (await process.stdout.readline()).decode(errors="replace").partition(" ")
    if first.strip() != word:
        raise EOFError(first)
    return rest.strip()


async def vanishing(is_there: Callable[[], bool]) -> None:
    """Wait until the kernel has taken a network apart, which it does some time after its end."""
    while is_there():  # noqa: ASYNC110 - nothing tells of it in the namespace we are in
        await asyncio.sleep(0.02)


def last_line(path: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
