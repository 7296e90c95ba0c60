"""Named steps of an experiment's life, at which a test may stand in its way.

In production nobody stands there, and a step costs the look at an empty list. No environment
variable and no setting can put anybody there, only `watched`, called within the process.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["STEPS", "reached", "watched"]

#: What has been done, and nothing after it, when a step is reached.
STEPS: Final[Mapping[str, str]] = {
    "file.drafted": "a file of the home is whole under its temporary name",
    "name.held": "the experiment's name is locked",
    "journal.opened": "the journal is open and of this version",
    "cloud.prepared": "the cloud has accepted us and has our key and our group",
    "launch.numbered": "a launch has its token, which nobody knows yet",
    "launch.intended": "the journal knows of the launch",
    "launch.keyed": "the launch's own key pair is registered, where it has one",
    "launch.accepted": "the cloud has started instances, and the journal does not know their ids",
    "launch.answered": "the journal knows their ids",
    "replace.ended": "a failed machine is ended, and the one in its place not launched",
    "boot.seen": "the cloud was asked once how the instances are",
    "address.allocated": "an elastic address is ours, and no instance has it",
    "address.given": "an instance has it",
    "boot.reachable": "an instance accepts our key",
    "boot.ready": "an instance is ready",
    "command.leased": "a connection for a command is there",
    "command.started": "a command runs",
    "command.exited": "a command has exited, and its output may still be on its way",
    "end.noted": "the journal knows that instances are to be ended",
    "end.asked": "the cloud has been asked to",
    "end.confirmed": "the cloud has confirmed it, and the journal does not know",
    "end.written": "the journal knows that they have ended",
    "address.released": "an elastic address is no longer ours",
    "close.begun": "nothing is launched any more",
    "close.ended": "the experiment's instances have ended, and all else is still open",
    "cloud.closed": "addresses and key pairs are given back, and connections closed",
    "name.released": "the experiment's name is free",
}

_watchers: list[Callable[[str], object]] = []  # at most one


def reached(step: str) -> None:
    """Have whoever watches this process know of a step; called on loops and in threads."""
    for watcher in _watchers:
        watcher(step)


@contextmanager
def watched(watcher: Callable[[str], object]) -> Iterator[None]:
    """Call `watcher` with each step that this process reaches, where it reaches it."""
    _watchers[:] = [watcher]
    try:
        yield
    finally:
        _watchers.clear()
