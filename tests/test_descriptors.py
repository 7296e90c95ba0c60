"""Few file descriptors: real fleets in processes that may have hardly any, and the limit raised."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from precip_async.ssh.room import FILES
from tests.scripts import run_script
from tests.servers import OpenSSHServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOSTS = 16
FEW = 32  # descriptors: ten are in use before the first connection, and a fourth is reserved
BESIDE = 3  # hosts at once, each with its two files of output

# Works on a fleet with as many descriptors as it is told; says what came of it.
FLEET = """
    import asyncio, json, resource, sys
    from precip_async import ExperimentException, HostsExperiment, Limits

    given = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (given["limit"], given["limit"]))

    async def main():
        keys = {"ssh_key": given["key"], "home": given["home"]}
        limits = Limits(ssh_workers=given["workers"])
        async with HostsExperiment(given["hosts"], limits=limits, **keys) as exp:
            await exp.provision(count=len(given["hosts"]))
            await exp.wait()
            base = f"{given['home']}/said"
            ran = await exp.run((), given["cmd"], parallel=given["width"], output_base_name=base)
            return ran[0]

    try:
        print(json.dumps(asyncio.run(main())))
    except ExperimentException as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""


over = pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSSHServer]:
    """One server that plays many hosts."""
    directory = tmp_path_factory.mktemp("descriptors")
    with OpenSSHServer(directory, address="0.0.0.0", max_startups="100:30:200") as running:
        yield running


def work(server: OpenSSHServer, home: Path, limit: int, width: int, workers: int) -> Any:
    """What a fleet says that is worked on by a process with `limit` descriptors, or by workers."""
    given = {
        "workers": workers,
        "limit": limit,
        "width": width,
        "cmd": "echo $PRECIP_INDEX",
        "hosts": [f"{server.user}@{host}:{server.port}" for host in server.hosts(HOSTS)],
        "key": str(server.client_key_path),
        "home": str(home),
    }
    code, lines, errors = run_script(FLEET, json.dumps(given))
    assert code == 0, errors
    return json.loads(lines[-1])


@over
@pytest.mark.sshd
def test_a_fleet_larger_than_the_limit_is_worked_on(
    server: OpenSSHServer, tmp_path: Path, workers: int
) -> None:
    """Connections that rest give way, every host answers, and every file is written."""
    assert work(server, tmp_path, FEW, BESIDE, workers) == [0] * HOSTS
    said = sorted(path.read_text() for path in tmp_path.glob("said.*.stdout"))
    assert said == sorted(f"{number}\n" for number in range(HOSTS))


@over
@pytest.mark.sshd
def test_what_can_not_fit_is_refused_with_the_number_it_needs(
    server: OpenSSHServer, tmp_path: Path, workers: int
) -> None:
    """Nothing runs, and a process that may have as many as the error names does it."""
    refused = work(server, tmp_path, FEW, HOSTS, workers)

    each = HOSTS // (workers or 1)
    assert refused.startswith(f"InvalidArgument: {each} host(s) at once take more file descriptors")
    assert not list(tmp_path.glob("said*"))
    needed = int(re.findall(r"needs (\d+)", refused)[0])
    needed += workers * FILES  # what workers have open beside it is not the same each time
    assert work(server, tmp_path, needed, HOSTS, workers) == [0] * HOSTS


def test_the_soft_limit_is_raised_when_an_experiment_opens(tmp_path: Path) -> None:
    """As far as it may be, and not before; local instances have the one that the script had."""
    program = f"""
        import asyncio, resource
        from precip_async import LocalExperiment

        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 400))

        async def main():
            exp = LocalExperiment(home={str(tmp_path)!r}, isolation="process")
            print(resource.getrlimit(resource.RLIMIT_NOFILE))
            async with exp:
                print(resource.getrlimit(resource.RLIMIT_NOFILE))
                await exp.provision()
                await exp.wait()
                print((await exp.run((), "ulimit -S -n"))[1][0].strip())

        asyncio.run(main())
    """
    code, lines, errors = run_script(program)

    assert code == 0, errors
    assert lines == ["(300, 400)", "(400, 400)", "300"]


def test_a_limit_that_is_higher_is_not_lowered() -> None:
    """A process that has raised it before us keeps what it has."""
    program = """
        import resource
        from precip_async import descriptors

        resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
        print(descriptors.raised(), descriptors.raised(), descriptors.given())
        print(resource.getrlimit(resource.RLIMIT_NOFILE))
    """
    code, lines, errors = run_script(program)

    assert code == 0, errors
    assert lines == ["400 400 400", "(400, 400)"]


def test_what_is_in_use_is_counted_without_looking_at_each() -> None:
    """Ten more files are ten more; with none left it is the limit."""
    program = """
        import os, resource
        from precip_async import descriptors

        before = descriptors.in_use()
        files = [open(os.devnull) for _ in range(10)]
        print(descriptors.in_use() - before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors.in_use(),) * 2)
        print(descriptors.in_use() - before)
        for file in files:
            file.close()
    """
    code, lines, errors = run_script(program)

    assert code == 0, errors
    assert lines == ["10", "10"]
