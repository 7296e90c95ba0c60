"""The clients that are compared: each opens N connections, runs a command, and runs it again.

A client is a function of a `Job` and a `Meter`. It measures two phases: `cold`, from no connection
to the answers of the first command, and `warm`, per command on the connections then open. Imports,
keys read by the library itself included in `cold`, are made before.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from _measure import Meter

    from precip_async.limits import Limits
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.transport import Target

__all__ = ["CLIENTS", "PACKAGES", "SETTINGS", "Job", "lacks", "pool_for"]

COMMAND, ANSWER = "echo hi", "hi"
WORKERS = 2


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


def _verbs(job: Job, meter: Meter, **changed: Any) -> None:
    """An experiment of ours, as a user writes it; only the hosts at once are not as shipped."""
    from precip_async import HostsExperiment, Limits

    async def main() -> None:
        count, limits = len(job.hosts), Limits(**changed)
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


def _parallel_ssh(job: Job, meter: Meter, native: bool = True) -> None:
    """parallel-ssh with its native client, on libssh2, or with its other one, on libssh."""
    if native:
        from pssh.clients import ParallelSSHClient
    else:
        from pssh.clients.ssh import ParallelSSHClient

    client = ParallelSSHClient(
        job.hosts,
        user=job.user,
        port=job.port,
        pkey=job.key,
        pool_size=len(job.hosts),
        **({"allow_agent": False} if native else {"gssapi_auth": False}),
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


def _as_in_2012(job: Job, meter: Meter) -> None:
    """Paramiko, one host after the other, with a connection for each command: precip 0.3."""
    import paramiko

    def one(host: str) -> str:
        with contextlib.closing(paramiko.SSHClient()) as ssh:
            ssh.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            ssh.connect(
                host,
                port=job.port,
                username=job.user,
                key_filename=job.key,
                allow_agent=False,
                look_for_keys=False,
            )
            return ssh.exec_command(COMMAND)[1].read().decode()

    # As cold again as the first time, and slow: once is enough.
    _twice(replace(job, warm=1), meter, lambda: [one(host) for host in job.hosts])


def _twice(job: Job, meter: Meter, run: Callable[[], list[str]]) -> None:
    with meter.phase("cold", per=len(job.hosts)):
        said = run()
    _check(job, said)
    with meter.phase("warm", per=len(job.hosts) * job.warm):
        for _ in range(job.warm):
            said = run()
    _check(job, said)


CLIENTS: dict[str, Callable[[Job, Meter], None]] = {
    "precip_async": _verbs,
    "precip_async-public": partial(_verbs, ssh_fast=False),
    "precip_async-workers": partial(_verbs, ssh_workers=WORKERS),
    "pool": _pool,
    "pool-public": partial(_pool, fast=False),
    "asyncssh": _asyncssh,
    "parallel-ssh": _parallel_ssh,
    "parallel-ssh-libssh": partial(_parallel_ssh, native=False),
    "fabric": _fabric,
    "2012": _as_in_2012,
    **_programs.PROGRAMS,
}
# Modules and programs that the `bench` extra brings, but for pdsh.
NEEDS = {"parallel-ssh": "pssh", "parallel-ssh-libssh": "pssh", "fabric": "fabric"}
NEEDS |= {"2012": "paramiko"}
NEEDED_PROGRAMS = {"ssh-xargs": "ssh", "ssh-mux": "ssh", "pdsh": "pdsh", "clustershell": "clush"}
NEEDED_PROGRAMS |= {"pyinfra": "pyinfra", "ansible": "ansible"}
PACKAGES = (
    *("precip_async", "asyncssh", "cryptography", "parallel-ssh", "ssh2-python", "ssh-python"),
    *("fabric", "paramiko", "ClusterShell", "pyinfra", "ansible-core"),
)
SETTINGS = {
    "command": COMMAND,
    "at once": "all hosts, whatever a client's default",
    "host keys": "checked and pinned by precip_async, by nobody else",
    "programs": _programs.SETTINGS,
}


def lacks(client: str, needs: Mapping[str, str] = NEEDS) -> str:
    """What `client` lacks here, by `needs`, in words; empty where it can be measured."""
    from precip_async import Limits

    module, needed = needs.get(client, ""), NEEDED_PROGRAMS.get(client, "")
    if module and importlib.util.find_spec(module) is None:
        return f"the module {module} is not installed"
    if needed and not _programs.program(needed):
        return f"the program {needed} is not installed"
    if client.endswith("-workers") and not hasattr(Limits(), "ssh_workers"):
        return "this version has no worker processes"
    return ""
