"""A network of its own in which every address that moto makes up is this computer, and a script.

Run within ``unshare --net``, with a directory as its argument: moto, an SSH server and an
experiment share the namespace, so that nothing of them reaches any other network. What was seen is
the last line that it writes, in JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import boto3  # type: ignore[import-untyped] # it ships no types
from moto.server import ThreadedMotoServer

from precip_async import EC2Experiment
from precip_async.home.directory import Home
from precip_async.home.keys import ed25519_key
from tests.clouds.ec2_peer import ACCESS_KEY, SECRET_KEY
from tests.servers import OpenSSHServer

if TYPE_CHECKING:
    from collections.abc import Iterator

REGION: Final = "us-west-2"
IMAGE: Final = "ami-12c6146b"  # one that moto has
NETWORKS: Final = ("3", "34", "35", "52", "54")  # from which moto draws public addresses


def lay_out() -> None:
    """Have all of moto's addresses lead here."""
    routes = [f"ip route add local {network}.0.0.0/8 dev lo" for network in NETWORKS]
    for step in ("ip link set lo up", *routes):
        subprocess.run(step.split(), check=True, timeout=10)


@contextmanager
def moto() -> Iterator[str]:
    """A moto server; its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}/"
    server.stop()


async def live(endpoint: str, directory: Path) -> dict[str, Any]:
    """Live the life of the manual's first example and more; what was seen."""
    sent, script = directory / "sent", directory / "script.sh"
    sent.write_text("there and back\n")
    script.write_text('#!/bin/sh\necho "$1 $PRECIP_INDEX"\n')
    keys = (ACCESS_KEY, SECRET_KEY)
    async with EC2Experiment(f"{REGION}c", endpoint, *keys, home=directory / "home") as exp:
        await exp.provision(IMAGE, count=3, tags=["worker"])
        await exp.wait(timeout=60)
        listed = exp.list(["worker"])
        ran = await exp.run(["worker"], "id -un; echo $PRECIP_INSTANCE_ID", parallel=True)
        await exp.put([], sent, f"{directory}/remote", parallel=True)
        got = await exp.get([], f"{directory}/remote", directory / "got", parallel=True)
        said = await exp.copy_and_run([], script, ["it's"], parallel=True)
        await exp.deprovision()
        left = exp.list()
    return {
        "listed": listed,
        "ran": list(ran),
        "got": [path.read_text() for path in got],
        "said": list(said),
        "left": left,
    }


def main(directory: Path) -> None:
    """Make the world, live in it, and say what was seen."""
    lay_out()
    key = ed25519_key(Home.open(directory / "home")).path.with_suffix(".pub").read_text()
    with (
        moto() as endpoint,
        OpenSSHServer(directory, address="0.0.0.0", port=22, authorized_keys=[key.strip()]),
    ):
        seen = anyio.run(live, endpoint, directory)
        client = boto3.client(
            "ec2",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        groups = client.describe_instances()["Reservations"]
    seen["states"] = [one["State"]["Name"] for group in groups for one in group["Instances"]]
    sys.stdout.write(f"{json.dumps(seen)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
