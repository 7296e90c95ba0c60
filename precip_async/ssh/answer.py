"""A short command of ours and its answer: whether it ran at all counts as much as its words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from precip_async.ssh.command import converse
from precip_async.ssh.conversation import Conversation

if TYPE_CHECKING:
    from precip_async.events import Stream
    from precip_async.limits import Limits
    from precip_async.ssh.command import Order
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.transport import Target

__all__ = ["Answer", "ask"]

MOST = 64 * 1024  # bytes of its stdout that are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a short command.

    Attributes:
        exit_code: Its exit code; ``None`` when its time was up and it was ended.
        said: The beginning of its stdout.
        begun: Whether it had begun.
        noise: What the login said before that.
    """

    exit_code: int | None
    said: bytes = field(default=b"", repr=False)
    begun: bool = True
    noise: str = ""


async def ask(pool: Pool, target: Target, order: Order, limits: Limits) -> Answer:
    """Run `order` on `target` and return its answer; its time being up is one too.

    Raises:
        RemoteError: See `converse`.
    """
    talk = _Talk(order.mark)
    left = await converse(pool, target, order, talk, limits, None)
    return Answer(
        exit_code=talk.exit_code if left is None else None,
        said=bytes(talk.said),
        begun=talk.group is not None,
        noise=talk.noise,
    )


class _Talk(Conversation):
    """Keeps what the command says, which is little."""

    def __init__(self, mark: str) -> None:
        super().__init__(mark)
        self.said = bytearray()

    def output(self, stream: Stream, data: bytes) -> None:
        """Keep it."""
        if stream == "stdout" and len(self.said) < MOST:
            self.said += data
