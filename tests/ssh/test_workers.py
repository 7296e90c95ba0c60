"""Worker processes: what is special about connections that are held elsewhere.

That they behave as those of this process do is shown by the other tests here, which `make test-all`
runs over workers as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import hashlib
import json
import logging
import os
import pickle
import resource
import secrets
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async import HostsExperiment, descriptors
from precip_async.errors import (
    ConnectionLost,
    ExperimentClosed,
    ExperimentException,
    FleetError,
    HostKeyMismatch,
    InvalidArgument,
)
from precip_async.fanout import Work, fan_out
from precip_async.limits import Limits
from precip_async.ssh.batch import Column
from precip_async.ssh.commands import Commands
from precip_async.ssh.output import Budget, OutputFiles
from precip_async.ssh.remote import PooledRemote, one
from precip_async.ssh.room import Room
from precip_async.ssh.source import Source
from precip_async.ssh.transport import Login, Target
from precip_async.ssh.workers.auto import AutoRemote, worth
from precip_async.ssh.workers.briefing import Briefing
from precip_async.ssh.workers.remote import ShardedRemote
from precip_async.ssh.workers.shard import Shard
from precip_async.ssh.workers.wire import packed
from tests.polling import eventually
from tests.servers import OpenSSHServer
from tests.ssh.rig import Nap, Pins, Rig, in_child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from precip_async.events import Stream
    from precip_async.fleet import Instance
    from precip_async.results import RunResults
    from precip_async.ssh.batch import Batch
    from precip_async.ssh.transport import Trust
    from precip_async.ssh.workers.portion import Portion

# One worker or two are asked for here, whatever the suite is run over.
pytestmark = [pytest.mark.sshd, pytest.mark.in_process]

LIMITS = Limits(connect_timeout=5, kill_grace=1, close_grace=2)


class Two(Rig):
    """A rig over worker processes, two unless told otherwise."""

    def __init__(
        self,
        server: OpenSSHServer,
        directory: Path,
        *,
        limits: Limits = LIMITS,
        trust: Trust | None = None,
        login: Login | None = None,
        workers: int = 2,
    ) -> None:
        super().__init__(server, directory, limits=limits, trust=trust, login=login)
        self.sharded = ShardedRemote(self.login, self.trust, self.limits, workers)
        self.remote = self.sharded
        self.hosts = [self.on(host, number) for number, host in enumerate(server.hosts(4))]

    def commands(
        self, commands: list[str], targets: list[Target], budget: Budget | None = None
    ) -> Commands:
        """A batch of commands."""
        places = range(len(targets))
        return Commands(
            targets=Column(targets),
            command=Column(commands),
            user=Column([self.target.user or ""]),
            sudo_user=Column([None]),
            env=Column([{}]),
            mark=Column([secrets.token_hex(8) for _ in places]),
            index=Column(places),
            stem=Column([f"{self.spill}.{place}" for place in places]),
            budget=budget or Budget(self.limits.output_total),
        )

    async def each(self, batch: Batch, width: int) -> list[Any]:
        """What comes of a batch, over all hosts."""
        return await fan_out(Work(batch, self.remote, len(self.hosts)), width=width)

    async def pid_of(self, target: Target) -> int:
        """The id of the worker that speaks to `target`."""
        await self.out("true", target=target)
        shard = self.sharded._shard(target)
        assert shard.pid is not None
        return shard.pid


@pytest.fixture
async def two(server: OpenSSHServer, tmp_path: Path) -> AsyncIterator[Two]:
    """Two workers and four hosts."""
    async with Two(server, tmp_path) as rig:
        yield rig


# -- who does what ---------------------------------------------------------------------------


async def test_servers_are_divided_evenly_and_kept(two: Two) -> None:
    """Each server is one worker's, whoever logs in there, so that its own limits hold."""
    pids = [await two.pid_of(target) for target in two.hosts]

    assert sorted(map(pids.count, set(pids))) == [2, 2]
    assert os.getpid() not in pids
    again = [replace(one, instance_id="i-9", alias="i-9") for one in two.hosts]
    assert [await two.pid_of(target) for target in again] == pids


async def test_a_worker_is_started_when_it_is_needed(two: Two) -> None:
    """None at first; one host needs one of them."""
    assert two.sharded.pids == []

    await two.out("true")

    assert len(two.sharded.pids) == 1


async def test_a_worker_has_its_part_of_the_limits(server: OpenSSHServer, tmp_path: Path) -> None:
    """Two workers keep a half each of what a fan-out may keep in memory; the rest is in files."""
    async with Two(server, tmp_path) as rig:
        budget = Budget(2000)
        batch = rig.commands(["head -c 700 /dev/zero"] * 4, rig.hosts, budget=budget)
        results = await rig.each(batch, 4)

    kept = [len(result.stdout_bytes) for result in results]
    files = [result.stdout_path for result in results if result.stdout_path is not None]
    assert sum(kept) == 2000 - budget.left
    assert sorted(kept) == [300, 300, 700, 700]
    assert [path.stat().st_size for path in files] == [700, 700]


async def test_each_worker_is_given_all_of_its_work_at_once(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process has no task, no future and no message for each instance."""
    given: list[int] = []
    do = Shard.do

    async def counted(shard: Shard, portion: Portion) -> None:
        given.append(len(portion.left))
        await do(shard, portion)

    monkeypatch.setattr(Shard, "do", counted)
    commands = two.commands([f"echo {number}" for number in range(4)], two.hosts)
    results = await two.each(commands, 4)

    assert [result.stdout for result in results] == ["0\n", "1\n", "2\n", "3\n"]
    assert given == [2, 2]


@pytest.mark.parametrize("width", [1, 2, 3])
async def test_no_more_than_the_width_are_under_way(two: Two, tmp_path: Path, width: int) -> None:
    """Over all workers, also where these are more; and no fewer, and none is left out."""
    (tmp_path / "here").mkdir()
    here, go = tmp_path / "here", tmp_path / "go"
    command = f"cd {here}; touch $$; ls | wc -l; until [ -e {go} ]; do sleep 0.05; done; rm $$"
    counts: list[int] = []

    async def run() -> None:
        results = await two.each(two.commands([command] * 4, two.hosts), width)
        counts.extend(int(result.stdout) for result in results)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await eventually(lambda: len(list(here.iterdir())) == width)
        go.touch()

    assert len(counts) == 4
    assert max(counts) <= width


async def test_what_goes_to_many_is_found_where_this_process_is(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths are this process's, also when it has changed its directory since."""
    await two.out("true")
    monkeypatch.chdir(tmp_path)
    await anyio.Path("here").write_text("hello")

    await two.put(Path("here"), tmp_path / "there")
    result = await two.run("echo out", files=OutputFiles(Path("out"), always=True))

    assert (tmp_path / "there").read_text() == "hello"
    assert result.stdout_path == Path("out.stdout")
    assert (tmp_path / "out.stdout").read_text() == "out\n"


# -- a process of its own --------------------------------------------------------------------


async def test_keys_are_in_no_command_line_or_environment_or_file(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """A key that is in memory goes to the worker by a socket that only the two have."""
    key = await anyio.Path(server.client_key_path).read_bytes()
    async with Two(server, tmp_path, login=Login(keys=(key,))) as rig:
        pid = await rig.pid_of(rig.target)
        body = key.splitlines()[1]
        process = Path(f"/proc/{pid}")
        files = [one.resolve() for one in (process / "fd").iterdir() if one.resolve().is_file()]

        assert body not in (process / "cmdline").read_bytes()
        assert body not in (process / "environ").read_bytes()
        assert not [one for one in files if body in one.read_bytes()]


async def test_a_terminals_ctrl_c_is_not_for_workers(two: Two) -> None:
    """They have a session of their own, and what they hold open goes up to the hard limit."""
    pid = await two.pid_of(two.target)

    assert os.getsid(pid) == pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    assert soft == hard


async def test_closing_ends_workers_in_peace(two: Two) -> None:
    """They end by themselves, without a word, and nothing is done afterwards."""
    for target in two.hosts:
        await two.out("true", target=target)

    await two.sharded.aclose()

    assert [shard.ended for shard in two.sharded._shards] == ["exit code 0", "exit code 0"]
    with pytest.raises(ExperimentClosed):
        await two.run("true")


@pytest.mark.parametrize("forks", [False, True], ids=["alone", "with a fork"])
async def test_workers_end_with_a_parent_that_is_killed(server: OpenSSHServer, forks: bool) -> None:
    """Nobody is told of the end of a killed process, and they end all the same.

    A fork of it, as of `multiprocessing`, has its end of the line, and keeps it open.
    """
    facts = {"host": server.host, "port": server.port, "user": server.user}
    facts |= {"forks": forks, "key": str(server.client_key_path), "known": server.host_public_key}
    parent = await anyio.open_process([sys.executable, "-c", PARENT, json.dumps(facts)])
    async with parent:
        assert parent.stdout is not None
        with anyio.fail_after(30):
            pid, fork = map(int, (await parent.stdout.receive()).split())
        parent.kill()

    try:
        await eventually(lambda: not Path(f"/proc/{pid}").exists())
    finally:
        if forks:
            os.kill(fork, signal.SIGKILL)


PARENT = """
import asyncio, json, os, signal, sys
from precip_async.limits import Limits
from precip_async.ssh.remote import PooledRemote
from precip_async.ssh.batch import Column, Reaches
from precip_async.ssh.remote import one
from precip_async.ssh.transport import Login, Target
from precip_async.ssh.workers.remote import ShardedRemote
from pathlib import Path

facts = json.loads(sys.argv[1])

class Trust:
    learns = False
    def known(self, target): return (facts["known"],)
    def learned(self, target, key): return False

async def main():
    remote = ShardedRemote(Login(keys=(Path(facts["key"]),)), Trust(), Limits(), 1)
    target = Target(
        instance_id="i", host=facts["host"], alias="i", port=facts["port"], user=facts["user"]
    )
    await one(remote, Reaches(targets=Column([target]), timeout=10))
    fork = os.fork() if facts["forks"] else 0
    if facts["forks"] and not fork:
        os.close(1)
        signal.pause()
    sys.stdout.write(f"{remote.pids[0]} {fork}\\n")
    sys.stdout.flush()
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_worker_that_does_not_start_says_why(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last words are in the error, and how to do without it."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such luck >&2; exit 7\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    async with Two(server, tmp_path) as rig:
        with pytest.raises(ExperimentException, match=r"no such luck.*ssh_workers=0") as caught:
            await rig.run("true")

    assert "exit code 7" in str(caught.value)


async def test_a_worker_that_does_not_stand_ready_is_given_up(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives and says nothing: it is ended, and the error says so."""
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 1000\n")
    silent.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(silent))
    monkeypatch.setattr("precip_async.ssh.workers.shard.START_TIMEOUT", 0.2)
    monkeypatch.setattr("precip_async.ssh.workers.process.GOING", 1.0)
    async with Two(server, tmp_path) as rig:
        with (
            anyio.fail_after(20),
            pytest.raises(ExperimentException, match=r"not ready within 0.2 s.*ssh_workers=0"),
        ):
            await rig.run("true")

        assert rig.sharded._shard(rig.target).ended == "signal 9"


async def test_a_worker_imports_nothing_from_where_the_user_is(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script of the user's may have the name of a module of Python's."""
    await anyio.Path(tmp_path, "random.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)

    assert await two.out("echo on") == "on"


async def test_a_file_whose_sending_was_given_up_is_not_taken_for_the_next(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """Its descriptor was on its way already when who wanted it was cancelled."""
    for name in ("first", "second"):
        (tmp_path / name).write_text(f"{name} of them\n")
    async with Two(server, tmp_path, limits=replace(LIMITS, small_file=4)) as rig:
        await rig.out("true")
        briefing = rig.sharded._shard(rig.target)._briefing
        assert briefing is not None
        with (
            (tmp_path / "first").open() as first,
            Source(tmp_path / "second", rig.limits, users=2) as source,
        ):
            briefing.process.send_file(source.number + 1, first.fileno())
            await rig.send(source, tmp_path / "copy")

    assert (tmp_path / "copy").read_text() == "second of them\n"


async def test_a_bug_over_there_is_shown_with_its_traceback(two: Two) -> None:
    """What is no error of ours is one in the program, and says where."""
    with pytest.raises(RuntimeError, match=r"(?s)worker process.*Traceback.*TypeError"):
        await two.reach(two.target, "soon")  # type: ignore[arg-type] # which is the bug

    assert await two.out("echo on") == "on"


async def test_what_workers_log_is_logged_here(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    """The user says what becomes of log records in this process, and nowhere else."""
    shard = two.sharded._shard(two.target)
    shard._debts[two.target] = [("exit 9",)]

    with caplog.at_level(logging.WARNING, "precip_async"):
        await two.out("true")
        await eventually(lambda: "could be ended" in caplog.text)


# -- failures --------------------------------------------------------------------------------


async def test_a_killed_worker_costs_its_own_hosts_and_is_replaced(two: Two) -> None:
    """Who ran over it hears that it died; the others go on, and the next operation finds a new one.

    What it had started is ended by the next connection.
    """
    naps = [Nap() for _ in two.hosts]
    outcomes: dict[str, Any] = {}
    pids = {target.instance_id: await two.pid_of(target) for target in two.hosts}
    victim = pids["i-0"]

    async def run(target: Target, nap: Nap) -> None:
        try:
            outcomes[target.instance_id] = await two.run(str(nap), target=target)
        except ConnectionLost as error:
            outcomes[target.instance_id] = error

    async with anyio.create_task_group() as tasks:
        for target, nap in zip(two.hosts, naps, strict=True):
            tasks.start_soon(run, target, nap)
        await eventually(lambda: all(nap.sleepers() for nap in naps))
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda: len(outcomes) == 2)
        for target, nap in zip(two.hosts, naps, strict=True):
            if pids[target.instance_id] != victim:
                for process in nap.sleepers():
                    process.signal(signal.SIGTERM)

    for target, nap in zip(two.hosts, naps, strict=True):
        name = target.instance_id
        if pids[name] == victim:
            assert outcomes[name].instance_id == name
            assert str(victim) in str(outcomes[name])
            assert nap.sleepers()
            assert await two.out("echo again", target=target) == "again"
            assert not nap.sleepers()
        else:
            assert outcomes[name].exit_code == -signal.SIGTERM
    assert victim not in two.sharded.pids


async def test_a_worker_that_hangs_is_ended_and_replaced(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives and does nothing: when it has been silent for long, it is as if it had died."""
    monkeypatch.setattr("precip_async.ssh.workers.shard.PATIENCE", 0.9)
    quick = replace(LIMITS, keepalive=0.1, keepalive_count=3)
    nap, problems = Nap(), []
    async with Two(server, tmp_path, limits=quick) as rig:
        pid = await rig.pid_of(rig.target)

        async def run() -> None:
            with pytest.raises(ConnectionLost) as caught:
                await rig.run(str(nap))
            problems.append(caught.value.problem)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await eventually(nap.sleepers)
            os.kill(pid, signal.SIGSTOP)

        assert f"({pid}) said nothing for 0.9 s" in problems[0]
        assert await rig.out("echo again") == "again"
        assert not nap.sleepers()
        assert rig.sharded.pids != [pid]


async def test_a_worker_that_waits_for_long_is_left_alone(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing to tell it is no hanging one: it answers when it is asked."""
    monkeypatch.setattr("precip_async.ssh.workers.shard.PATIENCE", 0.9)
    quick = replace(LIMITS, keepalive=0.1, keepalive_count=3)
    async with Two(server, tmp_path, limits=quick) as rig:
        pid = await rig.pid_of(rig.target)
        briefing = rig.sharded._shard(rig.target)._briefing
        assert briefing is not None
        wire, heard = briefing.wire, briefing.wire.heard

        await eventually(lambda: wire.heard > heard + 5)

        assert await rig.pid_of(rig.target) == pid


async def test_what_a_worker_had_to_end_its_successor_ends(tmp_path: Path) -> None:
    """A connection had been lost before, and the worker died before there was another."""
    nap = Nap()
    async with OpenSSHServer(tmp_path, address="0.0.0.0") as own, Two(own, tmp_path) as rig:
        pid = await rig.pid_of(rig.target)

        async def run() -> None:
            with pytest.raises(ConnectionLost, match="nobody knows"):
                await rig.run(str(nap))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await eventually(nap.sleepers)
            own.kill_sessions()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not rig.sharded.pids)
        assert nap.sleepers()

        assert await rig.out("echo again") == "again"
        assert not nap.sleepers()


async def test_a_get_whose_worker_is_killed_leaves_nothing_here(
    two: Two, here: Path, there: Path
) -> None:
    """The worker can't clean up any more, so that its parent does."""
    pid = await two.pid_of(two.target)
    await two.out(f"truncate -s 4G {there}/large")

    async def get() -> None:
        with pytest.raises(ConnectionLost):
            await two.get(there / "large", here)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(get)
        await eventually(lambda: list(here.iterdir()))
        os.kill(pid, signal.SIGKILL)

    await eventually(lambda: not list(here.iterdir()), within=0)


async def test_a_cancelled_command_is_gone_when_the_cancellation_is_over(two: Two) -> None:
    """The parent waits until the worker has ended it."""
    nap = Nap()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(two.run, str(nap))
        await eventually(nap.sleepers)
        tasks.cancel_scope.cancel()

    assert not nap.sleepers()


async def test_a_listener_that_fails_ends_its_command(two: Two) -> None:
    """What it raises is what the verb raises, once nothing is left of the command."""
    nap = Nap()

    def listener(_stream: Any, text: str) -> None:
        raise LookupError(text)

    with pytest.raises(LookupError, match="heard"):
        await in_child(two.run(f"echo heard; {nap}", listener=listener))

    assert not nap.sleepers()


async def test_a_slow_listener_makes_the_instance_wait(two: Two) -> None:
    """What it has not heard yet is not in memory: neither here nor in the worker."""
    heard = 0
    pid = await two.pid_of(two.target)
    before = peak(pid)

    def listener(_stream: Any, text: str) -> None:
        nonlocal heard
        heard += len(text)
        hashlib.pbkdf2_hmac("sha256", b"slow", b"", len(text) // 16)

    result = await two.run(
        f"head -c {48 * 2**20} /dev/zero",
        listener=listener,
        files=OutputFiles(two.spill, always=True),
    )

    assert result.exit_code == 0
    assert heard == 48 * 2**20
    assert peak(pid) - before < 16 * 2**20


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def test_a_get_that_is_cancelled_when_its_worker_is_killed_leaves_nothing_here(
    two: Two, here: Path, there: Path
) -> None:
    """Neither can clean up: the worker is dead, and who has asked it wants no answer."""
    pid = await two.pid_of(two.target)
    await two.out(f"truncate -s 4G {there}/large")

    async def get() -> None:
        with contextlib.suppress(ConnectionLost):
            await two.get(there / "large", here)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(get)
        await eventually(lambda: list(here.iterdir()))
        os.kill(pid, signal.SIGSTOP)
        tasks.cancel_scope.cancel()
        os.kill(pid, signal.SIGKILL)

    await eventually(lambda: not list(here.iterdir()), within=0)


async def test_what_is_not_begun_when_connections_are_closed_is_told_so(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed while the worker is shown what it is to send: that is said, and no other error."""
    show = Briefing.show

    async def shown(briefing: Briefing, source: Source) -> None:
        await show(briefing, source)
        await two.sharded.aclose()

    monkeypatch.setattr(Briefing, "show", shown)
    (tmp_path / "file").write_text("content")
    with (
        Source(tmp_path / "file", two.limits, users=2) as source,
        pytest.raises(ExperimentClosed),
    ):
        await in_child(two.send(source, tmp_path / "copy"))


async def test_what_can_not_be_said_is_waited_for_by_nobody(two: Two) -> None:
    """A message that is no pickle is a bug: it ends the worker, and who waits hears of that."""
    await two.out("true")
    problems: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, said: problems.append(str(said["exception"])))
    no_command: Any = lambda: None  # noqa: E731 - there is no pickle of it

    with anyio.fail_after(10), pytest.raises(ConnectionLost):
        await in_child(one(two.remote, two.commands([no_command], [two.target])))

    assert "pickle" in problems[0]
    assert await two.out("echo on") == "on"


def test_values_of_the_scripts_own_classes_are_taken_for_what_they_are() -> None:
    """The worker does not know the classes of the user's script."""

    class Name(str):
        __slots__ = ()

    class Port(enum.IntEnum):
        SSH = 22

    class Seconds(float):
        pass

    read = pickle.loads(packed((Name("a"), Port.SSH, Seconds(2.5), True)))

    assert read == ("a", 22, 2.5, True)
    assert [type(value) for value in read] == [str, int, float, bool]


# -- host keys -------------------------------------------------------------------------------


async def test_a_key_at_first_sight_is_the_parents_before_the_connection_is_used(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """The parent has learned it when the first operation is done."""
    trust = Pins(learns=True)
    async with Two(server, tmp_path, trust=trust) as rig:
        await rig.out("true")

        assert [key.split()[:2] for key in trust.shown] == [server.host_public_key.split()[:2]]


async def test_a_key_that_the_parent_does_not_believe_is_a_mismatch(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """Another one was learned meanwhile: nothing is run over the connection."""

    class Late(Pins):
        def learned(self, target: Target, key: str) -> bool:
            return False

    async with Two(server, tmp_path, trust=Late(learns=True)) as rig:
        with pytest.raises(HostKeyMismatch, match="impostor"):
            await rig.run(f"touch {tmp_path / 'ran'}")

    assert not (tmp_path / "ran").exists()


async def test_a_changed_key_is_a_mismatch(server: OpenSSHServer, tmp_path: Path) -> None:
    """What the parent knows goes to the worker with the target."""
    trust = Pins(server.client_public_key)
    async with Two(server, tmp_path, trust=trust) as rig:
        with pytest.raises(HostKeyMismatch, match="another host key than the one known"):
            await rig.run("true")
        trust.keys = (server.host_public_key,)

        assert await rig.out("echo now") == "now"


# -- as many as are worth it -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("instances", "cores", "workers"),
    [(999, 64, 0), (1000, 64, 2), (1000, 2, 0), (5000, 4, 3), (5000, 64, 10)],
)
def test_workers_are_as_many_as_instances_and_cores_are_worth(
    instances: int, cores: int, workers: int
) -> None:
    """Never a single one, and the parent keeps a core."""
    assert worth(instances, cores) == workers


async def test_auto_begins_workers_when_many_are_expected(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was spoken to before stays with this process; the others are the workers'."""
    monkeypatch.setattr("precip_async.ssh.workers.auto._cores", lambda: 3)
    two.remote = AutoRemote(PooledRemote(two.pool, two.limits), lambda _: two.sharded)
    first, *others = two.hosts
    await two.remote.expect(999)
    await two.out("true", target=first)
    assert two.sharded.pids == []

    await two.remote.expect(1000)
    await two.everywhere("true", two.hosts)

    assert len(two.sharded.pids) == 2
    assert two.pool.statistics().connected == 1
    for target in others:
        assert not two.pool.connected(target)


# -- verbs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2, "auto"])
async def test_verbs_do_the_same(server: OpenSSHServer, tmp_path: Path, workers: Any) -> None:
    """Results come in provisioning order, and failures as with connections of this process."""
    hosts = [f"{server.user}@{host}:{server.port}" for host in server.hosts(4)]
    heard: list[str] = []
    async with HostsExperiment(
        hosts,
        ssh_key=server.client_key_path,
        home=tmp_path / "home",
        limits=Limits(ssh_workers=workers),
    ) as exp:
        await exp.provision(count=4)
        await exp.wait(timeout=20)
        codes, outs, errs = await exp.run(
            (),
            "echo $PRECIP_INDEX; cat >&2",
            stdin="in",
            parallel=True,
            on_output=lambda one, stream, text: heard.append(f"{one.index} {stream} {text}"),
        )
        with pytest.raises(FleetError) as caught:
            await exp.run((), "exit $PRECIP_INDEX", parallel=True)

    assert (codes, outs, errs) == ([0] * 4, ["0\n", "1\n", "2\n", "3\n"], ["in"] * 4)
    assert sorted(heard)[:2] == ["0 stderr in", "0 stdout 0\n"]
    assert [type(one).__name__ for one in caught.value.failed] == ["CommandFailed"] * 3
    assert caught.value.results is not None
    assert [one.exit_code for one in caught.value.results.by_instance] == [0, 1, 2, 3]


def over_two(server: OpenSSHServer, home: Path) -> HostsExperiment:
    """An experiment on two hosts, each of which is one worker's."""
    return HostsExperiment(
        [f"{server.user}@{host}:{server.port}" for host in server.hosts(2)],
        ssh_key=server.client_key_path,
        home=home,
        limits=Limits(ssh_workers=2),
    )


async def test_what_is_detached_is_followed_over_workers(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """Started by one process and ended by another, whoever holds the connection."""
    nap = Nap()
    async with over_two(server, tmp_path) as exp:
        await exp.provision(count=2)
        await exp.wait(timeout=20)
        short = await exp.start((), "echo $PRECIP_INDEX", parallel=True)
        waited = await short.wait()
        await exp.start(exp.instances()[0].id, str(nap))
        await eventually(nap.sleepers)

    assert waited[1] == ["0\n", "1\n"]
    assert not nap.sleepers()


async def test_what_is_detached_has_its_files_in_this_process(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers hold the connections only, so that there is to be room here for its output."""
    async with over_two(server, tmp_path) as exp:
        await exp.provision(count=2)
        await exp.wait(timeout=20)
        run = await exp.start((), "true", parallel=True)
        monkeypatch.setattr(Room.here(), "limit", descriptors.in_use() * 4 // 3)

        with pytest.raises(InvalidArgument, match=r"2 host.* more file descriptors"):
            await run.wait()


async def test_what_is_detached_does_not_mind_that_its_worker_is_killed(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """It is read on over the next one: no byte is missing or comes twice."""
    gate, heard = tmp_path / "gate", dict.fromkeys((0, 1), "")
    results: list[RunResults] = []

    def listen(one: Instance, _: Stream, text: str) -> None:
        heard[one.index] += text

    async with over_two(server, tmp_path / "home") as exp:
        await exp.provision(count=2)
        await exp.wait(timeout=20)
        run = await exp.start((), f"echo 1; until [ -e {gate} ]; do sleep 0.05; done; echo 2")
        workers = exp._stage.remote
        assert isinstance(workers, ShardedRemote)

        async def wait() -> None:
            results.append(await run.wait(on_output=listen))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await eventually(lambda: all(heard.values()))
            first = workers.pids
            for pid in first:
                os.kill(pid, signal.SIGKILL)
            gate.touch()
        assert not set(first) & set(workers.pids)
        await run.remove()

    assert results[0][1] == ["1\n2\n", "1\n2\n"]
    assert [*heard.values()] == results[0][1]
