"""The script's run: its process, the labs that answer it, and the signals that are meant for it."""

from __future__ import annotations

import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Final

import anyio

from precip_async.reaping import reap
from precip_async.rehearsal.labs import Labs
from precip_async.rehearsal.record import Record, local_place, recorded
from precip_async.rehearsal.script import command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from anyio.abc import Process

    from precip_async.clouds.local.cloud import Isolation
    from precip_async.lab.scenario import Scenario

__all__ = ["ENDINGS", "Performance"]

ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNWIND: Final = 60.0  # seconds for a script that was interrupted, or asked to end
LAST_WORDS: Final = 2.0  # seconds for what the script's side has told to arrive
END_LOCAL: Final = 30.0  # seconds for ending local instances that were to be kept


class Performance:
    """One run of a script in a process of its own, with labs in the place of its clouds.

    Args:
        script: The path of the script.
        arguments: The script's own.
        cloud: What plays every cloud of the script; ``None``: each is played by its own kind.
        scenario: What is to go wrong in each lab.
        isolation: How the labs' machines are kept apart.
    """

    def __init__(
        self,
        script: str,
        arguments: Sequence[str],
        *,
        cloud: str | None,
        scenario: Scenario,
        isolation: Isolation,
    ) -> None:
        self._script, self._arguments, self._cloud = script, arguments, cloud
        self._scenario, self._isolation = scenario, isolation
        self._process: Process | None = None  # while it runs

    async def run(self, scratch: Path, *, scenario: str) -> Record:
        """Run the script to its end, and end what it left; what there was to be seen.

        Args:
            scratch: An empty directory for all that is written.
            scenario: What the scenario is called in the record.

        If cancelled, the script is killed.
        """
        labs = Labs(scratch, scenario=self._scenario, isolation=self._isolation)
        async with labs:
            began = time.monotonic()
            code = await self._run(labs, scratch)
            seconds = time.monotonic() - began
            places = [
                await recorded(stage, number, labs.told) for number, stage in enumerate(labs.stages)
            ]
            local = local_place(labs.told)
            if local is not None:
                places.append(local)
                with anyio.move_on_after(END_LOCAL, shield=True):
                    await reap(home=scratch / "home", end=True)
        remarks = (str(one["text"]) for one in labs.told if one["tell"] == "Remark")
        return Record(
            script=self._script,
            exit_code=code,
            seconds=seconds,
            scenario=scenario,
            places=tuple(places),
            remarks=tuple(dict.fromkeys(remarks)),
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
                    script.send_signal(number)
                elif interrupted:
                    script.kill()
                    continue
                if not interrupted:
                    interrupted = True
                    sys.stderr.write(
                        f"precip: interrupted; the script has {UNWIND:.0f} s to unwind"
                        " (Ctrl-C again kills it)\n"
                    )
                    impatience.start_soon(_kill_late, script)

    async def _run(self, labs: Labs, scratch: Path) -> int:
        ours, theirs = socket.socketpair()
        with theirs:
            line = command(
                self._script,
                self._arguments,
                line=theirs.fileno(),
                scratch=scratch,
                cloud=self._cloud,
            )
            process = await anyio.open_process(
                line, stdin=None, stdout=None, stderr=None, pass_fds=[theirs.fileno()]
            )
        async with process, anyio.create_task_group() as tasks:
            told = anyio.Event()

            async def listen() -> None:
                await labs.serve(ours)
                told.set()

            tasks.start_soon(listen)
            self._process = process
            code = await process.wait()
            self._process = None
            with anyio.move_on_after(LAST_WORDS):  # a process that it has left may hold the line
                await told.wait()
            tasks.cancel_scope.cancel()
        return code


async def _kill_late(script: Process) -> None:
    with anyio.move_on_after(UNWIND):
        await script.wait()
        return
    script.kill()
