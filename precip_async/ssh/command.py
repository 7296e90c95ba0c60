"""One command through one channel: started, listened to, and ended for real when its time is up."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import anyio

from precip_async.errors import (
    AuthenticationFailed,
    ConnectError,
    ConnectionLost,
    ExperimentException,
    shortened,
)
from precip_async.shell import command_line, ending_line
from precip_async.ssh.conversation import Conversation, Feed, Words, send
from precip_async.steps import reached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from precip_async.limits import Limits
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.slot import Lease
    from precip_async.ssh.transport import Target

__all__ = ["Conversation", "Feed", "Order", "converse", "end_run", "endings", "send"]

logger = logging.getLogger(__name__)

NOT_ALL_ENDED = 9  # the exit code of `ending_line` when something is left
CHANNEL_GRACE = 1.0  # seconds for sshd to free a channel when all of its command is gone
TURNS = 2  # of the loop, for what came together with the exit: mostly that is all
PACKET = 16 * 1024  # bytes: sshd reads as much at once of what a command has left in its pipe
IN_FLIGHT = 4 * 1024 * 1024  # bytes: a channel's window twice, and some pipes; more is younger


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
        lasting: Whether it is left to itself when nobody listens any more: it is short, and what
            it has begun is to be.
        mark: Names the run in the environment of each of its processes.
    """

    command: str
    user: str
    sudo_user: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    timeout: float | None = None
    lasting: bool = False
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    _lines: dict[bool, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def line(self, *, stdin: bool) -> str:
        """See `command_line`, which raises `InvalidArgument` for what can't be sent."""
        line = self._lines.get(stdin)
        if line is None:  # it is asked for before anything runs, and again when it is sent
            line = self._lines[stdin] = command_line(
                self.command,
                mark=self.mark,
                env=self.env,
                cwd=self.cwd,
                sudo_user=self.sudo_user,
                stdin=stdin,
            )
        return line


async def converse(
    pool: Pool, target: Target, order: Order, talk: Conversation, limits: Limits, feed: Feed | None
) -> str | None:
    """Run `order` on `target` and let `talk` listen, until the command's exit.

    Args:
        pool: Whose connection is used.
        target: Where.
        order: What; its timeout counts from here on, once a channel is had, to its exit.
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

    If cancelled, or if `talk` or `feed` raises, the command is ended before this returns. It is
    best called in a child of an anyio task group, where cancellation waits for shields; a bare
    `asyncio.Task.cancel` in the moment of the start costs the connection.
    """
    line = order.line(stdin=feed is not None)
    async with pool.lease(target) as lease:
        run = _Run(pool, lease, order, talk, limits)
        reached("command.leased")
        try:
            if order.timeout is None:
                await run.start(line)
                await run.listen(feed)
            else:
                with anyio.move_on_after(order.timeout) as scope:
                    await run.start(line)
                    await run.listen(feed)
                if scope.cancelled_caught and talk.exit_code is None:
                    return await run.end()
            reached("command.exited")
            await run.drain()
        except BaseException:  # cancelled, or the listener failed: nothing may be left running
            talk.ignore()
            if left := await run.end():
                logger.warning("%s: %s", target.instance_id, left)
            raise
        finally:
            if talk.channel is not None:
                talk.channel.close()
        run.judge()
    return None


class _Run:
    """One order under way."""

    def __init__(
        self, pool: Pool, lease: Lease, order: Order, talk: Conversation, limits: Limits
    ) -> None:
        self._pool, self._lease, self._limits = pool, lease, limits
        self._order, self._talk = order, talk

    async def start(self, line: str) -> None:
        """Have it started."""
        try:
            self._talk.channel = await self._lease.start(line, self._talk)
        except ConnectionLost:  # it may have been started
            self._owe()
            raise
        reached("command.started")

    async def listen(self, feed: Feed | None) -> None:
        """Feed it and wait for its exit; it need not read all of its input."""
        talk = self._talk
        if feed is None:
            await talk.until_exit()
            return
        await _first(talk.until_exit, partial(_fed, feed, talk))

    async def drain(self) -> None:
        """Wait for the rest of the output, which ends with the channel unless a child holds it.

        sshd reports an exit at once, when output may still be on its way. What is not there after
        `drain_grace` is waited for by an echo, which sshd answers behind all that it has to send:
        when hardly anything came before the answer, only somebody else can be writing. So it does
        not matter how slow the network is.
        """
        talk, heard_at_exit = self._talk, self._talk.heard
        for _ in range(TURNS):
            if not talk.over:
                await asyncio.sleep(0)
        if not talk.over:
            with anyio.move_on_after(self._limits.drain_grace):
                await talk.until_over()
        more = True
        while more and not talk.over:
            heard = talk.heard
            silent = partial(talk.until_silent, self._limits.connect_timeout)
            await _first(self._lease.echo, silent)
            more = talk.heard - heard >= PACKET and talk.heard - heard_at_exit <= IN_FLIGHT
        await talk.flush()

    def judge(self) -> None:
        """Raise unless the command ran and exited."""
        talk, order = self._talk, self._order
        target = self._lease.slot.target
        if talk.exit_code is None:
            self._owe()
            raise ConnectionLost(
                instance_id=target.instance_id,
                host=target.host,
                problem="the connection was lost while this ran, and nobody knows how it ended: "
                + shortened(order.command),
            )
        if talk.group is None:
            said = talk.noise or f"it exited with {talk.exit_code} and said nothing"
            how = "the login"
            if order.sudo_user is not None:
                how = f"sudo -n -u {order.sudo_user}"
            raise AuthenticationFailed(
                instance_id=target.instance_id,
                host=target.host,
                problem=f"{how} as {order.user} runs no commands: {said}",
            )

    async def end(self) -> str:
        """End the command and all that came of it, verified; return what is left, in words.

        Shielded, and bounded by the graces. What can't be done now, the next connection does.
        """
        talk, limits = self._talk, self._limits
        if talk.channel is None and not self._lease.doubtful:
            return ""  # it was never started
        if self._order.lasting:
            with anyio.move_on_after(limits.kill_grace, shield=True):
                await talk.until_over()
            if not talk.over:
                self._lease.drop()
            return ""
        left = "the instance did not say in time whether anything is left"
        with anyio.move_on_after(2 * limits.kill_grace + limits.close_grace, shield=True):
            if talk.channel is not None:
                with anyio.move_on_after(limits.kill_grace):
                    await talk.begun()
            try:
                target, group = self._lease.slot.target, talk.group or 0
                left = await end_run(self._pool, target, self._order, group, limits)
            except ExperimentException as error:
                left = f"ending it failed: {error}"
            if talk.channel is not None and not left:
                with anyio.move_on_after(CHANNEL_GRACE):
                    await talk.until_over()
        if left:
            self._owe()
        if not talk.over:
            self._lease.drop()  # its channel may still be counted by the server
        return left

    def _owe(self) -> None:
        """Have the next connection end what may be left."""
        order, group = self._order, self._talk.group or 0
        if not order.lasting:
            debt = endings(order, self._limits, group, self._talk.boot)
            self._lease.slot.debts.append(debt)


async def end_run(pool: Pool, target: Target, order: Order, group: int, limits: Limits) -> str:
    """End what runs by `order` in `group` (0: not known), verified; what is left, in words.

    As the command's user and, where that does not do, as root.

    Raises:
        ConnectError: There is no connection; nothing was ended.
        ConnectionLost: Nobody knows what was.
    """
    left = ""
    for user, line in zip(_enders(order), endings(order, limits, group), strict=True):
        end = await _say(pool, target, line)
        if end.exit_code == 0:
            return ""
        if end.exit_code == NOT_ALL_ENDED or user != "root":  # else sudo is not for us
            left = f"process ids {end.words}" if end.words else "it is not known what"
    return left


async def _say(pool: Pool, target: Target, line: str) -> Words:
    """Run a line that ends something; over a new connection where this one does not do.

    It has no session for it, perhaps, or is lost while it runs: to end it twice does no harm.
    """
    for last in (False, True):
        words = Words()
        async with pool.lease(target, spare=True) as lease:
            try:
                channel = await lease.start(line, words, patient=last)
            except (ConnectError, ConnectionLost):
                if last:
                    raise
                lease.drop()
                continue
            try:
                await words.until_over()
            finally:
                channel.close()
        if words.exit_code is not None:
            break
    return words


def endings(order: Order, limits: Limits, group: int = 0, boot: str = "") -> tuple[str, ...]:
    """What ends `order` wherever it was started: lines, each to be run where the one before fails.

    Args:
        order: What.
        limits: The graces.
        group: Its process group; 0: not known.
        boot: In which boot of the instance; empty: in this one.
    """
    return tuple(
        ending_line(order.mark, group, limits.kill_grace, boot=boot, sudo_user=user)
        for user in _enders(order)
    )


def _enders(order: Order) -> tuple[str | None, ...]:
    """Who may end it: the command's own user and, where that does not do, root."""
    return (order.sudo_user,) if order.user == "root" else (order.sudo_user, "root")


async def _fed(feed: Feed, talk: Conversation) -> None:
    await feed(talk)
    await anyio.sleep_forever()


async def _first(
    this: Callable[[], Awaitable[object]], that: Callable[[], Awaitable[object]]
) -> None:
    """Do both until one of them is done, or fails with its own error."""
    try:
        async with anyio.create_task_group() as tasks:

            async def run(job: Callable[[], Awaitable[object]]) -> None:
                await job()
                tasks.cancel_scope.cancel()

            tasks.start_soon(run, that)
            await run(this)
    except BaseExceptionGroup as group:
        error = group.exceptions[0]
        raise error from error.__cause__  # its cause stays, the group is no news
