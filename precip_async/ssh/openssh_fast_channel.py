"""Sessions of asyncssh's connections that have nothing but a command: asked for in one wait.

A part of `openssh_fast` that stands for itself: with another connection it does as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncssh
from asyncssh import constants
from asyncssh.channel import SSHClientChannel
from asyncssh.packet import Boolean, String, UInt32

if TYPE_CHECKING:
    import asyncio

    from asyncssh.packet import SSHPacket

__all__ = ["SESSION", "open_session"]

SESSION = {
    "connection.SSHClientConnection.create_session": "146cd64d",
    "channel.SSHClientChannel.__init__": "f62e119a",
    "channel.SSHClientChannel.create": "89eb955f",
    "channel.SSHClientChannel._process_exit_status_request": "539c7411",
    "channel.SSHChannel._cleanup": "cbc31f69",
    "channel.SSHChannel._open": "13cd42ed",
    "channel.SSHChannel._make_request": "22cde1d0",
    "channel.SSHChannel._process_request": "fd03b78d",
    "channel.SSHChannel._process_response": "1826c850",
    "channel.SSHChannel._service_next_request": "59b6e6c3",
    "channel.SSHChannel._start_reading": "bd8dbdb3",
    "channel.SSHChannel.process_open_confirmation": "ddc11598",
    "channel.SSHChannel.process_open_failure": "3fa10d4b",
}
EXIT_STATUS = String(b"exit-status") + Boolean(False)
RECEIVING = ("open", "eof_pending", "eof")


class _Channel(SSHClientChannel[bytes]):
    """A session for `command`, which is asked for as soon as there is one."""

    def __init__(
        self,
        connection: asyncssh.SSHClientConnection,
        session: asyncssh.SSHClientSession[bytes],
        command: bytes,
        window: int,
    ) -> None:
        options, loop = connection._options, connection._loop
        decoding, size = options.utf8_decode_errors, options.max_pktsize
        super().__init__(connection, loop, decoding, None, options.errors, window, size)
        self._wanted = session, command

    async def run(self) -> None:
        """Have the command run, and its session told of it; see `open_session`."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._open_waiter = answer  # and then that of the request, which is one wait for us
        self._conn.send_packet(
            constants.MSG_CHANNEL_OPEN,
            String(b"session"),
            UInt32(self._recv_chan or 0),
            UInt32(self._recv_window),
            UInt32(self._recv_pktsize),
            handler=self,
        )
        if not await answer:
            self.close()
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_REQUEST_SESSION_FAILED, "Session request failed"
            )
        self._session.session_started()
        self._loop.call_soon(self._listen)  # not before our caller has its channel

    def process_open_confirmation(
        self, send_chan: int, send_window: int, send_pktsize: int, packet: SSHPacket
    ) -> None:
        """There is a session: ask it to run the command."""
        answer: Any = self._open_waiter
        if answer is not None:  # what it waits for is still to come
            self._open_waiter = self._loop.create_future()
        super().process_open_confirmation(send_chan, send_window, send_pktsize, packet)
        packet.check_end()
        if answer is None or answer.cancelled():
            return
        self._session, command = self._wanted
        self._session.connection_made(self)
        self._request_waiters.append(answer)
        self._send_request(b"exec", String(command), want_reply=True)

    def _listen(self) -> None:
        if self._recv_paused == "starting":
            self._recv_paused = False
            self._flush_recv_buf()

    def _process_request(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        said = packet.get_remaining_payload()
        if (
            said.startswith(EXIT_STATUS)
            and self._recv_state in RECEIVING
            and not self._request_queue
        ):
            packet.get_bytes(len(EXIT_STATUS))
            self._process_exit_status_request(packet)
        else:
            super()._process_request(pkttype, pktid, packet)

    _packet_handlers = {  # noqa: RUF012 - as asyncssh has it
        **SSHClientChannel._packet_handlers,
        constants.MSG_CHANNEL_REQUEST: _process_request,
    }


async def open_session(
    connection: asyncssh.SSHClientConnection,
    session: asyncssh.SSHClientSession[bytes],
    command: bytes,
    window: int,
) -> None:
    """As `create_session`, for bytes and without what a terminal or a subsystem needs.

    Raises:
        asyncssh.ChannelOpenError: There is no session, or it runs nothing.
    """
    await _Channel(connection, session, command, window).run()
