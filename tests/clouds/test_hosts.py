"""Hosts that exist already, as a cloud."""

from __future__ import annotations

from typing import Any

import pytest

from precip_async.clouds.base import Access, Cloud, LaunchRequest
from precip_async.clouds.hosts import Host, HostsCloud, parse_host
from precip_async.errors import CapacityUnavailable, CloudError, InvalidArgument, QuotaExceeded


def request(count: int = 1, *, token: str = "t", **given: Any) -> LaunchRequest:
    """A launch of `count` hosts."""
    given = {"min_count": count, **given}
    return LaunchRequest(
        token=token, image_id="host", instance_type="m1.small", count=count, first=0, **given
    )


@pytest.mark.parametrize(
    ("text", "host", "host_id"),
    [
        ("node1", Host(name="node1"), "node1"),
        ("node_1.example.org:2222", Host(name="node_1.example.org", port=2222), None),
        ("ann@node1:22", Host(name="node1", port=22, user="ann"), "node1:22"),
        ("ann@corp@node1", Host(name="node1", user="ann@corp"), "node1"),
        ("192.0.2.7:22", Host(name="192.0.2.7", port=22), None),
        ("2001:db8::7", Host(name="2001:db8::7"), None),
        ("[2001:db8::7]", Host(name="2001:db8::7"), "2001:db8::7"),
        ("ann@[fe80::1%eth0]:22", Host(name="fe80::1%eth0", port=22, user="ann"), None),
        ("[::1]:2222", Host(name="::1", port=2222), "[::1]:2222"),
    ],
)
def test_a_host_is_read_as_ssh_users_write_it(text: str, host: Host, host_id: str | None) -> None:
    """User and port are optional, IPv6 addresses with a port stand in brackets."""
    assert parse_host(text) == host
    assert parse_host(text).id == (text.rpartition("@")[2] if host_id is None else host_id)


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", "a b", "-oProxyCommand=x", "a/b", "..", "a\n", "host:", "host:0", "host:65536"],
        *["host:ssh", "host:\u0665", "host:-1", "[::1", "[::1]2", "[::1]:", "[host]:x", "::1::2"],
        *["@host", "-l@host", "a b@host", "ann@", "a:b@host", 5, None],
    ],
)
def test_what_is_no_host_is_refused_by_name(text: Any) -> None:
    """Nothing that could be misread, or taken for an option of ssh, gets through."""
    with pytest.raises(InvalidArgument) as refused:
        HostsCloud([text])

    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("hosts", [[], {}, "node1", b"node1", None, 5, {"node1"}])
def test_hosts_must_be_a_list_or_a_mapping_with_something_in_it(hosts: Any) -> None:
    """One string is not a list of hosts, and a set has no order to take them in."""
    with pytest.raises(InvalidArgument, match="hosts"):
        HostsCloud(hosts)


def test_everything_wrong_with_the_hosts_is_said_at_once() -> None:
    """Who mends a list of a hundred hosts does so once."""
    with pytest.raises(InvalidArgument) as refused:
        HostsCloud({"a:0": [], "ann@b": "x", "bob@b": [], "c": [""]})

    message = str(refused.value)
    assert "'a:0'" in message
    assert "'b' is given more than once" in message
    assert "'c': a tag must be" in message


async def test_hosts_are_taken_in_the_order_given() -> None:
    """The next free ones each time, with their address and port."""
    cloud = HostsCloud(["b", "ann@a:2222", "[::1]:22"])

    first = await cloud.launch(request(1, token="one"))
    rest = await cloud.launch(request(2, token="two"))

    assert [(m.id, m.public_address, m.ssh_port) for m in first + rest] == [
        ("b", "b", None),
        ("a:2222", "a", 2222),
        ("[::1]:22", "::1", 22),
    ]
    assert {m.state for m in first + rest} == {"running"}


async def test_fewer_hosts_than_asked_for_are_an_answer_down_to_min_count() -> None:
    """As at a cloud: between min_count and count."""
    cloud = HostsCloud(["a", "b"])

    assert [m.id for m in await cloud.launch(request(5, min_count=2))] == ["a", "b"]


async def test_too_few_hosts_is_said_with_numbers_and_takes_none() -> None:
    """More than were ever given is a quota; more than are free now is capacity."""
    cloud = HostsCloud(["a", "b", "c"])
    await cloud.launch(request(2))

    with pytest.raises(QuotaExceeded, match="4 asked for, 1 of the 3 given hosts are free"):
        await cloud.launch(request(4, token="more"))
    with pytest.raises(CapacityUnavailable, match="2 asked for, 1 of the 3 given hosts are free"):
        await cloud.launch(request(2, token="more"))

    assert [m.id for m in await cloud.launch(request(1, token="one"))] == ["c"]


async def test_hosts_given_back_are_taken_again() -> None:
    """Giving back frees a host; giving back what is not taken, or not ours, is no error."""
    cloud = HostsCloud(["a", "b"])
    await cloud.launch(request(2, token="one"))

    gone = await cloud.terminate(["a", "a", "elsewhere"])

    assert {host: machine.state for host, machine in gone.items()} == {
        "a": "terminated",
        "elsewhere": "terminated",
    }
    assert [m.id for m in await cloud.launch(request(1, token="two"))] == ["a"]


async def test_describe_tells_taken_hosts_from_others() -> None:
    """Only what is taken runs for the experiment."""
    cloud = HostsCloud(["a", "b"])
    await cloud.launch(request(1))

    seen = await cloud.describe(["a", "b", "c"])

    assert [seen[host].state for host in "abc"] == ["running", "terminated", "terminated"]
    assert seen["c"].reason == "not one of the given hosts"


async def test_a_launch_asked_twice_takes_its_hosts_once() -> None:
    """The token names the launch, and finds it."""
    cloud = HostsCloud(["a", "b", "c"])

    once = await cloud.launch(request(2))
    again = await cloud.launch(request(2))

    assert once == again == await cloud.find("t")
    assert await cloud.find("another") == []


async def test_users_and_tags_given_with_hosts_are_on_their_machines() -> None:
    """What was said of a host is said of the machine that it is."""
    cloud = HostsCloud({"ann@a:2222": ["master", "big"], "b": "worker", "c": None})

    machines = await cloud.launch(request(3))

    assert [machine.login_user for machine in machines] == ["ann", None, None]
    assert [machine.tags for machine in machines] == [("master", "big"), ("worker",), ()]


@pytest.mark.parametrize("given", [{"ebs_size": 10}, {"options": {"KeyName": "x"}}])
async def test_what_a_host_cannot_fulfil_is_refused(given: dict[str, Any]) -> None:
    """A disk that is not there must not seem granted."""
    cloud = HostsCloud(["a"])

    with pytest.raises(CloudError, match="ebs_size= and options="):
        await cloud.launch(request(1, **given))

    assert [m.id for m in await cloud.launch(request(1))] == ["a"]


async def test_it_is_a_cloud_that_ends_nothing() -> None:
    """The experiment reads from its traits that hosts are given back, and pins their keys."""
    cloud = HostsCloud(["a"])
    await cloud.prepare(Access(experiment="e", owner="o", public_key="k"))

    assert isinstance(cloud, Cloud)
    assert not cloud.traits.ends_machines
    assert cloud.traits.pins_hosts
    assert (cloud.traits.login_user, cloud.traits.default_image) == (None, "host")
    assert await cloud.console("a") == ""
    await cloud.aclose()
