"""The network of a yard: which addresses, the cable to the host, the way out.

The cable's host end is all that the host itself gets to see. It vanishes with the yard's network
namespace, whatever ends that. The way out (``internet=True``) doesn't, and so is written down
before it is taken.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import re
import secrets
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from precip_async.clouds.local.yard import YardError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Outbound", "command", "free_range", "host_routes", "mac_of"]

POOLS: Final = (  # in this order; the last one is meant for tests of networks, which this is
    IPv4Network("10.64.0.0/10"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("198.18.0.0/15"),
)
PREFIX: Final = 22  # a bridge has 1023 ports at most
FORWARDING: Final = Path("/proc/sys/net/ipv4/ip_forward")


async def command(*argv: str, text: str = "") -> str:
    """What a tool writes, given `text` to read.

    Raises:
        YardError: It failed; with its own words.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate(text.encode())
    if process.returncode:
        words = err.decode(errors="replace").strip() or f"exit code {process.returncode}"
        raise YardError(f"`{' '.join(argv)}` failed: {words}")
    return out.decode()


async def host_routes() -> list[tuple[str, IPv4Network]]:
    """Every network that this host has an address in or a route to, with the interface's name."""
    routes, addresses = await asyncio.gather(
        command("ip", "-json", "-4", "route", "show", "table", "all"),
        command("ip", "-json", "-4", "address", "show"),
    )
    found = [
        (str(route.get("dev", "")), IPv4Network(route["dst"]))
        for route in json.loads(routes or "[]")
        if re.match(r"\d+\.", str(route.get("dst")))
    ]
    for link in json.loads(addresses or "[]"):
        for info in link.get("addr_info", ()):
            network = IPv4Network(f"{info['local']}/{info['prefixlen']}", strict=False)
            found.append((str(link.get("ifname", "")), network))
    return found


def free_range(taken: Iterable[IPv4Network]) -> IPv4Network:
    """A range of addresses, drawn at random, that overlaps none of those `taken`.

    Raises:
        YardError: There is none.
    """
    busy = list(taken)
    for pool in POOLS:
        within = [network for network in busy if network.overlaps(pool)]
        count = 2 ** (PREFIX - pool.prefixlen)
        first = secrets.randbelow(count)
        for step in range(count):
            start = int(pool.network_address) + ((first + step) % count << (32 - PREFIX))
            candidate = IPv4Network((start, PREFIX))
            if not any(candidate.overlaps(network) for network in within):
                return candidate
    raise YardError(
        "no range of addresses is left for the machines: this host routes all of "
        + ", ".join(map(str, POOLS))
    )


def mac_of(address: IPv4Address) -> str:
    """The hardware address that always goes with `address`, so that no neighbour cache is wrong."""
    return "02:70:" + ":".join(f"{byte:02x}" for byte in address.packed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """The way out for one range of addresses: forwarding, and one rule that lends our address.

    Several experiments may need it at once, and any of them may be killed: that forwarding was off
    before the first of them is said in the rules themselves, and whoever removes the last such rule
    turns it off again.

    Attributes:
        link: The host end of the cable; it names the rules.
        network: The machines' addresses.
        tool: ``"iptables"`` or ``"nft"``.
        forwarding_was_on: Before the first of us.
    """

    link: str
    network: str
    tool: str
    forwarding_was_on: bool

    @classmethod
    def planned(cls, link: str, network: IPv4Network) -> Outbound:
        """What `take` will take; nothing is taken yet.

        Raises:
            YardError: Neither tool is there.
        """
        tool = next((tool for tool in ("iptables", "nft") if shutil.which(tool)), None)
        if tool is None:
            raise YardError("internet=True needs iptables or nft on this computer; install either")
        with _forwarding_locked():
            on = FORWARDING.read_text(encoding="ascii").strip() == "1"
            return cls(
                link=link,
                network=str(network),
                tool=tool,
                forwarding_was_on=on and not _rules_that_say_off(tool),
            )

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Outbound:
        """The one that was written down as `facts`."""
        return cls(**facts)

    @property
    def name(self) -> str:
        """What its rules are called, and what forwarding was before them."""
        return f"precip_{'on' if self.forwarding_was_on else 'off'}_{self.link}"

    def take(self) -> None:
        """Let the machines out. Blocks."""
        with _forwarding_locked():
            for rule in self._rules("add"):
                _tool(rule)
            FORWARDING.write_text("1", encoding="ascii")

    def give_back(self) -> None:
        """Undo `take`, or whatever part of it was done. Blocks."""
        with _forwarding_locked():
            present = self.name in _listing(self.tool)
            if present:
                for rule in self._rules("delete"):
                    _tool(rule, check=False)
            if present and not self.forwarding_was_on and not _rules_that_say_off(self.tool):
                FORWARDING.write_text("0", encoding="ascii")

    def _rules(self, verb: str) -> list[list[str]]:
        if self.tool == "nft":
            if verb == "delete":
                return [["nft", "delete", "table", "ip", self.name]]
            return [["nft", _nft_table(self.name, self.network)]]
        verb = "-A" if verb == "add" else "-D"
        mine = ["-m", "comment", "--comment", self.name]
        nat = ["-s", self.network, "!", "-d", self.network, *mine, "-j", "MASQUERADE"]
        rules = [["iptables", "-w", "-t", "nat", verb, "POSTROUTING", *nat]]
        policy = _tool(["iptables", "-w", "-S", "FORWARD"], check=False).split("\n", 1)[0]
        if verb == "-D" or policy != "-P FORWARD ACCEPT":  # as docker leaves it
            back = ["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"]
            insert = ["-I"] if verb == "-A" else ["-D"]
            rules += [
                ["iptables", "-w", *insert, "FORWARD", "-i", self.link, *mine, "-j", "ACCEPT"],
                [
                    "iptables",
                    "-w",
                    *insert,
                    "FORWARD",
                    "-o",
                    self.link,
                    *back,
                    *mine,
                    "-j",
                    "ACCEPT",
                ],
            ]
        return rules


def _nft_table(name: str, network: str) -> str:
    return f"""table ip {name} {{
        chain way_out {{
            type nat hook postrouting priority 100
            ip saddr {network} ip daddr != {network} masquerade
        }}
    }}"""


def _listing(tool: str) -> str:
    if tool == "nft":
        return _tool(["nft", "list", "tables", "ip"])
    return _tool(
        ["iptables-save"]
        if shutil.which("iptables-save")
        else ["iptables", "-w", "-t", "nat", "-S"]
    )


def _rules_that_say_off(tool: str) -> bool:
    return "precip_off_" in _listing(tool)


def _tool(argv: list[str], *, check: bool = True) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise YardError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def _forwarding_locked() -> Iterator[None]:
    """Hold the setting itself: a lock that every experiment finds and that leaves no file."""
    with FORWARDING.open(encoding="ascii") as setting:
        fcntl.flock(setting, fcntl.LOCK_EX)
        yield
