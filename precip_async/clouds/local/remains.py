"""What wardens left: clearing up after those that died, and ending those that keep machines."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

import anyio

from precip_async.clouds.local import processes
from precip_async.clouds.local.namespace_ground import clear_taken
from precip_async.clouds.local.state import Record, State, experiments_in
from precip_async.errors import CloudError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["claim", "clear_dead", "end_left_behind", "left_behind", "until_cleared"]

MARK: Final = "PRECIP_INSTANCE"  # in the environment of what runs on machines without namespaces
END_TIMEOUT: Final = 90.0  # seconds for a warden to end hundreds of machines and itself
KILL_TIMEOUT: Final = 10.0  # seconds for processes that were killed to be gone
LOOK_AGAIN: Final = 0.05  # seconds


def left_behind(base: Path) -> list[Record]:
    """The living wardens under `base`, this process's own among them. Blocks."""
    records = (State(base, name).read() for name in experiments_in(base))
    return [record for record in records if record is not None and record.alive]


def clear_dead(base: Path) -> None:
    """Clear what wardens under `base` left that died without a chance to do so. Blocks."""
    for name in experiments_in(base):
        state = State(base, name)
        try:
            lock = state.claim(create=False)
        except PermissionError:  # root's, in a user's home: root clears it
            continue
        if lock is not None:
            try:
                clear(state)
            finally:
                os.close(lock)


def clear(state: State) -> None:
    """Remove a directory, with all that its record says was taken; we hold its lock. Blocks."""
    clear_taken(state.path)
    record = state.read()
    if record is not None and record.isolation == "process" and record.machines:
        _kill_marked(set(record.machines))
    state.remove()


async def claim(state: State, *, patience: float) -> int | None:
    """Lock a state directory that is then empty but for the lock.

    Args:
        state: The directory.
        patience: Seconds for a warden that is about to end.

    Returns:
        A descriptor that holds the lock, or ``None``: somebody else went on holding it.
    """
    with anyio.move_on_after(patience):
        while True:
            lock = await anyio.to_thread.run_sync(_claim_cleared, state)
            if lock is not None:
                return lock
            await anyio.sleep(LOOK_AGAIN)
    return None


async def end_left_behind(base: Path, experiment: str) -> bool:
    """End the machines of `experiment` that were left running, and clear up.

    Args:
        base: The directory ``local`` of the home.
        experiment: The experiment's name.

    Returns:
        Whether there was anything.

    Raises:
        CloudError: They would not end.
    """
    state = State(base, experiment)
    if not await anyio.to_thread.run_sync(state.path.exists):
        return False
    for number, patience in ((signal.SIGTERM, END_TIMEOUT), (signal.SIGKILL, KILL_TIMEOUT)):
        record = await anyio.to_thread.run_sync(state.read)
        if record is not None:
            await anyio.to_thread.run_sync(processes.kill, record.pid, record.born, number)
        with anyio.move_on_after(patience):
            await until_cleared(state, record)
            return True
    raise CloudError(
        f"the process that keeps the instances of {experiment!r} does not end",
        cloud="local",
        operation="end what was left behind",
        hint=f"see {state.log}",
    )


async def until_cleared(state: State, record: Record | None) -> None:
    """Wait until a warden that is about to end has ended, and clear what it may have left."""

    def over() -> bool:
        return _is_cleared(state) and not (record and record.alive)

    while not await anyio.to_thread.run_sync(over):  # noqa: ASYNC110 - another process's locks
        await anyio.sleep(LOOK_AGAIN)


def _claim_cleared(state: State) -> int | None:
    while True:
        lock = state.claim(create=True)
        if lock is None:
            return None
        try:
            if len(list(state.path.iterdir())) == 1:  # the lock is all there is
                return lock
            clear(state)
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _is_cleared(state: State) -> bool:
    lock = state.claim(create=False)
    if lock is None:
        return not state.path.exists()
    try:
        clear(state)
    finally:
        os.close(lock)
    return True


def _kill_marked(ids: set[str]) -> None:
    deadline = time.monotonic() + KILL_TIMEOUT
    while found := processes.bearing(MARK, ids):
        for pid, born in found.items():
            processes.kill(pid, born)
        if time.monotonic() > deadline:
            raise CloudError(
                f"processes {sorted(found)} of local instances do not end",
                cloud="local",
                operation="clear what is left",
                hint="they may be waiting for a disk; try again",
            )
