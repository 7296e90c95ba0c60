"""What the blocking twins show."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from precip_async import console, events
from precip_async.console import Console
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def event(kind: type[events.Event], **facts: Any) -> events.Event:
    """One event of instance i-1, at noon."""
    return kind(**{"experiment": "e", "instance_id": "i-1", "at": NOON, **facts})


def started(**facts: Any) -> events.Event:
    """A command that starts."""
    return event(events.CommandStarted, command="date", user="root", **facts)


def output(text: str, **facts: Any) -> events.Event:
    """A piece of output."""
    return event(events.Output, **{"stream": "stdout", "text": text, **facts})


def ended(exit_code: int | None = 0, **facts: Any) -> events.Event:
    """A command that has ended."""
    return event(events.CommandEnded, command="date", exit_code=exit_code, duration=1.25, **facts)


def waiting(pending: int, total: int = 3, after: float = 0) -> events.Event:
    """A wait that still has `pending` to see ready."""
    at = NOON + timedelta(seconds=after)
    return event(events.Waiting, instance_id="", pending=pending, total=total, at=at)


def shown(*happened: events.Event) -> list[str]:
    """The lines that a console shows for `happened`, their time left out."""
    stream = io.StringIO()
    observer = Console(stream)
    for one in happened:
        observer(one)
    lines = stream.getvalue().split("\n")
    assert lines.pop() == ""
    return [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in lines]


def test_a_line_reads_as_in_2012() -> None:
    """Local time, the level right-aligned in seven, two spaces, the message."""
    stream = io.StringIO()

    Console(stream)(event(events.Deprovisioning))

    local = f"{NOON.astimezone():%Y-%m-%d %H:%M:%S}"
    assert stream.getvalue() == f"{local}    INFO:  Deprovisioning instance: i-1\n"


def test_a_warning_is_told_by_its_level() -> None:
    """And its text stands without the word repeated."""
    assert shown(event(events.Warned, text="mind\nthe gap")) == [
        "WARNING:  mind",
        "WARNING:  the gap",
    ]


@pytest.mark.parametrize(
    ("happened", "line"),
    [
        (
            event(events.Opened, instance_id="", cloud="local", isolation="process"),
            "   INFO:  Experiment 'e' on local, isolation: process",
        ),
        (
            event(events.Launched, image_id="x", instance_type="m1.small", tags=("a", "b")),
            "   INFO:  Started instance i-1, type m1.small, tags a, b",
        ),
        (
            event(events.InstanceReady, address="192.0.2.1", seconds=2.0),
            "   INFO:  Instance i-1 has booted in 2.0 s, public hostname: 192.0.2.1",
        ),
        (
            event(events.InstanceReplaced, replaced_id="i-0", seen="no address", launches=2),
            "WARNING:  Instance i-0 did not boot (no address); replaced by i-1, launch 2",
        ),
        (
            event(events.StateChanged, state="failed", seen="out of memory"),
            "WARNING:  Instance i-1 is failed: out of memory",
        ),
        (started(), "   INFO:  Running on i-1 as root: date"),
        (ended(3), "   INFO:  Command on i-1 exited with 3 after 1.2 s"),
        (ended(None), "   INFO:  Command on i-1 was ended after 1.2 s"),
        (
            event(events.TransferEnded, source="a", target="b", size=7, duration=0.5),
            "   INFO:  i-1: Copied a to b (7 bytes, 0.5 s)",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, events.Event) else "",
)
def test_what_a_user_wants_to_know_is_one_line(happened: events.Event, line: str) -> None:
    """What was asked of the cloud, what became of it, and what ran."""
    assert shown(happened) == [line]


def test_what_is_only_of_passing_use_is_not_shown() -> None:
    """Steps that another line tells of as well, and commands that ended well, are not."""
    assert (
        shown(
            event(events.StateChanged, state="addressed"),
            event(events.TransferStarted, source="a", target="b"),
            event(events.Deprovisioned),
            ended(0),
        )
        == []
    )


def test_output_is_shown_line_by_line_with_its_instance() -> None:
    """Each line says whose it is, and from which of the two streams."""
    assert shown(output("one\ntwo\n"), output("oops\n", stream="stderr")) == [
        "   INFO:  i-1  stdout: one",
        "   INFO:  i-1  stdout: two",
        "   INFO:  i-1  stderr: oops",
    ]


def test_pieces_of_a_line_are_put_together() -> None:
    """Also across instances and streams whose pieces come in between."""
    assert shown(
        output("on"),
        output("x\n", instance_id="i-2"),
        output("y\n", stream="stderr"),
        output("e\n"),
    ) == [
        "   INFO:  i-2  stdout: x",
        "   INFO:  i-1  stderr: y",
        "   INFO:  i-1  stdout: one",
    ]


def test_a_line_without_an_end_is_shown_when_its_command_ends() -> None:
    """Before the line that says how it ended; an instance that still runs keeps its own."""
    assert shown(output("50%"), output("30%", instance_id="i-2"), ended(1)) == [
        "   INFO:  i-1  stdout: 50%",
        "   INFO:  Command on i-1 exited with 1 after 1.2 s",
    ]


def test_a_line_without_an_end_is_shown_when_the_call_returns() -> None:
    """A lost connection has no command's end; what had come is not lost with it."""
    stream = io.StringIO()
    observer = Console(stream)
    observer(output("last words"))

    observer.rest()

    assert stream.getvalue().endswith("  stdout: last words\n")


def test_a_line_too_long_to_hold_back_is_shown_in_parts() -> None:
    """A stream that never writes a newline must not fill the memory."""
    lines = shown(output("x" * 10_000), output("y\n"))

    assert [line[-1] for line in lines] == ["x", "y"]


def test_carriage_returns_end_lines() -> None:
    """A progress bar is read as it grows; Windows' line ends are one end, also in two pieces."""
    assert shown(output("10%\r20%\r"), output("\ndone\r\n")) == [
        "   INFO:  i-1  stdout: 10%",
        "   INFO:  i-1  stdout: 20%",
        "   INFO:  i-1  stdout: done",
    ]


@pytest.mark.parametrize(
    ("hostile", "seen"),
    [
        ("\x1b[2J\x1b]0;title\x07", "^[[2J^[]0;title^G"),
        ("a\x08\x7f\x00", "a^H^?^@"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),
        ("\u202eevil\u2066\u2028", "\\u202eevil\\u2066\\u2028"),
        ("tab\tand ünïcode 🚀", "tab\tand ünïcode 🚀"),
        ("\udc80", "\\udc80"),
    ],
)
def test_control_characters_in_output_are_made_visible(hostile: str, seen: str) -> None:
    """An instance can't clear the screen, forge a line, or turn text around."""
    assert shown(output(hostile + "\n")) == [f"   INFO:  i-1  stdout: {seen}"]


def test_control_characters_in_any_event_are_made_visible() -> None:
    """A cloud's words are no safer than a command's."""
    assert shown(event(events.StateChanged, state="failed", seen="\x1b[31mred")) == [
        "WARNING:  Instance i-1 is failed: ^[[31mred"
    ]


def test_a_flood_of_output_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stream holds beyond the bound is in the results, not on the terminal."""
    monkeypatch.setattr(console, "OUTPUT_SHOWN", 20)

    lines = shown(output("1234567\n" * 50), ended(1), output("of the next command\n"), ended(2))

    assert [line.split(":  ")[1].removeprefix("i-1  stdout: ") for line in lines] == [
        *["1234567"] * 3,
        "... there is more of it than is shown here",
        "Command on i-1 exited with 1 after 1.2 s",
        "of the next command",
        "Command on i-1 exited with 2 after 1.2 s",
    ]


def test_a_wait_says_how_many_boot_now_and_then() -> None:
    """At once, every half minute, and at the end: not with every instance that is ready."""
    assert shown(
        waiting(3), waiting(2, after=5), waiting(1, after=31), waiting(0, after=32), waiting(3)
    ) == [
        "   INFO:  Still waiting for 3 of 3 instances to finish booting",
        "   INFO:  Still waiting for 1 of 3 instances to finish booting",
        "   INFO:  All 3 instances are ready",
        "   INFO:  Still waiting for 3 of 3 instances to finish booting",
    ]


def test_quiet_shows_nothing() -> None:
    """Neither lines nor what is held back."""
    stream = io.StringIO()
    observer = Console(stream, quiet=True)

    observer(output("half a line"))
    observer(event(events.Warned, text="w"))
    observer.rest()

    assert stream.getvalue() == ""


def test_the_default_stream_is_stderr_as_it_is_at_the_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who redirects stderr after the experiment was made gets what follows."""
    observer = Console()
    observer(event(events.Deprovisioning))
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)

    observer(event(events.Warned, text="later"))

    assert "Deprovisioning" in capsys.readouterr().err
    assert later.getvalue().endswith("WARNING:  later\n")


def test_a_stream_that_cannot_encode_is_written_to_all_the_same() -> None:
    """What it has no letters for is written as an escape."""
    raw = io.BytesIO()
    observer = Console(io.TextIOWrapper(raw, encoding="ascii", write_through=True))

    observer(output("caf\u00e9\n"))

    assert raw.getvalue().endswith(b"stdout: caf\\xe9\n")


def test_a_reader_that_has_gone_costs_the_experiment_nothing() -> None:
    """A broken pipe is survived, and not tried again."""
    reader, writer = os.pipe()
    os.close(reader)
    written: list[str] = []

    class Pipe(io.TextIOWrapper):
        def write(self, text: str) -> int:
            written.append(text)
            return super().write(text)

    stream = Pipe(io.FileIO(writer, "w"), write_through=True)
    observer = Console(stream)

    for number in range(3):
        observer(event(events.Warned, text=str(number)))
    observer.rest()

    assert len(written) == 1
    stream.close()


def test_a_closed_stream_costs_the_experiment_nothing() -> None:
    """A notebook or a test may close what it lent."""
    stream = io.StringIO()
    observer = Console(stream)
    stream.close()

    observer(event(events.Warned, text="w"))
    observer(output("x"))
    observer.rest()


def test_no_stderr_at_all_costs_the_experiment_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python started without one has ``None`` there."""
    monkeypatch.setattr(sys, "stderr", None)
    observer = Console()

    observer(output("x"))
    observer.rest()


def test_lines_of_many_threads_stay_whole() -> None:
    """Twins may be used from many threads; their lines do not mix."""
    stream = io.StringIO()
    observer = Console(stream)

    def flood(name: str) -> None:
        for _ in range(200):
            observer(output("ab", instance_id=name))
            observer(output("cd\n", instance_id=name))

    threads = [threading.Thread(target=flood, args=(f"i-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    lines = stream.getvalue().splitlines()
    assert len(lines) == 800
    assert all(re.search(r"INFO:  i-\d  stdout: abcd$", line) for line in lines)


class Terminal:
    """A terminal to write to, and all that was written to it."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stream: TextIO = os.fdopen(slave, "w")
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # Linux says so when nobody has the other side open
                return
            if not data:
                return
            self._seen += data

    @property
    def seen(self) -> str:
        """What has come so far."""
        return self._seen.decode()

    def close(self) -> None:
        """Hang up."""
        self.stream.close()
        self._reader.join()
        os.close(self._master)


@contextmanager
def watched(observer: Console) -> Iterator[Console]:
    """A console whose progress line is taken away at the end."""
    try:
        yield observer
    finally:
        observer.rest()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal that can move its cursor."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    yield terminal
    terminal.close()


SHOW_CURSOR = "\x1b[?25h"
ERASE_LINE = "\x1b[2K"


def test_a_terminal_shows_how_far_a_wait_has_come(terminal: Terminal) -> None:
    """A last line that counts, and that is gone once all are ready."""
    with watched(Console(terminal.stream)) as observer:
        observer(waiting(3))
        observer(waiting(1))
        until(lambda: re.search(r"2/3.*ready", terminal.seen), "the count")
        assert SHOW_CURSOR not in terminal.seen
        observer(waiting(0))

        until(lambda: SHOW_CURSOR in terminal.seen, "the end of the progress line")
        until(lambda: "All 3 instances are ready\r\n" in terminal.seen, "the last line")
        assert ERASE_LINE in terminal.seen.rpartition(SHOW_CURSOR)[2].partition("All 3")[0]


def test_lines_scroll_above_the_progress_line(terminal: Terminal) -> None:
    """A line of the log is written whole, and the progress line again below it."""
    with watched(Console(terminal.stream)) as observer:
        observer(waiting(3))
        observer(output("[bold]:smile: 1.5\n"))

        until(lambda: "  stdout: [bold]:smile: 1.5\r\n" in terminal.seen, "the plain line")
        after = terminal.seen.rpartition("1.5\r\n")[2]
        until(lambda: "0/3" in after or "0/3" in terminal.seen.rpartition("1.5\r\n")[2], "redrawn")


def test_a_terminal_shows_how_far_a_fan_out_has_come(terminal: Terminal) -> None:
    """Commands on several instances at once are counted; one at a time is told by its lines."""
    with watched(Console(terminal.stream)) as observer:
        observer(started())
        observer(ended())
        assert "\x1b[?25l" not in terminal.seen
        for name in ("i-1", "i-2", "i-3"):
            observer(started(instance_id=name))
        observer(ended(instance_id="i-2"))

        until(lambda: re.search(r"1/3.*done", terminal.seen), "the count")


def test_the_progress_line_goes_when_the_call_ends(terminal: Terminal) -> None:
    """A wait that fails has no last event; the twin lets the line go."""
    observer = Console(terminal.stream)
    observer(waiting(3))

    observer.rest()

    until(lambda: SHOW_CURSOR in terminal.seen, "the cursor")
    observer(event(events.Warned, text="plain again"))
    until(lambda: terminal.seen.endswith("WARNING:  plain again\r\n"), "a plain line")


def test_one_console_at_a_time_draws_on_a_terminal(terminal: Terminal) -> None:
    """Two experiments that wait at once do not overwrite each other: the second writes lines."""
    with watched(Console(terminal.stream)) as first, watched(Console(terminal.stream)) as second:
        first(waiting(3))
        second(waiting(5, total=5))
        until(lambda: "Still waiting for 5 of 5" in terminal.seen, "the line")
        assert "0/5" not in terminal.seen

        first.rest()
        second(waiting(4, total=5))
        until(lambda: "1/5" in terminal.seen, "the second, once the first has left")


def test_what_others_print_to_a_file_stays_there(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script whose stdout goes to a file finds there what its callbacks print meanwhile."""
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    with watched(Console()) as observer:
        observer(waiting(3))
        sys.stdout.write("to the file\n")
        sys.stderr.write("to the terminal\n")
        until(lambda: "to the terminal\r\n" in terminal.seen, "what went to stderr")

    assert file.getvalue() == "to the file\n"
    assert "to the file" not in terminal.seen
    assert sys.stderr is terminal.stream


def test_rich_is_imported_only_to_draw() -> None:
    """Off a terminal the console costs no import."""
    code = (
        "import sys, io\n"
        "from precip_async import console, events\n"
        "c = console.Console(io.StringIO())\n"
        "c(events.Waiting(experiment='e', pending=1, total=2))\n"
        "c.rest()\n"
        "sys.exit('rich' in sys.modules)\n"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


def test_a_full_disk_costs_the_experiment_nothing() -> None:
    """A log that can't be written is no reason to lose the instances."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, f"No space left on device for {len(text)} characters")

    observer = Console(Full())

    observer(output("x"))
    observer(event(events.Warned, text="w"))
    observer.rest()
