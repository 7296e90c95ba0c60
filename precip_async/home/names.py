"""Names of experiments: readable ones, and the lock by which a living process holds one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from precip_async.errors import InvalidArgument, NameInUse
from precip_async.home.files import reported
from precip_async.steps import reached

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from precip_async.home.directory import Home

__all__ = ["Hold", "checked_name", "default_name", "hold_name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch

_ADJECTIVES = (
    "amber brave brisk calm clear clever coral crisp dapper eager early fair fleet fond gentle "
    "golden happy hardy honest jolly keen kind lively lucky mellow merry mighty neat nimble noble "
    "patient plucky polite proud quick quiet rapid ready royal ruby rustic sage silent silver "
    "smooth snowy solid spry steady sunny swift tidy tidal vivid warm wise witty young zesty"
)
_NOUNS = (
    "adder badger bear beaver bison bittern bobcat carp condor coot crane curlew deer dingo dipper "
    "dove eagle egret elk falcon ferret finch fox gecko gibbon goose grebe hare hawk heron ibex "
    "ibis jackal jay kestrel kite koala lark lemur linnet lynx magpie marmot marten martin mole "
    "moose newt ocelot osprey otter owl panda petrel pika plover puffin quail raven robin seal "
    "shrew skua sloth snipe stoat stork swan tapir teal tern thrush toad vole walrus weasel wren"
)


def default_name() -> str:
    """A readable name that nobody has yet, such as ``swift-otter-1a2b``."""
    adjective, noun = (secrets.choice(words.split()) for words in (_ADJECTIVES, _NOUNS))
    return f"{adjective}-{noun}-{secrets.token_hex(2)}"


def checked_name(name: object) -> str:
    """`name`, if it can name an experiment.

    Raises:
        InvalidArgument: It is not 1 to 64 letters, digits, ``-``, ``_`` and ``.``, or does not
            begin with a letter or a digit.
    """
    if not isinstance(name, str) or not _NAME(name):
        raise InvalidArgument(
            "a name must be 1 to 64 letters, digits, '-', '_' or '.', and begin with a letter or "
            f"a digit, not {name!r}"
        )
    return name


class Hold:
    """A name that this process holds, until `release` or its death; made by `hold_name`.

    As a context manager it releases the name at the end.
    """

    def __init__(self, name: str, path: Path, descriptor: int) -> None:
        self.name = name
        self._path = path
        self._descriptor: int | None = descriptor
        _held.add(self)

    def __repr__(self) -> str:
        state = "released" if self._descriptor is None else "held"
        return f"<Hold {self.name!r} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let go of the name; a second time does nothing. Blocks."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is None:
            return
        try:
            with reported(self._path):
                self._path.unlink(missing_ok=True)  # still ours: nobody else can hold it yet
        finally:
            os.close(descriptor)
        reached("name.released")

    def _forsake(self) -> None:
        """Leave the name to the process that we were forked from."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


# A forked child shares the lock of its parent, and would hold the name beyond the parent's death.
_held: set[Hold] = set()


def _forsake_all() -> None:
    for hold in _held:
        hold._forsake()  # noqa: SLF001 - of this module
    _held.clear()


os.register_at_fork(after_in_child=_forsake_all)


def hold_name(home: Home, name: str) -> Hold:
    """Hold `name` against every other experiment of `home`, in this process too. Blocks.

    Raises:
        InvalidArgument: See `checked_name`.
        NameInUse: A living process holds it.
        HomeError: The lock can't be written.
    """
    path = home.runtime("names") / f"{checked_name(name)}.lock"
    with reported(path):
        # Each further turn means that someone else released the name meanwhile.
        while (hold := _try_to_hold(name, path)) is None:
            continue
    reached("name.held")
    return hold


def _try_to_hold(name: str, path: Path) -> Hold | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _is_at(path, descriptor):
                return None
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
            raise NameInUse(name=name, holder=holder or "another process") from None
        if not _is_at(path, descriptor):  # removed between the opening and the locking
            return None
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder = f"process {os.getpid()} on host {socket.gethostname()} since {since}\n"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
        undo.pop_all()
        return Hold(name, path, descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether `descriptor` is of the file that is at `path` now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
