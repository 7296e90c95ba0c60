"""The clients that are compared: each boots a fleet, runs `true` on every instance, and ends it.

A client is a function of a `Job` and a `Meter`. It measures the phase `boot`, from its first call
to the last answer of `true`, and calls `job.booted()` at its end. Imports are made before.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from _measure import Meter

__all__ = ["CLIENTS", "PACKAGES", "Job", "as_in_2012", "job_for", "lacks", "runs", "vendor"]

IMAGE, KIND = "ami-0abcdef1234567890", "m1.small"
OPEN_ROOT = "#cloud-config\ndisable_root: false\n"  # stock images refuse root, whom all log in as
BATCH = 100  # instances a call, as AWS advises
THREADS = 32
SSH_AGAIN = 5.0  # seconds between two attempts to reach an instance, as scripts have it
PATIENCE = 300.0  # seconds
LAUNCH_EVERY = 0.6  # seconds: Amazon takes two launch calls a second
LOOKS = 8  # a second: it takes ten that name no instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a client is to do.

    Attributes:
        facts: The cloud: its endpoint, credentials, region, and the port of its machines.
        count: How many instances.
        home: A directory for what a client wants to write.
        key: The path of a private key.
        public: Its public half, one line.
        booted: To be called when all are ready.
    """

    facts: dict[str, Any]
    count: int
    home: str
    key: str
    public: str
    booted: Callable[[], None]


def job_for(facts: dict[str, Any], count: int, home: str, booted: Callable[[], None]) -> Job:
    """A job with a key of its own, in `home`."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    secret = ed25519.Ed25519PrivateKey.generate()
    key = Path(home, "key")
    key.touch(mode=0o600)
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    public = secret.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return Job(
        facts=facts, count=count, home=home, key=str(key), public=public.decode(), booted=booted
    )


def _ours(job: Job, meter: Meter) -> None:
    """An experiment of ours, as a user writes it."""
    from precip_async import EC2Experiment

    facts = job.facts
    keys = (facts["access_key"], facts["secret_key"])

    async def main() -> None:
        exp = EC2Experiment(
            facts["region"], facts["endpoint"], *keys, home=job.home, ssh_port=facts["ssh_port"]
        )
        with meter.phase("boot", per=job.count):
            await exp.open()
            await exp.provision(IMAGE, count=job.count)
            await exp.wait()
            job.booted()
        await exp.aclose()

    asyncio.run(main())


def _boto3(job: Job, meter: Meter) -> None:
    """A script on boto3: launches by the hundred, its waiter, then SSH by threads."""
    client = vendor(job)
    with meter.phase("boot", per=job.count):
        open_door(client, job)
        ids: list[str] = []
        while len(ids) < job.count:
            ids += launch(client, min(BATCH, job.count - len(ids)))
        client.get_waiter("instance_running").wait(InstanceIds=ids)
        found = client.describe_instances(InstanceIds=ids)["Reservations"]
        addresses = [one["PublicIpAddress"] for group in found for one in group["Instances"]]
        with ThreadPoolExecutor(THREADS) as threads:
            for _ in threads.map(lambda address: _until_true(job, address), addresses):
                pass
        job.booted()
    client.terminate_instances(InstanceIds=ids)


def _as_in_2012(job: Job, meter: Meter) -> None:
    """What precip 0.3 does: see `as_in_2012`."""
    client = vendor(job)
    with meter.phase("boot", per=job.count):
        addresses = as_in_2012(client, job)
        job.booted()
    for one in addresses:
        client.terminate_instances(InstanceIds=[one])


def as_in_2012(client: Any, job: Job) -> dict[str, str]:
    """Boot as precip 0.3 does, call by call; the addresses by id.

    One launch call an instance, one poll each, a connection for each command, five calls for tags,
    and a sleep of 30 s while any is pending.
    """
    open_door(client, job)
    waiting = []
    for _ in range(job.count):
        client.describe_images(ImageIds=[IMAGE])
        waiting += launch(client, 1)
    addresses: dict[str, str] = {}
    while True:
        for one in list(waiting):
            (group,) = client.describe_instances(InstanceIds=[one])["Reservations"]
            (seen,) = group["Instances"]
            if seen["State"]["Name"] == "running" and runs(job, seen["PublicIpAddress"]):
                for tag in ("Name", "precip", one, "test1", "test2"):
                    client.create_tags(Resources=[one], Tags=[{"Key": tag, "Value": "1"}])
                addresses[one] = seen["PublicIpAddress"]
                waiting.remove(one)
        if not waiting:
            return addresses
        time.sleep(30)


def _libcloud(job: Job, meter: Meter) -> None:
    """Apache Libcloud's `deploy_node`, which is for one node: by threads.

    It gives up when a call is refused for the pace, so that it is started, and told to look, at the
    pace that Amazon allows.
    """
    from libcloud.compute.base import NodeImage, NodeSize
    from libcloud.compute.deployment import Deployment
    from libcloud.compute.providers import get_driver
    from libcloud.compute.types import Provider

    class RunTrue(Deployment):
        """Runs `true`, and nothing else."""

        def run(self, node: Any, client: Any) -> Any:
            _, _, code = client.run("true")
            assert code == 0
            return node

    facts = job.facts
    host, _, port = facts["endpoint"].removeprefix("http://").strip("/").partition(":")
    driver = get_driver(Provider.EC2)(
        facts["access_key"],
        facts["secret_key"],
        region=facts["region"],
        host=host,
        port=int(port),
        secure=False,
        signature_version="4",
    )
    image = NodeImage(id=IMAGE, name=IMAGE, driver=driver)
    size = NodeSize(id=KIND, name=KIND, ram=0, disk=0, bandwidth=0, price=0, driver=driver)

    def deploy(number: int) -> Any:
        time.sleep(number * LAUNCH_EVERY)
        return driver.deploy_node(
            name=f"bench-{number}",
            image=image,
            size=size,
            ex_keyname="bench",
            ex_security_groups=["bench"],
            ex_userdata=OPEN_ROOT,
            deploy=RunTrue(),
            ssh_username="root",
            ssh_port=facts["ssh_port"],
            ssh_key=job.key,
            ssh_timeout=10,
            timeout=PATIENCE,
            wait_period=max(3.0, job.count / LOOKS),
        )

    with meter.phase("boot", per=job.count):
        open_door(vendor(job), job)
        with ThreadPoolExecutor(job.count) as threads:
            nodes = list(threads.map(deploy, range(job.count)))
        job.booted()
    vendor(job).terminate_instances(InstanceIds=[node.id for node in nodes])


def vendor(job: Job) -> Any:
    """The vendor's own client."""
    import boto3

    facts = job.facts
    return boto3.client(
        "ec2",
        region_name=facts["region"],
        endpoint_url=facts["endpoint"],
        aws_access_key_id=facts["access_key"],
        aws_secret_access_key=facts["secret_key"],
    )


def open_door(client: Any, job: Job) -> None:
    """Register the key, and let SSH in."""
    client.import_key_pair(KeyName="bench", PublicKeyMaterial=job.public.encode())
    group = client.create_security_group(GroupName="bench", Description="bench")["GroupId"]
    client.authorize_security_group_ingress(
        GroupId=group, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
    )


def launch(client: Any, count: int) -> list[str]:
    """Launch; the ids."""
    reply = client.run_instances(
        ImageId=IMAGE,
        InstanceType=KIND,
        MinCount=count,
        MaxCount=count,
        KeyName="bench",
        SecurityGroups=["bench"],
        UserData=OPEN_ROOT,
    )
    return [one["InstanceId"] for one in reply["Instances"]]


def _until_true(job: Job, address: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not runs(job, address):
        assert time.monotonic() < deadline, f"{address} can't be reached"
        time.sleep(SSH_AGAIN)


def runs(job: Job, address: str, command: str = "true") -> bool:
    """Whether `command` runs at `address`; over a connection of its own, as in 2012."""
    import paramiko

    with contextlib.closing(paramiko.SSHClient()) as ssh:
        ssh.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        try:
            ssh.connect(
                address,
                port=job.facts["ssh_port"],
                username="root",
                key_filename=job.key,
                timeout=10,
                allow_agent=False,
                look_for_keys=False,
            )
        except (OSError, paramiko.SSHException):
            return False
        return ssh.exec_command(command)[1].channel.recv_exit_status() == 0


CLIENTS = {"precip_async": _ours, "boto3": _boto3, "libcloud": _libcloud, "2012": _as_in_2012}
_NEEDS = {"boto3": ("boto3", "paramiko"), "libcloud": ("libcloud", "paramiko")}
_NEEDS["2012"] = _NEEDS["boto3"]
PACKAGES = (
    *("precip_async", "aioboto3", "aiobotocore", "asyncssh", "anyio"),
    *("boto3", "paramiko", "apache-libcloud"),
)


def lacks(client: str) -> str:
    """What `client` lacks here, in words; empty where it can be measured."""
    needed = _NEEDS.get(client, ())
    lacking = [one for one in needed if importlib.util.find_spec(one) is None]
    return f"the module {lacking[0]} is not installed" if lacking else ""
