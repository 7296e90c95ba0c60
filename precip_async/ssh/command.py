"""One command through one channel: started, listened to, and ended for real when its time is up."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from precip_async.errors import (
    AuthenticationFailed,
    ConnectionLost,
    ExperimentException,
    RemoteError,
    shortened,
)
from precip_async.shell import command_line, ending_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from precip_async.events import Stream
    from precip_async.limits import Limits
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.slot import Lease
    from precip_async.ssh.transport import Channel, Target

__all__ = ["Conversation", "Feed", "Order", "converse", "send"]

logger = logging.getLogger(__name__)

NOISE_LIMIT = 64 * 1024  # bytes that a login shell's start files may print; the rest is dropped
NOT_ALL_ENDED = 9  # the exit code of `ending_line` when something is left
CHUNK = 256 * 1024  # bytes of input handed over at once
BACKLOG = 256 * 1024  # bytes of output not yet dealt with, after which the peer has to wait
PACKET = 32 * 1024  # bytes: a stream that is only slow brings at least that in every grace
IN_FLIGHT = 4 * 1024 * 1024  # bytes: a channel's window, a pipe, and some; more is younger

Feed = Callable[["Conversation"], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be run, as whom and for how long.

    Attributes:
        command: Read by the user's login shell.
        user: Who runs it, for messages.
        sudo_user: Who to become by sudo; ``None``: who is logged in.
        env: Its environment, beside what the login gives.
        cwd: Where it runs; ``None``: the home directory.
        timeout: Seconds from its start; ``None``: no limit.
        mark: Names the run in the environment of each of its processes.
    """

    command: str
    user: str
    sudo_user: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    timeout: float | None = None
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    def line(self, *, stdin: bool) -> str:
        """See `command_line`, which raises `InvalidArgument` for what can't be sent."""
        return command_line(
            self.command,
            mark=self.mark,
            env=self.env,
            cwd=self.cwd,
            sudo_user=self.sudo_user,
            stdin=stdin,
        )


class Conversation:
    """Listens to one command. Subclasses say what becomes of its output.

    Attributes:
        channel: The command's channel, once it has one.
        group: Its process group on the instance, once it has said so; it has then begun.
        exit_code: Once it has exited.
        over: Whether its channel is closed: nothing will follow.
    """

    def __init__(self, mark: str) -> None:
        self.channel: Channel | None = None
        self.group: int | None = None
        self.exit_code: int | None = None
        self.over = False
        self._greeting = b"\x02" + mark.encode() + b" "
        self._noise = bytearray()
        self._heard = self._put_off = 0
        self._paused = self._resuming = False
        self._news = anyio.Event()
        self._room = anyio.Event()
        self._room.set()

    # -- told by the channel -----------------------------------------------------------------

    def received(self, stream: Stream, data: bytes) -> None:
        """See `Receiver.received`."""
        self._heard += len(data)
        if self.group is None:
            data = self._greeted(stream, data)
        if data:
            self.output(stream, data)

    def exited(self, code: int) -> None:
        """See `Receiver.exited`."""
        self.exit_code = code
        self._news.set()

    def closed(self) -> None:
        """See `Receiver.closed`."""
        self.over = True
        self._room.set()
        self._news.set()

    def writable(self, ready: bool) -> None:
        """See `Receiver.writable`."""
        if ready:
            self._room.set()
        elif not self.over:
            self._room = anyio.Event()

    # -- for subclasses ----------------------------------------------------------------------

    def output(self, stream: Stream, data: bytes) -> None:
        """Take output of the command. Called by the channel: it must not block."""

    async def flush(self) -> None:
        """Do what `output` has put off. Called again and again while the command runs."""

    def put_off(self, size: int) -> None:
        """Say that `size` bytes wait for `flush`, which is called soon; with many, pause."""
        self._put_off += size
        self._news.set()
        # Never while resuming: asyncssh opens the window again for data that it still holds, so
        # that a pause amid what resume() delivers would let its buffer grow without bound.
        if self._put_off > BACKLOG and self.channel is not None and not self._resuming:
            self._paused = True
            self.channel.pause()

    def caught_up(self, waiting: int = 0) -> None:
        """Say that only `waiting` bytes still wait; the peer may send again."""
        self._put_off = waiting
        if self._paused and self.channel is not None and not self.over:
            self._paused, self._resuming = False, True
            self.channel.resume()
            self._resuming = False
            self.put_off(0)

    # -- for who converses -------------------------------------------------------------------

    @property
    def noise(self) -> str:
        """What came before the command began: all there is to know when it never did."""
        return self._noise.decode(errors="replace").strip()

    async def room(self) -> None:
        """Wait until more input is welcome; the channel may be closed then."""
        await self._room.wait()

    async def begun(self) -> None:
        """Wait until the command has begun, or never will."""
        while self.group is None and self.exit_code is None and not self.over:
            await self._next()

    async def until_exit(self, drain_grace: float) -> None:
        """Wait for the command's exit and then for the rest of its output.

        sshd reports an exit at once, when output may still be on its way, or held open by a child.
        The channel's end is waited for as long as a full stream of it comes; otherwise, and when
        more has come than can have been on its way, for `drain_grace` seconds.
        """
        while self.exit_code is None and not self.over:
            await self._next()
        heard_at_exit = self._heard
        more = True
        while more and not self.over:
            heard = self._heard
            with anyio.move_on_after(drain_grace):
                while not self.over:
                    await self._next()
            more = self._heard - heard >= PACKET and self._heard - heard_at_exit <= IN_FLIGHT
        await self.flush()

    async def _next(self) -> None:
        await self._news.wait()
        self._news = anyio.Event()
        await self.flush()

    def _greeted(self, stream: Stream, data: bytes) -> bytes:
        """Look for the greeting in what has come; what follows it is the command's output."""
        if stream == "stderr":
            if len(self._noise) < NOISE_LIMIT:
                self._noise += data
            return b""
        self._noise += data
        start = self._noise.find(self._greeting)
        end = self._noise.find(b"\n", start) if start >= 0 else -1
        if end < 0:
            if start < 0:
                del self._noise[: max(0, len(self._noise) - NOISE_LIMIT)]
            return b""
        self.group = int(self._noise[start + len(self._greeting) : end])
        rest = bytes(self._noise[end + 1 :])
        self._noise.clear()
        self._news.set()
        return rest


async def converse(
    pool: Pool, target: Target, order: Order, talk: Conversation, limits: Limits, feed: Feed | None
) -> str | None:
    """Run `order` on `target` and let `talk` listen, until the command's exit.

    Args:
        pool: Whose connection is used.
        target: Where.
        order: What; its timeout counts from here on, once a channel is had.
        talk: Listens.
        limits: The graces.
        feed: Writes the command's input and its end; ``None``: there is no input.

    Returns:
        ``None`` when the command exited. When its time was up and it was ended: what could not be
        ended of it, in words; empty when nothing is left.

    Raises:
        ConnectionLost: The connection ended before the command did. What may be left of it is
            ended as soon as there is a connection again.
        AuthenticationFailed: The login, or sudo, let no command run.
        ConnectError: There was no connection.

    If cancelled, or if `talk` or `feed` raises, the command is ended before this returns.
    """
    line = order.line(stdin=feed is not None)
    async with pool.lease(target) as lease:
        try:
            with anyio.move_on_after(order.timeout) as scope:
                talk.channel = await lease.start(line, talk)
                await _listen(talk, feed, limits)
            if scope.cancelled_caught:
                return await _end(pool, lease, order, talk, limits)
        except ConnectionLost:  # while it was asked for: it may have been started
            lease.slot.debts.append(_ending(order, talk, limits, order.sudo_user))
            raise
        except RemoteError:
            raise
        except BaseException:  # cancelled, or the listener failed: nothing may be left running
            if left := await _end(pool, lease, order, talk, limits):
                logger.warning("%s: %s", target.instance_id, left)
            raise
        finally:
            if talk.channel is not None:
                talk.channel.close()
        _judge(lease, order, talk, limits)
    return None


async def _listen(talk: Conversation, feed: Feed | None, limits: Limits) -> None:
    if feed is None:
        await talk.until_exit(limits.drain_grace)
        return
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed, talk)
            await talk.until_exit(limits.drain_grace)
            tasks.cancel_scope.cancel()  # a command need not read all of its input
    except BaseExceptionGroup as group:  # one of the two failed, and the other was cancelled
        raise group.exceptions[0] from None


def _judge(lease: Lease, order: Order, talk: Conversation, limits: Limits) -> None:
    """Raise unless the command ran and exited."""
    target = lease.slot.target
    facts = {"instance_id": target.instance_id, "host": target.host}
    if talk.exit_code is None:
        lease.slot.debts.append(_ending(order, talk, limits, order.sudo_user))
        raise ConnectionLost(
            **facts,
            problem="the connection was lost while this ran, and nobody knows how it ended: "
            + shortened(order.command),
        )
    if talk.group is None:
        said = talk.noise or f"it exited with {talk.exit_code} and said nothing"
        how = f"sudo -n -u {order.sudo_user}" if order.sudo_user else f"the login as {order.user}"
        raise AuthenticationFailed(**facts, problem=f"{how} runs no commands: {said}")


def _ending(order: Order, talk: Conversation, limits: Limits, sudo_user: str | None) -> str:
    return ending_line(order.mark, talk.group or 0, limits.kill_grace, sudo_user=sudo_user)


async def _end(pool: Pool, lease: Lease, order: Order, talk: Conversation, limits: Limits) -> str:
    """End the command and all that came of it, verified; return what is left, in words.

    Shielded, and bounded by the graces. When it can't be done now, the next connection does it.
    """
    target = lease.slot.target
    left = "the instance did not say in time whether anything is left"
    with anyio.move_on_after(2 * limits.kill_grace + limits.close_grace, shield=True):
        if talk.channel is None:
            return ""  # it was never started: `start` is shielded
        with anyio.move_on_after(limits.kill_grace):
            await talk.begun()
        try:
            left = await _ended(pool, target, order, talk, limits)
        except ExperimentException as error:
            left = f"ending it failed: {error}"
        with contextlib.suppress(ExperimentException, OSError), anyio.move_on_after(1):
            while not left and not talk.over:  # the server frees the channel when all is gone
                await talk.until_exit(limits.drain_grace)
    if left:
        lease.slot.debts.append(_ending(order, talk, limits, order.sudo_user))
    if not talk.over:
        lease.drop()  # its channel may still be counted by the server
    return left


async def _ended(
    pool: Pool, target: Target, order: Order, talk: Conversation, limits: Limits
) -> str:
    """Run `ending_line`, as the command's user and, where that does not do, as root."""
    left = ""
    users = [order.sudo_user] if order.user == "root" else [order.sudo_user, "root"]
    for user in users:
        end = _Words()
        async with pool.lease(target, spare=True) as lease:
            channel = await lease.start(_ending(order, talk, limits, user), end)
            try:
                await end.until_exit(limits.drain_grace)
            finally:
                channel.close()
        if end.exit_code == 0:
            return ""
        if end.exit_code == NOT_ALL_ENDED or user != "root":  # else sudo is not for us
            left = f"process ids {end.words}" if end.words else "it is not known what"
    return left


class _Words(Conversation):
    """Keeps the few words that a command of ours says."""

    def __init__(self) -> None:
        super().__init__("")
        self.group = 0
        self.words = ""

    def output(self, stream: Stream, data: bytes) -> None:
        if len(self.words) < NOISE_LIMIT:
            self.words = (self.words + data.decode(errors="replace")).strip()


async def send(talk: Conversation, data: bytes) -> bool:
    """Write `data` as the command takes it; whether it still does."""
    assert talk.channel is not None
    view = memoryview(data)
    for start in range(0, len(view), CHUNK):
        await talk.room()
        if talk.over:
            return False
        talk.channel.write(bytes(view[start : start + CHUNK]))
    return True
