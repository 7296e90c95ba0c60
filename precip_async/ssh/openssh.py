"""SSH connections by asyncssh: its options, its sessions, and its errors as ours.

This is the only importer of asyncssh among the clients, and it is imported when the first
connection is made: importing asyncssh takes a third of a second.
"""

from __future__ import annotations

import contextlib
import errno
import math
import signal
import socket
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import anyio
import asyncssh

from precip_async.errors import (
    AuthenticationFailed,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HostKeyMismatch,
    InvalidArgument,
    RemoteError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from precip_async.limits import Limits
    from precip_async.ssh.transport import Receiver, Target, Trust

__all__ = ["AsyncsshConnector", "Login", "translated"]

SHORT_PATIENCE = 5.0  # seconds: a server that restarts is back by then, one that is off is not
GROUP_OR_OTHERS = 0o077
LOST = "the connection was lost"
WINDOW = 1024 * 1024  # bytes on their way in one channel: what 20 of them may hold stays small
STDERR = asyncssh.EXTENDED_DATA_STDERR

# AES-GCM first: it costs a sixth of ChaCha20 in Python. Curve25519 first: a post-quantum exchange
# costs as much again as the whole rest of a handshake. What follows are asyncssh's own defaults, so
# that a hardened or an old server still finds something.
_FIRST_KEX = ("curve25519-sha256", "curve25519-sha256@libssh.org")
_FIRST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How we log in.

    Attributes:
        keys: Private keys: paths, or the key itself in OpenSSH's format.
        passphrase: What the keys given as paths are encrypted with.
        agent: Whether ``SSH_AUTH_SOCK`` is asked for keys too.
        config: An OpenSSH client configuration to read host settings from.
        bastion: The jump host that every connection passes through.
        bastion_keys: The keys for it; empty: `keys`.
    """

    keys: tuple[Path | bytes, ...] = ()
    passphrase: str | None = field(default=None, repr=False)
    agent: bool = False
    config: Path | None = None
    bastion: Target | None = None
    bastion_keys: tuple[Path | bytes, ...] = ()


@lru_cache(maxsize=64)
def _parsed(key: bytes, passphrase: str | None, origin: str) -> asyncssh.SSHKey:
    """A private key, parsed once: an RSA key costs up to 0.1 s of CPU each time."""
    try:
        return asyncssh.import_private_key(key, passphrase)
    except asyncssh.KeyEncryptionError as error:
        raise InvalidArgument(
            f"{origin} is encrypted, and key_passphrase= does not open it"
        ) from error
    except asyncssh.KeyImportError as error:
        mend = "give its key_passphrase=" if "passphrase" in str(error).lower() else str(error)
        raise InvalidArgument(f"{origin} can't be used as a private key: {mend}") from error


def load_key(key: Path | bytes, passphrase: str | None) -> asyncssh.SSHKey:
    """Read and parse `key`. Blocks.

    Raises:
        InvalidArgument: It can't be read, others can read it, or it is no private key.
    """
    if isinstance(key, bytes):
        return _parsed(key, passphrase, "the key")
    try:
        content, mode = key.read_bytes(), key.stat().st_mode
    except OSError as error:
        raise InvalidArgument(f"ssh_key {key} can't be read: {error.strerror}") from error
    if mode & GROUP_OR_OTHERS:
        raise InvalidArgument(
            f"ssh_key {key} can be read by others, so it is no secret: chmod 600 {key}"
        )
    return _parsed(content, passphrase, f"ssh_key {key}")


@lru_cache(maxsize=4096)
def _public(line: str) -> asyncssh.SSHKey:
    return asyncssh.import_public_key(line)


def _preferring(first: tuple[str, ...], supported: list[bytes]) -> list[str]:
    known = [name.decode() for name in supported]
    return [name for name in first if name in known] + [n for n in known if n not in first]


class AsyncsshConnector:
    """Opens connections with one set of keys; parses each key once, matches hosts in memory."""

    def __init__(self, login: Login, trust: Trust, limits: Limits) -> None:
        self._login, self._trust, self._limits = login, trust, limits
        self._options: dict[tuple[str | None, bool], asyncssh.SSHClientConnectionOptions] = {}
        self._bastion: AsyncsshTransport | None = None
        self._bastion_lock = anyio.Lock()

    async def connect(self, target: Target, timeout: float) -> AsyncsshTransport:
        """See `Connector.connect`."""
        with translated(target, timeout), anyio.fail_after(timeout):
            tunnel = await self._through_bastion(timeout)
            return await self._connect(target, tunnel=tunnel)

    async def aclose(self) -> None:
        """Close the connection to the bastion."""
        if self._bastion is not None:
            await self._bastion.aclose()

    async def _through_bastion(self, timeout: float) -> asyncssh.SSHClientConnection | None:
        bastion = self._login.bastion
        if bastion is None:
            return None
        async with self._bastion_lock:  # one connection carries all
            if self._bastion is None or not self._bastion.alive:
                with translated(bastion, timeout):
                    self._bastion = await self._connect(bastion, at_bastion=True)
            return self._bastion.connection

    async def _connect(
        self,
        target: Target,
        *,
        tunnel: asyncssh.SSHClientConnection | None = None,
        at_bastion: bool = False,
    ) -> AsyncsshTransport:
        options = self._options.get((target.user, at_bastion))
        if options is None:
            options = await anyio.to_thread.run_sync(self._make_options, target.user, at_bastion)
            self._options[target.user, at_bastion] = options
        known = [_public(line) for line in self._trust.known(target)]
        witness = _Witness(target, self._trust, strict=bool(known))
        settings: dict[str, Any] = {
            "known_hosts": (known, [], []),
            "client_factory": lambda: witness,
        }
        if target.port is not None:
            settings["port"] = target.port
        config = [str(self._login.config)] if self._login.config else None
        try:
            connection = await asyncssh.connect(
                target.host, options=options, config=config, tunnel=tunnel or (), **settings
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise HostKeyMismatch(
                instance_id=target.instance_id,
                host=target.host,
                problem="the SSH server shows another host key than the one known for "
                f"{target.alias} ({witness.shown}): another machine answers there, or it was "
                "reinstalled; if that is so, forget the old key",
            ) from error
        return AsyncsshTransport(connection, target, self._limits)

    def _make_options(
        self, user: str | None, at_bastion: bool
    ) -> asyncssh.SSHClientConnectionOptions:
        login, limits = self._login, self._limits
        keys = (login.bastion_keys if at_bastion else ()) or login.keys
        given: dict[str, Any] = {}
        if user is not None:
            given["username"] = user
        if keys or login.config is None:  # else the configuration's IdentityFile counts
            given["client_keys"] = [load_key(key, login.passphrase) for key in keys] or None
        return asyncssh.SSHClientConnectionOptions(
            config=None,
            agent_path=() if login.agent else None,
            gss_host=None,
            preferred_auth="publickey",
            kex_algs=_preferring(_FIRST_KEX, asyncssh.kex.get_default_kex_algs()),
            encryption_algs=_preferring(
                _FIRST_CIPHERS, asyncssh.encryption.get_default_encryption_algs()
            ),
            compression_algs=["none"],
            login_timeout=limits.connect_timeout,
            keepalive_interval=limits.keepalive,
            keepalive_count_max=limits.keepalive_count,
            **given,
        )


class _Witness(asyncssh.SSHClient):
    """Sees the host key that nothing in memory matched, and the reason of a disconnect."""

    def __init__(self, target: Target, trust: Trust, *, strict: bool) -> None:
        self._target, self._trust, self._strict = target, trust, strict
        self.shown = "no key was shown"

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Believe a first key where the policy says so, never a changed one."""
        self.shown = f"{key.get_algorithm()} {key.get_fingerprint()}"
        line = key.export_public_key("openssh").decode().strip()
        return not self._strict and self._trust.learned(self._target, line)


class AsyncsshTransport:
    """One connection."""

    def __init__(
        self, connection: asyncssh.SSHClientConnection, target: Target, limits: Limits
    ) -> None:
        self.connection, self._target, self._limits = connection, target, limits

    @property
    def alive(self) -> bool:
        """Whether the connection is open, as far as anybody knows."""
        return not self.connection.is_closed()

    async def start(self, line: str, receiver: Receiver) -> _Session:
        """See `Transport.start`."""
        command = cast(
            "str", line.encode(errors="surrogateescape")
        )  # bytes pass through as they are
        facts = {"instance_id": self._target.instance_id, "host": self._target.host}
        try:
            _, session = await self.connection.create_session(
                lambda: _Session(receiver), command, encoding=None, window=WINDOW
            )
        except asyncssh.ChannelOpenError as error:
            if error.code == asyncssh.OPEN_REQUEST_SESSION_FAILED:  # it may have been started
                raise ConnectionLost(**facts, problem=LOST) from error
            problem = (
                f"the SSH server allows no further session ({error.reason}); "
                "lower limits.max_channels or raise its MaxSessions"
                if self.alive
                else LOST
            )
            refused = ConnectError(**facts, problem=problem)
            refused.patience = SHORT_PATIENCE
            raise refused from error
        except (asyncssh.DisconnectError, OSError) as error:
            raise translate(error, self._target) from error
        return cast("_Session", session)

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

    def write(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # closed() has said so, or is about to
            self._channel.write(data)

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


@contextlib.contextmanager
def translated(target: Target, timeout: float = math.nan) -> Iterator[None]:
    """Turn what asyncssh and the system raise while connecting to `target` into our errors."""
    try:
        yield
    except RemoteError:
        raise
    except (asyncssh.Error, OSError, ValueError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise translate(error, target, timeout) from error


_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EHOSTDOWN}
_LOCAL_LIMIT = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS}


def translate(
    error: Exception, target: Target, timeout: float = math.nan
) -> ConnectError | ConnectionLost:
    """Our error for one that asyncssh or the system raised while connecting to `target`."""
    where = f"{target.host}:{target.port or 22}"
    user = target.user or "the user"
    kind: type[ConnectError] = ConnectError
    patience = 0.0
    # the order matters: asyncssh.TimeoutError is an OSError, and gaierror too
    match error:
        case asyncssh.PermissionDenied():
            kind = AuthenticationFailed
            problem = f"{where} does not accept our key for {user}"
        case asyncssh.HostKeyNotVerifiable():
            kind, problem = HostKeyMismatch, f"{where}: {error.reason}"
        case (
            asyncssh.KeyExchangeFailed()
            | asyncssh.ProtocolError()
            | asyncssh.ProtocolNotSupported()
        ):
            problem = f"{where} and we have no way of speaking in common: {error.reason}"
        case asyncssh.IllegalUserName():
            problem = f"{where} can't have a user named so: {error.reason}"
        case asyncssh.ConnectionLost() | asyncssh.DisconnectError():
            patience = math.inf
            problem = f"{where} closed the connection before we were logged in ({error.reason})"
        case asyncssh.ChannelOpenError():
            patience = SHORT_PATIENCE
            problem = f"the jump host can't reach {where}: {error.reason}"
        case TimeoutError() if not isinstance(error, asyncssh.ProcessError) and not error.errno:
            kind = ConnectTimeout
            problem = f"no answer from {where} within {timeout:.0f} s: filtered, or not there"
        case socket.gaierror():
            patience = SHORT_PATIENCE
            problem = f"the name {target.host!r} can't be resolved: {error.strerror}"
        case ConnectionRefusedError():
            patience = SHORT_PATIENCE
            problem = f"{where} refused the connection: no SSH server listens there (yet)"
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            patience = math.inf
            problem = f"{where} reset the connection before we were logged in"
        case OSError() if error.errno in _LOCAL_LIMIT:
            problem = f"this machine's own limit is reached ({error.strerror}); do fewer at once"
        case OSError() if error.errno in _UNREACHABLE:
            patience = SHORT_PATIENCE
            problem = f"{where} can't be reached: {error.strerror}"
        case _:
            problem = f"{where}: {error}"
    ours = kind(instance_id=target.instance_id, host=target.host, problem=problem)
    ours.patience = patience
    return ours
