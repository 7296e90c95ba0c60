"""What commands answered: one frozen value an instance, and the manual's three lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

__all__ = ["CommandResult", "RunResults"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What one command did on one instance.

    Attributes:
        instance_id: The instance it ran on.
        index: That instance's place in the experiment, from 0, in provisioning order.
        host: The address it was reached at.
        command: The command as it was given.
        user: The user it ran as.
        exit_code: The exit code; ``-n`` when signal ``n`` ended it; ``None`` when it had none
            because its time was up.
        started_at: When it was sent, an aware UTC time.
        duration: Seconds from then until its exit was known.
        stdout_bytes: What was kept of its output: the head, up to ``limits.output_limit`` bytes;
            empty when the output went to a file by ``output_base_name=``.
        stderr_bytes: Likewise.
        stdout_path: The file that holds the whole stream, where one was written; else ``None``.
        stderr_path: Likewise.
    """

    instance_id: str
    index: int
    host: str
    command: str
    user: str
    exit_code: int | None
    started_at: datetime
    duration: float
    stdout_bytes: bytes = field(default=b"", repr=False)
    stderr_bytes: bytes = field(default=b"", repr=False)
    stdout_path: Path | None = None
    stderr_path: Path | None = None

    @property
    def stdout(self) -> str:
        """`stdout_bytes` as text: UTF-8, what is not UTF-8 replaced by U+FFFD."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """`stderr_bytes` as text: UTF-8, what is not UTF-8 replaced by U+FFFD."""
        return self.stderr_bytes.decode(errors="replace")

    @property
    def ok(self) -> bool:
        """Whether the command exited with zero."""
        return self.exit_code == 0


class RunResults(Sequence["builtins.list[Any]"]):
    """A sequence of the manual's three lists: ``[exit_codes, stdouts, stderrs]``.

    ``codes, outs, errs = exp.run(...)`` and ``exp.run(...)[1][0]`` both work; the lists are in
    provisioning order. `by_instance` holds the same as one value an instance.
    """

    __slots__ = ("_lists", "by_instance")

    def __init__(self, by_instance: Iterable[CommandResult] = ()) -> None:
        self.by_instance: tuple[CommandResult, ...] = tuple(by_instance)
        self._lists: tuple[list[Any], list[Any], list[Any]] | None = None

    def _three(self) -> tuple[list[Any], list[Any], list[Any]]:
        if self._lists is None:  # decoded when first asked for: a large fan-out may never ask
            results = self.by_instance
            self._lists = (
                [result.exit_code for result in results],
                [result.stdout for result in results],
                [result.stderr for result in results],
            )
        return self._lists

    @overload
    def __getitem__(self, index: int) -> list[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[list[Any]]: ...
    def __getitem__(self, index: int | slice) -> list[Any] | Sequence[list[Any]]:
        return self._three()[index]

    def __len__(self) -> int:
        return 3

    def __eq__(self, other: object) -> bool:
        """Equal to another `RunResults`, and to a list or tuple of the same three lists."""
        if isinstance(other, RunResults):
            return self.by_instance == other.by_instance
        if isinstance(other, list | tuple):
            return list(self._three()) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment] # it holds lists

    def __repr__(self) -> str:
        return f"RunResults({list(self._three())!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (RunResults, (self.by_instance,))

    @property
    def ok(self) -> bool:
        """Whether every command exited with zero (true of no commands at all)."""
        return all(result.ok for result in self.by_instance)

    @property
    def failed(self) -> tuple[CommandResult, ...]:
        """The results whose exit code was not zero."""
        return tuple(result for result in self.by_instance if not result.ok)
