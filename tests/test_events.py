"""Events: each says itself in one line, and every observer hears each of them."""

from __future__ import annotations

import dataclasses
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from precip_async import events
from precip_async.events import Announcer, Event, Warned

SAMPLES: dict[str, tuple[dict[str, Any], str]] = {
    "Opened": (
        {"cloud": "local", "isolation": "process"},
        "Experiment 'e' on local, isolation: process",
    ),
    "Launched": (
        {"image_id": "local", "instance_type": "m1.small", "tags": ("a", "b")},
        "Started instance i-0, type m1.small, tags a, b",
    ),
    "StateChanged": ({"state": "running"}, "Instance i-0 is running"),
    "Waiting": (
        {"pending": 2, "total": 3},
        "Still waiting for 2 of 3 instances to finish booting",
    ),
    "InstanceReady": (
        {"address": "127.0.0.1", "seconds": 1.25},
        "Instance i-0 has booted in 1.2 s, public hostname: 127.0.0.1",
    ),
    "InstanceReplaced": (
        {"replaced_id": "i-9", "seen": "it died", "launches": 2},
        "Instance i-9 did not boot (it died); replaced by i-0, launch 2",
    ),
    "CommandStarted": (
        {"command": "make\n  all", "user": "root"},
        "Running on i-0 as root: make all",
    ),
    "Output": ({"stream": "stderr", "text": "oh"}, "  stderr: oh"),
    "CommandEnded": (
        {"command": "make", "exit_code": 2, "duration": 1},
        "Command on i-0 exited with 2 after 1.0 s",
    ),
    "TransferStarted": ({"source": "a", "target": "b"}, "Copying a to b"),
    "TransferEnded": (
        {"source": "a", "target": "b", "size": 7, "duration": 1},
        "Copied a to b (7 bytes, 1.0 s)",
    ),
    "JobStarted": (
        {"command": "make\n  all", "user": "root"},
        "Started on i-0 as root: make all",
    ),
    "JobEnded": ({"command": "make", "exit_code": -9}, "Command on i-0 exited with -9: make"),
    "Extended": (
        {"until": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)},
        "Instance i-0 ends by itself at 2026-01-02 03:04:05 UTC",
    ),
    "Deprovisioning": ({}, "Deprovisioning instance: i-0"),
    "Deprovisioned": ({}, "Instance i-0 is gone"),
    "Closed": ({"ended": 3, "kept": 1}, "Experiment 'e' closed: 3 instances ended, 1 kept running"),
    "Warned": ({"text": "no match"}, "WARNING: no match"),
}
KINDS = {
    name
    for name in events.__all__
    if isinstance(kind := getattr(events, name), type)
    and issubclass(kind, Event)
    and kind is not Event
}
every = pytest.mark.parametrize("name", sorted(SAMPLES))


def make(name: str) -> Event:
    """The sample event of the class `name`."""
    event: Event = getattr(events, name)(experiment="e", instance_id="i-0", **SAMPLES[name][0])
    return event


def test_every_event_is_tried_here() -> None:
    """The samples above hold one of each class that is exported."""
    assert set(SAMPLES) == KINDS


@every
def test_an_event_says_itself_in_one_line(name: str) -> None:
    """`str(event)` is what a person reads."""
    assert str(make(name)) == SAMPLES[name][1]


@every
def test_an_event_is_a_frozen_value(name: str) -> None:
    """What happened does not change afterwards."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(name).experiment = "other"  # type: ignore[misc] # that it is refused is the point


@every
def test_an_event_knows_when(name: str) -> None:
    """An event is stamped when it is made, with an aware UTC time."""
    before = datetime.now(UTC)
    at = make(name).at

    assert before <= at <= datetime.now(UTC)
    assert at.utcoffset() is not None


def test_all_ready_is_said_otherwise() -> None:
    """When nothing is pending any more, the line says so."""
    event = events.Waiting(experiment="e", pending=0, total=3)

    assert str(event) == "All 3 instances are ready"


def test_a_command_that_was_ended_is_said_otherwise() -> None:
    """A command without an exit code was ended by us, and the line says so."""
    event = events.CommandEnded(
        experiment="e", instance_id="i-0", command="x", exit_code=None, duration=2
    )

    assert str(event) == "Command on i-0 was ended after 2.0 s"


def test_every_observer_hears_every_event_in_order() -> None:
    """Each observer is given each event, in the order announced."""
    heard: list[tuple[int, Event]] = []
    announce = Announcer("e", [lambda e: heard.append((1, e)), lambda e: heard.append((2, e))])
    first, second = make("Opened"), make("Deprovisioned")

    announce(first)
    announce(second)

    assert heard == [(1, first), (2, first), (1, second), (2, second)]


def test_an_observer_that_raises_costs_nobody_else_anything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A faulty observer is logged with its traceback; the others hear the event all the same."""
    heard: list[Event] = []
    announce = Announcer("e", [lambda _: 1 / 0, heard.append])
    event = Warned(experiment="e", text="careful")

    with caplog.at_level(logging.ERROR):
        announce(event)

    assert heard == [event]
    assert "ZeroDivisionError" in caplog.text


def test_an_observers_interrupt_is_not_swallowed() -> None:
    """Ctrl-C within an observer goes on to whoever called."""

    def interrupted(_: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Announcer("e", [interrupted])(make("Opened"))


def test_an_announcer_knows_whether_anybody_listens() -> None:
    """Without observers it is false, so that nobody makes events for nobody."""
    assert not Announcer("e")
    assert Announcer("e", [print])


def test_the_library_configures_no_logger() -> None:
    """No handler is put on the library's loggers: how logs are shown is the program's business."""
    loggers = [
        logging.getLogger(name)
        for name in logging.root.manager.loggerDict
        if name.split(".")[0] == "precip_async"
    ]

    assert loggers
    assert not [logger for logger in loggers if logger.handlers or logger.level]
