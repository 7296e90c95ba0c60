"""Child processes on the event loop: started in one synchronous step, reaped by their pidfd.

asyncio's own are not used: before Python 3.12 each costs a thread, and their exit is reported only
when the last background process has closed their pipes, while an SSH server has to say at once that
a command has exited.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Child", "Streams"]

UMASK: Final = 0o022  # a login's, whatever ours is


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Three descriptors; one may stand for several."""

    stdin: int
    stdout: int
    stderr: int

    def close(self) -> None:
        """Close each of them; to be called once."""
        for fd in {self.stdin, self.stdout, self.stderr}:
            os.close(fd)


class Child:
    """A process that we started, until it has been reaped.

    Signals go to the process itself and to nobody else: its id is ours until `returncode` is known.

    Args:
        argv: The program, by its path, and its arguments.
        env: Its whole environment.
        streams: Its standard streams, which stay the caller's; nothing else of ours is inherited.
        new_session: Whether it gets a session of its own from us, or will see to that itself.
        exited: Called once, with `returncode`, when it has exited; its output may still be read.

    Raises:
        OSError: It could not be started.
    """

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str],
        streams: Streams,
        new_session: bool = True,
        exited: Callable[[int], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._exited = exited
        self._gone = asyncio.Event()
        self._process = subprocess.Popen(  # starts in about a millisecond: vfork
            argv,
            env=dict(env),
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
            cwd="/",
            start_new_session=new_session,
            umask=UMASK,
        )
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, an old kernel, or no descriptor left
            self._pidfd = -1
            waiter = threading.Thread(target=self._wait_in_thread, name=f"wait {self.pid}")
            waiter.daemon = True  # it ends with the child, which may outlive the loop
            waiter.start()
        else:
            self._loop.add_reader(self._pidfd, self._reap)

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group and its session."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus a signal's number, or ``None`` while it runs."""
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has exited."""
        self._process.send_signal(number)

    def send_group(self, number: signal.Signals) -> None:
        """Send a signal to it and all that stayed in its group, unless it has exited itself."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has not made its group yet
                os.killpg(self.pid, number)
            self.send(number)

    def stopped(self) -> bool:
        """Whether it has been stopped, and not continued."""
        flags = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        try:
            return self.returncode is None and os.waitid(os.P_PID, self.pid, flags) is not None
        except ChildProcessError:  # it has exited just now, and is not reaped yet
            return False

    async def wait(self) -> int:
        """Wait until it has been reaped; cancelling leaves it as it is."""
        await self._gone.wait()
        assert self.returncode is not None
        return self.returncode

    def _wait_in_thread(self) -> None:
        self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody asks any more
            self._loop.call_soon_threadsafe(self._reap)

    def _reap(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        code = self._process.wait()  # it has exited: this returns at once
        self._gone.set()
        if self._exited is not None:
            self._exited(code)
