"""SSH connections by asyncssh: with which keys and options, and whom to believe.

The modules named like it are the only importers of asyncssh among the clients, and are imported
when the first connection is made: importing asyncssh takes a third of a second.
"""

from __future__ import annotations

import base64
import contextlib
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import anyio
import asyncssh

from precip_async.errors import InvalidArgument
from precip_async.ssh.openssh_errors import Seen, translate
from precip_async.ssh.openssh_session import AsyncsshTransport, open_session
from precip_async.ssh.slot import Slot
from precip_async.ssh.transport import Login, Target

try:
    from precip_async.ssh import openssh_fast
except (AttributeError, ImportError):  # asyncssh keeps its private parts elsewhere by now
    openssh_fast = None  # type: ignore[assignment]  # its public ones are there all the same

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from precip_async.limits import Limits
    from precip_async.ssh.transport import Trust

__all__ = ["AsyncsshConnector", "Login", "load_key"]

GROUP_OR_OTHERS = 0o077

# AES-GCM first: it costs a sixth of ChaCha20 in Python. Curve25519 first: a post-quantum exchange
# costs as much again as the whole rest of a handshake. What follows are asyncssh's own defaults, so
# that a hardened or an old server still finds something.
_FIRST_KEX = ("curve25519-sha256", "curve25519-sha256@libssh.org")
_FIRST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")


@lru_cache(maxsize=64)
def _parsed(key: bytes, passphrase: str | None, origin: str) -> asyncssh.SSHKey:
    """A private key, parsed once: an RSA key costs up to 0.1 s of CPU each time."""
    try:
        return asyncssh.import_private_key(key, passphrase)
    except asyncssh.KeyEncryptionError as error:
        raise InvalidArgument(
            f"{origin} is encrypted, and key_passphrase= does not open it ({error})"
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
        return _parsed(key, None, "the key")
    try:
        with key.open("rb") as file:
            content, mode = file.read(), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise InvalidArgument(f"ssh_key {key} can't be read: {error.strerror}") from error
    if mode & GROUP_OR_OTHERS:
        raise InvalidArgument(
            f"ssh_key {key} can be read by others, so it is no secret: chmod 600 {key}"
        )
    return _parsed(content, passphrase, f"ssh_key {key}")


def _preferring(first: tuple[str, ...], supported: list[bytes]) -> list[str]:
    known = [name.decode() for name in supported]
    return [name for name in first if name in known] + [n for n in known if n not in first]


@lru_cache(maxsize=512)  # a key takes a hundredth of the login that it is for
def _trusted(lines: tuple[str, ...]) -> tuple[frozenset[asyncssh.SSHKey], list[bytes]]:
    """Host keys to believe, and all algorithms for them, those of these keys first.

    asyncssh by itself would ask for no others, so that a host with a new key of another type would
    look like one that we can't talk to. Certificates are left out: we trust no authority.
    """
    keys = [asyncssh.import_public_key(line) for line in lines]
    first = tuple(name.decode() for key in keys for name in key.sig_algorithms)
    return frozenset(keys), _host_key_algorithms(first)


@lru_cache(maxsize=64)
def _host_key_algorithms(first: tuple[str, ...]) -> list[bytes]:
    """One list for all hosts that have the same kinds of keys."""
    names = _preferring(first, asyncssh.public_key.get_default_public_key_algs())
    return [name.encode() for name in names]


class AsyncsshConnector:
    """Opens connections with one set of keys; parses each key once, matches hosts in memory."""

    def __init__(self, login: Login, trust: Trust, limits: Limits) -> None:
        self._login, self._trust, self._limits = login, trust, limits
        # What a configuration says differs from host to host: no options to copy.
        self._fast = limits.ssh_fast and login.config is None and openssh_fast is not None
        self._fast = self._fast and openssh_fast.available()
        own_sessions = self._fast and openssh_fast.has_sessions()
        self._opener = openssh_fast.open_session if own_sessions else open_session
        self._options: dict[tuple[str | None, bool], asyncssh.SSHClientConnectionOptions] = {}
        self._preparing = anyio.Lock()
        self._bastion: Slot | None = None
        if login.bastion is not None:  # one connection carries all, and one verdict is for all
            self._bastion = Slot(login.bastion, _ToBastion(self), _at_once, limits)

    async def connect(self, target: Target, timeout: float) -> AsyncsshTransport:
        """See `Connector.connect`."""
        if self._bastion is None:
            return await self.dial(target, timeout)
        began = anyio.current_time()
        bastion = cast("AsyncsshTransport", await self._bastion.ready(timeout))
        left = timeout - (anyio.current_time() - began)
        return await self.dial(target, left, tunnel=bastion.connection)

    async def aclose(self) -> None:
        """Close the connection to the bastion."""
        if self._bastion is not None:
            await self._bastion.aclose()

    async def dial(
        self,
        target: Target,
        timeout: float,
        *,
        tunnel: asyncssh.SSHClientConnection | None = None,
        at_bastion: bool = False,
    ) -> AsyncsshTransport:
        """Connect to `target`, through `tunnel` where there is one."""
        keys, algorithms = _trusted(self._trust.known(target))
        witness = _Witness(target, self._trust, known=bool(keys))
        config = [str(self._login.config)] if self._login.config else None
        try:
            with anyio.move_on_after(timeout) as scope:
                options = await self._options_for(target.user, at_bastion)
                if self._fast:
                    connection = await openssh_fast.connect(
                        options,
                        target.host,
                        target.port,
                        client=witness,
                        host_keys=keys,
                        host_key_algorithms=algorithms,
                        tunnel=tunnel,
                    )
                else:
                    connection = await asyncssh.connect(
                        target.host,
                        () if target.port is None else target.port,
                        options=options,
                        config=config,
                        client_factory=lambda: witness,
                        known_hosts=(list(keys), [], []),
                        server_host_key_algs=[name.decode() for name in algorithms],
                        tunnel=tunnel or (),
                    )
            if scope.cancelled_caught:
                raise TimeoutError
        except InvalidArgument:
            raise
        except (
            asyncssh.ConfigParseError,
            asyncssh.KeyEncryptionError,
            asyncssh.KeyImportError,
        ) as error:
            raise InvalidArgument(f"ssh_config {self._login.config}: {error}") from error
        except (asyncssh.Error, OSError, ValueError) as error:
            if config and getattr(error, "filename", None) in config:
                raise InvalidArgument(f"ssh_config {config[0]} can't be read: {error}") from error
            raise translate(error, target, witness.seen, timeout) from error
        return AsyncsshTransport(connection, target, self._limits, self._opener)

    async def _options_for(
        self, user: str | None, at_bastion: bool
    ) -> asyncssh.SSHClientConnectionOptions:
        options = self._options.get((user, at_bastion))
        if options is None:
            async with self._preparing:  # else many would parse the same key at once
                options = self._options.get((user, at_bastion))
                if options is None:
                    options = await anyio.to_thread.run_sync(self._make_options, user, at_bastion)
                    self._options[user, at_bastion] = options
        return options

    def _make_options(
        self, user: str | None, at_bastion: bool
    ) -> asyncssh.SSHClientConnectionOptions:
        login, limits = self._login, self._limits
        keys = (login.bastion_keys if at_bastion else ()) or login.keys
        given: dict[str, Any] = {}
        if user is not None:
            given["username"] = user
        if keys:
            given["client_keys"] = [load_key(key, login.passphrase) for key in keys]
        elif login.config is None and not login.agent:
            given["client_keys"] = None
        elif login.passphrase is not None:  # for the configuration's IdentityFile
            given["passphrase"] = login.passphrase
        if login.agent and not os.environ.get("SSH_AUTH_SOCK") and login.config is None:
            raise InvalidArgument("agent=True, but SSH_AUTH_SOCK is not set: start an ssh-agent")
        if login.config is None:  # else its Ciphers and KexAlgorithms count
            given["kex_algs"] = _preferring(_FIRST_KEX, asyncssh.kex.get_default_kex_algs())
            given["encryption_algs"] = _preferring(
                _FIRST_CIPHERS, asyncssh.encryption.get_default_encryption_algs()
            )
        options = asyncssh.SSHClientConnectionOptions(
            config=None,
            agent_path=() if login.agent else None,
            agent_forwarding=False,  # nor where a configuration says ForwardAgent
            gss_host=None,
            preferred_auth="publickey",
            compression_algs=["none"],
            login_timeout=limits.connect_timeout,
            keepalive_interval=limits.keepalive,
            keepalive_count_max=limits.keepalive_count,
            **given,
        )
        return openssh_fast.shared(options) if self._fast else options


class _ToBastion:
    """The bastion's connector."""

    def __init__(self, connector: AsyncsshConnector) -> None:
        self._connector = connector

    async def connect(self, target: Target, timeout: float) -> AsyncsshTransport:
        return await self._connector.dial(target, timeout, at_bastion=True)

    async def aclose(self) -> None:
        """There is nothing to close."""


@contextlib.asynccontextmanager
async def _at_once(_target: Target) -> AsyncIterator[None]:
    """The bastion's turn: who asks for it has one for a handshake already."""
    yield


class _Witness(asyncssh.SSHClient):
    """Sees how far an attempt comes, and the host key that nothing in memory matched."""

    _connection: asyncssh.SSHClientConnection | None = None

    def __init__(self, target: Target, trust: Trust, *, known: bool) -> None:
        self._target, self._trust = target, trust
        self._seen = Seen(known=known)

    @property
    def seen(self) -> Seen:
        """How far it has come."""
        if self._connection is not None:
            self._seen.reached = getattr(self._connection, "reached", True)
            self._seen.spoke = bool(self._connection.get_extra_info("server_version"))
        return self._seen

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._connection = conn

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Believe a first key where the policy says so, never a changed one."""
        line = f"{key.get_algorithm()} {base64.b64encode(key.public_data).decode()}"
        if not self._seen.known and self._trust.learned(self._target, line):
            return True
        self._seen.shown = f"{key.get_algorithm()} {key.get_fingerprint()}"
        return False
