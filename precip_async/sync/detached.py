"""The blocking twin of `precip_async.DetachedRun`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from precip_async import detached as asynchronous
    from precip_async.detached import Chunk, Job
    from precip_async.how import OnOutput
    from precip_async.results import RunResults
    from precip_async.settings import AnyPath

    Offsets = tuple[int, int]

__all__ = ["DetachedRun", "Following"]

T = TypeVar("T")


class Call(Protocol):
    """Awaits a verb on the portal's loop."""

    def __call__(self, verb: Callable[..., Awaitable[T]], *args: object, **kwargs: object) -> T:
        """Await `verb` of these arguments."""
        ...


class DetachedRun(Sequence["Job"]):
    """The blocking twin of `precip_async.DetachedRun`."""

    def __init__(self, run: asynchronous.DetachedRun, call: Call) -> None:
        self._run, self._call = run, call

    @overload
    def __getitem__(self, index: int) -> Job: ...
    @overload
    def __getitem__(self, index: slice) -> DetachedRun: ...
    def __getitem__(self, index: int | slice) -> Job | DetachedRun:
        """One of its jobs; or some of them, which can be followed and ended by themselves."""
        if isinstance(index, slice):
            return DetachedRun(self._run[index], self._call)
        return self._run[index]

    def __len__(self) -> int:
        return len(self._run)

    def __repr__(self) -> str:
        return repr(self._run)

    @property
    def name(self) -> str:
        """What it was called when it was started; may be empty."""
        return self._run.name

    def wait(
        self,
        check_exit_code: bool = True,
        *,
        output_base_name: AnyPath | None = None,
        timeout: float | None = None,
        on_output: OnOutput | None = None,
    ) -> RunResults:
        """Wait until it has ended on every instance, with all of its output from the beginning."""
        return self._call(
            self._run.wait,
            check_exit_code,
            output_base_name=output_base_name,
            timeout=timeout,
            on_output=on_output,
        )

    def follow(self, offsets: Mapping[str, Offsets] | Offsets = (0, 0)) -> Following:
        """Its output as it is written, until it has ended everywhere: ``for chunk in …``."""
        return Following(self._run.follow(offsets), self._call)

    def end(self) -> None:
        """End it where it runs: all of its processes, by TERM, then KILL; and see that it is so."""
        self._call(self._run.end)

    def remove(self) -> None:
        """Remove what the instances keep of it: output, exit code, and that it ever was."""
        self._call(self._run.remove)


class Following:
    """What the blocking `DetachedRun.follow` returns."""

    def __init__(self, following: asynchronous.Following, call: Call) -> None:
        self._following, self._call = following, call

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        chunk = self._call(self._following.next)
        if chunk is None:
            raise StopIteration
        return chunk
