"""The one command that tells whether an instance is ready, and what it tells of cloud-init.

Commands run long before an image's cloud-init is done with what user data asks for: packages are
missing then, and files half written. So where there is user data, the command that shows that
commands run looks for cloud-init's own word as well, in the same round trip.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from precip_async.clouds.base import CLOUD_INIT_STATE
from precip_async.errors import (
    AuthenticationFailed,
    ConnectError,
    ConnectTimeout,
    HostKeyMismatch,
    RemoteError,
    shortened,
)
from precip_async.shell import script
from precip_async.ssh.batch import Column, Watch
from precip_async.ssh.command import Order
from precip_async.ssh.commands import Asks
from precip_async.ssh.remote import one

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from precip_async.fleet import Instance
    from precip_async.limits import Limits
    from precip_async.ssh.answer import Answer
    from precip_async.ssh.remote import Remote
    from precip_async.ssh.transport import Target

__all__ = ["Findings", "Tried", "explained", "probe"]

BUSY: Final = 75  # the exit code of `_LOOK` when cloud-init is still at it: sysexits' "try again"
SHOWN: Final = 200  # characters of an error that are shown

# On one line and without an exclamation mark, so that csh can hand it on. Everybody may read these
# files. No directory: no cloud-init. Releases before 0.7.3 write neither of the two files, and
# leave another one when they are done.
_LOOK: Final = (
    f"d=${{{CLOUD_INIT_STATE}:-/run/cloud-init}}; "
    '[ -d "$d" ] || exit 0; [ -e "$d/disabled" ] && exit 0; '
    'if [ -e "$d/result.json" ]; then cat "$d/result.json"; exit 0; fi; '
    'if [ -e "$d/status.json" ]; then cat "$d/status.json"; '
    "elif [ -e /var/lib/cloud/instance/boot-finished ]; then exit 0; fi; "
    f"exit {BUSY}"
)


_OTHER_USER = re.compile(r"login as the user\s+\"?([a-z_][\w.-]*)\"?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found on an instance on which commands run.

    Attributes:
        busy: Whether its cloud-init is not done yet.
        stage: How far that is, in its own words; empty: it does not say.
        error: The first of the errors that it finished with; empty: there were none.
    """

    busy: bool = False
    stage: str = ""
    error: str = ""


class Tried(Watch):
    """Tells of each of some instances whether it was reached: the error, or ``None``."""

    def __init__(
        self,
        instances: Sequence[Instance],
        tell: Callable[[Instance, RemoteError | None], object],
    ) -> None:
        self._instances, self._tell = instances, tell

    def ended(self, place: int, outcome: Any) -> None:
        """See `Watch.ended`."""
        self._tell(self._instances[place], outcome)


async def probe(remote: Remote, target: Target, limits: Limits, *, cloud_init: bool) -> Findings:
    """See that commands run at `target`, within ``limits.probe_timeout`` seconds.

    Args:
        remote: Who runs it.
        target: Where.
        limits: The graces with which a command is ended that does not end by itself.
        cloud_init: Whether to look for cloud-init as well.

    Raises:
        RemoteError: They don't.
    """
    timeout = limits.probe_timeout
    command = script(_LOOK) if cloud_init else "true"
    order = Order(command=command, user=target.user or "", timeout=timeout)
    asks = Asks(targets=Column([target]), order=Column([order]), limits=limits)
    answer: Answer = await one(remote, asks)
    problem = ""
    if answer.exit_code is None and not answer.begun and answer.noise:
        # Stock images say why root may not log in, and keep the line for a while after that.
        raise AuthenticationFailed(
            instance_id=target.instance_id,
            host=target.host,
            problem=f"the login as {target.user} runs no commands: {answer.noise}",
        )
    if answer.exit_code is None:
        problem = f"the login works, and a command does not end within {timeout:g} s"
    elif answer.exit_code == BUSY and cloud_init:
        return Findings(busy=True, stage=_stage(answer.said))
    elif answer.exit_code:
        problem = f"the login works, and a command that does nothing exits with {answer.exit_code}"
    if problem:
        raise RemoteError(instance_id=target.instance_id, host=target.host, problem=problem)
    return Findings(error=_first_error(answer.said))


def explained(error: RemoteError, mending: str) -> tuple[str, str]:
    """What an error while probing means for the boot, and what to do about it."""
    match error:
        case AuthenticationFailed() if other := _OTHER_USER.search(error.problem):
            user = other.group(1)
            return (
                f"root login is disabled, this image wants user {user}",
                f'give login_user="{user}"; other users are then reached by sudo',
            )
        case AuthenticationFailed():
            return (
                f"key refused: {error.problem}",
                "the key may not be installed yet, or belongs to another user: see login_user=",
            )
        case HostKeyMismatch():
            return f"host key refused: {error.problem}", mending
        case ConnectTimeout():
            return (
                f"port filtered, or silent: {error.problem}",
                "see the security group, ssh_cidr= and bastion=",
            )
        case ConnectError():  # its own sentence says who refused, which may be this computer
            return error.problem, "its SSH server may not be up yet" if error.patience else ""
        case _:
            return error.problem, "see its console"


def _stage(said: bytes) -> str:
    stage = _version_1(said).get("stage")
    return shortened(stage, SHOWN) if isinstance(stage, str) else ""


def _first_error(said: bytes) -> str:
    errors = _version_1(said).get("errors")
    return shortened(str(errors[0]), SHOWN) if isinstance(errors, list) and errors else ""


def _version_1(said: bytes) -> dict[str, Any]:
    """What cloud-init has written down, in the one form that there is; empty where it is none."""
    try:
        said_of = json.loads(said)["v1"]
    except (ValueError, KeyError, TypeError):
        return {}
    return said_of if isinstance(said_of, dict) else {}
