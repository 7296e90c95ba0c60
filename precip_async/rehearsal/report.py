"""What a rehearsal has seen, as text for a person and as values for a program."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from precip_async.console import harmless

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from precip_async.rehearsal.record import Place, Record, Started

__all__ = ["as_json", "as_text", "say"]

MOST_ROWS: Final = 50  # of a table: a fleet's thousand would push all else off the terminal
MOST_NAMES: Final = 10  # likewise, in a sentence

#: The lab's own words for what no cloud has a word for.
_WORDS: Final = {"broken": "server error", "failed": "fault of the lab"}


def say(text: str) -> None:
    """Write `text` to stderr, if anybody reads that."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()


def as_json(record: Record) -> str:
    """The record, and whether it was good, as a JSON object."""
    return json.dumps({**asdict(record), "left": record.left}, indent=2) + "\n"


def as_text(record: Record) -> str:
    """The record, to be read."""
    return "".join(f"{harmless(line)}\n" if line else "\n" for line in _lines(record))


def _lines(record: Record) -> Iterator[str]:
    yield ""
    yield f"Rehearsal of {record.script}: {_exit(record.exit_code)} after {record.seconds:.1f} s"
    if record.scenario:
        yield f"Scenario: {record.scenario}"
    if not record.places and not record.unplayed:
        yield "No experiment was opened."
    for one in record.unplayed:
        yield ""
        yield f"NOT REHEARSED, because it could not be played: {one}"
    for place in record.places:
        yield ""
        yield from _of_place(place)
    if record.remarks:
        yield ""
        yield "Replaced, because the script was written for another cloud:"
        yield from (f"  {remark}" for remark in record.remarks)
    yield from _verdict(record)


def _exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"


def _of_place(place: Place) -> Iterator[str]:
    if place.dialect == "local":
        yield f"{place.stands_for.capitalize()}, as the script says (--cloud plays a cloud instead)"
    else:
        yield f"{place.dialect}, in the place of {place.stands_for}"
    yield f"  {_count(place.instances)}"
    several = len({one.experiment for one in place.instances}) > 1
    if place.instances:
        yield from _table(
            ("instance", "experiment", "type", "image", "running", "ready", "end", "tags"),
            [
                (
                    one.id,
                    one.experiment * several,
                    one.instance_type,
                    one.image_id,
                    _seconds(one.running),
                    _seconds(one.ready),
                    _end(one),
                    ", ".join(one.tags),
                )
                for one in place.instances
            ],
        )
    if place.calls:
        yield f"  {_plural(sum(one.count for one in place.calls), 'API call')}" + _troubles(place)
        yield from _table(
            ("action", "calls", "throttled", "lost", "refused"),
            [
                (
                    one.action,
                    str(one.count),
                    str(one.throttled or ""),
                    str(one.lost or ""),
                    ", ".join(_times(code, count) for code, count in one.refused.items()),
                )
                for one in place.calls
            ],
        )


def _count(instances: Sequence[Started]) -> str:
    if not instances:
        return "no instance was launched"
    text = f"{_plural(len(instances), 'instance')} launched"
    if ready := [one.ready for one in instances if one.ready is not None]:
        text += f", {len(ready)} ready, the last of them {max(ready):.1f} s after its launch"
    return text


def _troubles(place: Place) -> str:
    sums = {
        "throttled": sum(one.throttled for one in place.calls),
        "refused": sum(sum(one.refused.values()) for one in place.calls),
        "never answered": sum(one.lost for one in place.calls),
    }
    return "".join(f", {count} {what}" for what, count in sums.items() if count)


def _end(one: Started) -> str:
    end = {"ended": "ended", "kept": "kept running", "left": "LEFT RUNNING"}[one.end]
    return f"{end} ({one.fault})" if one.fault else end


def _verdict(record: Record) -> Iterator[str]:
    kept = [one.id for place in record.places for one in place.instances if one.end == "kept"]
    yield ""
    if kept:
        yield f"Kept running, as keep=True says: {_some(kept)}"
    if record.left:
        yield (
            f"LEFT RUNNING, and nobody said keep=True: {_some(record.left)}. "
            "On a real cloud that costs money until somebody ends it, so it counts as a failure."
        )
    if kept or record.left:
        yield "The rehearsal has ended them."
    else:
        yield "Nothing was left running."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Aligned columns, those left out that are empty in all rows."""
    shown = [place for place in range(len(head)) if any(row[place] for row in rows)]
    table = [[row[place] for place in shown] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table[: MOST_ROWS + 1]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "    " + "  ".join(cells).rstrip()
    if len(rows) > MOST_ROWS:
        yield f"    ... and {len(rows) - MOST_ROWS} more; --report has all of them"


def _some(names: Sequence[str]) -> str:
    """The names, those left out that would fill a terminal."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _times(code: str, count: int) -> str:
    what = _WORDS.get(code, code)
    return what if count == 1 else f"{what} x{count}"


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
