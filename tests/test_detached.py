"""Commands that go on without us, on real OpenSSH servers: begun once, followed, ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any
from unittest import mock

import anyio
import anyio.to_thread
import pytest

from precip_async import (
    AuthenticationFailed,
    Chunk,
    CommandFailed,
    CommandTimeout,
    ConnectTimeout,
    DetachedRun,
    HostsExperiment,
    InvalidArgument,
    Limits,
    LocalExperiment,
    RemoteError,
    TransferError,
    jobs,
    sync,
)
from precip_async.events import JobEnded, JobStarted, Output
from precip_async.shell import MARK
from precip_async.ssh import detached as begun
from tests import processes
from tests.fakes import faked_ssh
from tests.peers import ChoppyProxy
from tests.polling import eventually
from tests.scripts import script
from tests.servers import OpenSSHServer
from tests.ssh.trees import small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import TemporaryUser

pytestmark = pytest.mark.sshd

QUICK = Limits(poll_interval=0.1, probe_timeout=5, kill_grace=1, connect_timeout=10)
WORDY = """
i=0
while [ $i -lt %d ]; do
  echo "$PRECIP_INSTANCE_ID says $i to you"
  echo "$PRECIP_INSTANCE_ID warns $i times" >&2
  i=$((i + 1))
  sleep 0.02
done
exit 7
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSSHServer]:
    """A server that plays many hosts; what is detached there is in its own home."""
    directory = tmp_path_factory.mktemp("shared")
    with OpenSSHServer(directory, address="0.0.0.0", max_startups="100:30:200") as running:
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OpenSSHServer]:
    """A server of the test's own, which it may misuse."""
    with OpenSSHServer(tmp_path, address="0.0.0.0") as running:
        yield running


def on(server: OpenSSHServer, tmp_path: Path, hosts: Any = None, **shared: Any) -> HostsExperiment:
    """An experiment on `server`, always of the same name in one test."""
    given = {
        "name": tmp_path.name,
        "home": tmp_path / "home",
        "ssh_key": server.client_key_path,
        "limits": QUICK,
        "ssh_port": server.port,
    }
    return HostsExperiment(server.hosts(1) if hosts is None else hosts, **{**given, **shared})


async def ready(exp: HostsExperiment, count: int = 1) -> HostsExperiment:
    """Provision and wait."""
    await exp.provision(count=count)
    await exp.wait(timeout=30)
    return exp


def written(instance_id: str, lines: int) -> dict[str, bytes]:
    """What `WORDY` has to have written in the end."""
    return {
        "stdout": b"".join(f"{instance_id} says {i} to you\n".encode() for i in range(lines)),
        "stderr": b"".join(f"{instance_id} warns {i} times\n".encode() for i in range(lines)),
    }


class Reader:
    """Puts chunks together, and sees to it that none is missing and none comes twice."""

    def __init__(self) -> None:
        self.streams: dict[tuple[str, str], bytes] = {}
        self.offsets: dict[str, tuple[int, int]] = {}

    def take(self, chunk: Chunk) -> None:
        """Take one more."""
        before = self.offsets.get(chunk.instance_id, (0, 0))
        grown = (len(chunk.data), 0) if chunk.stream == "stdout" else (0, len(chunk.data))
        assert chunk.offsets == (before[0] + grown[0], before[1] + grown[1])
        self.offsets[chunk.instance_id] = chunk.offsets
        place = (chunk.instance_id, chunk.stream)
        self.streams[place] = self.streams.get(place, b"") + chunk.data

    async def read(self, run: DetachedRun, *, most: int | None = None) -> None:
        """Take what comes of `run`, up to `most` chunks."""
        async for chunk in run.follow(self.offsets):
            self.take(chunk)
            most = None if most is None else most - 1
            if most == 0:
                return

    def whole(self, instance_id: str) -> dict[str, bytes]:
        """What came of one instance."""
        streams = ("stdout", "stderr")
        return {stream: self.streams.get((instance_id, stream), b"") for stream in streams}


def bearing(job_id: str) -> list[processes.Process]:
    """The processes of a detached command."""
    return processes.marked(f"{MARK}={job_id}")


# -- it goes on ------------------------------------------------------------------------------

KILLED = """
import json, sys
import anyio
from precip_async import HostsExperiment

async def main(facts):
    facts = json.loads(facts)
    hosts, commands = facts.pop("hosts"), facts.pop("commands")
    async with HostsExperiment(hosts, **facts) as exp:
        await exp.provision(count=len(hosts))
        await exp.wait()
        for number, command in enumerate(commands):
            await exp.start([], command, name=f"n{number}", parallel=True)
        sys.stdout.write("started\\n")
        await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("hosts", "lines"), [(2, 60), pytest.param(10, 300, marks=pytest.mark.slow)]
)
async def test_it_is_followed_to_its_end_after_the_script_was_killed(
    hosts: int, lines: int, server: OpenSSHServer, tmp_path: Path
) -> None:
    """Two commands a host: by another process, with no byte missing or doubled in any stream."""
    facts = {
        "name": tmp_path.name,
        "hosts": server.hosts(hosts),
        "commands": [WORDY % lines, WORDY % (2 * lines)],
        "home": str(tmp_path / "home"),
        "ssh_key": str(server.client_key_path),
        "ssh_port": server.port,
    }

    def killed() -> None:
        with script(KILLED, json.dumps(facts)) as running:
            running.wait_for("started")
            running.signal(signal.SIGKILL)

    await anyio.to_thread.run_sync(killed)
    async with on(server, tmp_path, server.hosts(hosts)) as exp:
        await ready(exp, hosts)
        runs = await exp.started()
        assert [run.name for run in runs] == ["n0", "n1"]
        assert [run.name for run in await exp.started(name="n1")] == ["n1"]
        assert [[job.instance.id for job in run] for run in runs] == [server.hosts(hosts)] * 2

        readers = [Reader(), Reader()]
        async with anyio.create_task_group() as tasks:
            for reader, run in zip(readers, runs, strict=True):
                tasks.start_soon(reader.read, run)

        for reader, count in zip(readers, (lines, 2 * lines), strict=True):
            for host in server.hosts(hosts):
                assert reader.whole(host) == written(host, count)
        results = await runs[0].wait(check_exit_code=False)
        assert results[0] == [7] * hosts
        assert results[1] == [
            written(host, lines)["stdout"].decode() for host in server.hosts(hosts)
        ]


async def test_it_has_what_a_command_of_run_has(server: OpenSSHServer, tmp_path: Path) -> None:
    """Environment, directory, umask, the user's shell, and no input."""
    say = "echo $PRECIP_EXPERIMENT $PRECIP_INDEX $PRECIP_COUNT $GIVEN; pwd; umask; cat"
    heard: list[Any] = []
    async with on(server, tmp_path, observer=heard.append) as exp:
        await ready(exp)
        keywords: dict[str, Any] = {"env": {"GIVEN": 'it\'s "so"!'}, "cwd": str(tmp_path)}
        ran = (await exp.run([], say, **keywords)).by_instance[0]
        started = (await (await exp.start([], say, **keywords)).wait()).by_instance[0]

        assert started.stdout == ran.stdout
        assert started.exit_code == ran.exit_code == 0
        assert (started.command, started.user, started.index) == (ran.command, ran.user, 0)
        assert [type(event) for event in heard if isinstance(event, JobStarted | JobEnded)] == [
            JobStarted,
            JobEnded,
        ]
        assert started.stdout in [event.text for event in heard if isinstance(event, Output)]


async def test_its_exit_code_is_the_one_that_run_reports(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """A signal's number with a minus, and a number over 128 that it chose itself without."""
    codes = {
        "exit 3": 3,
        "exit 143": 143,
        "kill -TERM $$": -15,
        "kill -KILL $$": -9,
        "sh -c 'kill -KILL $$'; exit 137": 137,
        "no-such-program": 127,
    }
    async with on(server, tmp_path) as exp:
        await ready(exp)
        for command, code in codes.items():
            run = await exp.start([], command)
            with pytest.raises(CommandFailed) as caught:
                await run.wait()

            assert caught.value.result.exit_code == run[0].exit_code == code
            assert (await exp.run([], command, check_exit_code=False))[0] == [code]


async def test_what_is_kept_of_it_is_its_users_alone(own: OpenSSHServer, tmp_path: Path) -> None:
    """Its directory is closed to others, and gone once it is removed."""
    async with on(own, tmp_path) as exp:
        await ready(exp)
        run = await exp.start([], "echo secret")
        await run.wait()
        kept = own.home / ".precip-jobs"
        assert {path.stat().st_mode & 0o777 for path in (kept, *kept.iterdir())} == {0o700}

        await run.remove()
        assert list(kept.iterdir()) == []
        assert await exp.started() == []


# -- the connection is lost ----------------------------------------------------------------------


async def test_no_byte_is_lost_with_the_connection(server: OpenSSHServer, tmp_path: Path) -> None:
    """Cut again and again while it is followed, at any byte, it is read on from where one was."""
    async with (
        ChoppyProxy(server.host, server.port) as proxy,
        on(server, tmp_path, ["127.0.0.1"], ssh_port=proxy.port) as exp,
    ):
        await ready(exp)
        run = await exp.start([], WORDY % 150)
        reader, cuts = Reader(), 0

        async def cutting() -> None:
            nonlocal cuts
            for _ in range(4):
                proxy.cut_after = proxy.forwarded + 2500
                await eventually(lambda: proxy.open == 0, "it is cut", within=20)
                proxy.cut_after = None
                cuts += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cutting)
            await reader.read(run)
            tasks.cancel_scope.cancel()

        assert cuts > 1
        assert reader.whole("127.0.0.1") == written("127.0.0.1", 150)


@pytest.mark.parametrize(
    "answers", [60, 700, *(pytest.param(one, marks=pytest.mark.slow) for one in (1, 200, 400))]
)
async def test_it_is_started_once_whenever_the_connection_is_lost(
    answers: int, server: OpenSSHServer, tmp_path: Path
) -> None:
    """Before the server's yes, after it, and when the answer is on its way: it is asked again."""
    done = tmp_path / "done"
    async with (
        ChoppyProxy(server.host, server.port) as proxy,
        on(server, tmp_path, ["127.0.0.1"], ssh_port=proxy.port) as exp,
    ):
        await ready(exp)
        proxy.cut_after = proxy.forwarded + answers

        async def mend() -> None:
            await eventually(lambda: proxy.open == 0)
            proxy.cut_after = None

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mend)
            run = await exp.start([], f"echo x >>{done}")
            await run.wait()
            proxy.cut_after = None
            tasks.cancel_scope.cancel()

        assert done.read_text() == "x\n"
        assert len(await exp.started()) == 1


@pytest.mark.slow
async def test_a_start_that_is_cancelled_is_not_half_a_start(
    own: OpenSSHServer, tmp_path: Path
) -> None:
    """What was on its way to begin does begin, and is found: nobody ends it in its birth."""
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "setsid").write_text(f'#!/bin/sh\nsleep 1\nexec {shutil.which("setsid")} "$@"\n')
    (slow / "setsid").chmod(0o755)
    async with on(own, tmp_path) as exp:
        await ready(exp)
        (own.home / ".bashrc").write_text(f"PATH={slow}:$PATH\n")
        with anyio.move_on_after(0.5) as scope:
            await exp.start([], "echo begun")
        assert scope.cancelled_caught

        with anyio.fail_after(20):
            while not (runs := await exp.started()):  # noqa: ASYNC110 - it has no event
                await anyio.sleep(0.1)
        assert (await runs[0].wait())[1] == ["begun\n"]


@pytest.mark.slow
async def test_a_host_that_stays_away_is_an_error(
    own: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, which is short here; what was started is found when the host is back."""
    async with on(own, tmp_path) as exp:
        await ready(exp)
        run = await exp.start([], "sleep 30")
        monkeypatch.setattr(jobs, "PERSISTENCE", 0.5)
        await anyio.to_thread.run_sync(own.stop)
        with pytest.raises(RemoteError):
            await run.wait()

        await anyio.to_thread.run_sync(own.start)
        monkeypatch.undo()
        (again,) = await exp.started()
        assert again[0].id == run[0].id
        await again.end()


async def test_a_host_that_is_too_slow_is_no_trouble_with_files(
    server: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection in time is an `OSError`, and that is not taken for output without a place."""
    slow = ConnectTimeout(instance_id="i", host="h", problem="too slow")
    async with on(server, tmp_path) as exp:
        await ready(exp)
        run = await exp.start([], "true")
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "read_job", mock.AsyncMock(side_effect=slow))
            with pytest.raises(ConnectTimeout, match="too slow"):
                await run.wait()


# -- left alone ----------------------------------------------------------------------------------


async def test_giving_up_waiting_leaves_it_running(server: OpenSSHServer, tmp_path: Path) -> None:
    """By a timeout, which says so, by leaving a loop, and by cancellation."""
    async with on(server, tmp_path) as exp:
        await ready(exp)
        gate = tmp_path / "gate"
        run = await exp.start(
            [], f"echo begun; until [ -e {gate} ]; do sleep 0.05; done; echo over"
        )

        with pytest.raises(CommandTimeout, match="it goes on") as caught:
            await run.wait(timeout=0.5)
        assert caught.value.running
        assert caught.value.result.stdout == "begun\n"
        async for _ in run.follow():
            break
        with anyio.move_on_after(0.3) as scope:
            async for _ in run.follow((6, 0)):
                pytest.fail("there is no more yet")
        assert scope.cancelled_caught
        assert bearing(run[0].id)

        await anyio.Path(gate).touch()
        assert (await run.wait())[1] == ["begun\nover\n"]


@pytest.mark.slow
async def test_readers_of_one_that_is_left_are_ended(own: OpenSSHServer, tmp_path: Path) -> None:
    """Who stops following leaves no process behind there that would wait for output."""
    async with on(own, tmp_path) as exp:
        await ready(exp)
        run = await exp.start([], "sleep 60")
        with anyio.move_on_after(0.5):
            await run.wait()

        names = Counter(one.name for one in own.commands())
        assert names["tail"] == names["sshd-session"] == 0
        assert {one.pid for one in own.commands()} <= {one.pid for one in bearing(run[0].id)}
        await run.end()


# -- ended ---------------------------------------------------------------------------------------


async def test_all_of_it_is_ended_and_nothing_else(server: OpenSSHServer, tmp_path: Path) -> None:
    """What ignores TERM and what has left its session too; another command goes on."""
    stubborn = "trap '' TERM; setsid sleep 300 & sleep 301 & sleep 302; sleep 303"
    async with on(server, tmp_path) as exp:
        await ready(exp)
        run, other = await exp.start([], stubborn), await exp.start([], "sleep 304")
        await eventually(lambda: len(bearing(run[0].id)) >= 4)

        await run.end()

        assert bearing(run[0].id) == []
        assert run[0].exit_code == -9
        assert bearing(other[0].id)
        await other.end()
        assert other[0].exit_code == -15
        assert [one[0].exit_code for one in await exp.started()] == [-9, -15]
        await run.end()  # a second time: nothing


async def test_who_has_the_number_of_its_group_by_now_is_spared(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """After a reboot, or when numbers have come round, what was its group is somebody else's."""
    bystander = await anyio.open_process(["sleep", "300"], start_new_session=True)
    try:
        async with on(server, tmp_path) as exp:
            await ready(exp)
            run = await exp.start([], "sleep 300")
            processes.end(bearing(run[0].id))
            began = server.home / ".precip-jobs" / run[0].id / "began"
            began.write_text(f"{bystander.pid} 1\n")
            (again,) = await exp.started()

            await again.end()

            assert again[0].exit_code == -9
            assert bystander.returncode is None
    finally:
        bystander.kill()
        assert await bystander.wait() == -signal.SIGKILL


async def test_a_shell_that_has_something_to_say_is_no_signal(
    own: OpenSSHServer, tmp_path: Path
) -> None:
    """Bash warns of a locale that is not there: codes over 128 are the command's all the same."""
    shells = tmp_path / "shells"
    shells.mkdir()
    (shells / "sh").symlink_to(shutil.which("bash") or "")
    async with on(own, tmp_path) as exp:
        await ready(exp)
        (own.home / ".bashrc").write_text(f"PATH={shells}:$PATH\n")
        run = await exp.start([], "exit 200", env={"LC_ALL": "xx_YY.UTF-8"})

        assert (await run.wait(check_exit_code=False))[0] == [200]


async def test_one_that_is_slow_to_begin_is_not_said_to_have_failed(
    own: OpenSSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it will, and the error says how to find it."""
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "date").write_text(f'#!/bin/sh\nsleep 0.5\nexec {shutil.which("date")} "$@"\n')
    (slow / "date").chmod(0o755)
    monkeypatch.setattr(begun, "_BEGIN", begun._BEGIN.replace("-ge 600", "-ge 1"))
    async with on(own, tmp_path) as exp:
        await ready(exp)
        (own.home / ".bashrc").write_text(f"PATH={slow}:$PATH\n")
        with pytest.raises(RemoteError, match=r"had not begun .* started\(\) finds it"):
            await exp.start([], "echo begun")

        with anyio.fail_after(20):
            while not (runs := await exp.started()):  # noqa: ASYNC110 - it has no event
                await anyio.sleep(0.1)
        assert (await runs[0].wait())[1] == ["begun\n"]


@pytest.mark.slow
async def test_what_is_still_running_is_not_removed(server: OpenSSHServer, tmp_path: Path) -> None:
    """Its output would be lost, and it with it."""
    async with on(server, tmp_path) as exp:
        await ready(exp)
        run = await exp.start([], "sleep 60")
        with pytest.raises(InvalidArgument, match=r"wait\(\) for it or end\(\) it first"):
            await run.remove()
        await run.end()


async def test_a_host_that_is_given_back_is_free_of_it(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """Whoever has started it, unless it is to be kept: ``keep=True`` says so, as for instances."""
    async with on(server, tmp_path, keep=True) as exp:
        await ready(exp)
        job_id = (await exp.start([], "sleep 300"))[0].id
    assert bearing(job_id)
    async with on(server, tmp_path) as exp:
        await ready(exp)
        await exp.deprovision()

        assert bearing(job_id) == []


async def test_leaving_ends_what_was_started_on_hosts(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """The end of ``async with`` gives hosts back as `deprovision` does."""
    async with on(server, tmp_path) as exp:
        await ready(exp)
        job_id = (await exp.start([], "sleep 300"))[0].id

    assert bearing(job_id) == []


async def test_leaving_asks_no_host_on_which_nothing_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are given back without a word; `deprovision` looks for what earlier ones left."""
    ssh = faked_ssh(monkeypatch)
    async with HostsExperiment(["one", "two"], home=tmp_path, limits=QUICK) as exp:
        await ready(exp, 2)
        await exp.run([], "true")
        asked = len(ssh.lines)
        await exp.deprovision("one")
        assert len(ssh.lines) == asked + 1

    assert len(ssh.lines) == asked + 1


async def test_a_host_that_lets_us_in_no_more_is_not_tried_again(
    own: OpenSSHServer, tmp_path: Path
) -> None:
    """Another try would change nothing, and two minutes of them would be a long time."""
    async with on(own, tmp_path) as exp:
        await ready(exp)
        run = await exp.start([], "sleep 300")
        allowed = own.directory / "authorized_keys"
        keys = allowed.read_text()
        allowed.write_text("")
        own.kill_sessions()
        with anyio.fail_after(jobs.PERSISTENCE / 4), pytest.raises(AuthenticationFailed):
            await run.wait()

        allowed.write_text(keys)
        await run.end()


async def test_one_that_nobody_waits_for_there_is_lost_and_said_to_be(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """After a reboot, say: its output is read, and its exit code nobody knows."""
    async with on(server, tmp_path) as exp:
        await ready(exp)
        run = await exp.start([], "echo begun; sleep 300")
        await eventually(lambda: len(bearing(run[0].id)) >= 2)
        processes.end(bearing(run[0].id))
        reader = Reader()
        with pytest.raises(RemoteError, match="nobody knows how"):
            await reader.read(run)

        assert reader.whole(run[0].instance.id)["stdout"] == b"begun\n"


# -- trouble there -------------------------------------------------------------------------------


@pytest.mark.root
async def test_a_disk_that_is_full_is_said(own: OpenSSHServer, tmp_path: Path) -> None:
    """Also then its exit code is known; and what can't be kept there is not begun at all."""
    kept = own.home / ".precip-jobs"
    kept.mkdir(mode=0o700)
    async with on(own, tmp_path) as exp:
        await ready(exp)
        with small_disk(kept, "1m"):
            run = await exp.start([], "head -c 3000000 /dev/zero; exit 3")
            with pytest.raises(TransferError, match=r"disk there was full .* exit code 3"):
                await run.wait()
            with pytest.raises(TransferError, match="disk there was full"):
                await (reader := Reader()).read(run)
            assert 0 < len(reader.whole(run[0].instance.id)["stdout"]) < 1 << 20
            assert run[0].exit_code == 3

            with pytest.raises(RemoteError, match=r"could not be started: .*No space left"):
                await exp.start([], "touch it-ran")
            assert not (own.home / "it-ran").exists()


async def test_output_that_was_cut_off_there_is_no_output(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """Who has more than there is is told, instead of getting other bytes for those."""
    async with on(server, tmp_path) as exp:
        await ready(exp)
        run = await exp.start([], "echo 123456789")
        await run.wait()
        os.truncate(server.home / ".precip-jobs" / run[0].id / "stdout", 4)

        following = run.follow((10, 0))
        with pytest.raises(TransferError, match="shorter than the"):
            await anext(following)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("echo lies", "bytes of the output of .* were to follow"),
        pytest.param("exec cat /dev/zero", "it sent more than the", marks=pytest.mark.slow),
    ],
)
async def test_a_server_that_lies_about_bytes_is_not_believed(
    head: str, told: str, own: OpenSSHServer, tmp_path: Path
) -> None:
    """It sends other bytes than it has announced, or goes on for ever: bounded, and an error."""
    liars = tmp_path / "liars"
    liars.mkdir()
    async with on(own, tmp_path) as exp:
        await ready(exp)
        run = await exp.start([], "echo 123456789")
        await run.wait()
        (liars / "head").write_text(f"#!/bin/sh\n{head}\n")
        (liars / "head").chmod(0o755)
        (own.home / ".bashrc").write_text(f"PATH={liars}:$PATH\n")

        with pytest.raises(RemoteError, match=told):
            await run.wait()


async def test_what_others_have_put_there_is_passed_over(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """Names, numbers and words that are not ours, and a command of another experiment."""
    async with on(server, tmp_path) as exp, on(server, tmp_path, name="other") as other:
        await ready(exp)
        await ready(other)
        run, _ = await exp.start([], "true"), await other.start([], "true")
        kept = server.home / ".precip-jobs"
        for name, began in (("..evil", "1 2"), ("0" * 16, "x y"), ("1" * 16, "1 2")):
            shutil.copytree(kept / run[0].id, kept / name)
            (kept / name / "began").write_text(began)
        (kept / ("1" * 16) / "about").write_text(f'{{"experiment": "{tmp_path.name}"}}\n')

        assert [one[0].id for one in await exp.started()] == [run[0].id]


# -- as whom -------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.slow
async def test_another_users_command_is_in_that_users_home(
    server: OpenSSHServer, sudoer: TemporaryUser, second_user: TemporaryUser, tmp_path: Path
) -> None:
    """Reached by sudo: started, listed, followed and ended as that user, and nobody else's."""
    async with on(server, tmp_path, [f"{sudoer.name}@127.0.0.1"]) as exp:
        await ready(exp)
        run = await exp.start([], "id -un; sleep 300", second_user.name)
        reader = Reader()
        await reader.read(run, most=1)
        assert reader.whole("127.0.0.1")["stdout"] == f"{second_user.name}\n".encode()
        assert (second_user.home / ".precip-jobs" / run[0].id).stat().st_uid == second_user.uid
        assert await exp.started() == []
        (again,) = await exp.started([], second_user.name)

        await again.end()

        assert bearing(run[0].id) == []
        assert again[0].exit_code == -15


# -- on instances of this computer, and blocking -------------------------------------------------


async def test_selections_and_callables_are_as_for_run(tmp_path: Path) -> None:
    """Each instance its own command; some of a run are followed by themselves; none is no error."""
    async with LocalExperiment(home=tmp_path, isolation="process") as exp:
        await exp.provision(count=3, tags=["all"])
        await exp.wait()
        run = await exp.start("all", lambda one: f"echo {one.index}", parallel=True)

        assert [job.instance.index for job in run] == [0, 1, 2]
        assert (await run.wait())[1] == ["0\n", "1\n", "2\n"]
        assert [chunk.text async for chunk in run[1:2].follow()] == ["1\n"]
        assert len(await exp.start("nobody", "true")) == 0
        assert (await (await exp.start("nobody", "true")).wait()).ok


def test_blocking_twins_have_it_too(server: OpenSSHServer, tmp_path: Path) -> None:
    """Started, followed in a `for` loop, waited for, listed, ended and removed."""
    with sync.HostsExperiment(
        server.hosts(1),
        home=tmp_path / "home",
        ssh_key=server.client_key_path,
        ssh_port=server.port,
        quiet=True,
    ) as exp:
        exp.provision()
        exp.wait()
        run = exp.start([], "echo out; echo err >&2")
        assert sorted(chunk.text for chunk in run.follow()) == ["err\n", "out\n"]
        assert run.wait()[1] == ["out\n"]
        (again,) = exp.started()
        assert again[0].id == run[0].id
        again.end()
        again.remove()
        assert exp.started() == []


async def test_offsets_are_two_numbers(server: OpenSSHServer, tmp_path: Path) -> None:
    """Of every instance, or by the instance's id."""
    wrong: list[Any] = [(1,), (0, -1), ("0", "0"), 5, {server.hosts(1)[0]: 3}]
    async with on(server, tmp_path) as exp:
        await ready(exp)
        run = await exp.start([], "true")
        for offsets in wrong:
            with pytest.raises(InvalidArgument, match="offsets must be two numbers"):
                run.follow(offsets)
