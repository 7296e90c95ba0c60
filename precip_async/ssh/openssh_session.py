"""What runs over a connection of asyncssh: its sessions, as channels of ours."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, cast

import anyio
import asyncssh

from precip_async.errors import AuthenticationFailed, ConnectError, ConnectionLost
from precip_async.ssh.openssh_errors import SHORT_PATIENCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from precip_async.limits import Limits
    from precip_async.ssh.transport import Receiver, Target

__all__ = ["WINDOW", "AsyncsshTransport", "open_session"]

LOST = "the connection was lost"
WINDOW = 1024 * 1024  # bytes on their way in one channel: what 20 of them may hold stays small
STDERR = asyncssh.EXTENDED_DATA_STDERR


async def open_session(
    connection: asyncssh.SSHClientConnection,
    session: asyncssh.SSHClientSession[bytes],
    command: bytes,
    window: int,
) -> None:
    """Have `command` run over `connection`, and `session` told of it."""
    await connection.create_session(
        lambda: session, cast("str", command), encoding=None, window=window
    )


class AsyncsshTransport:
    """One connection; `opener` does what `open_session` does."""

    __slots__ = ("_limits", "_open", "_target", "connection")

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        target: Target,
        limits: Limits,
        opener: Callable[..., Awaitable[None]] = open_session,
    ) -> None:
        self.connection, self._limits, self._open = connection, limits, opener
        self._target = target

    @property
    def _facts(self) -> dict[str, str]:
        return {"instance_id": self._target.instance_id, "host": self._target.host}

    @property
    def alive(self) -> bool:
        """Whether the connection is open, as far as anybody knows."""
        return not self.connection.is_closed()

    async def start(self, line: str, receiver: Receiver) -> _Session:
        """See `Transport.start`."""
        session = _Session(receiver)
        command = line.encode(errors="surrogateescape")  # bytes pass through as they are
        try:
            await self._open(self.connection, session, command, WINDOW)
        except asyncssh.ChannelOpenError as error:
            if error.code != asyncssh.OPEN_REQUEST_SESSION_FAILED:  # it was never asked to run it
                raise self._no_session(error) from error
            if self.alive:
                problem = f"the SSH server runs no commands for this user ({error.reason})"
                raise AuthenticationFailed(**self._facts, problem=problem) from error
            raise ConnectionLost(**self._facts, problem=LOST) from error
        except (asyncssh.DisconnectError, OSError) as error:  # it may have been started
            raise ConnectionLost(**self._facts, problem=f"{LOST}: {error}") from error
        return session

    def _no_session(self, error: asyncssh.ChannelOpenError) -> ConnectError:
        problem = LOST
        if self.alive:
            problem = (
                f"the SSH server allows no further session ({error.reason}); "
                "lower limits.max_channels or raise its MaxSessions"
            )
        refused = ConnectError(**self._facts, problem=problem)
        refused.patience = SHORT_PATIENCE
        return refused

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        self.connection.close()
        with anyio.move_on_after(self._limits.close_grace):
            await self.connection.wait_closed()
            return
        self.connection.abort()


class _Session(asyncssh.SSHClientSession[bytes]):
    """Passes a channel's events on, as bytes."""

    _channel: asyncssh.SSHClientChannel[bytes]

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._receiver.received("stderr" if datatype == STDERR else "stdout", data)

    def exit_status_received(self, status: int) -> None:
        self._receiver.exited(status)

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._receiver.exited(-_signal_number(signal))

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.closed()

    def pause_writing(self) -> None:
        self._receiver.writable(False)

    def resume_writing(self) -> None:
        self._receiver.writable(True)

    def eof_received(self) -> bool:
        return True  # keep our side open: the command may still read

    def write(self, data: bytes | memoryview) -> None:
        with contextlib.suppress(BrokenPipeError):  # closed() has said so, or is about to
            self._channel.write(cast("bytes", data))  # it copies whatever has bytes

    def write_eof(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._channel.write_eof()

    def pause(self) -> None:
        self._channel.pause_reading()

    def resume(self) -> None:
        self._channel.resume_reading()

    def close(self) -> None:
        self._channel.abort()


def _signal_number(name: str) -> int:
    """The number of a signal named as in RFC 4254, section 6.10; 99 for one nobody knows."""
    try:
        return signal.Signals[f"SIG{name}"].value
    except KeyError:
        return 99
