"""A space of its own for each machine, where this kernel lets us have one.

A space is a set of namespaces (user, unless we are root; mount, process, host name, IPC) held by
one idle process, its pid 1. Inside, ``/root``, ``/home``, ``/tmp``, ``/var/tmp`` and ``/dev/shm``
are private and in memory, the process tree starts anew, and we are root. Everything else is this
computer's.

Nothing of a space can be left behind. Its pid 1 reads a socket whose other end only we hold: when
we close it, or die by whatever means, pid 1 ends, and with it the kernel ends every process in the
space and frees its file systems. The kernel lets pid 1 go only when all the others are gone, so
waiting for the holder is waiting for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import anyio

from precip_async.clouds.local.process_children import Child, Streams
from precip_async.clouds.local.process_login import SEARCH_PATH
from precip_async.clouds.local.process_pipes import Outlet
from precip_async.clouds.local.yard import YardError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Space", "SpaceTools", "overslept"]

START_TIMEOUT: Final = 20.0  # seconds; about 0.03 on an idle computer
END_SECONDS: Final = 5  # until we end the holder by force

# $1 host name, $2 address, $3 mount options. Says its process id as we see it: /proc is still the
# old one when it is read. A private directory that is missing on this computer is left out; one
# that is the same as /tmp (some make /var/tmp a link to it) is private with it, and /tmp is last
# because the file system behind all of them is put together there.
INIT: Final = r"""
set -e
read -r pid _ < /proc/self/stat
mount -t proc proc /proc
mount -t tmpfs -o "$3" precip /tmp
mkdir -m 0700 /tmp/root
mkdir -m 0755 /tmp/home
mkdir -m 1777 /tmp/tmp /tmp/var-tmp /tmp/shm
if [ -f /etc/hosts ]; then
    { cat /etc/hosts; echo "$2 $1"; } > /tmp/hosts
    mount --bind /tmp/hosts /etc/hosts
fi
for pair in root:/root home:/home var-tmp:/var/tmp shm:/dev/shm; do
    if [ -d "${pair#*:}" ] && [ ! "${pair#*:}" -ef /tmp ]; then
        mount --bind "/tmp/${pair%%:*}" "${pair#*:}"
    fi
done
mount --bind /tmp/tmp /tmp
hostname "$1" || echo "the host name stays this computer's" >&2
cd /
echo "$pid"
exec > /dev/null
# Orphans are pid 1's to reap. bash hands an ignored SIGCHLD on to cat, so that the kernel does it;
# other shells do it themselves while they wait.
if [ -n "$BASH_VERSION" ]; then
    trap '' CHLD
    exec cat
fi
exec 3<&0
cat <&3 &
wait
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceTools:
    """The programs that spaces are made with, by their paths.

    Attributes:
        woken: What to put before a command that is to get SIGCONT when we die.
        sh: The shell that is pid 1: bash without start-up files, which it would read because its
            input is a socket, or another.
        user: Whether spaces get a user namespace: needed by who is not root, and by a root that is
            not allowed the others.
    """

    unshare: str
    nsenter: str
    setsid: str
    woken: tuple[str, ...]
    sh: tuple[str, ...]
    user: bool

    @classmethod
    def find(cls, *, user: bool) -> Self:
        """Look for them.

        Raises:
            YardError: One is missing.
        """
        found = {name: _which(name) for name in ("unshare", "nsenter", "setsid", "mount")}
        if missing := sorted(name for name, path in found.items() if path is None):
            raise YardError(f"{', '.join(missing)} not found (they are part of util-linux)")
        setpriv, bash = _which("setpriv"), _which("bash")
        return cls(
            unshare=found["unshare"] or "",
            nsenter=found["nsenter"] or "",
            setsid=found["setsid"] or "",
            woken=(setpriv, "--pdeathsig", "CONT", "--") if setpriv else (),
            sh=(bash, "--norc") if bash else ("/bin/sh",),
            user=user,
        )


class Space:
    """One machine's namespaces.

    Built by `start`; `end` is to be called in any case, and is complete also when `start` failed or
    was cancelled.

    Args:
        tools: What `SpaceTools.find` found.
        mark: An environment variable, ``NAME=value``, by which its pid 1 is recognised.
        log: A descriptor, readable as well, for what goes wrong inside; stays the caller's.
        ended: Called once, when the space is no more, whoever ended it.
    """

    def __init__(
        self, tools: SpaceTools, *, mark: str, log: int, ended: Callable[[], None]
    ) -> None:
        self._tools = tools
        self._mark = mark
        self._log = log
        self._ended = ended
        self._line: socket.socket | None = None
        self._holder: Child | None = None
        self._outlet: Outlet | None = None
        self._namespaces = -1

    async def start(self, *, hostname: str, address: str, disk: int | None) -> None:
        """Make the space.

        Args:
            hostname: What it calls itself.
            address: What its name resolves to inside.
            disk: Gibibytes that its private directories may hold; ``None``: the kernel's default.

        Raises:
            YardError: It can't be had here.
            OSError: No process can be started.
        """
        said = bytearray()
        ready = asyncio.Event()
        logged = os.fstat(self._log).st_size

        def deliver(data: bytes) -> None:
            said.extend(data)
            if said.endswith(b"\n"):
                ready.set()

        options = "mode=0755" if disk is None else f"mode=0755,size={disk}g"
        self._line, theirs = socket.socketpair()
        with theirs, _pipe() as (reading, writing):
            init = [*self._tools.sh, "-c", INIT, "precip", hostname, address, options]
            streams = Streams(stdin=theirs.fileno(), stdout=writing, stderr=self._log)
            name, _, value = self._mark.partition("=")
            self._holder = Child(
                [*self._unshare(), *init],
                env={"PATH": SEARCH_PATH, name: value},
                streams=streams,
                exited=lambda _: self._ended(),
            )
            self._outlet = Outlet(os.dup(reading), deliver, ready.set)
        with anyio.move_on_after(START_TIMEOUT) as patience:
            await ready.wait()
        if patience.cancelled_caught:
            raise YardError(f"its namespaces were not ready after {START_TIMEOUT:.0f} s")
        if not said.endswith(b"\n"):
            why = os.pread(self._log, 1000, logged).decode(errors="replace").strip()
            raise YardError(
                f"its namespaces can't be made: {' '.join(why.split()) or 'no word why'}"
            )
        # Held open, these are this space's for good; a process id could be another's by then.
        try:
            self._namespaces = os.open(f"/proc/{int(said)}/ns", os.O_PATH | os.O_DIRECTORY)
        except OSError as exc:
            raise YardError(f"its namespaces ended as soon as they were made: {exc}") from exc

    def enter(self, argv: Sequence[str | bytes], *, terminal: bool = False) -> list[str | bytes]:
        """The command line that runs `argv` inside, as a session of its own.

        Args:
            argv: The program and its arguments.
            terminal: Whether its standard input is to become its controlling terminal.
        """
        ours = f"/proc/{os.getpid()}/fd/{self._namespaces}"
        entered = [f"--{kind}={ours}/{name}" for kind, name in _KINDS]
        if self._tools.user:
            entered += [f"--user={ours}/user", "--preserve-credentials"]
        session = [self._tools.setsid, *(["-c"] if terminal else []), "--"]
        # nsenter waits for what runs inside, and stops when that is stopped. Nobody but us would
        # wake it, and without it a zombie would keep the space's end from being complete.
        return [*self._tools.woken, self._tools.nsenter, *entered, "--", *session, *argv]

    async def end(self, nudge: Callable[[], None]) -> None:
        """End everything in it. On return it is gone; may be called more than once.

        Args:
            nudge: Called every second that it takes: wakes who has entered the space.
        """
        self.let_go()
        if self._holder is None:
            return
        for _ in range(END_SECONDS):
            nudge()
            with anyio.move_on_after(1):
                await self._holder.wait()
                return
        self._holder.send(signal.SIGKILL)  # --kill-child takes pid 1 along
        await self._holder.wait()

    def let_go(self) -> None:
        """Begin its end: pid 1 sees the end of its input."""
        if self._line is not None:
            self._line.close()
        if self._outlet is not None:
            self._outlet.close()
        if self._namespaces >= 0:
            os.close(self._namespaces)
            self._namespaces = -1

    def _unshare(self) -> list[str]:
        kinds = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        user = ["--user", "--map-root-user"] if self._tools.user else []
        return [self._tools.unshare, *user, *kinds, "--"]


def overslept(entered: Child) -> bool:
    """Whether a command line of `Space.enter` is stopped although what it started has ended."""
    if not entered.stopped():
        return False
    pid = entered.pid
    try:
        inside = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        states = [Path(f"/proc/{one}/stat").read_bytes().rpartition(b")")[2] for one in inside]
    except FileNotFoundError:  # a kernel that keeps no such list
        return True
    return all(state.split()[0] == b"Z" for state in states)


_KINDS: Final = (("mount", "mnt"), ("uts", "uts"), ("ipc", "ipc"), ("pid", "pid"))


def _which(name: str) -> str | None:
    return shutil.which(name, path=SEARCH_PATH)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)
