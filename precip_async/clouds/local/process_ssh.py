"""The SSH server of a machine: logins, sessions, and how a command's life shows on its channel.

It behaves as OpenSSH's does where our clients, and others, can tell: ten sessions a connection; the
exit status at once, the end of the channel only with the end of the output; a channel closed or a
connection lost ends no process, it only closes its pipes; signals sent by the client are ignored,
as OpenSSH does for root.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final, Protocol

import asyncssh

from precip_async.clouds.local.process_channel import Channel
from precip_async.clouds.local.process_login import Request, login_shell, sftp_server, valid_user
from precip_async.clouds.local.process_pipes import Inlet, Outlet, pipes, resize, terminal

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from precip_async.clouds.local.process_children import Child, Streams

__all__ = ["Host", "listen"]

MAX_SESSIONS: Final = 10  # channels a connection, as OpenSSH's MaxSessions
BACKLOG: Final = 128  # connections that wait to be accepted, as OpenSSH's
GONE_CHECK: Final = 1.0  # seconds between two looks whether a client that we hold has left


class Host(Protocol):
    """The machine that a server stands for."""

    #: Its connections, authenticated or not; the server keeps this.
    connections: set[asyncssh.SSHServerConnection]
    #: Whether it can give sessions a terminal.
    terminals: bool

    def keys_of(self, user: str) -> asyncssh.SSHAuthorizedKeys | None:
        """Who may log in as `user`; ``None``: nobody."""
        ...

    def run(self, request: Request, streams: Streams, exited: Callable[[int], None]) -> Child:
        """Start what a session asks for; `OSError` when that can't be."""
        ...

    def log(self, line: str) -> None:
        """Write a line to the machine's console."""
        ...


async def listen(host: Host, place: socket.socket, host_key: str) -> asyncssh.SSHAcceptor:
    """Serve SSH at a bound socket, which is the acceptor's from then on.

    Args:
        host: The machine.
        place: Where.
        host_key: The private key, OpenSSH PEM.
    """
    acceptor = await asyncssh.listen(
        sock=place,
        backlog=BACKLOG,
        config=None,
        server_factory=lambda: Server(host),
        server_host_keys=[asyncssh.import_private_key(host_key)],
        encoding=None,  # bytes; a wrong one would end the connection
        line_editor=False,
        public_key_auth=True,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        agent_forwarding=False,
        x11_forwarding=False,
    )
    address, port = place.getsockname()
    host.log(f"Server listening on {address} port {port}.")
    return acceptor


class Server(asyncssh.SSHServer):
    """One connection."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.sessions: set[Session] = set()
        self._connection: asyncssh.SSHServerConnection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Put the connection on the machine's list."""
        self._connection = conn
        self.host.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take it off."""
        self.host.connections.discard(self._connection)
        if exc is not None:
            self.host.log(f"Connection from {self._peer()} lost: {exc}")

    def begin_auth(self, username: str) -> bool:
        """Only a key will do, and only for a name that a system could have."""
        keys = self.host.keys_of(username) if valid_user(username) else None
        if keys is not None:
            self._connection.set_authorized_keys(keys)
        return True

    def public_key_auth_supported(self) -> bool:
        """Also offered to who will be refused, as sshd does."""
        return True

    def auth_completed(self) -> None:
        """Say so."""
        user = self._connection.get_extra_info("username")
        self.host.log(f"Accepted publickey for {user} from {self._peer()}")

    def session_requested(self) -> tuple[Channel, Session]:
        """Open a channel, or refuse it in OpenSSH's words."""
        if len(self.sessions) >= MAX_SESSIONS:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "open failed")
        session = Session(self)
        self.sessions.add(session)
        return Channel.opened_on(self._connection), session

    def _peer(self) -> str:
        address, port = self._connection.get_extra_info("peername")[:2]
        return f"{address} port {port}"


class Session(asyncssh.SSHServerSession[bytes]):
    """One channel and the process at its end, which may outlive it."""

    _channel: Channel
    _child: Child
    _inlet: Inlet

    def __init__(self, server: Server) -> None:
        self._server = server
        self._open = True
        self._term = ""
        self._size = (0, 0, 0, 0)
        self._outlets: list[Outlet] = []
        self._exited = False
        self._watch: asyncio.TimerHandle | None = None

    # What a client asks for.

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Keep the channel."""
        assert isinstance(chan, Channel)
        self._channel = chan

    def pty_requested(
        self,
        term_type: str,
        term_size: tuple[int, int, int, int],
        term_modes: Mapping[int, int],
    ) -> bool:
        """Note the terminal for the shell to come."""
        self._term, self._size = term_type or "dumb", term_size
        return self._server.host.terminals

    def shell_requested(self) -> bool:
        """Start a login shell."""
        return self._start(login_shell(None))

    def exec_requested(self, command: str) -> bool:
        """Start a shell that reads `command`."""
        return self._start(login_shell(command))

    def subsystem_requested(self, subsystem: str) -> bool:
        """Start this system's SFTP server, where it has one; there is nothing else."""
        argv = sftp_server() if subsystem == "sftp" else ()
        return bool(argv) and self._start(argv)

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        """Pass the size on; the kernel tells the process."""
        self._size = (width, height, pixwidth, pixheight)
        if self._term and self._outlets:
            resize(self._outlets[0].fileno(), self._size)

    # Bytes in.

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Give the process its input."""
        self._inlet.write(data)

    def eof_received(self) -> bool:
        """Let the process see the end of its input; a terminal has none. Its output stays open."""
        if not self._term:
            self._inlet.finish()
        return True

    # Bytes out, held while the client does not take them.

    def pause_writing(self) -> None:
        """Let the process wait."""
        for outlet in self._outlets:
            outlet.hold()

    def resume_writing(self) -> None:
        """Let it go on."""
        for outlet in self._outlets:
            outlet.let_go()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the process: it lives on, without anybody at the other end of its pipes."""
        self._open = False
        self._server.sessions.discard(self)
        self._forget_watch()
        for outlet in self._outlets:
            outlet.close()
        self._outlets.clear()
        if hasattr(self, "_inlet"):
            self._inlet.close()

    # The process.

    def _start(self, argv: tuple[str | bytes, ...]) -> bool:
        host, channel = self._server.host, self._channel
        try:
            theirs, ours = terminal(self._size) if self._term else pipes()
            try:
                self._child = host.run(self._request(argv, theirs), theirs, self._over)
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
        except (OSError, ValueError) as exc:  # no more processes; a zero byte in the command
            host.log(f"A session could not be started: {exc}")
            return False
        self._inlet = Inlet(ours.stdin, self._hold_client, self._let_client_go)
        self._outlets = [Outlet(ours.stdout, self._say(channel.write), self._ended)]
        if ours.stderr != ours.stdout:
            self._outlets.append(Outlet(ours.stderr, self._say(channel.write_stderr), self._ended))
        return True

    def _request(self, argv: tuple[str | bytes, ...], theirs: Streams) -> Request:
        channel = self._channel
        return Request(
            user=channel.get_extra_info("username"),
            argv=argv,
            client=channel.get_extra_info("peername")[:2],
            server=channel.get_extra_info("sockname")[:2],
            sent=channel.get_environment(),
            terminal=os.ttyname(theirs.stdin) if self._term else "",
            term=self._term,
        )

    def _say(self, write: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def deliver(data: bytes) -> None:
            # asyncssh tells us of the client's close one turn of the loop late; what comes between
            # goes where the rest would.
            if not self._channel.left:
                write(data)

        return deliver

    def _ended(self) -> None:
        self._outlets = [outlet for outlet in self._outlets if outlet.fileno() >= 0]
        if not self._outlets:
            if self._open:
                self._channel.write_eof()
            self._close_if_over()

    def _over(self, code: int) -> None:
        self._exited = True
        if self._open:
            self._channel.report(code)
            self._close_if_over()

    def _close_if_over(self) -> None:
        if self._open and self._exited and not self._outlets:
            self._channel.close()

    # A client that sends more than the process reads.

    def _hold_client(self) -> None:
        self._channel.pause_reading()
        self._look_after_client()

    def _let_client_go(self) -> None:
        self._forget_watch()
        if self._open:
            self._channel.resume_reading()

    def _look_after_client(self) -> None:
        # While we hold it, asyncssh does not tell us that it has closed the channel.
        if self._channel.left:
            self._channel.abort()
        else:
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(GONE_CHECK, self._look_after_client)

    def _forget_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
