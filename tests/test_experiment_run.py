"""Commands on real instances: shapes, failures, output, environment, users, ends."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from precip_async import (
    CommandFailed,
    CommandTimeout,
    ExperimentException,
    FleetError,
    LocalExperiment,
)
from precip_async.events import CommandEnded, CommandStarted, Output
from tests.ssh.rig import Nap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from precip_async import Instance
    from precip_async.events import Event, Stream


@pytest.fixture(scope="module")
def events() -> list[Event]:
    """All that is announced; a test clears it first."""
    return []


@pytest.fixture(scope="module")
async def exp(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event]
) -> AsyncIterator[LocalExperiment]:
    """Three instances that are ready: a master and two workers. Tests leave them as they were."""
    async with LocalExperiment(
        name="run",
        isolation="process",
        home=tmp_path_factory.mktemp("run") / "home",
        observer=events.append,
    ) as made:
        await made.provision(tags=["master"])
        await made.provision(count=2, tags=["worker"])
        await made.wait()
        yield made


# -- shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, True, 2])
async def test_results_are_the_manuals_three_lists(exp: LocalExperiment, *, parallel: Any) -> None:
    """Exit codes, outputs, errors, in provisioning order, however long each took."""
    results = await exp.run(
        [],
        lambda one: f"sleep 0.{2 - one.index}; echo out{one.index}; echo err{one.index} >&2",
        parallel=parallel,
    )

    codes, outs, errs = results
    assert codes == results[0] == [0, 0, 0]
    assert outs == ["out0\n", "out1\n", "out2\n"]
    assert errs == ["err0\n", "err1\n", "err2\n"]
    assert results[1][0] == "out0\n"
    assert [one.instance_id for one in results.by_instance] == [one.id for one in exp.instances()]
    assert results.ok


async def test_a_result_says_what_ran_where_and_how_long(exp: LocalExperiment) -> None:
    """One value an instance, with all that is known of its command."""
    (instance,) = exp.instances("master")

    (result,) = (await exp.run("master", "sleep 0.2; echo x")).by_instance

    assert (result.instance_id, result.index) == (instance.id, 0)
    assert (result.host, result.user) == (instance.public_address, "root")
    assert (result.command, result.exit_code) == ("sleep 0.2; echo x", 0)
    assert 0.2 <= result.duration < 5
    assert result.started_at.tzinfo is not None


async def test_output_that_is_no_text_is_kept_as_it_is(exp: LocalExperiment) -> None:
    """Bytes are bytes; as text, what is not UTF-8 is replaced."""
    (result,) = (await exp.run("master", r"printf 'a\377\000b'")).by_instance

    assert result.stdout_bytes == b"a\xff\x00b"
    assert result.stdout == "a\ufffd\0b"


# -- failures --------------------------------------------------------------------------------


async def test_a_series_stops_at_the_first_failure(exp: LocalExperiment) -> None:
    """What came before is in its results, and what would have come after was not begun."""
    with pytest.raises(CommandFailed, match=r"exit code 3: echo .*\nno\Z") as caught:
        await exp.run([], lambda one: f"echo no >&2; touch ran; exit {3 if one.index == 1 else 0}")

    assert caught.value.instance_id == exp.instances()[1].id
    assert caught.value.result.exit_code == 3
    assert caught.value.results == [[0, 3], ["", ""], ["no\n", "no\n"]]
    ran = await exp.run([], "rm ran 2>/dev/null; echo $?", parallel=True)
    assert ran[1] == ["0\n", "0\n", "1\n"]


async def test_in_parallel_all_are_tried(exp: LocalExperiment) -> None:
    """The error holds an outcome an instance, in order, and the results of all."""
    with pytest.raises(FleetError) as caught:
        await exp.run([], lambda one: f"echo {one.index}; exit {one.index}", parallel=True)

    error = caught.value
    assert [type(outcome).__name__ for outcome in error.outcomes] == [
        "CommandResult",
        "CommandFailed",
        "CommandFailed",
    ]
    assert [one.result.exit_code for one in error.failed if isinstance(one, CommandFailed)] == [
        1,
        2,
    ]
    assert error.results == [[0, 1, 2], ["0\n", "1\n", "2\n"], ["", "", ""]]
    assert "2 of 3 instances failed" in str(error)


@pytest.mark.parametrize("parallel", [False, True])
async def test_exit_codes_are_given_back_when_they_are_no_errors(
    exp: LocalExperiment, *, parallel: bool
) -> None:
    """Death by a signal is its number, negative."""
    results = await exp.run(
        [],
        lambda one: ("exit 7", "kill -9 $$", "nosuchcommand")[one.index],
        check_exit_code=False,
        parallel=parallel,
    )

    assert results[0] == [7, -9, 127]
    assert len(results.failed) == 3


@pytest.mark.parametrize("check", [True, False])
async def test_a_timeout_is_an_error_whatever_is_checked(
    exp: LocalExperiment, *, check: bool
) -> None:
    """It has no exit code; what it said until then is there, and nothing of it is left."""
    nap = Nap()
    with pytest.raises(CommandTimeout, match="its timeout") as caught:
        await exp.run("master", f"echo begun; setsid {nap} & {nap}", None, check, timeout=0.5)

    error = caught.value
    assert (error.result.exit_code, error.result.stdout, error.leftover) == (None, "begun\n", "")
    assert isinstance(error, TimeoutError)
    assert error.results is not None
    assert error.results[1] == ["begun\n"]
    assert await anyio.to_thread.run_sync(nap.sleepers) == []


async def test_one_that_is_too_slow_does_not_spoil_the_others(exp: LocalExperiment) -> None:
    """The timeout is each instance's own, from the start of its command."""
    began = time.monotonic()
    with pytest.raises(FleetError) as caught:
        await exp.run(
            [], lambda one: f"sleep {9 if one.index == 1 else 0}", timeout=0.5, parallel=True
        )

    assert [type(one).__name__ for one in caught.value.outcomes] == [
        "CommandResult",
        "CommandTimeout",
        "CommandResult",
    ]
    assert time.monotonic() - began < 5


async def test_a_series_with_a_timeout_gives_each_its_own_time(exp: LocalExperiment) -> None:
    """Three commands of 0.4 s each are in time when 1 s is allowed."""
    assert (await exp.run([], "sleep 0.4", timeout=1))[0] == [0, 0, 0]


async def test_a_background_child_does_not_hold_up_the_run(exp: LocalExperiment) -> None:
    """When the command itself has exited, its output is waited for only shortly."""
    began = time.monotonic()
    results = await exp.run("master", "sleep 4 & echo x")

    assert results[1] == ["x\n"]
    assert time.monotonic() - began < 3


# -- what a command finds --------------------------------------------------------------------


@pytest.mark.parametrize("stdin", ["süß\n", "süß\n".encode(), "", "x" * 3_000_000])
async def test_input_is_text_or_bytes(exp: LocalExperiment, stdin: str | bytes) -> None:
    """All of it arrives, and then its end."""
    results = await exp.run("master", "wc -c", stdin=stdin)

    size = len(stdin.encode() if isinstance(stdin, str) else stdin)
    assert results[1] == [f"{size}\n"]


async def test_without_input_there_is_none(exp: LocalExperiment) -> None:
    """A command that reads does not wait for ever."""
    assert (await exp.run("master", "cat; echo end"))[1] == ["end\n"]


async def test_input_that_is_not_read_is_no_error(exp: LocalExperiment) -> None:
    """A command need not take all that it is given."""
    assert (await exp.run("master", "head -c 1", stdin="x" * 5_000_000))[1] == ["x"]


async def test_the_environment_tells_a_command_its_place(exp: LocalExperiment) -> None:
    """In this selection, and not in the whole experiment."""
    line = "echo $PRECIP_EXPERIMENT $PRECIP_INSTANCE_ID $PRECIP_INDEX/$PRECIP_COUNT"
    one, other = exp.instances("worker")

    for parallel in (False, True):
        results = await exp.run("worker", line, parallel=parallel)
        assert results[1] == [f"run {one.id} 0/2\n", f"run {other.id} 1/2\n"]


async def test_env_adds_to_the_environment(exp: LocalExperiment) -> None:
    """Whatever the values hold; the same for all, or by instance."""
    nasty = "a 'b' \"c\" $(d) `e` \\f \n g=h ; & 😀"

    results = await exp.run("master", 'printf %s "$A$B"', env={"A": nasty, "B": ""})
    each = await exp.run([], "echo $WHO", env=lambda one: {"WHO": one.id}, parallel=True)

    assert results[1] == [nasty]
    assert each[1] == [f"{one.id}\n" for one in exp.instances()]


async def test_cwd_is_where_a_command_runs(exp: LocalExperiment) -> None:
    """Otherwise it is the home directory; one that is missing is a failure that says so."""
    await exp.run("master", "mkdir -p 'a b'")

    assert (await exp.run("master", "pwd", cwd="a b"))[1] == ["/root/a b\n"]
    assert (await exp.run("master", "pwd", cwd="/usr"))[1] == ["/usr\n"]
    assert (await exp.run("master", "pwd"))[1] == ["/root\n"]
    with pytest.raises(ExperimentException, match="nowhere"):
        await exp.run("master", "pwd", cwd="/nowhere")


async def test_an_error_of_a_callable_is_the_callers(exp: LocalExperiment) -> None:
    """It is raised before anything runs."""

    def command(one: Instance) -> str:
        if one.index == 2:
            raise KeyError(one.id)
        return "touch ran"

    with pytest.raises(KeyError):
        await exp.run([], command, parallel=True)

    assert (await exp.run([], "ls ran", check_exit_code=False))[0] == [2, 2, 2]


# -- output ----------------------------------------------------------------------------------


async def test_on_output_hears_text_as_it_comes(exp: LocalExperiment) -> None:
    """Per instance and stream, while the command still runs; characters are whole."""
    heard: list[tuple[int, Stream, str]] = []
    first = anyio.Event()

    def listen(instance: Instance, stream: Stream, text: str) -> None:
        heard.append((instance.index, stream, text))
        first.set()

    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            line = "printf 'h\\303'; sleep 0.1; printf '\\266'; echo e >&2; "
            line += "while [ ! -e go ]; do sleep 0.05; done; rm go"
            await exp.run("worker", line, on_output=listen, parallel=True)

        tasks.start_soon(run)
        with anyio.fail_after(10):
            await first.wait()
            await exp.run("worker", "touch go", parallel=True)

    for index in (1, 2):
        out = "".join(text for who, stream, text in heard if (who, stream) == (index, "stdout"))
        err = "".join(text for who, stream, text in heard if (who, stream) == (index, "stderr"))
        assert (out, err) == ("hö", "e\n")


@pytest.mark.parametrize("parallel", [False, True])
async def test_what_on_output_raises_ends_the_command_and_is_raised(
    exp: LocalExperiment, *, parallel: bool
) -> None:
    """As it is, not in a group; and nothing goes on behind it."""
    nap = Nap()

    def listen(*_: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await exp.run([], f"echo x; {nap}", on_output=listen, parallel=parallel)

    assert await anyio.to_thread.run_sync(nap.sleepers) == []
    assert (await exp.run([], "echo on", parallel=True))[1] == ["on\n"] * 3


async def test_output_base_name_writes_files_instead(exp: LocalExperiment, tmp_path: Path) -> None:
    """One a stream and instance, also an empty one; the strings stay empty."""
    base = tmp_path / "new" / "out"

    results = await exp.run("worker", "echo $PRECIP_INDEX", output_base_name=base, parallel=True)

    assert results == [[0, 0], ["", ""], ["", ""]]
    for place, (one, result) in enumerate(
        zip(exp.instances("worker"), results.by_instance, strict=True)
    ):
        assert result.stdout_path == tmp_path / "new" / f"out.{one.id}.stdout"
        assert result.stderr_path == tmp_path / "new" / f"out.{one.id}.stderr"
        assert result.stdout_path.read_text() == f"{place}\n"
        assert result.stderr_path.read_text() == ""


async def test_output_files_hold_what_a_failed_command_said(
    exp: LocalExperiment, tmp_path: Path
) -> None:
    """That is when one wants to read them."""
    with pytest.raises(CommandFailed):
        await exp.run(
            "master", "echo why; echo because >&2; exit 1", output_base_name=str(tmp_path / "o")
        )

    (master,) = exp.instances("master")
    assert (tmp_path / f"o.{master.id}.stdout").read_text() == "why\n"
    assert (tmp_path / f"o.{master.id}.stderr").read_text() == "because\n"


async def test_output_that_can_not_be_written_is_told(exp: LocalExperiment, tmp_path: Path) -> None:
    """A file where a directory is meant, on this machine."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ExperimentException, match="can't be written"):
        await exp.run("master", "echo x", output_base_name=tmp_path / "file" / "out")


async def test_events_tell_the_story_in_order(exp: LocalExperiment, events: list[Event]) -> None:
    """Started, output, ended; one story an instance."""
    events.clear()
    with pytest.raises(CommandFailed):
        await exp.run("worker", "echo a; echo b >&2; exit 4")

    (one, _) = exp.instances("worker")
    assert {event.instance_id for event in events} == {one.id}
    started, *outputs, ended = events
    assert isinstance(started, CommandStarted)
    assert isinstance(ended, CommandEnded)
    assert (started.command, started.user) == ("echo a; echo b >&2; exit 4", "root")
    assert (ended.exit_code, ended.command) == (4, started.command)
    said = {event.stream: event.text for event in outputs if isinstance(event, Output)}
    assert said == {"stdout": "a\n", "stderr": "b\n"}


async def test_an_end_by_timeout_is_told_without_an_exit_code(
    exp: LocalExperiment, events: list[Event]
) -> None:
    """Whatever ended it, the story has an end."""
    events.clear()
    with pytest.raises(CommandTimeout):
        await exp.run("master", "sleep 30", timeout=0.2)

    (ended,) = [event for event in events if isinstance(event, CommandEnded)]
    assert ended.exit_code is None
    assert re.search(r"was ended after \d", str(ended))
