"""Scripts and files on real instances: arguments, removal, transfers, their errors and events."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from precip_async import (
    CommandFailed,
    CommandTimeout,
    FleetError,
    InvalidArgument,
    LocalExperiment,
    TransferError,
)
from precip_async.events import CommandStarted, TransferEnded, TransferStarted, Warned
from tests.processes import opened
from tests.ssh.rig import Nap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from precip_async.events import Event

# Says its arguments, each ended by a NUL, and where it is.
ECHO = '#!/bin/sh\npwd\nfor word in "$@"; do printf \'%s\\0\' "$word"; done\n'
UUID = Path("/proc/sys/kernel/random/uuid")


@pytest.fixture(scope="module")
def events() -> list[Event]:
    """All that is announced; a test clears it first."""
    return []


@pytest.fixture(scope="module")
async def exp(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event]
) -> AsyncIterator[LocalExperiment]:
    """Two instances that are ready. Tests leave them as they were."""
    async with LocalExperiment(
        isolation="process",
        home=tmp_path_factory.mktemp("files") / "home",
        observer=events.append,
    ) as made:
        await made.provision(tags=["first"])
        await made.provision(tags=["second"])
        await made.wait()
        yield made


def script(path: Path, text: str = ECHO, mode: int = 0o755) -> Path:
    """A script at `path`."""
    path.write_text(text)
    path.chmod(mode)
    return path


def names(path: Path) -> list[str]:
    """What is in the directory `path`."""
    return sorted(found.name for found in path.iterdir())


async def left_behind(exp: LocalExperiment) -> list[str]:
    """What copy_and_run has left on the instances."""
    listed = await exp.run([], "ls -A /tmp | grep ^precip- ; true", parallel=True)
    return [name for out in listed[1] for name in out.split()]


# -- scripts ---------------------------------------------------------------------------------


NASTY = [
    *("", " ", "a b", "it's", '"', "\\", "$(id)", "`id`", "$HOME", "!", "*", "~", "-x", "--", ";"),
    *("new\nline", "tab\t", "\x01\x7f", "süß", "😀", "a" * 5000, "#", "\udcff", "%s", "\\n"),
]


@pytest.mark.parametrize("parallel", [False, True])
async def test_arguments_arrive_as_they_are(
    exp: LocalExperiment, tmp_path: Path, *, parallel: bool
) -> None:
    """Whatever they contain."""
    local = script(tmp_path / "a script's.sh")

    results = await exp.copy_and_run([], local, NASTY, parallel=parallel)

    expected = b"/tmp\n" + b"".join(os.fsencode(word) + b"\0" for word in NASTY)
    assert [one.stdout_bytes for one in results.by_instance] == [expected] * 2
    assert await left_behind(exp) == []


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=6))
def test_arguments_may_hold_anything(
    shared: tuple[Any, LocalExperiment, Path], words: list[str]
) -> None:
    """What a shell would make of them nobody finds out."""
    portal, exp, local = shared

    (result,) = portal.call(exp.copy_and_run, "first", local, words).by_instance

    said = b"".join(word.encode() + b"\0" for word in words)
    assert result.stdout_bytes == b"/tmp\n" + said


@pytest.fixture
def shared(tmp_path: Path) -> Any:
    """An experiment on a loop in a thread, for what hypothesis runs again and again."""
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        made = portal.call(
            lambda: _made(LocalExperiment(isolation="process", home=tmp_path / "home"))
        )
        try:
            yield portal, made, script(tmp_path / "echo.sh")
        finally:
            portal.call(made.aclose)


async def _made(exp: LocalExperiment) -> LocalExperiment:
    await exp.open()
    await exp.provision(tags=["first"])
    await exp.wait()
    return exp


async def test_arguments_may_differ_by_instance(exp: LocalExperiment, tmp_path: Path) -> None:
    """A callable of the instance gives each its own."""
    local = script(tmp_path / "s")

    results = await exp.copy_and_run([], local, lambda one: [str(one.index), *one.user_tags])

    assert results[1] == ["/tmp\n0\0first\0", "/tmp\n1\0second\0"]


@pytest.mark.parametrize("mode", [0o755, 0o600, 0o444])
@pytest.mark.parametrize("text", ["#!/bin/bash\necho $0 | cut -c1-12\n", "echo $0 | cut -c1-12\n"])
async def test_a_script_needs_neither_a_shebang_nor_the_right_to_run(
    exp: LocalExperiment, tmp_path: Path, text: str, mode: int
) -> None:
    """As in 2012: what the user has is what runs."""
    local = script(tmp_path / "s", text, mode)

    assert (await exp.copy_and_run("first", local))[1] == ["/tmp/precip-\n"]


async def test_a_script_that_is_a_program_runs_as_well(exp: LocalExperiment) -> None:
    """Bytes are copied, whatever they mean."""
    true = Path("/bin/true")

    assert (await exp.copy_and_run("first", true, ["x"]))[0] == [0]


async def test_cwd_and_input_and_environment_are_the_scripts(
    exp: LocalExperiment, tmp_path: Path
) -> None:
    """The keywords of run mean the same here."""
    local = script(tmp_path / "s", "#!/bin/sh\npwd; cat; echo $X $PRECIP_INDEX/$PRECIP_COUNT\n")

    results = await exp.copy_and_run([], local, cwd="/usr", stdin="in\n", env={"X": "y"})

    assert results[1] == ["/usr\nin\ny 0/2\n", "/usr\nin\ny 1/2\n"]


async def test_what_is_shown_is_what_was_asked_for(
    exp: LocalExperiment, events: list[Event], tmp_path: Path
) -> None:
    """Events and errors name the script by its local name."""
    events.clear()
    local = script(tmp_path / "s", "exit 3")

    with pytest.raises(CommandFailed, match=f"exit code 3: {local} 'a b'") as caught:
        await exp.copy_and_run("first", local, ["a b"])

    assert caught.value.result.command == f"{local} 'a b'"
    (started,) = [event for event in events if isinstance(event, CommandStarted)]
    assert started.command == f"{local} 'a b'"


@pytest.mark.parametrize("end", ["success", "failure", "timeout", "scope", "native", "callback"])
async def test_a_script_is_removed_however_it_ends(
    exp: LocalExperiment, events: list[Event], tmp_path: Path, end: str
) -> None:
    """And nothing of it goes on running."""
    events.clear()
    nap, begun = Nap(), anyio.Event()
    lasts = end in ("timeout", "scope", "native", "callback")
    text = f"echo begun\n{nap}\n" if lasts else f"exit {int(end == 'failure')}\n"
    local = script(tmp_path / "s", text)

    def listen(*_: object) -> None:
        begun.set()
        if end == "callback":
            raise KeyError

    async def run(timeout: float | None = None) -> None:
        await exp.copy_and_run([], local, on_output=listen, parallel=True, timeout=timeout)

    if end == "success":
        await run()
    elif end in ("failure", "timeout", "callback"):
        kind = {"failure": FleetError, "timeout": FleetError, "callback": KeyError}[end]
        with pytest.raises(kind):
            await run(0.5 if end == "timeout" else None)
    elif end == "scope":
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await begun.wait()
            tasks.cancel_scope.cancel()
    else:
        task = asyncio.create_task(run())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert [str(event) for event in events if isinstance(event, Warned)] == []
    assert await left_behind(exp) == []
    assert await anyio.to_thread.run_sync(nap.sleepers) == []


async def test_a_script_that_can_not_be_removed_is_warned_of(
    exp: LocalExperiment, events: list[Event], tmp_path: Path
) -> None:
    """The command's own outcome counts; who watches hears what is left."""
    events.clear()
    local = script(tmp_path / "s", "rm -f $0; mkdir $0; echo done\n")

    results = await exp.copy_and_run("first", local)

    assert results[1] == ["done\n"]
    (warning,) = [event.text for event in events if isinstance(event, Warned)]
    assert "could not be removed: " in warning
    await exp.run("first", "rmdir /tmp/precip-*")


async def test_a_script_is_not_for_others_to_read_while_it_is_there(
    exp: LocalExperiment, tmp_path: Path
) -> None:
    """It may hold secrets."""
    local = script(tmp_path / "s", "stat -c %a $0\n", 0o644)

    assert (await exp.copy_and_run("first", local))[1] == ["700\n"]


# -- put and get -----------------------------------------------------------------------------


async def test_a_file_goes_there_and_comes_back(exp: LocalExperiment, tmp_path: Path) -> None:
    """Content, mode and time are those of the original."""
    local = tmp_path / "data"
    local.write_bytes(bytes(range(256)) * 1000)
    local.chmod(0o640)
    os.utime(local, (1_600_000_000, 1_600_000_000))

    await exp.put("first", local, "there")
    (back,) = await exp.get("first", "there", tmp_path / "back")

    assert back == tmp_path / "back"
    assert back.read_bytes() == local.read_bytes()
    assert stat.S_IMODE(back.stat().st_mode) == 0o640
    assert back.stat().st_mtime == 1_600_000_000


@pytest.mark.parametrize("parallel", [False, True])
async def test_from_several_instances_each_copy_has_its_instances_name(
    exp: LocalExperiment, tmp_path: Path, *, parallel: bool
) -> None:
    """In provisioning order; from one instance the name is as given."""
    await exp.run([], "echo $PRECIP_INDEX > index", parallel=True)

    paths = await exp.get([], "index", tmp_path / "index", parallel=parallel)

    assert paths == [tmp_path / f"index.{one.id}" for one in exp.instances()]
    assert [path.read_text() for path in paths] == ["0\n", "1\n"]


async def test_paths_may_differ_by_instance(exp: LocalExperiment, tmp_path: Path) -> None:
    """Callables of the instance, on either side."""
    for index in (0, 1):
        (tmp_path / f"in{index}").write_text(f"for {index}")

    await exp.put([], lambda one: tmp_path / f"in{one.index}", lambda one: f"got{one.index}")
    results = await exp.run([], "cat got$PRECIP_INDEX; rm got*")
    await exp.put([], tmp_path / "in0", "same")
    paths = await exp.get([], "same", lambda one: str(tmp_path / f"out{one.index}"))

    assert results[1] == ["for 0", "for 1"]
    assert paths == [tmp_path / f"out{one.index}.{one.id}" for one in exp.instances()]


@pytest.mark.skipif(not UUID.exists(), reason="needs a file that is another each time it is read")
@pytest.mark.parametrize("parallel", [False, True])
async def test_what_goes_to_many_is_read_once(exp: LocalExperiment, *, parallel: bool) -> None:
    """Files and scripts alike: all get the same, whatever becomes of it meanwhile."""
    await exp.put([], UUID, "uuid", parallel=parallel)
    _, outs, _ = await exp.run([], "cat uuid; rm uuid")
    _, _, errs = await exp.copy_and_run([], UUID, check_exit_code=False, parallel=parallel)

    assert len(outs[0]) == 37
    assert outs[0] == outs[1]
    ran = [re.findall(r"\w{8}-\w{4}-[\w-]{22}", err) for err in errs]
    assert ran[0]
    assert ran[0] == ran[1]


async def test_a_transfer_that_fails_leaves_no_file_open(
    exp: LocalExperiment, tmp_path: Path
) -> None:
    """Also when the series ends before the last instance had its turn."""
    (tmp_path / "x").write_text("x")

    with pytest.raises(TransferError):
        await exp.put([], tmp_path / "x", "/dev/null/x")

    assert opened(tmp_path) == []


async def test_a_tree_goes_there_and_comes_back(exp: LocalExperiment, tmp_path: Path) -> None:
    """Directories, links and odd names included; it lands in a directory that is there."""
    tree = tmp_path / "tree"
    (tree / "a b").mkdir(parents=True)
    (tree / "a b" / "new\nline").write_text("x")
    (tree / "-empty").write_text("")
    (tree / "link").symlink_to("a b")

    await exp.put([], tree, "/tmp/", parallel=True)
    paths = await exp.get([], "/tmp/tree", tmp_path / "back", parallel=True)
    await exp.run([], "rm -r /tmp/tree")

    for path in paths:
        assert sorted(found.relative_to(path).as_posix() for found in path.rglob("*")) == [
            "-empty",
            "a b",
            "a b/new\nline",
            "link",
        ]
        assert (path / "link").readlink() == Path("a b")


async def test_a_path_means_the_same_to_all_verbs(exp: LocalExperiment, tmp_path: Path) -> None:
    """Relative ones begin at the home directory of the user."""
    (tmp_path / "x").write_text("x")

    for path in ("rel", "/tmp/abs", "/root/own"):
        await exp.put("first", tmp_path / "x", path)
        assert (await exp.run("first", f"cat {path}; rm {path}"))[1] == ["x"]


async def test_a_missing_remote_file_leaves_no_local_one(
    exp: LocalExperiment, tmp_path: Path
) -> None:
    """What was here before is as it was."""
    (tmp_path / "old").write_text("old")

    for name in ("new", "old"):
        with pytest.raises(TransferError, match="nowhere"):
            await exp.get("first", "/nowhere/file", tmp_path / name)

    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "old"


async def test_transfers_that_fail_are_outcomes_too(exp: LocalExperiment, tmp_path: Path) -> None:
    """In parallel all are tried; paths and errors are in provisioning order."""
    await exp.run("second", "echo x > only-here")

    with pytest.raises(FleetError) as caught:
        await exp.get([], "only-here", tmp_path / "x", parallel=True)

    missing, path = caught.value.outcomes
    assert isinstance(missing, TransferError)
    assert path == tmp_path / f"x.{exp.instances('second')[0].id}"
    assert path.read_text() == "x\n"
    assert caught.value.results is None
    with pytest.raises(TransferError):
        await exp.get([], "only-here", tmp_path / "y")
    with pytest.raises(FleetError):
        await exp.put([], tmp_path, "/dev/null/x", parallel=True)


async def test_a_transfer_that_takes_too_long_is_ended(
    exp: LocalExperiment, tmp_path: Path
) -> None:
    """Its timeout is each instance's own; half a file is not seen on either side."""
    await exp.run("first", "truncate -s 100G big")
    began = time.monotonic()

    with pytest.raises(TransferError, match="timeout"):
        await exp.get("first", "big", tmp_path / "x", timeout=0.3)

    assert time.monotonic() - began < 5
    assert names(tmp_path) == []
    await exp.run("first", "rm big")


async def test_transfers_are_announced_with_their_size(
    exp: LocalExperiment, events: list[Event], tmp_path: Path
) -> None:
    """From where, to where, how much."""
    events.clear()
    (tmp_path / "x").write_bytes(b"12345")
    (first,) = exp.instances("first")

    await exp.put("first", tmp_path / "x", "/tmp/five")
    await exp.get("first", "/tmp/five", tmp_path / "y")

    there = f"{first.id}:/tmp/five"
    moved = [event for event in events if isinstance(event, TransferStarted | TransferEnded)]
    assert [(type(event).__name__, event.source, event.target) for event in moved] == [
        ("TransferStarted", str(tmp_path / "x"), there),
        ("TransferEnded", str(tmp_path / "x"), there),
        ("TransferStarted", there, str(tmp_path / "y")),
        ("TransferEnded", there, str(tmp_path / "y")),
    ]
    assert [event.size for event in moved if isinstance(event, TransferEnded)] == [5, 5]


async def test_nothing_is_copied_when_one_local_file_is_missing(
    exp: LocalExperiment, tmp_path: Path
) -> None:
    """Also when it is the last instance's."""
    (tmp_path / "0").write_text("x")

    with pytest.raises(InvalidArgument, match="local_path: there is no file or directory"):
        await exp.put([], lambda one: tmp_path / str(one.index), "/tmp/should-not-be")

    assert (await exp.run([], "ls /tmp/should-not-be", check_exit_code=False))[0] == [2, 2]


async def test_a_timeout_of_a_script_is_not_its_copys(exp: LocalExperiment, tmp_path: Path) -> None:
    """The command has all of its time."""
    short = script(tmp_path / "short", "sleep 0.3; echo done\n")
    long = script(tmp_path / "long", "sleep 60\n")

    assert (await exp.copy_and_run([], short, timeout=20))[1] == ["done\n", "done\n"]
    with pytest.raises(CommandTimeout):
        await exp.copy_and_run("first", long, timeout=1.5)
