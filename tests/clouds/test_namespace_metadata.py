"""The metadata service of machines in namespaces: within each machine, and nowhere else."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from anyio import fail_after, open_process, run_process

from precip_async.clouds.local.metadata import Metadata
from precip_async.clouds.local.metadata_http import ADDRESS, MOST
from precip_async.clouds.local.namespace import NamespaceYard
from tests.clouds.local_machines import host, start
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import Process

    from tests.clouds.local_machines import Box

pytestmark = [pytest.mark.root, pytest.mark.sshd]

TTL, TOKEN = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
# Says the status and the text; in the machine's network, by an interpreter that is ours.
CLIENT = f"""
import sys, urllib.error, urllib.request
method, path, *headers = sys.argv[1:]
ask = urllib.request.Request("http://{ADDRESS}" + path, method=method)
for header in headers:
    ask.add_header(*header.split(": "))
try:
    with urllib.request.urlopen(ask, timeout=1.5) as reply:
        sys.stdout.write(f"{{reply.status}} {{reply.read().decode()}}")
except urllib.error.HTTPError as error:
    sys.stdout.write(str(error.code))
except TimeoutError:
    sys.stdout.write("nothing")
"""


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[NamespaceYard]:
    """An open yard, and after it a host that is as it was."""
    before = host()
    yard = NamespaceYard(tmp_path)
    await yard.open()
    try:
        yield yard
    finally:
        await yard.aclose()
    assert host() == before


def known(instance_id: str = "i-1", **given: bool | int) -> Metadata:
    """What is known of a machine."""
    return Metadata(facts={"instance-id": instance_id}, **given)  # type: ignore[arg-type] # as declared


async def within(pid: int, *words: str) -> str:
    """What a command says in the network of the process `pid`."""
    with fail_after(20):
        ran = await run_process(["nsenter", f"--target={pid}", "--net", "--", *words], check=False)
    return ran.stdout.decode()


async def asked(pid: int, method: str, path: str, *headers: str) -> str:
    """What the service says to who asks from there."""
    return await within(pid, sys.executable, "-c", CLIENT, method, path, *headers)


def process_of(yard: NamespaceYard, box: Box) -> int:
    """The machine's process 1."""
    return yard._machines[box.id].pid


@asynccontextmanager
async def held(*argv: str) -> AsyncIterator[Process]:
    """A process that has said a line, and goes on until its input ends."""
    async with await open_process(argv) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with fail_after(20):
            await process.stdout.receive()
        yield process
        await process.stdin.aclose()


async def test_each_machine_is_told_of_itself(yard: NamespaceYard) -> None:
    """At the one address, which is a machine's own; the host has none of it."""
    one = await start(yard, metadata=known("i-1"))
    other = await start(yard, metadata=known("i-2"))
    path = "/latest/meta-data/instance-id"

    assert await asked(process_of(yard, one), "GET", path) == "200 i-1"
    assert await asked(process_of(yard, other), "GET", path) == "200 i-2"
    assert (
        await asked(process_of(yard, one), "GET", "/latest/meta-data/local-ipv4")
        == f"200 {one.address}"
    )
    assert await one.run("echo it is a machine all the same")
    addresses = await run_process(["ip", "address"])
    assert ADDRESS not in addresses.stdout.decode()


async def test_a_machine_without_one_has_no_such_address(yard: NamespaceYard) -> None:
    """As instances of `LocalExperiment` are."""
    box = await start(yard)

    assert ADDRESS not in await within(process_of(yard, box), "ip", "address")


async def test_tokens_are_asked_for_and_shown(yard: NamespaceYard) -> None:
    """Over the wire as well: the headers are read whatever their case."""
    box = await start(yard, metadata=known(tokens_required=True))
    path = "/latest/meta-data/instance-id"

    refused = await asked(process_of(yard, box), "GET", path)
    given = await asked(process_of(yard, box), "PUT", "/latest/api/token", f"{TTL}: 60")
    let_in = await asked(process_of(yard, box), "GET", path, f"{TOKEN}: {given.split()[1]}")

    assert (refused, let_in) == ("401", "200 i-1")


@pytest.mark.parametrize(("hops", "said"), [(1, "nothing"), (2, "200")])
async def test_a_token_does_not_travel_further_than_it_may(
    yard: NamespaceYard, hops: int, said: str
) -> None:
    """A container on the machine is a hop away: with a limit of 1 it waits in vain for a token."""
    box = await start(yard, metadata=known(hop_limit=hops))
    machine = process_of(yard, box)
    holding = ("unshare", "--net", "sh", "-c", "echo held; exec cat")
    async with held("nsenter", f"--target={machine}", "--net", "--", *holding) as container:
        inner = f"netns {container.pid}"
        for pid, line in (
            (machine, f"link add outer type veth peer name inner {inner}"),
            (machine, "address add 192.0.2.1/24 dev outer"),
            (machine, "link set outer up"),
            (container.pid, "address add 192.0.2.2/24 dev inner"),
            (container.pid, "link set inner up"),
            (container.pid, "route add default via 192.0.2.1"),
        ):
            await within(pid, "ip", *line.split())

        token = await asked(container.pid, "PUT", "/latest/api/token", f"{TTL}: 60")
        untouched = await asked(container.pid, "GET", "/latest/meta-data/instance-id")

    assert token.split()[0] == said
    assert untouched == "200 i-1"


async def test_what_is_no_request_is_refused(yard: NamespaceYard) -> None:
    """One that has no end is cut off, and the next is answered."""
    box = await start(yard, metadata=known())
    endless = f"""
import socket, sys
line = socket.create_connection(("{ADDRESS}", 80), 5)
line.sendall(b"GET /" + b"x" * {MOST} * 2)
sys.stdout.write(line.recv(12).decode())
"""

    assert await within(process_of(yard, box), sys.executable, "-c", endless) == "HTTP/1.1 413"
    assert await asked(process_of(yard, box), "GET", "/latest/meta-data/instance-id") == "200 i-1"


@pytest.mark.parametrize("ended", ["by us", "by itself"])
async def test_a_machine_that_ends_takes_it_along(yard: NamespaceYard, ended: str) -> None:
    """Its network is gone although somebody is still connected to the service."""
    box = await start(yard, metadata=known())
    machine = yard._machines[box.id]
    connecting = f"""
import socket, sys
line = socket.create_connection(("{ADDRESS}", 80), 5)
sys.stdout.write("connected\\n")
sys.stdout.flush()
sys.stdin.read()
"""
    there = ("nsenter", f"--target={machine.pid}", "--net", "--pid", "--")
    async with held(*there, sys.executable, "-c", connecting):
        if ended == "by itself":
            await within(machine.pid, "kill", "-9", str(machine.pid))
            await eventually(yard.died)
        with fail_after(10):
            await yard.stop(box.id)

        await eventually(lambda: not yard._ground.has(machine.port))
