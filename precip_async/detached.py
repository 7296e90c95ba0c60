"""Commands that go on without us, as they are held in hand: followed, waited for, ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self, overload

from precip_async.errors import InvalidArgument
from precip_async.how import How
from precip_async.results import RunResults
from precip_async.ssh.tasks import in_child_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from precip_async.events import Stream
    from precip_async.fleet import Instance
    from precip_async.how import OnOutput
    from precip_async.settings import AnyPath
    from precip_async.ssh.detached import Found
    from precip_async.stage import Stage

    Offsets = tuple[int, int]

__all__ = ["Chunk", "DetachedRun", "Following", "Job"]

LONG = 10.0  # seconds for which an instance is asked to wait for output that does not come
SHORT = 1.0  # likewise, where others may have some meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some output of a detached command.

    Attributes:
        instance_id: Of which instance.
        stream: ``"stdout"`` or ``"stderr"``.
        data: What has come; a character may end in the next.
        offsets: The bytes of stdout and of stderr that one has with it: where to go on.
    """

    instance_id: str
    stream: Stream
    data: bytes
    offsets: Offsets

    @property
    def text(self) -> str:
        """`data` as text: UTF-8, what is not UTF-8 replaced by U+FFFD."""
        return self.data.decode(errors="replace")


@dataclass(eq=False, slots=True, kw_only=True)
class Job:
    """A detached command on one instance.

    Attributes:
        id: Ours; the directory of this name in its user's ``~/.precip-jobs`` holds its output.
        run: What the command's jobs on all instances have in common.
        name: What `start` was told to call it.
        instance: Where it is.
        command: As it was given.
        user: Who runs it.
        started_at: When it was asked for, an aware UTC time.
        exit_code: ``-n`` when signal ``n`` ended it; ``None`` while it is not known to have ended.

    The rest is ours.
    """

    id: str
    run: str
    name: str
    instance: Instance
    command: str
    user: str
    started_at: datetime
    exit_code: int | None = None
    found: Found = field(repr=False)
    stage: Stage = field(repr=False)
    how: How = field(repr=False)


class DetachedRun(Sequence[Job]):
    """A command that was started on some instances: one `Job` each, in provisioning order.

    Whatever is cancelled or raises here, the command goes on: only `end` ends it, and the end of
    its instance.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = tuple(jobs)

    @classmethod
    def grouped(cls, jobs: Iterable[Job]) -> list[Self]:
        """`jobs` by the command that they are of, the oldest first."""
        runs: dict[str, list[Job]] = {}
        for job in sorted(jobs, key=lambda job: (job.started_at, job.instance.index)):
            runs.setdefault(job.run, []).append(job)
        return [cls(sorted(run, key=lambda job: job.instance.index)) for run in runs.values()]

    @overload
    def __getitem__(self, index: int) -> Job: ...
    @overload
    def __getitem__(self, index: slice) -> DetachedRun: ...
    def __getitem__(self, index: int | slice) -> Job | DetachedRun:
        """One of its jobs; or some of them, which can be followed and ended by themselves."""
        return DetachedRun(self._jobs[index]) if isinstance(index, slice) else self._jobs[index]

    def __len__(self) -> int:
        return len(self._jobs)

    def __repr__(self) -> str:
        running = sum(job.exit_code is None for job in self)
        called = f" {self.name!r}" if self.name else ""
        return f"<DetachedRun{called} on {len(self)} instances, {running} not known to have ended>"

    @property
    def name(self) -> str:
        """What it was called when it was started; may be empty."""
        return self._jobs[0].name if self._jobs else ""

    async def wait(
        self,
        check_exit_code: bool = True,
        *,
        output_base_name: AnyPath | None = None,
        timeout: float | None = None,
        on_output: OnOutput | None = None,
    ) -> RunResults:
        """Wait until it has ended on every instance, with all of its output from the beginning.

        A connection that is lost meanwhile is made again, for two minutes without success.

        Args:
            check_exit_code: As for `Experiment.run`, and the next ones likewise.
            output_base_name: Where output is written to.
            timeout: Seconds for the waiting.
            on_output: Called as output is read.

        Raises:
            CommandFailed: Another exit code than 0.
            CommandTimeout: It goes on; `timeout` is over. Its ``running`` says so.
            TransferError: Output is missing, for a full disk there say, or can't be written here.
            RemoteError: There is no way to the instance, or nobody knows how it ended.
            FleetError: Any of these, where it is on several instances.
        """
        how = How(
            check_exit_code=check_exit_code,
            output_base_name=output_base_name,
            timeout=timeout,
            on_output=on_output,
        )
        if not self._jobs:
            return RunResults()
        stage = self._jobs[0].stage
        jobs = stage.wait_jobs(self._jobs, how)
        return RunResults(
            await stage.each(jobs, parallel=len(self) > 1, results=True, takes_files=True)
        )

    def follow(self, offsets: Mapping[str, Offsets] | Offsets = (0, 0)) -> Following:
        """Its output as it is written, until it has ended everywhere: ``async for chunk in …``.

        It may be left at any time, and taken up again, also by another process: no byte is missing
        then or comes twice. Chunks of one instance are in order in each stream; nobody knows how
        the two streams, or two instances, were to each other.

        Args:
            offsets: Bytes of stdout and stderr that one has: of every instance, or by the
                instance's id. ``chunk.offsets`` says them.

        Raises:
            InvalidArgument: They are not two numbers.
            RemoteError: While it is followed: as for `wait`, but that an exit code is no error.
        """
        return Following(self._jobs, offsets)

    async def end(self) -> None:
        """End it where it runs: all of its processes, by TERM, then KILL; and see that it is so.

        Raises:
            RemoteError: Something may be left running; of several instances `FleetError`.
        """
        if self._jobs:
            stage = self._jobs[0].stage
            await stage.each(stage.end_jobs(self._jobs), parallel=len(self) > 1)

    async def remove(self) -> None:
        """Remove what the instances keep of it: output, exit code, and that it ever was.

        Raises:
            InvalidArgument: It is not known to have ended: wait for it, or end it, first.
            RemoteError: Something is left; of several instances `FleetError`.
        """
        if running := [job.instance.id for job in self if job.exit_code is None]:
            raise InvalidArgument(
                f"not known to have ended on {', '.join(running)}: wait() for it or end() it first"
            )
        if self._jobs:
            stage = self._jobs[0].stage
            await stage.each(stage.remove_jobs(self._jobs), parallel=len(self) > 1)


class Following:
    """What `DetachedRun.follow` returns. Between two chunks it holds nothing open."""

    def __init__(
        self, jobs: Sequence[Job], offsets: Mapping[str, Offsets] | Offsets = (0, 0)
    ) -> None:
        self._offsets = {job: _checked_offsets(job.instance.id, offsets) for job in jobs}
        self._ready: deque[Chunk] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        chunk = await self.next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def next(self) -> Chunk | None:
        """The next chunk, waited for; ``None``: it has ended, and there is none."""
        while not self._ready and self._offsets:
            await in_child_task(self._look)
        return self._ready.popleft() if self._ready else None

    async def _look(self) -> None:
        jobs = [*self._offsets]
        patience = LONG if len(jobs) == 1 else SHORT
        stage = jobs[0].stage
        looks = [partial(stage.read_job, job, self._offsets[job], patience) for job in jobs]
        for job, piece in zip(jobs, await stage.each(looks, parallel=len(jobs) > 1), strict=True):
            out, err = self._offsets[job]
            for stream, data in piece.data.items():
                out += len(data) * (stream == "stdout")
                err += len(data) * (stream == "stderr")
                if data:
                    self._ready.append(
                        Chunk(
                            instance_id=job.instance.id,
                            stream=stream,
                            data=data,
                            offsets=(out, err),
                        )
                    )
            self._offsets[job] = (out, err)
            if piece.ended is not None:
                del self._offsets[job]


def _checked_offsets(instance_id: str, given: object) -> Offsets:
    offsets = given.get(instance_id, (0, 0)) if hasattr(given, "get") else given
    if (
        not isinstance(offsets, tuple | list)
        or len(offsets) != 2  # noqa: PLR2004 - one for each stream
        or not all(type(one) is int and one >= 0 for one in offsets)
    ):
        raise InvalidArgument(
            f"offsets must be two numbers, the bytes of stdout and stderr that one has, or such by "
            f"instance id, not {given!r}"
        )
    return offsets[0], offsets[1]
