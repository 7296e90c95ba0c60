"""The clients that are compared: each opens N connections, runs a command, and runs it again.

A client is a function of a `Job` and a `Meter`. It measures two phases: `cold`, from no connection
to the answers of the first command, and `warm`, per command on the connections then open. Imports,
keys read by the library itself included in `cold`, are made before.
"""

from __future__ import annotations

import asyncio
import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from _measure import Meter

    from precip_async.limits import Limits
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.transport import Target

__all__ = ["CLIENTS", "NEEDS", "PACKAGES", "Job", "missing", "pool_for"]

COMMAND, ANSWER = "echo hi", "hi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a client is to do.

    Attributes:
        hosts: Where; all in flight at once.
        port: Likewise.
        user: Who logs in.
        key: The path of the private key.
        host_key: The one host key of all.
        warm: How often the command is run on open connections.
        home: A directory for what a client wants to write.
    """

    hosts: list[str]
    port: int
    user: str
    key: str
    host_key: str
    warm: int
    home: str


def _check(job: Job, answers: Iterable[str]) -> None:
    """Fail unless every host has answered: a client that drops some is quick."""
    said = [answer.strip() for answer in answers]
    assert said == [ANSWER] * len(job.hosts), f"{said.count(ANSWER)} of {len(job.hosts)} answered"


def _verbs(job: Job, meter: Meter, *, fast: bool = True) -> None:
    """An experiment of ours, as a user writes it; only the hosts at once are not as shipped."""
    from precip_async import HostsExperiment, Limits

    async def main() -> None:
        count, limits = len(job.hosts), Limits(ssh_fast=fast)
        hosts = [f"{job.user}@{host}:{job.port}" for host in job.hosts]
        async with HostsExperiment(hosts, ssh_key=job.key, home=job.home, limits=limits) as exp:
            await exp.provision(count=count)
            with meter.phase("cold", per=count):
                await exp.wait()
                ran = await exp.run((), COMMAND, parallel=count)
            _check(job, (one.stdout for one in ran.by_instance))
            with meter.phase("warm", per=count * job.warm):
                for _ in range(job.warm):
                    ran = await exp.run((), COMMAND, parallel=count)
            _check(job, (one.stdout for one in ran.by_instance))

    asyncio.run(main())


def pool_for(job: Job, limits: Limits) -> tuple[Pool, list[Target]]:
    """A pool of ours that trusts the hosts of `job`, and where they are."""
    from precip_async.ssh.openssh import AsyncsshConnector, Login
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.transport import Target

    class Known:
        """Trusts what it was told."""

        def known(self, target: Target) -> tuple[str, ...]:
            return (job.host_key,)

        def learned(self, target: Target, key: str) -> bool:
            return False

    pool = Pool(AsyncsshConnector(Login(keys=(Path(job.key),)), Known(), limits), limits)
    return pool, [
        Target(instance_id=host, host=host, alias=host, port=job.port, user=job.user)
        for host in job.hosts
    ]


def _pool(job: Job, meter: Meter, *, fast: bool = True) -> None:
    """The connection pool of ours alone: no experiment, no results, nothing in front of it."""
    import anyio

    from precip_async.limits import Limits

    class Answer:
        """A receiver of a command's output."""

        def __init__(self) -> None:
            self.over, self.said = anyio.Event(), b""

        def received(self, stream: str, data: bytes) -> None:
            self.said += data

        def exited(self, code: int) -> None:
            assert code == 0

        def writable(self, ready: bool) -> None:
            pass

        def closed(self) -> None:
            self.over.set()

    async def main() -> None:
        count = len(job.hosts)
        pool, targets = pool_for(job, Limits(max_connects=count, ssh_fast=fast))
        answers: list[str] = []

        async def one(target: Target) -> None:
            answer = Answer()
            async with pool.lease(target) as lease:
                channel = await lease.start(COMMAND, answer)
                await answer.over.wait()
                channel.close()
            answers.append(answer.said.decode())

        async def everywhere() -> None:
            answers.clear()
            async with anyio.create_task_group() as tasks:
                for target in targets:
                    tasks.start_soon(one, target)

        with meter.phase("cold", per=count):
            await everywhere()
        _check(job, answers)
        with meter.phase("warm", per=count * job.warm):
            for _ in range(job.warm):
                await everywhere()
        _check(job, answers)
        await pool.aclose()

    asyncio.run(main())


def _asyncssh(job: Job, meter: Meter) -> None:
    """The way asyncssh's own examples show."""
    import asyncssh

    async def main() -> None:
        async def connected(host: str) -> asyncssh.SSHClientConnection:
            return await asyncssh.connect(
                host, job.port, username=job.user, client_keys=[job.key], known_hosts=None
            )

        with meter.phase("cold", per=len(job.hosts)):
            connections = await asyncio.gather(*map(connected, job.hosts))
            ran = await asyncio.gather(*(one.run(COMMAND) for one in connections))
        _check(job, (str(one.stdout) for one in ran))
        with meter.phase("warm", per=len(job.hosts) * job.warm):
            for _ in range(job.warm):
                ran = await asyncio.gather(*(one.run(COMMAND) for one in connections))
        _check(job, (str(one.stdout) for one in ran))
        for one in connections:
            one.close()
        await asyncio.gather(*(one.wait_closed() for one in connections))

    asyncio.run(main())


def _parallel_ssh(job: Job, meter: Meter) -> None:
    """parallel-ssh with its native client, on libssh2."""
    from pssh.clients import ParallelSSHClient

    client = ParallelSSHClient(
        job.hosts,
        user=job.user,
        port=job.port,
        pkey=job.key,
        pool_size=len(job.hosts),
        allow_agent=False,
    )

    def run() -> list[str]:
        outputs = client.run_command(COMMAND)
        client.join(outputs)
        return ["\n".join(output.stdout) for output in outputs]

    _twice(job, meter, run)


def _fabric(job: Job, meter: Meter) -> None:
    """Fabric's threads."""
    from fabric import ThreadingGroup

    given = {"key_filename": job.key, "look_for_keys": False, "allow_agent": False}
    group = ThreadingGroup(*job.hosts, user=job.user, port=job.port, connect_kwargs=given)

    def run() -> list[str]:
        return [one.stdout for one in group.run(COMMAND, hide=True, in_stream=False).values()]

    _twice(job, meter, run)
    group.close()


def _twice(job: Job, meter: Meter, run: Callable[[], list[str]]) -> None:
    with meter.phase("cold", per=len(job.hosts)):
        said = run()
    _check(job, said)
    with meter.phase("warm", per=len(job.hosts) * job.warm):
        for _ in range(job.warm):
            said = run()
    _check(job, said)


CLIENTS: dict[str, Callable[[Job, Meter], None]] = {
    "verbs": _verbs,
    "verbs-public": partial(_verbs, fast=False),
    "pool": _pool,
    "pool-public": partial(_pool, fast=False),
    "asyncssh": _asyncssh,
    "parallel-ssh": _parallel_ssh,
    "fabric": _fabric,
}
NEEDS = {"parallel-ssh": "pssh", "fabric": "fabric"}  # modules that the `bench` extra brings
PACKAGES = ("precip_async", "asyncssh", "cryptography", "parallel-ssh", "fabric", "paramiko")


def missing(client: str, needs: Mapping[str, str] = NEEDS) -> str:
    """The module that `client` lacks here, by `needs`; empty where it can be measured."""
    module = needs.get(client, "")
    return module if module and importlib.util.find_spec(module) is None else ""
