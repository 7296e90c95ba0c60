"""What moving files in either direction has in common: the conversation with a script over there.

Both directions run a small POSIX ``sh`` script on the instance and stream through it: a file as it
is, a tree as tar. That costs less than SFTP (one round trip instead of five, no request for every
32 KiB), passes through sudo, and is ended like any other command. Nobody sees half a file: each is
written under a temporary name and renamed, on either side.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from precip_async.errors import RemoteError, TransferError
from precip_async.ssh import tree
from precip_async.ssh.command import converse
from precip_async.ssh.conversation import Conversation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from precip_async.events import Stream
    from precip_async.limits import Limits
    from precip_async.ssh.command import Order
    from precip_async.ssh.conversation import Feed
    from precip_async.ssh.pool import Pool
    from precip_async.ssh.transport import Target

__all__ = ["Script", "finish", "local_trouble"]

SAID_LIMIT = 8 * 1024  # bytes of what a script says; a path is at most 4 KiB


class Script(Conversation):
    """Keeps the end of what a script of ours says: why it failed."""

    def __init__(self, mark: str) -> None:
        super().__init__(mark)
        self._said = bytearray()

    def output(self, stream: Stream, data: bytes) -> None:
        """Keep the end of it."""
        self._said += data
        del self._said[:-SAID_LIMIT]

    def why(self) -> str:
        """Why it failed, in its own words."""
        words = self._said.decode(errors="replace").strip()
        return words or f"the instance's end of it exited with {self.exit_code}"


async def finish(
    pool: Pool,
    target: Target,
    order: Order,
    talk: Script,
    limits: Limits,
    feed: Feed | None,
    what: str,
) -> None:
    """Converse, and turn an exit code that is not zero into a `TransferError`."""
    left = await converse(pool, target, order, talk, limits, feed)
    if left is not None:
        problem = f"not done within {order.timeout:g} s, its timeout"
        raise _failed(target, what, f"{problem}; {left}" if left else problem)
    if talk.exit_code:
        raise _failed(target, what, talk.why())


def _failed(target: Target, what: object, why: str) -> TransferError:
    return TransferError(instance_id=target.instance_id, host=target.host, problem=f"{what}: {why}")


@contextlib.contextmanager
def local_trouble(target: Target, path: Path) -> Iterator[None]:
    """Turn what this machine's file system says into a `TransferError`."""
    try:
        yield
    except tree.TreeError as error:
        raise _failed(target, path, str(error)) from error
    except OSError as error:
        if isinstance(error, RemoteError):  # a connection that was not had in time
            raise
        named = error.filename if isinstance(error.filename, str) else path
        raise _failed(target, named, error.strerror or str(error)) from error
