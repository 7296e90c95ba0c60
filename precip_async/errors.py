"""Everything that can go wrong, as one tree.

::

    ExperimentException
    ├── InvalidArgument (also ValueError)
    ├── CloudError
    │   └── NotAuthorized · ImageNotFound · InvalidInstanceType · QuotaExceeded
    │       CapacityUnavailable · Throttled · EndpointUnreachable
    ├── BootError
    │   └── BootTimeout (also TimeoutError)
    ├── RemoteError
    │   ├── ConnectError
    │   │   └── AuthenticationFailed · HostKeyMismatch · ConnectTimeout (also TimeoutError)
    │   ├── ConnectionLost
    │   ├── CommandFailed ── CommandTimeout (also TimeoutError)
    │   └── TransferError
    ├── HomeError
    ├── ExperimentClosed · NameInUse
    └── FleetError (also ExceptionGroup)

Errors are given facts and build their sentence themselves. The facts stay readable as attributes,
survive pickling, and never hold a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from precip_async.fleet import BootDiagnosis
    from precip_async.results import CommandResult, RunResults

__all__ = [
    "AuthenticationFailed",
    "BootError",
    "BootTimeout",
    "CapacityUnavailable",
    "CloudError",
    "CommandFailed",
    "CommandTimeout",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionLost",
    "EndpointUnreachable",
    "ExperimentClosed",
    "ExperimentException",
    "FleetError",
    "HomeError",
    "HostKeyMismatch",
    "ImageNotFound",
    "InvalidArgument",
    "InvalidInstanceType",
    "NameInUse",
    "NotAuthorized",
    "QuotaExceeded",
    "RemoteError",
    "Throttled",
    "TransferError",
]

TAIL = 2000  # characters of a stream that a message shows; the whole is in `.result`
SHOWN_ERRORS = 5  # of a fan-out; the rest is in `.failed`
SHOWN = 200  # characters of a command that a message shows


def shortened(text: str, limit: int = SHOWN) -> str:
    """`text` on one line, its middle left out where it is longer than `limit` characters.

    What a terminal would obey rather than show is replaced: it may come from somebody else.
    """
    line = " ".join(text.split())
    if not line.isprintable():
        line = "".join(one if one.isprintable() else "�" for one in line)
    half = (limit - 3) // 2
    return line if len(line) <= limit else f"{line[:half]} … {line[-half:]}"


def _rebuild(cls: type[ExperimentException], args: tuple[Any, ...], facts: dict[str, Any]) -> Any:
    return cls(*args, **facts)


class ExperimentException(Exception):
    """The root of everything this library raises.

    Attributes:
        results: The `RunResults` so far, in the order asked, when the error ended a ``run`` or a
            ``copy_and_run``; else ``None``.
    """

    results: RunResults | None = None
    _facts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str = "") -> None:
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        args = () if self._facts else self.args
        facts = {name: getattr(self, name) for name in self._facts}
        return (_rebuild, (type(self), args, facts), self._state())

    def _state(self) -> dict[str, Any]:
        state = dict(self.__dict__)  # notes and `results` with it
        if isinstance(self.__cause__, ExperimentException | OSError):  # others may not be picklable
            state["__cause__"] = self.__cause__
        return state


class InvalidArgument(ExperimentException, ValueError):
    """Bad input, refused before anything was done."""


class ExperimentClosed(ExperimentException):
    """A verb was called before the experiment was opened, or after it was closed."""


class NameInUse(ExperimentException):
    """Another living process, or instances it left running, hold the experiment's name.

    ``left`` says which of the two: instances that nobody answers for can be attached to, or reaped.
    """

    _facts: ClassVar[tuple[str, ...]] = ("name", "holder", "left")

    def __init__(self, *, name: str, holder: str, left: bool = False) -> None:
        mend = "choose another name=, or end that one first"
        if left:
            mend = (
                f"attach({name!r}, ...) of the experiment's class goes on with them, "
                f"`precip reap --yes --experiment {name}` ends them, and another name= leaves them"
            )
        super().__init__(f"the name {name!r} is held by {holder}; {mend}")
        self.name, self.holder, self.left = name, holder, left


class HomeError(ExperimentException):
    """The home directory can't be used as it is: its owner, its modes, or its journal."""

    _facts: ClassVar[tuple[str, ...]] = ("path", "problem", "mend")

    def __init__(self, *, path: str, problem: str, mend: str) -> None:
        super().__init__(f"{path}: {problem}; {mend}")
        self.path, self.problem, self.mend = path, problem, mend


class CloudError(ExperimentException):
    """A cloud refused a request or could not fulfil it.

    Attributes:
        passing: Whether the same request may be answered otherwise in a moment.
    """

    passing: ClassVar[bool] = False
    _facts: ClassVar[tuple[str, ...]] = (
        "message",
        "cloud",
        "operation",
        "code",
        "request_id",
        "hint",
    )

    def __init__(
        self,
        message: str,
        *,
        cloud: str,
        operation: str,
        code: str = "",
        request_id: str = "",
        hint: str = "",
    ) -> None:
        text = f"{cloud}: {operation}: {message}"
        if code:
            text += f" ({code})"
        super().__init__(f"{text}; {hint}" if hint else text)
        self.message, self.cloud, self.operation = message, cloud, operation
        self.code, self.request_id, self.hint = code, request_id, hint


class NotAuthorized(CloudError):
    """The cloud did not accept the credentials, or they do not allow the operation."""


class ImageNotFound(CloudError):
    """The cloud has no such image."""


class InvalidInstanceType(CloudError):
    """The cloud has no such instance type."""


class QuotaExceeded(CloudError):
    """The account's quota, or a limit of this machine, does not allow so many."""


class CapacityUnavailable(CloudError):
    """The cloud has no room for so many instances of this type now."""


class Throttled(CloudError):
    """The cloud asks us to slow down, and went on asking."""

    passing = True


class EndpointUnreachable(CloudError):
    """Nobody answered at the cloud's endpoint."""

    passing = True


class BootError(ExperimentException):
    """Instances did not become ready.

    Attributes:
        diagnoses: What was last seen of each of them, by instance id.
    """

    _facts: ClassVar[tuple[str, ...]] = ("diagnoses", "waited")

    def __init__(self, *, diagnoses: Mapping[str, BootDiagnosis], waited: float) -> None:
        lines = [f"  {instance_id}: {diagnosis}" for instance_id, diagnosis in diagnoses.items()]
        super().__init__(self._headline(len(lines), waited) + "\n" + "\n".join(lines))
        self.diagnoses, self.waited = dict(diagnoses), waited

    @staticmethod
    def _headline(count: int, waited: float) -> str:
        return f"{count} instance(s) did not become ready ({waited:.0f} s):"


class BootTimeout(BootError, TimeoutError):
    """Instances did not become ready within the timeout; calling ``wait`` again resumes."""

    @staticmethod
    def _headline(count: int, waited: float) -> str:
        return f"{count} instance(s) not ready after {waited:.0f} s; wait() again resumes:"


class RemoteError(ExperimentException):
    """Something went wrong on, or on the way to, one instance.

    Attributes:
        instance_id: The instance.
        host: The address it was spoken to at.
    """

    _facts: ClassVar[tuple[str, ...]] = ("instance_id", "host", "problem")

    def __init__(self, *, instance_id: str, host: str, problem: str) -> None:
        super().__init__(f"{_place(instance_id, host)}: {problem}")
        self.instance_id, self.host, self.problem = instance_id, host, problem


class ConnectError(RemoteError):
    """No SSH connection could be made.

    Attributes:
        patience: Seconds for which trying again makes sense; 0 where it never does.
    """

    patience: float = 0.0


class AuthenticationFailed(ConnectError):
    """The SSH server did not accept our key for the user."""


class HostKeyMismatch(ConnectError):
    """The SSH server showed another host key than the one we know it by."""


class ConnectTimeout(ConnectError, TimeoutError):
    """No SSH connection within the limit."""


class ConnectionLost(RemoteError):
    """An SSH connection ended in the middle of its work; what it did is not known."""


class TransferError(RemoteError):
    """A file could not be moved; the target is as it was."""


class CommandFailed(RemoteError):
    """A command exited with another code than zero.

    Attributes:
        result: This instance's `CommandResult`. The message shows the end of its stderr.
    """

    _facts: ClassVar[tuple[str, ...]] = ("result",)

    def __init__(self, *, result: CommandResult) -> None:
        problem = f"{self._outcome(result)}: {shortened(result.command)}"
        if said := (result.stderr or result.stdout)[-TAIL:].strip():
            problem += f"\n{said}"
        super().__init__(instance_id=result.instance_id, host=result.host, problem=problem)
        self.result = result

    @staticmethod
    def _outcome(result: CommandResult) -> str:
        return f"exit code {result.exit_code}"


class CommandTimeout(CommandFailed, TimeoutError):
    """A command did not end in time, and was ended, unless it is ``running``.

    Attributes:
        leftover: What could not be ended on the instance, in words; empty when nothing is left.
        running: Whether it was left running, being a detached command.
    """

    _facts: ClassVar[tuple[str, ...]] = ("result", "leftover", "running")

    def __init__(self, *, result: CommandResult, leftover: str = "", running: bool = False) -> None:
        super().__init__(result=result)
        self.leftover, self.running = leftover, running
        if running:
            self.args = (self.args[0].replace(self._outcome(result), self._still(result), 1),)
        if leftover:
            self.args = (f"{self.args[0]}\nnot everything of it could be ended: {leftover}",)

    @staticmethod
    def _outcome(result: CommandResult) -> str:
        return f"ended after {result.duration:.1f} s, its timeout"

    @staticmethod
    def _still(result: CommandResult) -> str:
        return f"not ended after {result.duration:.1f} s of waiting, and it goes on"


class FleetError(ExperimentException, ExceptionGroup[RemoteError]):
    """Some instances of a fan-out failed; all were tried.

    Attributes:
        outcomes: One `CommandResult`, `RemoteError` or, for transfers, ``None`` or path an
            instance, in the order asked.
    """

    outcomes: tuple[Any, ...]

    def __new__(cls, outcomes: Sequence[Any]) -> Self:
        """Group the errors among `outcomes`, which must hold at least one."""
        failed = [outcome for outcome in outcomes if isinstance(outcome, RemoteError)]
        self = super().__new__(cls, _fleet_headline(len(failed), len(outcomes), failed), failed)
        self.outcomes = tuple(outcomes)
        return self

    def __init__(self, outcomes: Sequence[Any]) -> None:
        """See `__new__`: a group is built there."""
        super().__init__("")

    def __str__(self) -> str:
        return self.message  # without the count of exceptions, which the message has already

    @property
    def succeeded(self) -> tuple[Any, ...]:
        """The outcomes of the instances that did not fail, in the order asked."""
        return tuple(one for one in self.outcomes if not isinstance(one, RemoteError))

    @property
    def failed(self) -> tuple[RemoteError, ...]:
        """The errors, in the order asked."""
        return self.exceptions  # type: ignore[return-value] # a FleetError nests no groups

    def derive(self, excs: Sequence[RemoteError]) -> FleetError:  # type: ignore[override] # of ours only
        """The part of this error that holds `excs`, as ``except*`` and ``split`` ask for."""
        return FleetError(excs)

    def __reduce__(self) -> tuple[Any, ...]:
        return (FleetError, (self.outcomes,), self._state())


def _fleet_headline(failed: int, total: int, errors: Sequence[RemoteError]) -> str:
    first = "\n".join(f"  {shortened(str(error), 300)}" for error in errors[:SHOWN_ERRORS])
    more = f"\n  … and {failed - SHOWN_ERRORS} more" if failed > SHOWN_ERRORS else ""
    return f"{failed} of {total} instances failed:\n{first}{more}"


def _place(instance_id: str, host: str) -> str:
    return instance_id if not host or host == instance_id else f"{instance_id} ({host})"
