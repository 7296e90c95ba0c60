"""What `run` and its kin are told beside what to do: values and the types of what may differ."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING

from precip_async.errors import InvalidArgument
from precip_async.settings import AnyPath, checked_number, checked_user

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from precip_async.events import Stream
    from precip_async.fleet import Instance

    TextOf = str | Callable[[Instance], str]
    PathOf = AnyPath | Callable[[Instance], AnyPath]
    ArgsOf = Sequence[str] | Callable[[Instance], Sequence[str]]
    Environment = Mapping[str, str] | Callable[[Instance], Mapping[str, str]]
    OnOutput = Callable[[Instance, Stream, str], object]

__all__ = ["How"]


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """The keywords that `run` and `copy_and_run` share, and those that transfers have of them."""

    user: str | None = None
    check_exit_code: bool = True
    output_base_name: AnyPath | None = None
    timeout: float | None = None
    stdin: str | bytes | None = None
    env: Environment | None = None
    cwd: str | None = None
    on_output: OnOutput | None = None

    def __post_init__(self) -> None:
        checked_number("timeout", self.timeout)
        if self.stdin is not None and not isinstance(self.stdin, str | bytes):
            raise InvalidArgument(f"stdin must be text or bytes, not {self.stdin!r}")
        if self.on_output is not None and not callable(self.on_output):
            raise InvalidArgument(f"on_output must be callable, not {self.on_output!r}")
        if self.cwd is not None and (not isinstance(self.cwd, str) or not self.cwd):
            raise InvalidArgument(f"cwd must be a directory there, not {self.cwd!r}")
        if self.user is not None:
            checked_user("user", self.user)
        base = self.output_base_name
        if base is not None and (not isinstance(base, str | PathLike) or not fspath(base)):
            raise InvalidArgument(f"output_base_name must be the beginning of a path, not {base!r}")

    @property
    def input(self) -> bytes | None:
        """`stdin` as bytes."""
        return self.stdin.encode() if isinstance(self.stdin, str) else self.stdin
