"""The network of a yard: ranges that nobody routes, and a way out that is given back."""

from __future__ import annotations

import json
import shutil
import subprocess
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precip_async.clouds.local.namespace_net import POOLS, free_range, host_routes, mac_of
from precip_async.clouds.local.yard import YardError
from tests.scripts import PYTHON

WAY_OUT = """
import json, shutil, subprocess, sys
from ipaddress import IPv4Network
from pathlib import Path
from precip_async.clouds.local import namespace_ground, namespace_net
from precip_async.clouds.local.namespace_net import FORWARDING, Outbound

tool, scene = sys.argv[1:3]
real = shutil.which
namespace_net.shutil.which = lambda name, **more: real(name) if name.startswith(tool) else None

def state():
    listing = {"iptables": ["iptables-save"], "nft": ["nft", "list", "ruleset"]}[tool]
    text = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    rules = [line for line in text.splitlines() if line.startswith("-A") or "masquerade" in line]
    seen.append([FORWARDING.read_text().strip(), len(rules)])

def outbound(link, network):
    return Outbound.planned(link, IPv4Network(network))

seen = []
one = ("prc00000001", "10.64.0.0/22")
two = ("prc00000002", "10.65.0.0/22")
"""
SCENES = {
    "once": """
a = outbound(*one); state(); a.take(); state(); a.give_back(); state()
""",
    "twice given back": """
a = outbound(*one); a.take(); state()
a.give_back(); FORWARDING.write_text("1"); a.give_back(); state()
""",
    "already on": """
FORWARDING.write_text("1"); a = outbound(*one); a.take(); state(); a.give_back(); state()
""",
    "two, first in first out": """
a = outbound(*one); a.take(); b = outbound(*two); b.take(); state()
a.give_back(); state(); b.give_back(); state()
""",
    "two, last in first out": """
a = outbound(*one); a.take(); b = outbound(*two); b.take(); state()
b.give_back(); state(); a.give_back(); state()
""",
    "forbidding firewall": """
subprocess.run(["iptables", "-P", "FORWARD", "DROP"], check=True)
a = outbound(*one); a.take(); state(); a.give_back(); state()
""",
    "killed": """
import dataclasses, os
directory = Path(sys.argv[3])
a = outbound(*one)
taken = {"outbound": dataclasses.asdict(a), "link": one[0]}
(directory / "taken.json").write_text(json.dumps(taken))
a.take(); state(); namespace_ground.clear_taken(directory); state()
""",
}


def way_out(tool: str, scene: str, *args: str) -> list[list[str | int]]:
    """Play a scene in a network of its own: forwarding and the number of rules, at each look."""
    code = f"{WAY_OUT}{SCENES[scene]}\nsys.stdout.write(json.dumps(seen))"
    ran = subprocess.run(
        ["unshare", "--net", *PYTHON, "-c", code, tool, scene, *args],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ran.returncode, ran.stderr
    seen: list[list[str | int]] = json.loads(ran.stdout)
    return seen


networks = st.builds(
    lambda number, prefix: IPv4Network((number, prefix), strict=False),
    st.integers(0x0A000000, 0x0AFFFFFF),
    st.integers(11, 32),
)


@given(st.lists(networks, max_size=20))
def test_a_free_range_overlaps_nothing(taken: list[IPv4Network]) -> None:
    """Whatever is taken in our pools, the range drawn is in a pool and free."""
    chosen = free_range(taken)

    assert not any(chosen.overlaps(network) for network in taken)
    assert any(chosen.subnet_of(pool) for pool in POOLS)


def test_a_pool_that_is_routed_is_left_for_the_next() -> None:
    """Where a VPN takes all of 10.0.0.0/8, the next private range is used."""
    assert free_range([IPv4Network("10.0.0.0/8")]).subnet_of(POOLS[1])


def test_the_last_free_range_is_found() -> None:
    """The draw is random, the search complete."""
    last = IPv4Network("198.19.252.0/22")
    rest = list(POOLS[-1].address_exclude(last))

    assert free_range([*POOLS[:-1], *rest]) == last


def test_without_a_free_range_the_error_says_so() -> None:
    """A host that routes everything gets a sentence."""
    with pytest.raises(YardError, match="no range of addresses is left"):
        free_range([IPv4Network("0.0.0.0/0")])


def test_an_address_has_one_hardware_address() -> None:
    """It is made of the address, locally administered, and no group's."""
    assert mac_of(IPv4Address("10.64.1.2")) == "02:70:0a:40:01:02"


@pytest.mark.root
async def test_the_hosts_own_addresses_and_routes_are_seen() -> None:
    """The loopback's network is among what is taken, a default route is not."""
    routes = await host_routes()

    assert ("lo", IPv4Network("127.0.0.0/8")) in routes
    assert all(network.prefixlen for _, network in routes)


@pytest.fixture(params=["iptables", "nft"])
def tool(request: pytest.FixtureRequest) -> str:
    """Each of the tools that are here."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.mark.root
class TestWayOut:
    """`Outbound`, with either tool, in a network of its own."""

    def test_it_is_given_back(self, tool: str) -> None:
        """Forwarding and one rule are taken, and both are as before afterwards."""
        assert way_out(tool, "once") == [["0", 0], ["1", 1], ["0", 0]]

    def test_it_is_given_back_once(self, tool: str) -> None:
        """Who turned forwarding on after us keeps it."""
        assert way_out(tool, "twice given back") == [["1", 1], ["1", 0]]

    def test_forwarding_that_was_on_stays_on(self, tool: str) -> None:
        """What the host had before us it has after us."""
        assert way_out(tool, "already on") == [["1", 1], ["1", 0]]

    @pytest.mark.parametrize("order", ["first in first out", "last in first out"])
    def test_the_last_of_two_turns_forwarding_off(self, tool: str, order: str) -> None:
        """Two experiments each have a rule; forwarding is on until both are gone."""
        assert way_out(tool, f"two, {order}") == [["1", 2], ["1", 1], ["0", 0]]

    def test_what_was_killed_is_cleared(self, tool: str, tmp_path: object) -> None:
        """The next start gives back what is written down."""
        assert way_out(tool, "killed", str(tmp_path)) == [["1", 1], ["0", 0]]


@pytest.mark.root
def test_a_firewall_that_forbids_forwarding_is_opened_for_us() -> None:
    """Where the policy is to drop, as docker leaves it, our own traffic gets two more rules."""
    assert way_out("iptables", "forbidding firewall") == [["1", 3], ["0", 0]]
