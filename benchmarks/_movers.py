"""The clients that are compared at moving files: each puts one file to N hosts, and gets it back.

A mover is a function of a `Job` and a `Meter`. It opens its connections first, unless it has none
that last; then it measures two phases, `put` and `get`, of the same bytes: CPU for each host, and
by how much memory grows. Nobody is told to be careful: each is used as its manual shows.
"""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import _clients
import _programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _measure import Meter
    from fabric import Connection

__all__ = ["MOVERS", "PACKAGES", "Job", "lacks"]

PROCESSES = 16  # of scp at once, for who has no connection of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a mover is to do.

    Attributes:
        hosts: Where; all in flight at once.
        port: Likewise.
        user: Who logs in.
        key: The path of the private key.
        source: The file; the hosts, which are this machine, have it as well.
        size: Its bytes.
        there: A directory of the hosts: each gets a file of its name.
        here: A local directory, likewise.
        home: A directory for what a mover wants to write.
    """

    hosts: list[str]
    port: int
    user: str
    key: str
    source: str
    size: int
    there: str
    here: str
    home: str

    def pairs(self, place: str) -> Iterator[tuple[str, str]]:
        """Each host with its file in `place`."""
        return ((host, f"{place}/{host}") for host in self.hosts)

    def check(self, place: str) -> None:
        """Fail unless a whole file of every host is in `place`: who drops some is quick."""
        whole = [path for path in Path(place).iterdir() if path.stat().st_size == self.size]
        assert len(whole) == len(self.hosts), f"{len(whole)} of {len(self.hosts)} files are whole"


def _measured(job: Job, meter: Meter, put: Callable[[], object], get: Callable[[], object]) -> None:
    for name, move, place in (("put", put, job.there), ("get", get, job.here)):
        with meter.growth(name), meter.phase(name, per=len(job.hosts)):
            move()
        job.check(place)


def _verbs(job: Job, meter: Meter) -> None:
    """An experiment of ours, as a user writes it; only the hosts at once are not as shipped."""
    from precip_async import HostsExperiment

    async def main() -> None:
        count = len(job.hosts)
        hosts = [f"{job.user}@{host}:{job.port}" for host in job.hosts]
        async with HostsExperiment(hosts, ssh_key=job.key, home=job.home, parallel=count) as exp:
            await exp.provision(count=count)
            await exp.wait()
            await exp.run((), "true")
            with meter.growth("put"), meter.phase("put", per=count):
                await exp.put((), job.source, lambda one: f"{job.there}/{one.public_address}")
            job.check(job.there)
            with meter.growth("get"), meter.phase("get", per=count):
                await exp.get((), job.source, f"{job.here}/copy")
            job.check(job.here)

    asyncio.run(main())


def _asyncssh(job: Job, meter: Meter) -> None:
    """asyncssh's own SFTP."""
    import asyncssh

    async def main() -> None:
        async def connected(host: str) -> asyncssh.SSHClientConnection:
            return await asyncssh.connect(
                host, job.port, username=job.user, client_keys=[job.key], known_hosts=None
            )

        connections = dict(
            zip(job.hosts, await asyncio.gather(*map(connected, job.hosts)), strict=True)
        )

        async def put(host: str, path: str) -> None:
            async with connections[host].start_sftp_client() as sftp:
                await sftp.put(job.source, path)

        async def get(host: str, path: str) -> None:
            async with connections[host].start_sftp_client() as sftp:
                await sftp.get(job.source, path)

        for name, move, place in (("put", put, job.there), ("get", get, job.here)):
            with meter.growth(name), meter.phase(name, per=len(job.hosts)):
                await asyncio.gather(*(move(host, path) for host, path in job.pairs(place)))
            job.check(place)
        for one in connections.values():
            one.close()
        await asyncio.gather(*(one.wait_closed() for one in connections.values()))

    asyncio.run(main())


def _parallel_ssh(job: Job, meter: Meter, send: str, receive: str) -> None:
    """parallel-ssh with its native client, on libssh2."""
    import gevent
    from pssh.clients import ParallelSSHClient

    client = ParallelSSHClient(
        job.hosts,
        user=job.user,
        port=job.port,
        pkey=job.key,
        pool_size=len(job.hosts),
        allow_agent=False,
    )
    client.join(client.run_command("true"))

    def move(way: str, paths: Iterator[tuple[str, str]]) -> None:
        each = [{"local_file": local, "remote_file": remote} for local, remote in paths]
        names = {name: f"%({name})s" for name in each[0]}
        gevent.joinall(getattr(client, way)(**names, copy_args=each), raise_error=True)

    _measured(
        job,
        meter,
        lambda: move(send, ((job.source, path) for _, path in job.pairs(job.there))),
        lambda: move(receive, ((path, job.source) for _, path in job.pairs(job.here))),
    )


def _parallel_ssh_sftp(job: Job, meter: Meter) -> None:
    """Its SFTP, which it calls copying."""
    _parallel_ssh(job, meter, "copy_file", "copy_remote_file")


def _parallel_ssh_scp(job: Job, meter: Meter) -> None:
    """Its SCP, which its manual recommends for speed."""
    _parallel_ssh(job, meter, "scp_send", "scp_recv")


def _fabric(job: Job, meter: Meter) -> None:
    """Fabric's connections, a thread each, as its own groups have them."""
    from concurrent.futures import ThreadPoolExecutor

    from fabric import ThreadingGroup

    given = {"key_filename": job.key, "look_for_keys": False, "allow_agent": False}
    group = ThreadingGroup(*job.hosts, user=job.user, port=job.port, connect_kwargs=given)
    group.run("true", hide=True, in_stream=False)

    def move(way: str, place: str) -> list[object]:
        def one(connection: Connection) -> object:
            return getattr(connection, way)(job.source, f"{place}/{connection.host}")

        return [*threads.map(one, group)]

    with ThreadPoolExecutor(len(job.hosts)) as threads:
        _measured(job, meter, lambda: move("put", job.there), lambda: move("get", job.here))
    group.close()


def _scp(job: Job, meter: Meter) -> None:
    """OpenSSH's scp, a process each, each with a connection of its own that is counted too."""

    def move(pairs: Iterator[tuple[str, str]], source: str, target: str) -> None:
        command = ["scp", "-q", "-F", "none", "-i", job.key, "-P", str(job.port)]
        subprocess.run(
            ["xargs", "-P", str(PROCESSES), "-n", "2", *command, *_programs.options()],
            input="\n".join(source.format(*pair) + " " + target.format(*pair) for pair in pairs),
            text=True,
            check=True,
        )

    _measured(
        job,
        meter,
        lambda: move(job.pairs(job.there), job.source, job.user + "@{}:{}"),
        lambda: move(job.pairs(job.here), f"{job.user}@{{}}:{job.source}", "{1}"),
    )


MOVERS: dict[str, Callable[[Job, Meter], None]] = {
    "precip_async": _verbs,
    "asyncssh": _asyncssh,
    "parallel-ssh-sftp": _parallel_ssh_sftp,
    "parallel-ssh-scp": _parallel_ssh_scp,
    "fabric": _fabric,
    "scp": _scp,
}
_NEEDS = {"parallel-ssh-sftp": "pssh", "parallel-ssh-scp": "pssh", "fabric": "fabric"}
PACKAGES = ("precip_async", "asyncssh", "cryptography", "parallel-ssh", "fabric", "paramiko")


def lacks(mover: str) -> str:
    """What `mover` lacks here, in words; empty where it can be measured."""
    return _clients.lacks(mover, _NEEDS)
