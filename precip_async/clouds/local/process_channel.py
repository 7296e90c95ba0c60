"""A server's channel as OpenSSH has it: what asyncssh's own does not offer, in one place.

Everything here stands on private parts of asyncssh. Tests of sessions cover each, so that a version
that changes one is noticed.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

import asyncssh
from asyncssh.packet import Boolean, String, UInt32

if TYPE_CHECKING:
    from asyncssh.packet import SSHPacket

__all__ = ["Channel"]

#: The signals that the protocol can name.
_NAMED: Final = {
    getattr(signal, f"SIG{name}").value: name
    for name in (
        *("ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL"),
        *("PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"),
    )
}
_UNNAMED: Final = "SIG@openssh.com"  # what OpenSSH says of the others


class Channel(asyncssh.SSHServerChannel[bytes]):
    """A channel that reports an exit and stays open, and takes commands that are not UTF-8."""

    @classmethod
    def opened_on(cls, connection: asyncssh.SSHServerConnection) -> Channel:
        """A new channel of bytes on `connection`."""
        channel = connection.create_server_channel(encoding=None)
        # asyncssh makes channels of its own class only, with arguments that change over versions.
        channel.__class__ = cls
        assert isinstance(channel, cls)
        return channel

    @property
    def left(self) -> bool:
        """Whether the client has closed it; `is_closing` is true already when we sent our EOF."""
        return self._send_chan is None

    def report(self, code: int) -> None:
        """Say how the process ended: its exit code, or minus the number of a signal.

        The channel stays open for what the process's children still write, while asyncssh's own
        ``exit`` closes it.
        """
        if code >= 0:
            self._send_request(b"exit-status", UInt32(code))
        else:
            name = _NAMED.get(-code, _UNNAMED)
            facts = (String(name), Boolean(False), String(""), String(""))  # no core, no message
            self._send_request(b"exit-signal", *facts)

    def _process_exec_request(self, packet: SSHPacket) -> bool:
        # asyncssh refuses a command that is not UTF-8, yet file names need not be.
        command = packet.get_string()
        packet.check_end()
        return self._start_session(command=command.decode(errors="surrogateescape"))
