"""One rehearsal, from its first check to its report."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from precip_async.errors import ExperimentException, InvalidArgument
from precip_async.lab.scenario import Scenario
from precip_async.rehearsal.casting import cast
from precip_async.rehearsal.performance import ENDINGS, Performance
from precip_async.rehearsal.report import as_json, as_text, say

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Sequence

    from precip_async.clouds.local.cloud import Isolation
    from precip_async.rehearsal.record import Record

__all__ = ["Rehearsal"]

CLEAR: Final = 30.0  # seconds for removing what was written, which is little


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What is to be rehearsed, and how. Making one blocks: it looks for the files.

    Attributes:
        script: The path of the script.
        arguments: The script's own.
        cloud: What plays every cloud of the script; ``None``: each is played by its own kind.
        scenario: What is to go wrong, as `Scenario.parse` reads it.
        isolation: How the lab's machines are kept apart.
        report: Where the record is written to as JSON; ``None``: nowhere.

    Raises:
        InvalidArgument: One of these can't be.
    """

    script: str
    arguments: Sequence[str] = ()
    cloud: str | None = None
    scenario: str = ""
    isolation: Isolation = "auto"
    report: Path | None = None
    plot: Scenario = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "plot", Scenario.parse(self.scenario))
        if self.cloud is not None:
            cast(self.cloud)
        if not self.script:
            raise InvalidArgument("which script is to be rehearsed? name it last")
        if not Path(self.script).is_file():
            raise InvalidArgument(f"there is no script {self.script}")
        if not os.access(self.script, os.R_OK):
            raise InvalidArgument(f"the script {self.script} can't be read")
        if self.report is not None and not self.report.absolute().parent.is_dir():
            raise InvalidArgument(f"there is no directory for the report {self.report}")

    async def perform(self) -> int:
        """Run the script, write the report to stderr, and return the rehearsal's exit code.

        That is the script's own; 128 and the number of a signal that ended it; or 1 where the
        script did well but left something running, or spoke to what could not be played. Ctrl-C
        and SIGTERM are the script's to handle: it is given a minute to unwind, or until a second
        Ctrl-C.

        Raises:
            ExperimentException: The report can't be written; stderr has it all the same.
        """
        with anyio.open_signal_receiver(*ENDINGS) as signals:
            record = await self._performed(signals)
            await anyio.to_thread.run_sync(self._tell, record)
        return record.verdict

    async def _performed(self, signals: AsyncIterator[signal.Signals]) -> Record:
        performance, failure = Performance(self), None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(performance.heed, signals)
            scratch = await anyio.to_thread.run_sync(_scratch)
            try:
                record = await performance.run(Path(scratch.name))
            except ExperimentException as error:
                failure = error  # raised below by itself, and not as one of a group
            finally:
                with anyio.move_on_after(CLEAR, shield=True):
                    await anyio.to_thread.run_sync(scratch.cleanup, abandon_on_cancel=True)
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return record

    def _tell(self, record: Record) -> None:
        say(as_text(record))
        if self.report is None:
            return
        try:
            self.report.write_text(as_json(record))
        except OSError as error:
            raise ExperimentException(f"the report can't be written: {error}") from error


def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="precip-rehearsal-", ignore_cleanup_errors=True)
