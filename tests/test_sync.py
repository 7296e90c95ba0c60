"""The blocking twins, on instances of this machine."""

from __future__ import annotations

import io
import signal
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from precip_async import sync
from precip_async.clouds.hosts import HostsCloud
from precip_async.errors import (
    BootTimeout,
    CloudError,
    CommandFailed,
    ExperimentClosed,
    ExperimentException,
    InvalidArgument,
    NameInUse,
)
from precip_async.events import Event, Launched, Opened
from precip_async.portal import process
from precip_async.sync import Experiment, HostsExperiment, LocalExperiment
from tests.polling import until
from tests.scripts import run_script, script

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from precip_async.clouds.base import Access, Machine


HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def nothing_held() -> bool:
    """Whether the portal has no experiment to close."""
    return not process.current().holds_any


@pytest.fixture
def hosts() -> Iterator[HostsExperiment]:
    """An experiment of two hosts that are never spoken to."""
    with HostsExperiment(["one", "two"]) as experiment:
        yield experiment


@pytest.fixture
def local() -> Iterator[LocalExperiment]:
    """An experiment of two instances that are ready."""
    with LocalExperiment(isolation="process", quiet=True) as experiment:
        experiment.provision(count=2, tags=["worker"])
        experiment.wait()
        yield experiment


# -- life ----------------------------------------------------------------------------------------


def test_the_constructor_opens() -> None:
    """What opening finds wrong is raised there, and nothing is held then."""
    with HostsExperiment(["one"], name="taken"):
        with pytest.raises(NameInUse, match="taken"):
            HostsExperiment(["one"], name="taken")
        assert not nothing_held()

    assert nothing_held()


def test_bad_credentials_raise_in_the_constructor() -> None:
    """As in 2012, and not with the first verb."""

    class Locked(HostsCloud):
        async def prepare(self, access: Access) -> None:
            raise CloudError(f"{access.experiment} is unknown", cloud="hosts", operation="prepare")

    with pytest.raises(CloudError, match="is unknown"):
        Experiment(Locked(["one"]))

    assert nothing_held()


def test_close_gives_the_name_and_the_instances_back(hosts: HostsExperiment) -> None:
    """Closed twice is closed; the next one of the name can open."""
    hosts.provision(count=2)
    assert not hosts.closed

    hosts.close()
    hosts.close()

    assert hosts.closed
    assert nothing_held()
    HostsExperiment(["one"], name=hosts.name).close()


VERBS: dict[str, tuple[Any, ...]] = {
    "provision": ("image",),
    "wait": (),
    "deprovision": (),
    "list": (),
    "instances": (),
    "get_public_hostnames": (),
    "get_private_hostnames": (),
    "put": ([], __file__, "/tmp/x"),
    "get": ([], "/tmp/x", "/tmp/x"),
    "run": ([], "true"),
    "copy_and_run": ([], __file__),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_after_close_is_refused(hosts: HostsExperiment, verb: str) -> None:
    """With the sentence of the async half."""
    hosts.close()

    with pytest.raises(ExperimentClosed, match=f"{hosts.name}.*was closed"):
        getattr(hosts, verb)(*VERBS[verb])


def test_leaving_the_block_closes_also_with_an_error() -> None:
    """And the error comes through."""
    with pytest.raises(ValueError, match="mine"), HostsExperiment(["one"]) as experiment:
        raise ValueError("mine")

    assert experiment.closed


class Stuck(HostsCloud):
    """Hosts that are not given back."""

    async def terminate(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """Refuse."""
        raise CloudError(f"{ids} are stuck", cloud="hosts", operation="terminate")


def stuck() -> Experiment:
    """An experiment that has one of them."""
    experiment = Experiment(Stuck(["one"]))
    experiment.provision()
    return experiment


def test_an_error_of_closing_does_not_hide_the_one_of_the_block() -> None:
    """It is a note to it; and on its own it is raised."""
    error = ValueError("mine")

    with pytest.raises(ValueError, match="mine"), stuck():
        raise error
    assert "stuck" in error.__notes__[0]

    with pytest.raises(ExperimentException, match="stuck"), stuck():
        assert not nothing_held()
    assert nothing_held()


def test_a_twin_says_what_it_is(hosts: HostsExperiment) -> None:
    """Its name and its state, as the async class does; its limits are those given."""
    assert repr(hosts) == f"<HostsExperiment {hosts.name!r}, open>"
    with HostsExperiment(["x"], limits=sync.Limits(max_hosts=3)) as experiment:
        assert experiment.limits.max_hosts == 3


# -- what is shown -------------------------------------------------------------------------------


def test_what_happens_is_on_stderr(
    hosts: HostsExperiment, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a handler, a level or an observer of the user's."""
    hosts.provision()

    assert "   INFO:  Started instance one, type m1.small\n" in capsys.readouterr().err


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Not a line, from construction to close."""
    with HostsExperiment(["one"], quiet=True) as experiment:
        experiment.provision()

    assert capfd.readouterr() == ("", "")


def test_the_progress_line_of_a_wait_that_fails_is_taken_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A terminal has its cursor back when a verb returns, however it does."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with HostsExperiment(["127.0.0.1:1"]) as experiment:
        experiment.provision()
        with pytest.raises(BootTimeout):
            experiment.wait(timeout=0.5)

        assert "0/1" in terminal.getvalue()
        assert terminal.getvalue().rfind(SHOW_CURSOR) > terminal.getvalue().rfind(HIDE_CURSOR)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("quiet", [False, True])
def test_observers_are_given_the_events_as_well(several: bool, quiet: bool) -> None:
    """One or several, beside the console and without it."""
    seen: list[Event] = []
    observer = seen.append

    with HostsExperiment(
        ["one"], observer=[observer, observer] if several else observer, quiet=quiet
    ) as experiment:
        experiment.provision()

    assert sum(isinstance(event, Opened) for event in seen) == 1 + several
    assert sum(isinstance(event, Launched) for event in seen) == 1 + several


@pytest.mark.parametrize("observer", [5, "x", [5]])
def test_what_is_no_observer_is_refused(observer: Any) -> None:
    """Also when the console stands beside it."""
    with pytest.raises(InvalidArgument, match="observer"):
        HostsExperiment(["one"], observer=observer)

    assert nothing_held()


# -- verbs ---------------------------------------------------------------------------------------


def test_the_verbs_do_what_they_say(local: LocalExperiment, tmp_path: Path) -> None:
    """Each passes its arguments on, and returns what the async one does."""
    script_file = tmp_path / "script.sh"
    script_file.write_text('#!/bin/sh\necho "$0" | grep -c /tmp; echo "$1"; pwd\n')
    first, second = local.instances("worker")

    codes, outs, errs = local.run(
        [first.id], "echo $X; pwd; cat; exit 3", None, False, stdin="in\n", env={"X": "x"}, cwd="/"
    )
    copied = local.copy_and_run("worker", script_file, ["a b"], parallel=True)
    local.put("worker", script_file, "there")
    back = local.get("worker", "there", tmp_path / "back", parallel=2)

    assert (codes, outs, errs) == ([3], ["x\n/\nin\n"], [""])
    assert copied[1] == ["1\na b\n/tmp\n"] * 2
    assert back == [tmp_path / f"back.{first.id}", tmp_path / f"back.{second.id}"]
    assert back[0].read_text() == script_file.read_text()
    assert [one["id"] for one in local.list()] == [first.id, second.id]
    assert local.get_public_hostnames([first.id]) == [first.public_address]
    assert local.get_private_hostnames([second.id]) == [second.private_address]
    local.deprovision([first.id])
    assert local.instances() == [second]


def test_errors_are_those_of_the_async_half(local: LocalExperiment) -> None:
    """With what they carry."""
    with pytest.raises(CommandFailed) as failed:
        local.run("worker", "echo oops >&2; exit 7")

    assert failed.value.result.exit_code == 7
    assert failed.value.results is not None
    assert failed.value.results[2] == ["oops\n"]


def test_threads_share_an_experiment_and_do_not_wait_for_each_other(
    local: LocalExperiment,
) -> None:
    """One waits on an instance for what the other does there meanwhile."""
    one = local.instances()[0].id
    began = threading.Event()

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(
            local.run,
            one,
            "echo in; until [ -e /tmp/gate ]; do sleep 0.05; done; echo out",
            timeout=20,
            on_output=lambda *_: began.set(),
        )
        assert began.wait(10)
        local.run(one, "touch /tmp/gate")

        assert waiting.result()[1] == ["in\nout\n"]


async def test_a_twin_works_inside_a_running_loop() -> None:
    """As in a notebook."""
    with LocalExperiment(isolation="process", quiet=True) as experiment:
        experiment.provision()
        experiment.wait()

        assert experiment.run([], "echo here")[1] == ["here\n"]


# -- interrupts, and the interpreter's end -------------------------------------------------------

PRELUDE = """
import gc, os, sys, threading
from pathlib import Path
from precip_async.sync import *
from precip_async import sync
from precip_async.clouds.hosts import HostsCloud

def say(text):
    sys.stdout.write(text + "\\n")

def running(what):  # on this machine, instances included
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path] if what in path.read_bytes().split(b"\\0") else []
        except OSError:
            continue
    return found

def ready(count=1, **given):
    exp = LocalExperiment(isolation="process", **given)
    exp.provision(count=count, tags=["t"])
    exp.wait()
    return exp
"""


def prelude(code: str) -> str:
    """`code` with what it stands on."""
    return PRELUDE + textwrap.dedent(code)


def test_the_classic_hello_world_shows_what_its_instances_say() -> None:
    """A script of 2012 prints nothing itself and knows no ``close``; it ends without a warning."""
    code, lines, errors = run_script(
        prelude("""
            exp = LocalExperiment(isolation="process", name="hello")
            try:
                exp.provision("ami-8a1e92ba", tags=["test1"])
                exp.wait()
                exp.run(["test1"], "echo 'Hello world from a micro instance'")
            finally:
                exp.deprovision()
        """)
    )

    assert (code, lines) == (0, [])
    assert "  stdout: Hello world from a micro instance\n" in errors
    assert "WARNING" not in errors
    *_, deprovisioning, closed = [line.partition("INFO:  ")[2] for line in errors.splitlines()]
    assert deprovisioning.startswith("Deprovisioning instance: i-")
    assert closed == "Experiment 'hello' closed: 1 instance ended"


INTERRUPTED = """
    exp = ready()

    def beginning(instance, stream, text):
        say("began")

    try:
        exp.run([], "(sleep 98765.4 &) ; echo; exec sleep 98765.4", on_output=beginning)
    except {error} as interrupt:
        say(f"left running: {{len(running(b'98765.4'))}}")
        say(f"usable: {{exp.run([], 'echo yes')[1][0]}}")
    exp.close()
"""


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "SystemExit")],
    ids=["ctrl-c", "sigterm"],
)
def test_an_interrupt_ends_the_command_before_it_goes_on(
    number: signal.Signals, error: str
) -> None:
    """Nothing of it is left on the instance, which stays usable."""
    with script(prelude(INTERRUPTED.format(error=error))) as running:
        running.wait_for("began")
        running.signal(number)

        assert running.end() == 0
        assert [line for line in running.lines[1:] if line] == ["left running: 0", "usable: yes"]
        assert "Traceback" not in running.errors


def test_ctrl_c_in_the_constructor_holds_nothing() -> None:
    """The name is free again, and so is the script."""
    code = """
        import anyio

        class Slow(HostsCloud):
            async def prepare(self, access):
                say("preparing")
                await anyio.sleep_forever()

        try:
            Experiment(Slow(["one"]), name="mine")
        except KeyboardInterrupt:
            Experiment(HostsCloud(["one"]), name="mine").close()
            say("free")
    """
    with script(prelude(code)) as running:
        running.wait_for("preparing")
        running.signal(signal.SIGINT)

        assert running.end() == 0
        assert running.lines[1:] == ["free"]


WAYS_OUT = {
    "end": ("", 0),
    "exit": ("sys.exit(3)", 3),
    "error": ("raise ValueError", 1),
    "collected": ("del exp; gc.collect()", 0),
    "sigterm": ("import signal; os.kill(os.getpid(), signal.SIGTERM)", 143),
    "ctrl-c": ("import signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_what_is_left_open_is_ended_with_the_interpreter(way: str) -> None:
    """By any road, with a warning; that no process is left is looked at after every test."""
    last, exit_code = WAYS_OUT[way]

    code, lines, errors = run_script(
        prelude("""
            exp = ready(2, name="left")
            say(" ".join(exp.get_public_hostnames()))
        """)
        + last
    )

    assert code == exit_code, errors
    assert len(lines[0].split()) == 2
    assert errors.count("WARNING:  experiment 'left' was left open with 2 instance(s)") == 1
    assert errors.count("Deprovisioning instance: i-") == 2
    assert "could not be closed" not in errors


def test_close_says_nothing_when_the_exit_has_come_before_it() -> None:
    """Registered with `atexit`, it comes after what closes all: a second time is nothing."""
    code, _, errors = run_script(
        prelude("""
            import atexit
            exp = ready(name="left", quiet=True)
            atexit.register(exp.close)
        """)
    )

    assert code == 0
    assert errors.count("\n") == 1
    assert "WARNING:  experiment 'left' was left open with 1 instance(s)" in errors


def test_quiet_still_warns_of_what_was_left_open() -> None:
    """It is not what happens, but what the script forgot."""
    code, _, errors = run_script(prelude('exp = ready(name="left", quiet=True)'))

    assert code == 0
    assert errors.count("\n") == 1
    assert "WARNING:  experiment 'left' was left open with 1 instance(s)" in errors


def test_a_fork_neither_uses_nor_closes_what_its_parent_has_open() -> None:
    """Its verbs are refused, its exits do nothing, and the parent goes on."""
    code, lines, errors = run_script(
        prelude("""
            import warnings
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: forking beside a thread
            with ready(quiet=True) as exp:
                if pid := os.fork():
                    say(f"child: {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
                    say(exp.run([], "echo parent")[1][0].strip())
                else:
                    try:
                        exp.run([], "echo child")
                    except ExperimentClosed as exc:
                        say(str(exc).partition(" which ")[2])
        """)
    )

    assert (code, lines) == (
        0,
        ["this one was forked from: open another one here", "child: 0", "parent"],
    )
    assert errors == ""


def test_experiments_left_open_are_closed_at_once() -> None:
    """Not one after the other: a cloud may take minutes to confirm each."""
    code, lines, errors = run_script(
        prelude("""
            import anyio

            met = []

            class Slow(HostsCloud):
                async def terminate(self, ids):
                    met.append(anyio.Event())
                    if len(met) == 1:
                        await met[0].wait()
                        say("met")
                    else:
                        met[0].set()
                    return await super().terminate(ids)

            for number in range(2):
                Experiment(Slow(["one"]), quiet=True).provision()
        """)
    )

    assert (code, lines) == (0, ["met"])
    assert "could not be closed" not in errors


def test_sigterm_is_taken_while_an_experiment_is_open(hosts: HostsExperiment) -> None:
    """And given back when the last one closes."""
    taken = signal.getsignal(signal.SIGTERM)
    assert taken is not signal.SIG_DFL

    with HostsExperiment(["one"]):
        pass
    assert signal.getsignal(signal.SIGTERM) is taken
    hosts.close()

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_twin_in_a_thread_is_closed_with_the_interpreter_too() -> None:
    """Its thread hears of it, and is not waited for."""
    code, lines, errors = run_script(
        prelude("""
            began = threading.Event()

            def use():
                exp = ready(name="threaded", quiet=True)
                try:
                    exp.run([], "echo; sleep 98765", on_output=lambda *_: began.set())
                except ExperimentClosed as exc:
                    say("told")

            threading.Thread(target=use).start()
            began.wait()
        """)
    )

    assert (code, lines) == (0, ["told"])
    assert "experiment 'threaded' was left open with 1 instance(s)" in errors


def test_importing_everything_gives_the_names_a_script_needs() -> None:
    """The classes, the errors and the values, and nothing of ours beside them."""
    names: dict[str, Any] = {}
    exec("from precip_async.sync import *", names)
    names.pop("__builtins__")

    assert set(names) == set(sync.__all__)
    assert set(names) >= {"LocalExperiment", "ExperimentException", "Limits", "RunResults"}


def test_nothing_is_held_when_all_is_closed() -> None:
    """A twin that was closed can be collected."""
    experiment = HostsExperiment(["one"], quiet=True)
    experiment.close()

    until(nothing_held, "the release")
