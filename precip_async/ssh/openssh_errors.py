"""What asyncssh and the system say when no connection can be made, as errors of ours."""

from __future__ import annotations

import errno
import math
import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncssh

from precip_async.errors import (
    AuthenticationFailed,
    ConnectError,
    ConnectTimeout,
    HostKeyMismatch,
    shortened,
)

if TYPE_CHECKING:
    from precip_async.ssh.transport import Target

__all__ = ["SHORT_PATIENCE", "Seen", "translate"]

SHORT_PATIENCE = 5.0  # seconds: a server that restarts is back by then, one that is off is not
LONGEST = 600  # characters of what keeps us from connecting
TOO_MANY_KEYS = "Too many authentication failures"  # sshd's words for it, and no code of its own

_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EHOSTDOWN}
_LOCAL_LIMIT = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS}


@dataclass(slots=True)
class Seen:
    """How far an attempt to connect came.

    Attributes:
        reached: Somebody accepted the TCP connection.
        spoke: He said that he speaks SSH.
        known: A host key was known, so that only that one would do.
        shown: The host key that was shown and is not believed; empty while there is none.
    """

    reached: bool = False
    spoke: bool = False
    known: bool = False
    shown: str = ""


def translate(
    error: Exception, target: Target, seen: Seen | None = None, timeout: float = math.nan
) -> ConnectError:
    """Our error for one that asyncssh or the system raised while connecting to `target`."""
    seen = seen or Seen()
    where = f"{target.host}:{target.port or 22}"
    kind: type[ConnectError] = ConnectError
    patience = 0.0
    # the order matters: asyncssh.TimeoutError is an OSError, and gaierror too
    match error:
        case asyncssh.PermissionDenied():
            kind = AuthenticationFailed
            problem = f"{where} does not accept our key for {target.user or 'the user'}"
        case asyncssh.HostKeyNotVerifiable():
            kind, problem = HostKeyMismatch, _stranger(target, where, seen)
        case asyncssh.DisconnectError() if TOO_MANY_KEYS in error.reason:
            kind = AuthenticationFailed
            problem = (
                f"{where} ended the login for {target.user or 'the user'} after too many keys that "
                "it does not accept: leave agent= out, or have fewer keys in the agent"
            )
        case asyncssh.ConnectionLost() if seen.spoke or not seen.reached:
            patience = math.inf
            problem = f"{where} closed the connection before we were logged in ({error.reason})"
        case asyncssh.ConnectionLost():  # sshd does so when too many are logging in
            patience = math.inf
            problem = _no_greeting(where)
        case (
            asyncssh.KeyExchangeFailed()
            | asyncssh.ProtocolError()
            | asyncssh.ProtocolNotSupported()
            | asyncssh.ServiceNotAvailable()
            | asyncssh.CompressionError()
            | asyncssh.MACError()
        ):
            problem = f"{where} and we have no way of speaking in common: {error.reason}"
        case asyncssh.IllegalUserName():
            problem = f"{where} can't have a user named so: {error.reason}"
        case asyncssh.DisconnectError():
            patience = math.inf
            problem = f"{where} closed the connection before we were logged in ({error.reason})"
        case asyncssh.ChannelOpenError():
            patience = SHORT_PATIENCE
            problem = f"the jump host can't reach {where}: {error.reason}"
        case TimeoutError() if not isinstance(error, asyncssh.ProcessError) and not error.errno:
            kind = ConnectTimeout
            problem = f"no answer from {where} within {timeout:.1f} s: filtered, or not there"
            if seen.reached:
                problem = (
                    f"{where} accepts connections, but let nobody log in within {timeout:.1f} s: "
                    "its SSH server hangs or is overloaded, or it is no SSH server"
                )
        case socket.gaierror():
            patience = SHORT_PATIENCE
            problem = f"the name {target.host!r} can't be resolved: {error.strerror}"
        case ConnectionRefusedError():
            patience = SHORT_PATIENCE
            problem = f"{where} refused the connection: no SSH server listens there (yet)"
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            patience = math.inf
            problem = f"{where} reset the connection before we were logged in"
            if seen.reached and not seen.spoke:
                problem = _no_greeting(where)
        case OSError() if error.errno in _LOCAL_LIMIT:
            problem = f"this machine's own limit is reached ({error.strerror}); do fewer at once"
        case OSError() if error.errno in _UNREACHABLE:
            patience = SHORT_PATIENCE
            problem = f"{where} can't be reached: {error.strerror}"
        case OSError() if codes := _several(error):  # a name with several addresses
            return translate(OSError(codes[0], os.strerror(codes[0])), target, seen, timeout)
        case _:
            problem = f"{where}: {error}"
    # what the server says is its own affair: of any length, and for a terminal to obey
    problem = shortened(problem, LONGEST)
    ours = kind(instance_id=target.instance_id, host=target.host, problem=problem)
    ours.patience = patience
    return ours


def _several(error: OSError) -> list[int]:
    """The error numbers in what asyncio says when it tried several addresses in vain."""
    found = re.findall(r"\[Errno (\d+)\]", str(error)) if error.errno is None else []
    return [int(number) for number in found]


def _no_greeting(where: str) -> str:
    return (
        f"{where} closed the connection before it had said that it speaks SSH: its SSH server is "
        "starting or overloaded, or another service listens there"
    )


def _stranger(target: Target, where: str, seen: Seen) -> str:
    """Which host key was refused, and what to do about it."""
    if not seen.shown:  # a jump host that an ssh_config names: asyncssh connects to it by itself
        return (
            f"a jump host on the way to {where} shows a host key that your known_hosts does not "
            "hold: connect to it once by hand"
        )
    if not seen.known:
        return (
            f"{where} shows a host key that is not known ({seen.shown}): if it is the right one, "
            "add it to known_hosts"
        )
    return (
        f"the SSH server shows another host key than the one known for {target.alias} "
        f"({seen.shown}): another machine answers there, or it was reinstalled; if that is so, "
        "forget the old key"
    )
