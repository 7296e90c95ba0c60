"""What the pool needs of an SSH library: the protocol, and where a connection goes.

`openssh` implements it over asyncssh; tests implement it in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.events import Stream

__all__ = ["Channel", "Connector", "Login", "Receiver", "Target", "Transport", "Trust"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One user's account on one instance, and how it is reached.

    Attributes:
        instance_id: For messages.
        host: An address or a name.
        port: Of its SSH server; ``None``: 22, or what an ``ssh_config`` says.
        user: Who logs in; ``None``: the current user, or what an ``ssh_config`` says.
        alias: What its host key is remembered by.
    """

    instance_id: str
    host: str
    alias: str
    port: int | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How we log in.

    Attributes:
        keys: Private keys: paths, or the key itself in OpenSSH's format. Empty: what `config`
            names, or with an `agent` what ssh itself would take.
        passphrase: What the keys given as paths, and those that `config` names, are encrypted with.
        agent: Whether ``SSH_AUTH_SOCK`` is asked for keys too.
        config: An OpenSSH client configuration to read host settings from.
        bastion: The jump host that every connection passes through.
        bastion_keys: The keys for it; empty: `keys`.
    """

    keys: tuple[Path | bytes, ...] = field(default=(), repr=False)
    passphrase: str | None = field(default=None, repr=False)
    agent: bool = False
    config: Path | None = None
    bastion: Target | None = None
    bastion_keys: tuple[Path | bytes, ...] = field(default=(), repr=False)


class Trust(Protocol):
    """Which host keys are believed. Both methods are called on the event loop: no I/O in them."""

    @property
    def learns(self) -> bool:
        """Whether the key of a target that is not known is believed."""
        ...

    def known(self, target: Target) -> tuple[str, ...]:
        """The OpenSSH public keys that `target` may show; empty: not known yet."""
        ...

    def learned(self, target: Target, key: str) -> bool:
        """`target` is not known and shows `key`: whether to believe it from now on."""
        ...


class Receiver(Protocol):
    """Is told by a channel, synchronously, what comes; `closed` comes last, and always."""

    def received(self, stream: Stream, data: bytes) -> None:
        """Some output has come."""

    def exited(self, code: int) -> None:
        """The command has exited; ``-n`` when signal ``n`` ended it. Output may still follow."""

    def writable(self, ready: bool) -> None:
        """Whether more input is welcome; it is until this says otherwise."""

    def closed(self) -> None:
        """Nothing will follow: the channel is closed, or its connection is gone."""


class Channel(Protocol):
    """One command's session over a connection."""

    def write(self, data: bytes | memoryview) -> None:
        """Send input. It never blocks: heed `Receiver.writable`."""

    def write_eof(self) -> None:
        """Say that no input follows."""

    def pause(self) -> None:
        """Take no more output until `resume`."""

    def resume(self) -> None:
        """Take output again."""

    def close(self) -> None:
        """Give the channel up at once. The command is not ended by it."""


class Transport(Protocol):
    """One connection, of which a caller has leased a channel."""

    @property
    def alive(self) -> bool:
        """Whether commands can be started over it."""
        ...

    async def start(self, line: str, receiver: Receiver) -> Channel:
        """Have the login shell run `line`.

        If cancelled, the command may have been started, and its channel is still counted by the
        server: callers shield.

        Raises:
            ConnectionLost: The connection is gone, and the command may have been started.
            ConnectError: It was not started: the server allows no further session now, or the
                connection was gone before it was asked; its ``patience`` says whether to try again.
        """
        ...

    async def aclose(self) -> None:
        """Close the connection, in bounded time; channels still open are cut off."""


class Connector(Protocol):
    """Opens connections."""

    async def connect(self, target: Target, timeout: float) -> Transport:
        """One attempt, bounded by `timeout` seconds. If cancelled, nothing of it is left.

        Raises:
            ConnectError: Or a subclass; its ``patience`` says whether to try again.
        """
        ...

    async def aclose(self) -> None:
        """Close what the connections share."""
