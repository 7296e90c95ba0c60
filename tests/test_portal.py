"""The event loop thread behind the blocking twins."""

from __future__ import annotations

import asyncio
import contextvars
import re
import signal
import textwrap
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from precip_async import portal
from precip_async.errors import ExperimentClosed, ExperimentException
from precip_async.limits import Limits
from precip_async.portal import process
from precip_async.portal.loop import Job, LoopThread
from tests.scripts import run_script, script

# What the scripts below stand on: an experiment that says when it is closed.
PRELUDE = """
import os, signal, sys, threading
import anyio
from precip_async import portal
from precip_async.errors import ExperimentException
from precip_async.limits import Limits

def say(text):
    sys.stdout.write(text + "\\n")

class Kept:
    limits = Limits()
    keep = False

    def __init__(self, name="kept"):
        self.name = name

    def instances(self):
        return ["one", "two"]

    async def aclose(self):
        say(f"{self.name} closed")

async def work():
    try:
        say("working")
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await unwinding()
        say("unwound")

async def unwinding():
    await anyio.sleep(0.1)
"""


def prelude(code: str) -> str:
    """`code` with what it stands on."""
    return PRELUDE + textwrap.dedent(code)


async def echo(*args: Any, **kwargs: Any) -> Any:
    """What it was given, after a turn of the loop."""
    await anyio.lowlevel.checkpoint()
    return args, kwargs


def test_a_call_returns_what_was_awaited() -> None:
    """With its arguments, positional and named."""
    assert portal.call(echo, 1, 2, three=3) == ((1, 2), {"three": 3})


def test_a_call_raises_what_was_raised() -> None:
    """The very error, with the trace of where it came from."""
    error = ValueError("x")

    async def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="x") as raised:
        portal.call(fail)

    assert raised.value is error
    assert "fail" in [entry.name for entry in raised.traceback]


def test_all_calls_share_one_loop_and_run_at_once() -> None:
    """Two threads that meet on the loop prove both."""
    met: list[anyio.Event] = []

    async def meet() -> asyncio.AbstractEventLoop:
        if not met:
            met.append(anyio.Event())
            await met[0].wait()
        else:
            met[0].set()
        return asyncio.get_running_loop()

    loops: list[asyncio.AbstractEventLoop] = []
    threads = [threading.Thread(target=lambda: loops.append(portal.call(meet))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(loops) == 2
    assert loops[0] is loops[1]


async def test_a_call_works_inside_a_running_loop() -> None:
    """As in a notebook: the loop of the caller stands still meanwhile, and is not the portal's."""

    async def where() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert portal.call(where) is not asyncio.get_running_loop()


def test_a_call_sees_the_context_of_its_caller() -> None:
    """And what it changes there stays its own."""
    number = contextvars.ContextVar("number", default=0)
    number.set(7)

    async def seen() -> int:
        value = number.get()
        number.set(8)
        return value

    assert portal.call(seen) == 7
    assert number.get() == 7


def test_a_call_from_the_loop_itself_is_refused() -> None:
    """An observer that calls a blocking verb would wait for itself for ever."""

    async def call_back() -> None:
        portal.call(echo)

    with pytest.raises(ExperimentException, match="observer"):
        portal.call(call_back)


def test_a_callback_that_blocks_the_loop_is_named() -> None:
    """Every experiment waits for it, and nobody would know why."""
    _, lines, _ = run_script(
        prelude("""
            from precip_async.portal import process

            def hear(text):
                say(text)
                heard.set()

            async def block_until_it_is_said():
                heard.wait(5)

            heard = threading.Event()
            portal.call(anyio.sleep, 0)  # whose first turn imports this and that
            process.STANDSTILL, process._say = 0.01, hear
            portal.call(block_until_it_is_said)
        """)
    )

    assert len(lines) == 1
    assert re.search(r":\d+, in block_until_it_is_said; observers, on_output", lines[0])


def test_a_loop_that_turns_sets_every_pulse() -> None:
    """So it is not said to stand still, nor is one that has ended."""
    loop = LoopThread()

    assert loop.pulse().wait(5)

    loop.stop()
    assert loop.pulse().is_set()


def test_nothing_is_said_where_whoever_reads_it_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pager that is not read on would keep the thread that complains as well, from Ctrl-C too."""
    said: list[str] = []
    asked = threading.Event()

    def asleep(_: LoopThread) -> str:
        asked.set()
        return f"{process.CONSOLE}:1, in _write"

    async def block_until_it_is_asked() -> bool:
        return asked.wait(5)

    monkeypatch.setattr(process, "STANDSTILL", 0.01)
    monkeypatch.setattr(process, "_say", said.append)
    monkeypatch.setattr(LoopThread, "whereabouts", asleep)

    assert portal.call(block_until_it_is_asked)
    assert said == []


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_raised_by_a_callback_ends_its_call_only(kind: type[BaseException]) -> None:
    """Left to itself, asyncio would end the loop over it, and with it every experiment."""

    async def leave() -> None:
        raise kind

    async def leave_in_a_child() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(leave)

    async def where() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    before = portal.call(where)
    with pytest.raises(kind):
        portal.call(leave)
    with pytest.raises(BaseExceptionGroup) as raised:
        portal.call(leave_in_a_child)

    assert raised.group_contains(kind)
    assert portal.call(where) is before


def test_a_loop_that_has_ended_is_replaced() -> None:
    """Whatever ended it, the next call has one, and a call that waited hears of it."""
    code, lines, errors = run_script(
        prelude("""
            from precip_async.portal import process

            def wait():
                try:
                    portal.call(begin)
                except ExperimentException as exc:
                    say(type(exc).__name__)

            async def begin():
                began.set()
                await anyio.sleep_forever()

            began = threading.Event()
            thread = threading.Thread(target=wait)
            thread.start()
            began.wait()
            process.current().running_loop().stop()
            thread.join()
            portal.call(anyio.to_thread.run_sync, say, "another")
        """)
    )

    assert (code, lines, errors) == (0, ["ExperimentClosed", "another"], "")


def test_a_call_that_comes_as_the_loop_ends_is_not_left_waiting() -> None:
    """Neither one that was asked for and never begun, nor one that comes afterwards."""
    loop, gate = LoopThread(), threading.Event()

    async def hold_up() -> None:
        gate.wait()

    busy, late, too_late = Job(hold_up), Job(echo), Job(echo)
    loop.start(busy)
    loop._loop.call_soon_threadsafe(loop._stopped.set)
    loop.start(late)
    gate.set()
    loop.stop()
    loop.start(too_late)

    assert late.settled.wait(5)
    assert too_late.settled.wait(5)
    with pytest.raises(ExperimentClosed):
        too_late.result()


def test_the_time_to_unwind_covers_a_launch_and_an_end_of_commands() -> None:
    """What an interrupted call may still have to do, in seconds."""
    limits = Limits(launch_timeout=100, drain_grace=1, kill_grace=5, close_grace=10)

    assert portal.unwind_time(limits) == 121


def test_ctrl_c_goes_on_when_the_call_has_unwound() -> None:
    """Otherwise the script's own cleanup would begin while the interrupted call still runs."""
    code = """
        try:
            portal.call(work)
        except KeyboardInterrupt:
            say("interrupted")
        portal.call(anyio.sleep, 0)
        say("usable")
    """
    with script(prelude(code)) as running:
        running.wait_for("working")
        running.signal(signal.SIGINT)

        assert running.end() == 0
        assert running.lines == ["working", "unwound", "interrupted", "usable"]
        assert running.errors == ""


def test_a_second_ctrl_c_does_not_wait() -> None:
    """A person who insists is obeyed, and is told beforehand that this is how."""
    code = """
        released = None

        async def unwinding():
            global released
            released = anyio.Event()
            say("unwinding")
            await released.wait()

        async def release():
            released.set()

        try:
            portal.call(work)
        except KeyboardInterrupt as interrupt:
            say(f"escaped after {type(interrupt.__context__).__name__}")
            portal.call(release)
    """
    with script(prelude(code)) as running:
        running.wait_for("working")
        running.signal(signal.SIGINT)
        running.wait_for("unwinding")
        running.signal(signal.SIGINT)

        assert running.end() == 0
        assert running.lines[2:] == ["escaped after KeyboardInterrupt", "unwound"]


def test_an_interrupt_does_not_wait_for_ever() -> None:
    """A call that can't unwind in time lets go, and the interrupt says so."""
    code = """
        async def unwinding():
            await anyio.sleep(1)

        try:
            portal.call_within(0.1, work)
        except KeyboardInterrupt as interrupt:
            say(interrupt.__notes__[0])
    """
    with script(prelude(code)) as running:
        running.wait_for("working")
        running.signal(signal.SIGINT)

        assert running.end() == 0
        assert running.lines[1:] == ["the interrupted call had not ended 0 s later", "unwound"]
        assert "WARNING:  interrupted; ending what runs (up to 0 s" in running.errors


def test_what_goes_wrong_while_unwinding_is_the_cause_of_the_interrupt() -> None:
    """That a command could not be ended must not be lost because a person pressed Ctrl-C."""
    code = """
        async def unwinding():
            raise ExperimentException("still running")

        try:
            portal.call(work)
        except KeyboardInterrupt as interrupt:
            say(repr(interrupt.__cause__))
    """
    with script(prelude(code)) as running:
        running.wait_for("working")
        running.signal(signal.SIGINT)

        assert running.end() == 0
        assert running.lines == ["working", "ExperimentException('still running')"]


def test_a_call_interrupted_before_it_began_settles_at_once() -> None:
    """An interrupt may come between two lines of ours."""
    begun: list[int] = []

    async def never() -> None:
        begun.append(1)

    loop = process.current().running_loop()
    job = Job(never)
    loop.cancel(job)

    assert job.settled.wait(5)
    loop.start(job)
    portal.call(echo)
    assert begun == []


EXITS = {
    "end": ("", 0, ""),
    "exit": ("sys.exit(3)", 3, ""),
    "error": ("raise ValueError('of the script')", 1, "ValueError: of the script"),
}


@pytest.mark.parametrize("way", EXITS)
def test_what_is_open_at_exit_is_closed_while_names_can_be_resolved(way: str) -> None:
    """By any road out; after thread shutdown the resolver's executor takes no work any more."""
    last, code, complaint = EXITS[way]
    exit_code, lines, errors = run_script(
        prelude("""
            import asyncio

            class Cloud(Kept):
                async def aclose(self):
                    resolved = await asyncio.get_running_loop().getaddrinfo("localhost", 80)
                    say(f"resolved {bool(resolved)}")
                    await anyio.to_thread.run_sync(say, "in a worker thread")
                    thread = threading.Thread(target=say, args=("in a thread of its own",))
                    thread.start()
                    thread.join()
                    await super().aclose()

            async def use_threads():
                await asyncio.get_running_loop().getaddrinfo("localhost", 80)

            portal.hold(Cloud())
            portal.call(use_threads)
        """)
        + last
    )

    assert exit_code == code
    assert lines == [
        *["resolved True", "in a worker thread", "in a thread of its own", "kept closed"]
    ]
    assert complaint in errors
    assert re.search(
        r" WARNING:  experiment 'kept' was left open with 2 instance\(s\), which are ended", errors
    )
    assert errors.count("Error:") == len(re.findall("Error:", complaint))


def test_what_was_closed_is_not_closed_again_at_exit() -> None:
    """And nothing is said then."""
    assert run_script(
        prelude("""
            kept = Kept()
            portal.hold(kept)
            portal.call(kept.aclose)
            portal.release(kept)
        """)
    ) == (0, ["kept closed"], "")


def test_one_that_cannot_be_closed_at_exit_does_not_keep_the_others_from_it() -> None:
    """Its error is said, with what to do."""
    code, lines, errors = run_script(
        prelude("""
            class Stuck(Kept):
                async def aclose(self):
                    raise ExperimentException("the cloud is away")

            for kept in (Stuck("stuck"), Kept("fine")):
                portal.hold(kept)
            portal.call(anyio.sleep, 0)
        """)
    )

    assert (code, lines) == (0, ["fine closed"])
    assert "'stuck' could not be closed: the cloud is away; `precip reap`" in errors


def test_one_that_closes_for_ever_does_not_keep_the_interpreter() -> None:
    """Closing at exit has the limits of closing."""
    code, _, errors = run_script(
        prelude("""
            class Slow(Kept):
                limits = Limits(
                    terminate_timeout=0.1, launch_timeout=0.1, drain_grace=0.1, kill_grace=0.1,
                    close_grace=0.1,
                )
                async def aclose(self):
                    await anyio.sleep_forever()

            portal.hold(Slow())
            portal.call(anyio.sleep, 0)
        """)
    )

    assert code == 0
    assert "'kept' could not be closed: TimeoutError()" in errors


def test_ctrl_c_while_closing_at_exit_leaves_and_says_what_that_means() -> None:
    """A person may leave at any time; what stays behind has a remedy."""
    code = """
        class Slow(Kept):
            async def aclose(self):
                say("closing")
                await anyio.sleep_forever()

        portal.hold(Slow())
        portal.call(anyio.sleep, 0)
    """
    with script(prelude(code)) as running:
        running.wait_for("closing")
        running.signal(signal.SIGINT)

        assert running.end() == 0
        assert "instances may still be running: `precip reap`" in running.errors
        assert "Traceback" not in running.errors


def test_calls_of_threads_are_ended_before_what_they_use_is_closed() -> None:
    """The thread hears of it; later calls of it are refused."""
    code, lines, errors = run_script(
        prelude("""
            working = threading.Event()

            async def in_thread():
                working.set()
                await work()

            def use():
                for verb in (in_thread, work):
                    try:
                        portal.call(verb)
                    except ExperimentException as exc:
                        say(repr(exc))

            portal.hold(Kept())
            threading.Thread(target=use).start()
            working.wait()
        """)
    )

    assert code == 0
    assert lines[:2] == ["working", "unwound"]
    assert set(lines[2:]) == {
        "ExperimentClosed('the call was ended in its midst: the interpreter exits')",
        "ExperimentClosed('the interpreter exits: there are no more experiments')",
        "kept closed",
    }
    assert "Traceback" not in errors


def test_without_the_early_hook_the_late_one_is_used() -> None:
    """A Python that no longer has it still closes what needs no new threads."""
    code, lines, errors = run_script(
        "import concurrent.futures.thread, threading\ndel threading._register_atexit\n"
        + prelude("""
            portal.hold(Kept())
            portal.call(anyio.sleep, 0)
        """)
    )

    assert (code, lines) == (0, ["kept closed"])
    assert "Traceback" not in errors


def test_a_first_call_after_the_exit_has_begun_is_refused() -> None:
    """Nothing would close then what it opens."""
    code, lines, _ = run_script(
        prelude("""
            import atexit

            @atexit.register
            def late():
                try:
                    portal.call(work)
                except ExperimentException as exc:
                    say(str(exc))
        """)
    )

    assert (code, lines) == (0, ["the interpreter exits: no experiment can be opened"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_ending_unwinds_and_runs_the_scripts_own_cleanup(number: signal.Signals) -> None:
    """The call first, then ``finally`` blocks, then what is still open."""
    code = """
        portal.hold(Kept())
        try:
            portal.call(work)
        finally:
            say("finally")
    """
    with script(prelude(code)) as running:
        running.wait_for("working")
        running.signal(number)

        assert running.end() == 128 + number
        assert running.lines == ["working", "unwound", "finally", "kept closed"]
        assert "Traceback" not in running.errors


def test_a_terminal_that_goes_is_heard_of_once() -> None:
    """Its shell and the kernel both say so, which is not a person who insists."""
    code = """
        async def unwinding():
            os.kill(os.getpid(), signal.SIGHUP)
            await anyio.to_thread.run_sync(passed_over.wait)

        passed_over = threading.Event()
        portal.hold(Kept())
        theirs = signal.getsignal(signal.SIGHUP)

        def ours(number, frame):
            theirs(number, frame)
            passed_over.set()

        signal.signal(signal.SIGHUP, ours)
        try:
            portal.call(work)
        finally:
            say("finally")
    """
    with script(prelude(code)) as running:
        running.wait_for("working")
        running.signal(signal.SIGHUP)

        assert running.end() == 128 + signal.SIGHUP
        assert running.lines == ["working", "unwound", "finally", "kept closed"]


def test_what_nohup_ignores_stays_ignored() -> None:
    """A script that is to outlive its terminal does."""
    code = """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        portal.hold(Kept())
        portal.call(anyio.sleep, 0)
        os.kill(os.getpid(), signal.SIGHUP)
        say("survived")
    """
    assert run_script(prelude(code))[:2] == (0, ["survived", "kept closed"])


def test_sigterm_while_closing_at_exit_changes_nothing() -> None:
    """What it asks for is being done."""
    code = """
        class Slow(Kept):
            async def aclose(self):
                say("closing")
                await anyio.to_thread.run_sync(got.wait)
                await super().aclose()

        got = threading.Event()
        portal.hold(Slow())
        portal.call(anyio.sleep, 0)
        theirs = signal.getsignal(signal.SIGTERM)

        def ours(number, frame):
            theirs(number, frame)
            got.set()

        signal.signal(signal.SIGTERM, ours)
    """
    with script(prelude(code)) as running:
        running.wait_for("closing")
        running.signal(signal.SIGTERM)

        assert running.end() == 0
        assert running.lines == ["closing", "kept closed"]


CLOSED = {
    "never opened": "",
    "closed again": "portal.hold(kept); portal.release(kept)",
    "closed in a thread": (
        "portal.hold(kept)\n"
        "thread = threading.Thread(target=portal.release, args=(kept,))\n"
        "thread.start(); thread.join()"
    ),
    "opened in a thread": (
        "thread = threading.Thread(target=portal.hold, args=(kept,))\nthread.start(); thread.join()"
    ),
    "a fork that opened none": (
        "portal.hold(kept)\nportal.call(anyio.sleep, 0)\n"
        "import warnings; warnings.simplefilter('ignore')\n"  # 3.12: forking beside a thread
        "if pid := os.fork():\n"
        "    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "    portal.release(kept)\n"
        "    os.kill(os.getpid(), -code)"
    ),
}


@pytest.mark.parametrize("case", CLOSED)
def test_sigterm_is_the_systems_where_nothing_is_open(case: str) -> None:
    """It is ours only while an experiment is open, in the main thread of its process."""
    code = f"kept = Kept()\n{CLOSED[case]}\nos.kill(os.getpid(), signal.SIGTERM)\nsay('survived')"

    exit_code, lines, errors = run_script(PRELUDE + code)

    assert (exit_code, lines, errors) == (-signal.SIGTERM, [], "")


def test_sigterm_stays_with_whoever_took_it() -> None:
    """Before an experiment was opened, or while it is open."""
    code, lines, _ = run_script(
        prelude("""
            def theirs(number, frame):
                say("theirs")

            for order in ("before", "while"):
                kept = Kept(order)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                if order == "before":
                    signal.signal(signal.SIGTERM, theirs)
                portal.hold(kept)
                if order == "while":
                    signal.signal(signal.SIGTERM, theirs)
                os.kill(os.getpid(), signal.SIGTERM)
                portal.release(kept)
                say(str(signal.getsignal(signal.SIGTERM) is theirs))
        """)
    )

    assert (code, lines) == (0, ["theirs", "True"] * 2)


def test_a_fork_has_a_loop_of_its_own_and_leaves_the_parents_alone() -> None:
    """The child neither uses the parent's loop nor closes what the parent has open."""
    code, lines, errors = run_script(
        prelude("""
            import asyncio, warnings
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: forking beside a thread

            async def talk():  # over a socket that the parent's loop watches
                reader, writer = await asyncio.open_connection(sock=ours)
                writer.write(b"ping\\n")
                return reader, writer

            async def hear(reader, writer):
                theirs.sendall(b"pong\\n")
                try:
                    return (await asyncio.wait_for(reader.readline(), 10)).decode().strip()
                finally:
                    writer.close()

            import socket
            ours, theirs = socket.socketpair()
            kept = Kept("parent's")
            portal.hold(kept)
            kept.connection = portal.call(talk)
            pid = os.fork()
            if not pid:
                portal.hold(Kept("child's"))
                portal.call(anyio.sleep, 0)
                kept.connection[1].close()
                sys.exit(5)
            say(f"child exits {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
            say(portal.call(hear, *kept.connection))
            theirs.close()
        """)
    )

    assert (code, lines) == (0, ["child's closed", "child exits 5", "pong", "parent's closed"])
    assert "Traceback" not in errors


def test_the_loop_ends_before_the_interpreter_does() -> None:
    """A thread that still ran while modules are taken down could crash it."""
    assert run_script(
        prelude("""
            import atexit
            atexit.register(lambda: say(str([t.name for t in threading.enumerate()])))
            portal.call(anyio.sleep, 0)
            say(str([t.name for t in threading.enumerate()]))
        """)
    ) == (0, ["['MainThread', 'precip']", "['MainThread']"], "")
