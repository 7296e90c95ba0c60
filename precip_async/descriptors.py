"""How many files and sockets this process may have open at once, and how many it has."""

from __future__ import annotations

import contextlib
import socket
import sys

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]  # every use looks first

__all__ = ["given", "in_use", "lower", "raised"]

OPEN_MAX = 10240  # what macOS calls infinite is no more than this

_given: int | None = None  # the soft limit as we found it


def raised() -> int:
    """Raise the soft limit as far as the hard one allows; how many may be open from now on.

    It is never lowered. Children inherit it: see `given` for what they may want instead.
    """
    global _given  # noqa: PLW0603 - the limit is this process's, not anybody's in it
    if resource is None:
        return sys.maxsize
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _given is None:
        _given = soft
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    most = max(soft, OPEN_MAX) if hard == resource.RLIM_INFINITY else hard
    if most > soft:
        with contextlib.suppress(OSError, ValueError):  # forbidden: what there is has to do
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return soft


def given() -> int:
    """The soft limit that this process was started with."""
    if resource is None:
        return sys.maxsize
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] if _given is None else _given


def lower(soft: int) -> None:
    """Make `soft`, which `given` was in the process that started this one, our own limit."""
    if resource is not None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def in_use() -> int:
    """How many are open, at least: all below the one that would be opened next. No I/O."""
    try:
        with socket.socket() as probe:
            return probe.fileno()
    except OSError:  # not a single one is left
        return raised()
