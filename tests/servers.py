"""Real OpenSSH servers for tests, on loopback, run by root or an ordinary user; and their users."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import getpass
import os
import pwd
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from anyio import CancelScope, to_thread
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests import processes
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["KeyType", "OpenSSHServer", "TemporaryUser", "make_key", "sudo_rights", "temporary_user"]

KeyType = Literal["ed25519", "rsa", "ecdsa"]
START = 15.0  # seconds until sshd listens; it takes 0.05 on an idle machine
STOP = 10.0  # seconds until everything of a killed server has ended
USER = "precip-t"  # what the names of temporary users begin with
HELD = Path("/run/precip-test")  # a directory for each of them, locked while it is in use
SUDOERS = Path("/etc/sudoers.d")
MARK = "PRECIP_TEST_SERVER"  # in the environment of every session's processes
EVERYWHERE = "0.0.0.0"
LOOPBACK_ONLY = " rdomain lo"  # what a socket is bound to: an interface, in OpenSSH's words


class OpenSSHServer:
    """An sshd of its own: keys, configuration and log in one directory, everything of it killed.

    Both ``with`` and ``async with`` start and stop it. On ``address="0.0.0.0"`` every 127.0.x.y
    reaches it, so that one server plays many hosts: see `hosts`. Nothing from outside does.

    Attributes:
        host: Where to reach it.
        port: Likewise; it stays the same over `restart`.
        user: Who may log in: the user who runs the tests and, for root, every other user as well.
        client_key_path: A private key that is let in; its public half is `client_public_key`.
        host_public_key: Its (first) host key, ``type base64``, without a comment.
        home: Where its sessions of `user` are at home: their HOME, not their working directory.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        address: str = "127.0.0.1",
        max_sessions: int = 10,
        max_startups: str = "10:30:100",
        authorized_keys: Sequence[str] = (),
        host_key_types: Sequence[KeyType] = ("ed25519",),
        extra_config: Sequence[str] = (),
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sshd-", dir=directory))
        self.address, self.host = address, "127.0.0.1" if address == EVERYWHERE else address
        self._bound = LOOPBACK_ONLY if address == EVERYWHERE else ""
        self.port, self._port_given = port or free_port(self.host), bool(port)
        self.user = getpass.getuser()
        self.home = self.directory / "home"
        self.home.mkdir()
        self.client_key_path = self.directory / "client_key"
        self.client_public_key = make_key(self.client_key_path)
        self.authorized_keys = [self.client_public_key, *authorized_keys]
        self.host_key_types = tuple(host_key_types)
        self.host_public_keys: tuple[str, ...] = ()
        self.extra_config = list(extra_config)
        self._limits = [f"MaxSessions {max_sessions}", f"MaxStartups {max_startups}"]
        self._mark = f"{MARK}={secrets.token_hex(8)}"
        self._listener: subprocess.Popen[bytes] | None = None
        self.renew_host_keys()

    @property
    def host_public_key(self) -> str:
        """The first of its host keys."""
        return self.host_public_keys[0]

    def hosts(self, count: int) -> list[str]:
        """`count` addresses that all reach this server; it must listen on 0.0.0.0."""
        assert self.address == EVERYWHERE, "only a server on 0.0.0.0 has many addresses"
        return [f"127.0.{1 + n // 250}.{1 + n % 250}" for n in range(count)]

    def log(self) -> str:
        """What sshd has said so far, over restarts."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def renew_host_keys(self) -> None:
        """Make other host keys, as a machine does that was installed anew; takes a restart."""
        for path in self.directory.glob("host_key_*"):
            path.unlink()
        self.host_public_keys = tuple(
            make_key(self.directory / f"host_key_{kind}", kind) for kind in self.host_key_types
        )

    def start(self) -> None:
        """Start sshd and return once it listens. Blocks."""
        sshd = shutil.which("sshd")
        assert sshd, "no sshd: mark the test with pytest.mark.sshd"
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists, and is not installed
        for _ in range(10):
            if self._listens(sshd):
                return
            self.stop()
            assert not self._port_given, f"sshd does not start:\n{self.log()}"
            assert "Address already in use" in self.log(), f"sshd does not start:\n{self.log()}"
            self.port = free_port(self.host)  # somebody was faster
        raise AssertionError(f"no free port for sshd:\n{self.log()}")

    def _listens(self, sshd: str) -> bool:
        config = self.directory / "sshd_config"
        config.write_text("\n".join(self._config()) + "\n")
        (self.directory / "authorized_keys").write_text("\n".join(self.authorized_keys) + "\n")
        said = len(self.log())
        with (self.directory / "log").open("ab") as log:
            listener = subprocess.Popen(
                [sshd, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={"PATH": os.environ["PATH"]},
            )
        self._listener = listener
        ready = f"Server listening on {self.address} port {self.port}{self._bound}."
        until(
            lambda: ready in self.log()[said:] or listener.poll() is not None,
            f"sshd listens: {self.log()}",
            within=START,
        )
        return listener.poll() is None

    def _config(self) -> list[str]:
        keys = self.directory / "authorized_keys"
        lines = [
            f"Port {self.port}",
            f"ListenAddress {self.address}{self._bound}",
            *(f"HostKey {path}" for path in sorted(self.directory.glob("host_key_*"))),
            "PidFile none",
            "LogLevel VERBOSE",
            "UsePAM no",
            "UseDNS no",
            "StrictModes no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "PrintMotd no",
            "PrintLastLog no",
            "Subsystem sftp internal-sftp",
            *self._limits,
        ]
        if os.geteuid() == 0:  # other users can't read our directory: root reads it for them
            lines += ["AuthorizedKeysFile none", f'AuthorizedKeysCommand /bin/cat "{keys}"']
            lines += ["AuthorizedKeysCommandUser root"]
        else:
            lines += [f'AuthorizedKeysFile "{keys}"']
        if openssh_version() >= (9, 8):  # our misbehaving clients would lock out all of loopback
            lines += ["PerSourcePenalties no"]
        lines += self.extra_config
        lines += [f"SetEnv {self._mark}"]
        # A HOME of its own, so that no slow or talkative ~/.bashrc is read.
        lines += [f"Match User {self.user}", f'SetEnv {self._mark} "HOME={self.home}"']
        return lines

    def sessions(self) -> list[processes.Process]:
        """The processes that sshd itself has for the connections that are open."""
        if self._listener is None:
            return []
        return [
            process
            for process in processes.descendants([self._listener.pid])
            if process.name.startswith("sshd") and process.alive()
        ]

    def commands(self) -> list[processes.Process]:
        """What the sessions started and still runs, also in its own session or under sudo."""
        found = {process.pid: process for process in processes.marked(self._mark)}
        found |= {process.pid: process for process in processes.descendants(found)}
        return [process for process in found.values() if process.alive()]

    def kill_sessions(self) -> None:
        """Kill every open connection's sshd; what it had started lives on."""
        self.freeze()  # or one of them may have forked since it was looked for
        processes.end(self.sessions())

    def freeze(self) -> None:
        """Stop every open connection's sshd: the peers fall silent, and TCP goes on."""

        def frozen() -> bool:
            running = [process for process in self.sessions() if process.state != "T"]
            for process in running:
                process.signal(signal.SIGSTOP)
            return not running

        until(frozen, "sshd's processes have stopped", within=STOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        for process in self.sessions():
            process.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill the server, its connections and whatever they started. Blocks."""
        if self._listener is not None:
            self._listener.send_signal(signal.SIGSTOP)  # no further session behind our back
        self.freeze()
        ending = self.sessions()
        if self._listener is not None:
            self._listener.kill()
            self._listener.wait(STOP)
            self._listener = None
        processes.end(ending, within=STOP)
        while left := self.commands():
            processes.end(left, within=STOP)

    def restart(self) -> None:
        """Power the machine off and on: same port, and same host keys unless renewed. Blocks."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await to_thread.run_sync(self.__enter__)

    async def __aexit__(self, *exc_info: object) -> None:
        with CancelScope(shield=True):  # `stop` has deadlines of its own
            await to_thread.run_sync(self.stop)


@dataclass(frozen=True, slots=True)
class TemporaryUser:
    """An ordinary user of this machine, for as long as a test needs one."""

    name: str
    uid: int
    home: Path


@contextlib.contextmanager
def temporary_user() -> Iterator[TemporaryUser]:
    """A new unprivileged user, removed afterwards with its home and its processes; takes root.

    Users of test runs that were killed are removed first.
    """
    name = f"{USER}{secrets.token_hex(4)}"
    with contextlib.ExitStack() as held:
        with locked(HELD):
            remove_abandoned()
            held.enter_context(locked(HELD / name))
        try:
            # '*' is no password and, unlike useradd's '!', does not lock the account for sshd.
            useradd = ("useradd", "--create-home", "--shell", "/bin/bash", "--password", "*")
            administer(*useradd, name)
            entry = pwd.getpwnam(name)
            yield TemporaryUser(name=name, uid=entry.pw_uid, home=Path(entry.pw_dir))
        finally:
            remove_user(name)


def remove_user(name: str) -> None:
    """End a temporary user with all that is its own."""
    for snippet in SUDOERS.glob(f"{name}-*"):
        snippet.unlink(missing_ok=True)
    with contextlib.suppress(KeyError):  # killed before it was made, or after it was removed
        uid = pwd.getpwnam(name).pw_uid
        while left := processes.owned_by(uid):
            processes.end(left)
        administer("userdel", "--remove", name)
    (HELD / name).rmdir()


def remove_abandoned() -> None:
    """Remove the users that nobody holds any more: whoever made them was killed."""
    for path in HELD.iterdir():
        with contextlib.suppress(BlockingIOError), locked(path, wait=False):
            remove_user(path.name)


@contextlib.contextmanager
def locked(directory: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold `directory`, made if missing, until the end of this block or of this process."""
    directory.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def sudo_rights(user: str, rule: str = "ALL=(ALL) NOPASSWD: ALL") -> Iterator[None]:
    """Let the temporary `user` do what the sudoers `rule` says; takes root, and sudo."""
    snippet = SUDOERS / f"{user}-{secrets.token_hex(4)}"
    partial = snippet.with_suffix(".partial")  # sudo skips names with a dot: it sees whole rules
    with tempfile.NamedTemporaryFile("w") as draft:
        draft.write(f"{user} {rule}\n")
        draft.flush()
        administer("visudo", "--check", "--quiet", f"--file={draft.name}")
        try:
            administer("install", "--mode=0440", draft.name, str(partial))
            partial.rename(snippet)
            yield
        finally:
            partial.unlink(missing_ok=True)
            snippet.unlink(missing_ok=True)


def administer(*command: str) -> str:
    """Run an administrator's command, again while another one holds its lock; its output."""
    last = ""

    def done() -> subprocess.CompletedProcess[str] | None:
        nonlocal last
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        last = f"{shlex.join(command)}: exit code {ran.returncode}: {ran.stderr.strip()}"
        return None if "cannot lock" in ran.stderr else ran

    ran = until(done, "the lock of /etc/passwd", within=START)
    assert ran is not None, last
    assert ran.returncode == 0, last
    return ran.stdout


def make_key(path: Path, kind: KeyType = "ed25519") -> str:
    """Write a new private key to `path`; its public half as ``type base64``."""
    key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    match kind:
        case "ed25519":
            key = ed25519.Ed25519PrivateKey.generate()
        case "rsa":
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "ecdsa":
            key = ec.generate_private_key(ec.SECP256R1())
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return public.decode()


def free_port(host: str) -> int:
    """A port of `host` that nobody listens at now."""
    with socket.create_server((host, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@functools.cache
def openssh_version() -> tuple[int, int]:
    """The version of this machine's sshd: `(9, 2)`."""
    # Before 9.3 there is no -V, and the complaint about it names the version.
    ran = subprocess.run(["sshd", "-V"], capture_output=True, text=True, check=False, timeout=30)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", ran.stdout + ran.stderr)
    assert found, f"sshd does not say its version: {ran}"
    return int(found[1]), int(found[2])
