"""What the blocking twins show: one line an event on stderr, as 2012's did, and live progress.

Off a terminal there are only lines. On one, the last line shows how far a ``wait`` or a fan-out
has come, and the lines scroll above it.
"""

from __future__ import annotations

import io
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from precip_async import events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, TaskID

__all__ = ["Console", "harmless", "log_line"]

INFO, WARNING = "INFO", "WARNING"
MIB = 1024 * 1024
OUTPUT_SHOWN = 1 * MIB  # characters of one stream of one command: a terminal is no place for more
PARTIAL_SHOWN = 8192  # characters without a newline that are held back in hope of one
WAITING_EVERY = (
    30.0  # seconds between two lines that say how many boot; 2012's wait said it so often
)
REDRAWS = 4  # a second

# What moves a terminal's cursor, changes its colours or reverses the order of its text is shown
# instead of done: what instances write must not be able to forge or hide lines of ours.
CONTROLS = {
    **{code: f"^{chr(code ^ 0x40)}" for code in (*range(0x20), 0x7F) if code != ord("\t")},
    **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)},
    **{code: f"\\u{code:04x}" for code in (0x200E, 0x200F, 0x2028, 0x2029)},
    **{code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}

_drawing = threading.Lock()  # a terminal has one last line: one console at a time draws there


def harmless(text: str) -> str:
    """`text` on one line, its control characters made visible: an escape becomes ``^[``."""
    return text.translate(CONTROLS)


def log_line(at: datetime, level: str, text: str) -> str:
    """One line of the log in local time, its newline included."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S} {level:>7}:  {harmless(text)}\n"


class _Lines:
    """The lines of one stream of one command, made of pieces as they come."""

    def __init__(self) -> None:
        # Progress bars end their lines with a lone carriage return: to us each is a line.
        self._newlines = io.IncrementalNewlineDecoder(decoder=None, translate=True)
        self._partial = ""
        self._shown = 0

    def feed(self, text: str, *, final: bool = False) -> Iterator[str]:
        """The lines that `text` completes; with `final` the last also without a newline."""
        whole = self._partial + self._newlines.decode(text, final=final)
        *lines, self._partial = whole.split("\n")
        if self._partial and (final or len(self._partial) > PARTIAL_SHOWN):
            lines.append(self._partial)
            self._partial = ""
        for line in lines:
            if self._shown > OUTPUT_SHOWN:
                return
            yield line[:OUTPUT_SHOWN]
            self._shown += len(line) + 1
            if self._shown > OUTPUT_SHOWN:
                yield "... there is more of it than is shown here"


class Console:
    """An observer that writes what happens to a stream; it never raises.

    Args:
        stream: Where to; ``None`` is what ``sys.stderr`` is at the time.
        quiet: Write nothing at all.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._lock = threading.RLock()  # a redirected stderr may come back to us in one thread
        self._lost: TextIO | None = None
        self._outputs: dict[tuple[str, events.Stream], _Lines] = {}
        self._waiting_said: datetime | None = None
        self._started = self._ended = 0  # of a fan-out
        self._live: _Live | None = None

    def __call__(self, event: events.Event) -> None:
        """Show `event`."""
        if self._quiet:
            return
        with self._lock:
            stream = self._stream or sys.stderr
            if stream is None or stream is self._lost:
                return
            try:
                self._draw(event, stream)
                self._write(self._said(event), event.at, stream)
            except (OSError, ValueError):  # the reader has gone, or the stream was closed
                self._lost = stream
                self._stop_drawing()

    def rest(self) -> None:
        """A call has returned: show what is held back, and take the progress line away."""
        with self._lock:
            self._started = self._ended = 0
            self._stop_drawing()
            stream = self._stream or sys.stderr
            if stream is None or stream is self._lost:
                return
            try:
                self._write(self._held_back(), datetime.now(UTC), stream)
            except (OSError, ValueError):
                self._lost = stream

    def _said(self, event: events.Event) -> Iterator[tuple[str, str]]:
        """The lines that say `event`, each with its level; none for what is only of passing use."""
        match event:
            case events.Output():
                output = self._outputs.setdefault((event.instance_id, event.stream), _Lines())
                yield from _prefixed(event.instance_id, event.stream, output.feed(event.text))
            case events.CommandEnded():
                yield from self._held_back(event.instance_id)
                if event.exit_code != 0:
                    yield INFO, str(event)
            case events.Waiting():
                if self._is_time_to_say(event):
                    yield INFO, str(event)
            case events.TransferEnded():
                yield INFO, f"{event.instance_id}: {event}"
            case events.Warned():
                yield from ((WARNING, line) for line in event.text.splitlines())
            case events.InstanceReplaced() | events.StateChanged(state="failed"):
                yield WARNING, str(event)
            case events.StateChanged() | events.TransferStarted() | events.Deprovisioned():
                return  # each is followed by an event that says more
            case _:
                yield from ((INFO, line) for line in str(event).splitlines())

    def _held_back(self, instance_id: str = "") -> Iterator[tuple[str, str]]:
        """What ended without a newline, of one instance or of all."""
        for key in list(self._outputs):
            if instance_id in ("", key[0]):
                output = self._outputs.pop(key)
                yield from _prefixed(*key, output.feed("", final=True))

    def _is_time_to_say(self, event: events.Waiting) -> bool:
        """Whether to say how many boot: the first and last number, and one every half minute."""
        last = self._waiting_said
        if not event.pending:
            self._waiting_said = None
            return True
        if self._live is not None:
            return False  # the progress line says it
        if last is not None and (event.at - last).total_seconds() < WAITING_EVERY:
            return False
        self._waiting_said = event.at
        return True

    def _draw(self, event: events.Event, stream: TextIO) -> None:
        """Bring the progress line up to date, where there is one."""
        match event:
            case events.Waiting():
                what, done, total = "ready", event.total - event.pending, event.total
            case events.CommandStarted() | events.TransferStarted():
                self._started += 1
                what, done, total = "done", self._ended, self._started
            case events.CommandEnded() | events.TransferEnded():
                self._ended += 1
                what, done, total = "done", self._ended, self._started
            case _:
                return
        if done >= total:
            self._started = self._ended = 0
            self._stop_drawing()
        elif total > 1 or what == "ready":
            if self._live is None:
                self._live = _Live.on(stream)
            if self._live is not None:
                self._live.show(what, done, total)

    def _stop_drawing(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            try:
                live.stop()
            except (OSError, ValueError):  # the terminal has gone, and the line with it
                self._lost = self._stream or sys.stderr

    def _write(self, said: Iterator[tuple[str, str]], at: datetime, stream: TextIO) -> None:
        if not (text := "".join(log_line(at, level, line) for level, line in said)):
            return
        # A stream of the user's own may refuse what it can't encode.
        encoding = getattr(stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        if self._live is not None:
            self._live.write(text)
        else:
            stream.write(text)
            stream.flush()


def _prefixed(
    instance_id: str, stream: events.Stream, lines: Iterator[str]
) -> Iterator[tuple[str, str]]:
    return ((INFO, f"{instance_id}  {stream}: {line}") for line in lines)


class _Live:
    """The last line of a terminal, redrawn in place while other lines scroll above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    @classmethod
    def on(cls, stream: TextIO) -> _Live | None:
        """One on `stream`; ``None`` where that is no terminal or another console draws on it."""
        if not stream.isatty() or not _drawing.acquire(blocking=False):
            return None
        try:
            from rich import console, progress

            columns = (
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.description}", markup=False),
                progress.TimeElapsedColumn(),
            )
            return cls(
                progress.Progress(
                    *columns,
                    console=console.Console(file=stream),
                    transient=True,
                    refresh_per_second=REDRAWS,
                    # What others print goes above the line, unless it goes to a file.
                    redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
                    redirect_stderr=stream is sys.stderr,
                )
            )
        except BaseException:
            _drawing.release()
            raise

    def show(self, what: str, done: int, total: int) -> None:
        """Draw `done` of `total`."""
        if self._task is None:
            self._task = self._progress.add_task(what, completed=done, total=total)
            self._progress.start()
        else:
            self._progress.update(self._task, description=what, completed=done, total=total)

    def write(self, text: str) -> None:
        """Write whole lines above."""
        self._progress.console.out(text, end="", highlight=False)

    def stop(self) -> None:
        """Take the line away."""
        try:
            self._progress.stop()
        finally:
            _drawing.release()
