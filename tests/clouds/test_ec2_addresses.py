"""Elastic addresses: given to ours, taken back from ours, and nobody else's ever touched."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from precip_async.clouds.dialects import AMAZON, EC2_API, NOVA_2012, Dialect
from precip_async.errors import CloudError
from tests.clouds.ec2_peer import (
    Peer,
    Reply,
    Request,
    cloud_at,
    described,
    document,
    fault,
    item,
    peer,
    request,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from precip_async.clouds.ec2 import EC2Cloud


class Pool:
    """A cloud with elastic addresses, and as many instances as are launched."""

    def __init__(self, *, more: str = "") -> None:
        self.addresses: dict[str, str] = {"10.60.0.1": "", "10.60.0.2": "i-theirs"}
        self.instances = 0
        self.more = f"<privateIpAddress>10.1.0.9</privateIpAddress>{more}"
        self.answers: dict[str, Any] = {
            "RunInstances": self.run,
            "DescribeInstances": self.describe,
            "TerminateInstances": self.terminate,
            "DescribeAddresses": self.addresses_described,
            "AllocateAddress": self.allocate,
            "AssociateAddress": self.associate,
            "DisassociateAddress": self.disassociate,
            "ReleaseAddress": self.release,
        }

    def run(self, asked: Request) -> str:
        """Launch."""
        self.instances = int(asked.parameters["MaxCount"])
        return described(*self._items("pending"), action="RunInstances")

    def describe(self, _: Request) -> str:
        """All of them run."""
        return described(*self._items("running"))

    def terminate(self, asked: Request) -> str:
        """They say that they run, as nova's do."""
        items = [item(one) for one in asked.listed("InstanceId")]
        return described(*items, action="TerminateInstances")

    def _items(self, state: str) -> list[str]:
        return [item(f"i-{n}", state, self.more) for n in range(self.instances)]

    def addresses_described(self, _: Request) -> str:
        """All addresses of the project."""
        items = "".join(
            f"<item><publicIp>{ip}</publicIp><instanceId>{instance}</instanceId></item>"
            for ip, instance in self.addresses.items()
        )
        return document("DescribeAddresses", f"<addressesSet>{items}</addressesSet>")

    def allocate(self, _: Request) -> str:
        """A further one."""
        ip = f"10.60.0.{100 + len(self.addresses)}"
        self.addresses[ip] = ""
        return document("AllocateAddress", f"<publicIp>{ip}</publicIp>")

    def associate(self, asked: Request) -> str:
        """Give one to an instance."""
        self.addresses[asked.parameters["PublicIp"]] = asked.parameters["InstanceId"]
        return document("AssociateAddress")

    def disassociate(self, asked: Request) -> str:
        """Take one from its instance."""
        self.addresses[asked.parameters["PublicIp"]] = ""
        return document("DisassociateAddress")

    def release(self, asked: Request) -> Reply | str:
        """Give one back, which no instance may have."""
        if self.addresses[ip := asked.parameters["PublicIp"]]:
            return fault("UnsupportedOperation", "in use")
        del self.addresses[ip]
        return document("ReleaseAddress")


THEIRS = {"10.60.0.1": "", "10.60.0.2": "i-theirs"}


@asynccontextmanager
async def launched(
    pool: Pool, count: int = 2, dialect: Dialect = NOVA_2012, **given: Any
) -> AsyncIterator[tuple[EC2Cloud, Peer, list[str]]]:
    """A cloud of ours with instances, and their ids."""
    async with peer(pool.answers) as server, cloud_at(server.url, dialect, **given) as cloud:
        machines = await cloud.launch(request(count=count))
        yield cloud, server, [one.id for one in machines]


async def test_each_instance_is_given_one_and_it_is_given_back() -> None:
    """Also where it lies in a private range; those that were there stay as they were."""
    pool = Pool()
    async with launched(pool) as (cloud, server, ids):
        seen = await cloud.describe(ids)
        addresses = {seen[one].public_address for one in ids}
        assert addresses == pool.addresses.keys() - THEIRS
        await cloud.describe(ids)
        assert len(server.asked("AllocateAddress")) == 2
        await cloud.terminate(ids)

        assert pool.addresses == THEIRS


async def test_what_is_left_is_given_back_at_the_end() -> None:
    """Whatever became of the instances."""
    pool = Pool()
    async with launched(pool) as (cloud, _, ids):
        await cloud.describe(ids)
        assert len(pool.addresses) == 4

    assert pool.addresses == THEIRS


async def test_an_address_that_another_instance_has_now_is_not_taken_from_it() -> None:
    """Somebody has given it away, by hand."""
    pool = Pool()
    async with launched(pool, 1) as (cloud, _, ids):
        await cloud.describe(ids)
        (ip,) = pool.addresses.keys() - THEIRS
        pool.addresses[ip] = "i-somebody"
        await cloud.terminate(ids)

    assert pool.addresses == {**THEIRS, ip: "i-somebody"}


async def test_none_is_asked_for_where_private_ones_are_used() -> None:
    """Such as behind a bastion."""
    async with launched(Pool(), public=False) as (cloud, server, ids):
        seen = await cloud.describe(ids)

        assert not server.asked("DescribeAddresses")
    assert seen[ids[0]].public_address is None
    assert seen[ids[0]].private_address == "10.1.0.9"


@pytest.mark.parametrize(
    ("dialect", "more"),
    [
        (NOVA_2012, "<ipAddress>10.60.0.7</ipAddress>"),
        (NOVA_2012, "<ipAddress>192.0.2.7</ipAddress>"),
        (AMAZON, ""),
    ],
)
async def test_none_is_asked_for_where_there_is_one(dialect: Dialect, more: str) -> None:
    """Nor where addresses come by themselves."""
    async with launched(Pool(more=more), dialect=dialect) as (cloud, server, ids):
        await cloud.describe(ids)

        assert not server.asked("AllocateAddress")


async def test_others_instances_are_given_none() -> None:
    """Only what was launched here, and is to live."""
    pool = Pool()
    async with launched(pool) as (cloud, server, ids):
        pool.instances = 3
        await cloud.terminate(ids[:1])
        seen = await cloud.describe(["i-2", *ids])

        assert len(server.asked("AllocateAddress")) == 1
    assert seen["i-2"].public_address is None


async def test_an_empty_pool_is_told_and_not_asked_over_and_over() -> None:
    """Why it has no address is the machine's reason."""
    pool = Pool()
    full = fault("NoMoreFloatingIps", "Zero floating ips available.")
    async with launched(pool) as (cloud, server, ids):
        server.answers["AllocateAddress"] = full
        for _ in range(3):
            seen = await cloud.describe(ids)

        assert len(server.asked("AllocateAddress")) <= 2
    assert "it has no elastic address: Zero floating ips" in seen[ids[0]].reason
    assert seen[ids[0]].state == "running"


async def test_an_address_that_could_not_be_given_is_tried_again() -> None:
    """Rather than another one taken."""
    pool = Pool()
    async with launched(pool, 1) as (cloud, server, ids):
        server.answers["AssociateAddress"] = [
            fault("UnsupportedOperation", "no fixed ips associated"),
            pool.associate,
        ]
        assert (await cloud.describe(ids))[ids[0]].public_address is None
        assert (await cloud.describe(ids))[ids[0]].public_address in pool.addresses
        assert len(server.asked("AllocateAddress")) == 1

    assert pool.addresses == THEIRS


async def test_a_lost_allocation_is_told_and_guessed_at_by_nobody() -> None:
    """It may be ours, or somebody else's: they are told, and not released."""
    pool = Pool()

    def lost(asked: Request) -> Reply:
        pool.allocate(asked)
        server.answers["AllocateAddress"] = pool.allocate
        return Reply(cut=True)

    async with launched(pool, 1) as (cloud, server, ids):
        server.answers["AllocateAddress"] = lost
        await cloud.describe(ids)
        seen = await cloud.describe(ids)
        assert seen[ids[0]].public_address == "10.60.0.103"
        with pytest.warns(UserWarning, match=r"1 answer.*were lost: of 10\.60\.0\.102 as many"):
            await cloud.aclose()

    assert pool.addresses == {**THEIRS, "10.60.0.102": ""}


async def test_an_address_that_can_not_be_given_back_is_named() -> None:
    """At the end, because it may cost; the rest is closed all the same."""
    pool = Pool()
    async with launched(pool, 1) as (cloud, server, ids):
        await cloud.describe(ids)
        server.answers["ReleaseAddress"] = fault("Weird", "no")
        await cloud.terminate(ids)
        with pytest.raises(CloudError, match=r"allocated: 10\.60\.0\.102: no.*release them your"):
            await cloud.aclose()

        assert server.asked("DeleteKeyPair")


async def test_in_a_network_of_its_own_it_is_named_by_its_allocation() -> None:
    """The other way is refused there, by ec2-api."""
    pool = Pool(more="<vpcId>vpc-1</vpcId>")
    allocated = "<publicIp>10.60.0.9</publicIp><allocationId>eipalloc-1</allocationId>"
    sent: dict[str, dict[str, str]] = {}

    def keep(asked: Request) -> str:
        sent[asked.action] = asked.parameters
        pool.addresses["10.60.0.9"] = "i-0"
        return document(asked.action, allocated)

    names = ("AllocateAddress", "AssociateAddress", "ReleaseAddress", "DisassociateAddress")
    pool.answers |= dict.fromkeys(names, keep)
    async with launched(pool, 1, EC2_API) as (cloud, _, ids):
        await cloud.describe(ids)

    assert sent["AllocateAddress"]["Domain"] == "vpc"
    assert sent["AssociateAddress"]["AllocationId"] == "eipalloc-1"
    assert "PublicIp" not in sent["AssociateAddress"]
    assert sent["ReleaseAddress"]["AllocationId"] == "eipalloc-1"
