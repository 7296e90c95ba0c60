"""One light SSH server that plays thousands of hosts: `python benchmarks/_crowd.py` is its process.

It is the one of `precip_async`'s local machines: its commands really run, and a connection takes it
a twentieth of what OpenSSH's process for each takes. It says in one line of JSON what there is to
say, and ends with its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import resource
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Of the path a script has its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import asyncssh

from precip_async.clouds.local.process_children import Child
from precip_async.clouds.local.process_ssh import listen
from tests.servers import make_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from precip_async.clouds.local.process_children import Streams
    from precip_async.clouds.local.process_login import Request

__all__ = ["crowd"]

END = 60.0  # seconds to end in, with thousands of connections
BACKLOG = 4096


class Crowd:
    """A `Host` of `process_ssh`: whoever has the key is let in, at every address."""

    terminals = False

    def __init__(self, public_key: str) -> None:
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self._keys = asyncssh.import_authorized_keys(public_key)

    def keys_of(self, user: str) -> asyncssh.SSHAuthorizedKeys:
        """The one key."""
        return self._keys

    def run(self, request: Request, streams: Streams, exited: Callable[[int], None]) -> Child:
        """Run what is asked for, by the smallest shell."""
        argv = ["/bin/sh", "-c", request.argv[-1]]
        return Child(argv, env=request.environment("crowd", "/"), streams=streams, exited=exited)

    def log(self, line: str) -> None:
        """Nobody reads it."""


async def _serve(directory: Path) -> None:
    public = make_key(directory / "key")
    make_key(directory / "host_key")
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")  # and nowhere else
        place.bind(("0.0.0.0", 0))
        port = place.getsockname()[1]
        acceptor = await listen(Crowd(public), place, (directory / "host_key").read_text())
        place.listen(BACKLOG)
        facts = {"port": port, "key": str(directory / "key"), "user": getpass.getuser()}
        print(json.dumps(facts), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        acceptor.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    facts: dict[str, Any]

    def hosts(self, count: int) -> list[str]:
        """So many of its addresses, as a user writes them."""
        user, port = self.facts["user"], self.facts["port"]
        return [f"{user}@127.0.{1 + n // 250}.{1 + n % 250}:{port}" for n in range(count)]


@contextlib.contextmanager
def crowd() -> Iterator[_Running]:
    """The server in a process of its own; ended with all its connections."""
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield _Running(facts=json.loads(process.stdout.readline()))
        finally:
            process.stdin.close()
            process.wait(END)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="precip-bench-") as scratch:
        asyncio.run(_serve(Path(scratch)))
