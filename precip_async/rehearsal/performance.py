"""The script's run: its process, the labs that answer it, and the signals that are meant for it."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from typing import TYPE_CHECKING, Final

import anyio

from precip_async.errors import ExperimentException
from precip_async.reaping import reap
from precip_async.rehearsal.labs import Labs
from precip_async.rehearsal.record import Record, local_place, recorded
from precip_async.rehearsal.report import say
from precip_async.rehearsal.script import command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import Process

    from precip_async.rehearsal.record import Place
    from precip_async.rehearsal.rehearse import Rehearsal

__all__ = ["ENDINGS", "Performance"]

ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNWIND: Final = 60.0  # seconds for a script that was interrupted, or asked to end
LAST_WORDS: Final = 2.0  # seconds for what the script's side has told to arrive
LOOK: Final = 30.0  # seconds for all labs to say what there is
END_LOCAL: Final = 30.0  # seconds for ending local instances that were to be kept


class Performance:
    """One run of a script in a process of its own, with labs in the place of its clouds."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._rehearsal = rehearsal
        self._process: Process | None = None  # while it runs

    async def run(self, scratch: Path) -> Record:
        """Run the script to its end, and end what it left; what there was to be seen.

        Args:
            scratch: An empty directory for all that is written.

        Raises:
            ExperimentException: A lab can't say what there is.

        If cancelled, the script is killed.
        """
        rehearsal = self._rehearsal
        labs = Labs(scratch, scenario=rehearsal.plot, isolation=rehearsal.isolation)
        async with labs:
            began = time.monotonic()
            code = await self._run(labs, scratch)
            seconds = time.monotonic() - began
            places = await _places(labs)
            if local := local_place(labs.told):
                places.append(local)
                await _end_local(scratch / "home")
        remarks = (str(one["text"]) for one in labs.told if one["tell"] == "Remark")
        return Record(
            script=rehearsal.script,
            exit_code=code,
            seconds=seconds,
            scenario=rehearsal.scenario,
            places=tuple(places),
            remarks=tuple(dict.fromkeys(remarks)),
            unplayed=tuple(dict.fromkeys(labs.unplayed)),
        )

    async def heed(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Take the signals that are meant for the script, until cancelled.

        A terminal sends Ctrl-C to the script as well; what else comes is passed on.
        """
        interrupted = False
        async with anyio.create_task_group() as impatience:
            async for number in signals:
                script = self._process
                if script is None:  # what is being closed is bounded by itself
                    continue
                if number != signal.SIGINT:
                    _send(script, number)
                elif interrupted:
                    _send(script, signal.SIGKILL)
                if not interrupted:
                    interrupted = True
                    say(
                        f"precip: interrupted; the script has {UNWIND:.0f} s to unwind"
                        " (Ctrl-C again kills it)\n"
                    )
                    impatience.start_soon(_kill_late, script)

    async def _run(self, labs: Labs, scratch: Path) -> int:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                line = command(
                    self._rehearsal.script,
                    self._rehearsal.arguments,
                    line=theirs.fileno(),
                    scratch=scratch,
                    cloud=self._rehearsal.cloud,
                )
                process = await anyio.open_process(
                    line, stdin=None, stdout=None, stderr=None, pass_fds=[theirs.fileno()]
                )
            return await self._end_of(process, labs, ours)

    async def _end_of(self, process: Process, labs: Labs, line: socket.socket) -> int:
        """Answer the script until it ends; its exit code."""
        async with process, anyio.create_task_group() as tasks:
            told = anyio.Event()

            async def listen() -> None:
                await labs.serve(line)
                told.set()

            tasks.start_soon(listen)
            self._process = process
            code = await process.wait()
            self._process = None
            with anyio.move_on_after(LAST_WORDS):  # a process that it has left may hold the line
                await told.wait()
            tasks.cancel_scope.cancel()
        return code


async def _places(labs: Labs) -> list[Place]:
    try:
        with anyio.fail_after(LOOK):
            return [
                await recorded(scene, number, labs.told) for number, scene in enumerate(labs.scenes)
            ]
    except TimeoutError as error:
        raise ExperimentException(
            f"a lab has not said within {LOOK:.0f} s what there is"
        ) from error


async def _end_local(home: Path) -> None:
    """End local instances that were to be kept."""
    with anyio.move_on_after(END_LOCAL, shield=True):
        try:
            await reap(home=home, cloud="local", end=True)
        except ExperimentException as error:  # the report is wanted all the same
            say(f"precip: {error}\n")


async def _kill_late(script: Process) -> None:
    with anyio.move_on_after(UNWIND):
        await script.wait()
        return
    _send(script, signal.SIGKILL)


def _send(script: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended just now
        script.send_signal(number)
