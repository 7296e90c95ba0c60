"""Commands that run to their end: what they are given, what they say, how they exit."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async.errors import AuthenticationFailed, ConnectError, InvalidArgument, RemoteError
from precip_async.limits import Limits
from precip_async.ssh.openssh_session import WINDOW
from tests.peers import ChoppyProxy
from tests.polling import eventually
from tests.servers import OpenSSHServer
from tests.ssh.rig import Rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import TemporaryUser

pytestmark = pytest.mark.sshd

MIB = 1024 * 1024


async def test_a_command_is_heard_on_both_streams_and_its_exit_code_told(rig: Rig) -> None:
    """Standard output, standard error and the exit code come back, each by itself."""
    result = await rig.run("echo out; echo err >&2; exit 3")

    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)


async def test_a_command_that_dies_by_a_signal_has_its_negative_number(rig: Rig) -> None:
    """Death by signal n is exit code -n."""
    assert (await rig.run("kill -KILL $$")).exit_code == -9
    assert (await rig.run("kill -USR1 $$")).exit_code == -10


@pytest.mark.parametrize("data", [b"\xff\xfe\x80\x00\xc3", bytes(range(256)) * 300])
async def test_output_that_is_not_text_comes_whole(rig: Rig, data: bytes) -> None:
    """No byte is lost or changed, and the connection lives on."""
    result = await rig.run("tee /dev/stderr", stdin=data)

    assert (result.stdout_bytes, result.stderr_bytes) == (data, data)
    assert await rig.out("echo again") == "again"
    assert rig.connector.attempts == 1


async def test_text_that_is_not_utf8_is_shown_with_replacements(rig: Rig) -> None:
    """`stdout` never raises; the bytes are there for who wants them."""
    result = await rig.run(r"printf 'a\377b'")

    assert (result.stdout, result.stdout_bytes) == ("a\ufffdb", b"a\xffb")


async def test_the_environment_arrives_whatever_it_holds(rig: Rig) -> None:
    """That sshd refuses variables and that shells read their values: neither matters."""
    nasty = " a'b\"c $HOME `id` $(id) \\ \n\t;&|<>*?[]{}~#! é 🎈 "

    assert await rig.out('printf %s "$NASTY"', env={"NASTY": nasty, "EMPTY": ""}) == nasty


async def test_a_command_runs_where_it_is_told(rig: Rig, tmp_path: Path) -> None:
    """`cwd` may hold anything that a path can."""
    place = tmp_path / "a b'c\"$(id)\nd"
    place.mkdir()

    assert await rig.out("pwd", cwd=str(place)) == str(place)


async def test_a_directory_that_is_not_there_fails_the_command(rig: Rig) -> None:
    """The command is not run, its exit code is not 0, and its stderr names the directory."""
    result = await rig.run("echo run", cwd="/not/there")

    assert result.exit_code != 0
    assert result.stdout == ""
    assert "/not/there" in result.stderr


async def test_a_command_reads_the_input_it_is_given(rig: Rig) -> None:
    """Some MiB of input arrive whole, and then its end."""
    data = secrets.token_bytes(1000) * 3000

    result = await rig.run("sha256sum; wc -c", stdin=data)

    assert result.stdout.endswith("-\n0\n")
    assert await rig.out("sha256sum", stdin=data) == result.stdout.splitlines()[0]


async def test_a_command_need_not_read_its_input(rig: Rig) -> None:
    """A command that exits early is done, though most of its input was never taken."""
    with anyio.fail_after(10):
        result = await rig.run("head -c 3", stdin=b"abc" * 5 * MIB)

    assert (result.stdout, result.exit_code) == ("abc", 0)


async def test_a_command_without_input_reads_the_end_of_it(rig: Rig) -> None:
    """What reads its standard input does not hang."""
    with anyio.fail_after(10):
        assert await rig.out("cat; echo done") == "done"


async def test_what_a_login_prints_is_not_the_commands_output(tmp_path: Path) -> None:
    """A talkative start file is read once, and what it says does not get into the results."""
    async with OpenSSHServer(tmp_path) as server, Rig(server, tmp_path) as rig:
        noise = "echo Welcome; echo noise >&2; export TIMES=x$TIMES\n"
        (server.home / ".bashrc").write_text(noise)

        result = await rig.run("echo $TIMES; echo err >&2")

    assert (result.stdout, result.stderr) == ("x\n", "err\n")


async def test_what_a_login_says_instead_of_the_command_is_shown_short(tmp_path: Path) -> None:
    """However much that is, and whatever a terminal would make of it."""
    async with OpenSSHServer(tmp_path) as server, Rig(server, tmp_path) as rig:
        (server.home / ".bashrc").write_text("printf '\\033[2J'; head -c 9000 /dev/zero; exit 3\n")

        with pytest.raises(RemoteError) as caught:
            await rig.run("true")

    assert caught.value.problem.isprintable()
    assert len(caught.value.problem) < 1200


async def test_a_background_child_does_not_hold_the_run(rig: Rig) -> None:
    """A run returns once the command itself has exited, a drain grace later at most."""
    with anyio.fail_after(rig.limits.drain_grace + 5):
        result = await rig.run("sleep 300 & echo x; echo $! >&2")
    child = int(result.stderr)

    assert result.stdout == "x\n"
    assert await rig.out(f"kill {child} && echo lived on") == "lived on"


@pytest.mark.parametrize("chatter", ["echo chatter; sleep 0.05", "head -c 8192 /dev/zero"])
async def test_a_child_that_chatters_does_not_hold_the_run(
    server: OpenSSHServer, tmp_path: Path, chatter: str
) -> None:
    """Output that goes on and on is left alone, be it a trickle or a flood."""
    async with Rig(server, tmp_path, limits=Limits(drain_grace=0.2)) as rig:
        with anyio.fail_after(10):
            result = await rig.run(f"(while :; do {chatter}; done) & echo $! >&2")
        await rig.run(f"kill {int(result.stderr)}")  # where SIGPIPE has not ended it


async def test_output_written_just_before_the_exit_is_never_cut(
    server: OpenSSHServer, tmp_path: Path
) -> None:
    """What a slow network brings long after the exit, and after the drain grace, is still taken.

    sshd reports the exit behind a full window and before what is left in the pipe.
    """
    size = WINDOW + 60_000
    async with (
        ChoppyProxy(server.host, server.port) as proxy,
        Rig(server, tmp_path, limits=Limits(drain_grace=0.02), port=proxy.port) as rig,
    ):
        await rig.out("true")
        proxy.delay = 0.1

        result = await rig.run(f"sleep 60 & head -c {size} /dev/zero; echo $! >&2")

        proxy.delay = 0
        assert len(result.stdout_bytes) == size
        await rig.out(f"kill {int(result.stderr)}")
        assert rig.connector.attempts == 1


@pytest.mark.in_process
async def test_fifty_commands_share_one_connection(rig: Rig) -> None:
    """OpenSSH allows ten sessions a connection: fifty runs at once all succeed, over one."""
    outs: list[str] = []

    async def one(number: int) -> None:
        outs.append(await rig.out(f"sleep 0.05; echo {number}"))

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(one, number)

    assert sorted(map(int, outs)) == list(range(50))
    assert rig.connector.attempts == 1
    assert rig.pool.statistics().idle == 1


async def test_a_server_that_allows_few_sessions_gets_all_commands(tmp_path: Path) -> None:
    """With `MaxSessions 2` commands wait for each other, and all of eight run."""
    outs: list[str] = []

    async with (
        OpenSSHServer(tmp_path, max_sessions=2) as server,
        Rig(server, tmp_path) as rig,
        anyio.create_task_group() as tasks,
    ):

        async def one() -> None:
            outs.append(await rig.out("sleep 0.1; echo hi"))

        for _ in range(8):
            tasks.start_soon(one)

    assert outs == ["hi"] * 8


@pytest.mark.slow
async def test_a_server_without_a_session_to_spare_is_named(tmp_path: Path) -> None:
    """What would wait too long for a session says which limits to change."""
    async with (
        OpenSSHServer(tmp_path, max_sessions=1) as server,
        Rig(server, tmp_path) as rig,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(rig.run, "sleep 60")
        await eventually(rig.server.commands)

        with pytest.raises(ConnectError, match=r"max_channels.*MaxSessions"):
            await rig.run("true")
        tasks.cancel_scope.cancel()


async def test_a_user_without_a_shell_is_told_apart_from_a_command(
    tmp_path: Path,
) -> None:
    """Where the login runs no commands, its own words are in the error."""
    forced = ['ForceCommand echo "this account is closed"; exit 1']
    async with OpenSSHServer(tmp_path, extra_config=forced) as server, Rig(server, tmp_path) as rig:
        with pytest.raises(AuthenticationFailed, match="this account is closed"):
            await rig.run("true")


@pytest.mark.root
async def test_sudo_that_is_not_allowed_is_told(
    server: OpenSSHServer, tmp_path: Path, second_user: TemporaryUser
) -> None:
    """Where sudo wants a password, its own words are in the error."""
    async with Rig(server, tmp_path, user=second_user.name) as rig:
        with pytest.raises(AuthenticationFailed, match=r"sudo -n -u root.*"):
            await rig.run("true", user="root", sudo_user="root")


@pytest.mark.root
async def test_a_command_runs_as_another_user_by_sudo(
    server: OpenSSHServer, tmp_path: Path, sudoer: TemporaryUser, second_user: TemporaryUser
) -> None:
    """It is that user's shell, home, environment and directory."""
    async with Rig(server, tmp_path, user=sudoer.name) as rig:
        said = await rig.out(
            'id -un; echo $HOME; pwd; echo "$A"',
            user=second_user.name,
            sudo_user=second_user.name,
            env={"A": "b c"},
        )

    home = str(second_user.home)
    assert said.splitlines() == [second_user.name, home, home, "b c"]


@pytest.mark.root
async def test_a_user_who_may_not_log_in_runs_commands_by_sudo(
    server: OpenSSHServer, tmp_path: Path, sudoer: TemporaryUser
) -> None:
    """Services have a shell that runs nothing; by sudo their commands run all the same."""
    async with Rig(server, tmp_path, user=sudoer.name) as rig:
        assert await rig.out("id -un", user="nobody", sudo_user="nobody") == "nobody"


async def test_text_is_shown_as_it_arrives(rig: Rig) -> None:
    """A listener hears of output while the command still runs, characters never torn."""
    heard: list[tuple[Any, str]] = []
    first = anyio.Event()

    def listen(stream: str, text: str) -> None:
        heard.append((stream, text))
        first.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            lambda: rig.run(
                r"printf 'h\303'; read x; printf '\251\n'; echo e >&2", stdin=None, listener=listen
            )
        )
        with anyio.fail_after(10):
            await first.wait()

    assert "".join(text for stream, text in heard if stream == "stdout") == "hé\n"
    assert "".join(text for stream, text in heard if stream == "stderr") == "e\n"


@pytest.mark.parametrize("error", [KeyError("mine"), OSError("mine")], ids=["KeyError", "OSError"])
async def test_a_listener_that_fails_ends_the_command(rig: Rig, error: Exception) -> None:
    """Its own error comes out, once, and nothing of the command is left."""
    calls = 0

    def listen(_stream: str, _text: str) -> None:
        nonlocal calls
        calls += 1
        raise error

    with anyio.fail_after(20), pytest.raises(type(error), match="mine") as caught:
        await rig.run("trap 'echo last words' TERM; yes & sleep 60 & sleep 61", listener=listen)

    assert caught.value is error
    assert calls == 1
    assert not rig.server.commands()
    assert await rig.out("echo again") == "again"
    assert rig.connector.attempts == 1


async def test_bad_orders_are_refused_before_anything_is_done(rig: Rig) -> None:
    """A NUL byte, a variable that can't be, and a line that is too long: nobody connects."""
    for bad in ({"command": "a\0b"}, {"command": "a", "env": {"A B": ""}}):
        with pytest.raises(InvalidArgument):
            await rig.run(**bad)
    with pytest.raises(InvalidArgument, match="copy_and_run"):
        await rig.run("x" * 200_000)

    assert rig.connector.attempts == 0
