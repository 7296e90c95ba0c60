"""Other servers than this machine's OpenSSH as it comes: all that we do works, on either path."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from precip_async import Limits, LocalExperiment
from tests import processes
from tests.polling import until
from tests.servers import OpenSSHServer, free_port, make_key
from tests.ssh.rig import Pins, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import KeyType, TemporaryUser

both_paths = pytest.mark.parametrize("fast", [True, False], ids=["fast", "public"])

START = 15.0  # seconds until a server listens
HARDENED = """\
KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256
Ciphers chacha20-poly1305@openssh.com,aes256-ctr
MACs hmac-sha2-512-etm@openssh.com
HostKeyAlgorithms ssh-ed25519
PubkeyAcceptedAlgorithms ssh-ed25519,rsa-sha2-512
MaxAuthTries 2
"""
CAUTIOUS = HARDENED.replace("chacha20-poly1305@openssh.com,", "")
OLD = """\
KexAlgorithms diffie-hellman-group14-sha256,diffie-hellman-group14-sha1
Ciphers aes128-ctr
MACs hmac-sha2-256,hmac-sha1
HostKeyAlgorithms rsa-sha2-256,ssh-rsa
PubkeyAcceptedAlgorithms rsa-sha2-256,ssh-rsa
"""
OLDER = """\
KexAlgorithms diffie-hellman-group14-sha1
Ciphers aes128-ctr
MACs hmac-sha1
"""


@dataclass(frozen=True)
class Dropbear:
    """A Dropbear that runs; a rig takes it for an `OpenSSHServer`."""

    host: str
    port: int
    user: str
    client_key_path: Path
    host_public_key: str


@contextlib.contextmanager
def dropbear(directory: Path, user: TemporaryUser, kind: KeyType) -> Iterator[Dropbear]:
    """A Dropbear on loopback that lets `user` in; ended with all it started."""
    line = make_key(directory / "client_key", kind)
    ssh = user.home / ".ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    (ssh / "authorized_keys").write_text(f"{line}\n")
    for path in (ssh, ssh / "authorized_keys"):
        os.chown(path, user.uid, -1)
    made = subprocess.run(
        ["dropbearkey", "-t", "ed25519", "-f", str(directory / "host_key")],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    host_key = next(one for one in made.stdout.splitlines() if one.startswith("ssh-ed25519 "))
    port, log = free_port("127.0.0.1"), directory / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [
                *("dropbear", "-F", "-E", "-s", "-m", "-r", str(directory / "host_key")),
                *("-p", f"127.0.0.1:{port}", "-P", str(directory / "pid")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        until(lambda: "Not backgrounding" in log.read_text(), "dropbear listens", within=START)
        yield Dropbear(
            host="127.0.0.1",
            port=port,
            user=user.name,
            client_key_path=directory / "client_key",
            host_public_key=" ".join(host_key.split()[:2]),
        )
    finally:
        processes.end([*processes.descendants([server.pid])])
        server.kill()
        server.wait(START)


async def do_everything(rig: Rig, here: Path, there: str) -> None:
    """Run, put and get; small and large, with input and an exit code."""
    assert await rig.out("cat", stdin=b"in") == "in"
    assert (await rig.run("exit 7")).exit_code == 7
    assert len((await rig.run("head -c 3000000 /dev/zero")).stdout_bytes) == 3_000_000
    (here / "file").write_bytes(os.urandom(2_000_000))
    await rig.put(here / "file", there)
    await rig.get(there, here / "back")
    assert (here / "back").read_bytes() == (here / "file").read_bytes()
    await rig.out(f"rm {there}")


@both_paths
@pytest.mark.sshd
@pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields")
@pytest.mark.parametrize(
    ("demand", "kind"),
    [(HARDENED, "ed25519"), (CAUTIOUS, "ed25519"), (OLD, "rsa"), (OLDER, "rsa")],
    ids=["hardened", "cautious", "old", "older"],
)
async def test_a_hardened_or_an_old_server_is_worked_with(
    tmp_path: Path, here: Path, there: Path, demand: str, kind: KeyType, fast: bool
) -> None:
    """What a server of the strict kind, or of ten years ago, allows is enough."""
    line = make_key(tmp_path / "key", kind)
    server: Any = OpenSSHServer(
        tmp_path,
        extra_config=demand.splitlines(),
        host_key_types=[kind],
        authorized_keys=[line],
    )
    async with server:
        server.client_key_path = tmp_path / "key"
        async with Rig(server, tmp_path, fast=fast) as rig:
            await do_everything(rig, here, str(there / "file"))


@both_paths
@pytest.mark.root
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
async def test_dropbear_is_worked_with(
    tmp_path: Path, here: Path, second_user: TemporaryUser, kind: KeyType, fast: bool
) -> None:
    """Small machines have Dropbear."""
    if not shutil.which("dropbear"):
        pytest.skip("there is no Dropbear here")
    server: Any
    with dropbear(tmp_path, second_user, kind) as server:
        trust = Pins(server.host_public_key)
        async with Rig(server, tmp_path, trust=trust, fast=fast) as rig:
            await do_everything(rig, here, f"{second_user.home}/file")


@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_a_server_of_asyncssh_is_worked_with(tmp_path: Path, fast: bool) -> None:
    """The machines that are processes have asyncssh's server."""
    (tmp_path / "file").write_bytes(os.urandom(2_000_000))
    limits = Limits(ssh_fast=fast)
    async with LocalExperiment(isolation="process", limits=limits) as exp:
        await exp.provision(count=2)
        await exp.wait()
        results = await exp.run([], "cat; exit 7", stdin="in", check_exit_code=False)
        assert [(one.stdout, one.exit_code) for one in results.by_instance] == [("in", 7)] * 2
        await exp.put([], tmp_path / "file", "file")
        for back in await exp.get([], "file", tmp_path / "back"):
            assert back.read_bytes() == (tmp_path / "file").read_bytes()
