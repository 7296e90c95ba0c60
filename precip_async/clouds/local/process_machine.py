"""One machine of the process isolation: its place, its SSH server, its space or directory."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import asyncssh

from precip_async.clouds.base import CLOUD_INIT_STATE
from precip_async.clouds.local.process_children import Child, Streams
from precip_async.clouds.local.process_login import SEARCH_PATH, prelude, sudo
from precip_async.clouds.local.process_space import Space, overslept
from precip_async.clouds.local.process_ssh import listen
from precip_async.clouds.local.process_sweep import MARK, end_marked
from precip_async.clouds.local.yard import Placement, YardError, refusing

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from precip_async.clouds.local.process_login import Request
    from precip_async.clouds.local.process_space import SpaceTools
    from precip_async.clouds.local.yard import MachineSpec

__all__ = ["Machine"]

BEGIN_TIMEOUT: Final = 20.0  # seconds until its cloud-init is under way; about 0.01
END_TIMEOUT: Final = 20.0  # seconds until what won't end is reported
LOOK: Final = 1.0  # seconds between two looks for sessions that sleep
BACKLOG: Final = 4096  # connections that a server may leave unanswered

# The directory, and what stands in for sudo.
_WRITING: Final = """\
mkdir -m 0755 {0} && cat >{0}/sudo <<'PROGRAM' && chmod 0755 {0}/sudo
{1}PROGRAM
"""


class Machine:
    """A machine; the host that its SSH server works for.

    Built, it owns nothing but its log and its place; `start` takes the rest, and `end` gives back
    whatever there is, also after a failed or cancelled `start`.

    Args:
        place: The bound socket that its SSH server will listen at; its own from now on.
        log: The file that is its console.
        directory: Where its homes go when it has no space; its own, not there yet.
        tools: What spaces are made with; ``None``: it gets none.
        open_files: The soft limit that its sessions start with.
        died: Called once if it ends by itself.
    """

    def __init__(
        self,
        spec: MachineSpec,
        *,
        place: socket.socket,
        log: Path,
        directory: Path,
        tools: SpaceTools | None,
        open_files: int,
        died: Callable[[str], None],
    ) -> None:
        self.spec = spec
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self.terminals = tools is not None or shutil.which("setsid", path=SEARCH_PATH) is not None
        self._place = place
        self._address, self._port = place.getsockname()
        self._directory = directory
        own = "/tmp" if tools else str(directory)  # noqa: S108 - a space has its own
        self._cloud_init_state = f"{own}/.cloud-init"  # /run/cloud-init is this computer's
        self._programs = f"{own}/.programs"  # of its own, before this computer's
        self._open_files = open_files
        self._died = died
        self._ending = False
        self._end = anyio.Lock()
        self._children: set[Child] = set()
        self._look: asyncio.TimerHandle | None = None
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._keys = asyncssh.import_authorized_keys(spec.authorized_key)
        self._refusing = asyncssh.import_authorized_keys(refusing(spec.authorized_key))
        self._log = os.open(log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._space = (
            Space(tools, mark=f"{MARK}={spec.id}", log=self._log, ended=self._ended_by_itself)
            if tools
            else None
        )

    @property
    def placement(self) -> Placement:
        """Where it is."""
        return Placement(
            public_address=self._address, private_address=self._address, ssh_port=self._port
        )

    async def start(self) -> None:
        """Take what it is made of, and listen, unless its fault says otherwise.

        Raises:
            YardError: It can't be started.
            OSError: Likewise.
        """
        if self._space is not None:
            await self._space.start(
                hostname=self.spec.hostname, address=self._address, disk=self.spec.disk
            )
        else:
            (self._directory / "tmp").mkdir(mode=0o700, parents=True)
            await anyio.to_thread.run_sync(self._write_programs)
        if self.spec.cloud_init:
            await self._begin_cloud_init()
        if self.spec.power:
            self._spawn(self.spec.power, self._powered_off)
        if self.spec.fault == "ssh_hangs":
            self._place.listen(BACKLOG)  # the kernel accepts, and nobody ever speaks
        elif self.spec.fault != "ssh_late":
            await self.listen()

    async def listen(self) -> None:
        """Start its SSH server; once."""
        if self._acceptor is None and not self._ending:
            self._acceptor = await listen(self, self._place, self.spec.host_key)
            if self._ending:
                self._acceptor.close()

    def collapse(self) -> None:
        """Begin its end: nobody gets in any more, and what runs is killed. Never fails."""
        self._ending = True
        if self._acceptor is not None:
            self._acceptor.close()
        self._place.close()
        for connection in list(self.connections):
            connection.abort()
        if self._space is not None:
            self._space.let_go()
            if self._look is not None:
                self._look.cancel()
        else:
            for child in self._children:
                child.send_group(signal.SIGKILL)

    async def end(self) -> None:
        """End it; all of it is gone on return. May be called more than once.

        Raises:
            YardError: Something of it would not end.
        """
        self.collapse()
        with anyio.move_on_after(END_TIMEOUT) as patience:
            async with self._end:
                await self._end_all()
        if patience.cancelled_caught:
            raise YardError(f"{self.spec.id} did not end within {END_TIMEOUT:.0f} s")

    async def _end_all(self) -> None:
        if self._space is not None:
            await self._space.end(self._wake_all)
        else:
            await anyio.to_thread.run_sync(self._sweep)
        for child in list(self._children):
            await child.wait()
        for connection in list(self.connections):
            await connection.wait_closed()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    # What its SSH server asks.

    def keys_of(self, user: str) -> asyncssh.SSHAuthorizedKeys | None:
        """Its owner's key, for any name: a machine has one identity, whatever it is called."""
        if self.spec.fault == "ssh_refuses_key":
            return None
        refused = self.spec.refuses_root and user == "root"
        return self._refusing if refused else self._keys

    def run(self, request: Request, streams: Streams, exited: Callable[[int], None]) -> Child:
        """Start what a session asks for, in its space where it has one."""
        if self._ending:
            raise OSError("the machine is being ended")

        def over(code: int) -> None:
            self._children.discard(child)
            exited(code)

        argv: list[str | bytes] = [*prelude(self._open_files), *request.argv]
        terminal = bool(request.terminal)
        if self._space is not None:
            home = "/root" if request.user == "root" else f"/home/{request.user}"
            env = request.environment(self.spec.id, home)
            argv = self._space.enter(argv, terminal=terminal)
        else:
            env = request.environment(self.spec.id, str(self._directory / f"home-{request.user}"))
            env["TMPDIR"] = str(self._directory / "tmp")
            if terminal:
                argv = ["setsid", "-c", *argv]
        env[CLOUD_INIT_STATE] = self._cloud_init_state
        if self._space is None or self.spec.cloud_init:
            env["PATH"] = f"{self._programs}:{env['PATH']}"
        child = Child(
            argv,
            env=env,
            streams=streams,
            new_session=self._space is not None or not terminal,
            exited=over,
        )
        self._children.add(child)
        if self._space is not None and self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK, self._wake_some)
        return child

    def log(self, line: str) -> None:
        """Write a line to its console."""
        if self._log >= 0:
            os.write(self._log, line.encode(errors="replace") + b"\n")

    async def _begin_cloud_init(self) -> None:
        script = self.spec.cloud_init
        if self._space is not None:  # nobody else can write there
            script = _WRITING.format(self._programs, sudo("/root", "/home/")) + script
        child = self._spawn(script)
        with anyio.move_on_after(BEGIN_TIMEOUT):  # and it boots all the same
            await child.wait()

    def _write_programs(self) -> None:
        program = Path(self._programs) / "sudo"
        program.parent.mkdir(mode=0o700)
        homes = f"{self._directory}/home-"
        program.write_text(sudo(f"{homes}root", homes), encoding="utf-8")
        program.chmod(0o700)

    def _powered_off(self, code: int) -> None:
        if code == 0:  # else whoever decides has failed
            self._ended_by_itself()

    def _spawn(self, script: str, over: Callable[[int], object] | None = None) -> Child:
        """Start a script that is the machine's own and no session's; tell `over` how it ended."""

        def exited(code: int) -> None:
            self._children.discard(child)
            if over is not None:
                over(code)

        argv: list[str | bytes] = ["/bin/sh", "-c", script, "precip", self._cloud_init_state]
        child = Child(
            self._space.enter(argv) if self._space is not None else argv,
            env={"PATH": SEARCH_PATH, MARK: self.spec.id},
            streams=Streams(stdin=self._log, stdout=self._log, stderr=self._log),
            exited=exited,
        )
        self._children.add(child)
        return child

    # nsenter stops itself when what it started is stopped, and is not continued along with it.

    def _wake_some(self) -> None:
        """Let those report an exit that slept through it."""
        for child in self._children:
            if overslept(child):
                child.send(signal.SIGCONT)
        again = asyncio.get_running_loop().call_later
        self._look = again(LOOK, self._wake_some) if self._children else None

    def _wake_all(self) -> None:
        # The kernel kills what runs in the space, and nsenter has to be awake to reap it. Were it
        # killed, that would fall to this computer's init, which may be slow, or never do it.
        for child in self._children:
            child.send(signal.SIGCONT)

    def _ended_by_itself(self) -> None:
        if not self._ending:
            self.collapse()
            self._died(self.spec.id)

    def _sweep(self) -> None:
        if left := end_marked(self.spec.id):
            raise YardError(f"{self.spec.id}: processes {sorted(left)} can't be ended")
        if self._directory.exists():
            shutil.rmtree(self._directory)
