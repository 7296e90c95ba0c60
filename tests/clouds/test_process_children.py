"""Child processes: every exit is noticed, whatever the system has to notice it with."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async.clouds.local.process_children import Child, Streams
from precip_async.clouds.local.process_pipes import Outlet

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["pidfd", "thread"])
def streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Streams]:
    """Streams to nowhere, where there are pidfds and where there are none."""

    def unsupported(*_args: Any) -> int:
        raise OSError(38, "no such system call")

    if request.param == "thread":
        monkeypatch.setattr(os, "pidfd_open", unsupported)
    nowhere = os.open(os.devnull, os.O_RDWR)
    yield Streams(stdin=nowhere, stdout=nowhere, stderr=nowhere)
    os.close(nowhere)


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def shell(script: str, streams: Streams, **options: Any) -> Child:
    """A shell that runs `script`."""
    return Child(["/bin/sh", "-c", script], env={}, streams=streams, **options)


async def test_an_exit_is_told_once(streams: Streams) -> None:
    """The callback hears the exit code, and so does whoever waits, also later."""
    told: list[int] = []
    child = shell("exit 3", streams, exited=told.append)

    assert await child.wait() == 3
    assert await child.wait() == 3
    assert told == [3]


async def test_a_signal_is_a_negative_code(streams: Streams) -> None:
    """Death by a signal is told as minus its number."""
    child = shell("kill -USR1 $$", streams)

    assert await child.wait() == -signal.SIGUSR1


async def test_a_group_is_ended_as_one(streams: Streams) -> None:
    """What stays in a child's group gets its signals; afterwards signals go nowhere."""
    reading, writing = os.pipe()
    up, over = anyio.Event(), anyio.Event()  # over: nobody holds the output any more
    child = shell("sleep 300 & echo; wait", replace(streams, stdout=writing))
    os.close(writing)
    Outlet(reading, lambda _: up.set(), over.set)
    await up.wait()

    child.send_group(signal.SIGKILL)

    assert await child.wait() == -signal.SIGKILL
    with anyio.fail_after(5):
        await over.wait()
    child.send(signal.SIGTERM)
    child.send_group(signal.SIGTERM)


async def test_a_cancelled_wait_leaves_the_child(streams: Streams) -> None:
    """Waiting is only waiting."""
    child = shell("exec sleep 300", streams)
    with anyio.move_on_after(0.05) as scope:
        await child.wait()

    assert scope.cancelled_caught
    assert child.returncode is None
    child.send(signal.SIGKILL)
    await child.wait()


async def test_what_cant_be_started_is_an_error(streams: Streams) -> None:
    """A program that is not there raises, and leaves no descriptor behind."""
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        Child(["/nowhere/program"], env={}, streams=streams)

    assert descriptors() == before
