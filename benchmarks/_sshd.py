"""The server side of a benchmark: one real sshd on loopback that plays any number of hosts."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

# Of the path a script has its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import TYPE_CHECKING

from tests.servers import OpenSSHServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["OpenSSHServer", "job", "many_hosts"]


@contextlib.contextmanager
def many_hosts() -> Iterator[OpenSSHServer]:
    """An sshd at every 127.0.x.y that refuses nobody for being many; ended with all it started."""
    with (
        tempfile.TemporaryDirectory(prefix="precip-bench-") as directory,
        OpenSSHServer(
            Path(directory), address="0.0.0.0", max_sessions=1000, max_startups="2000:30:4000"
        ) as server,
    ):
        yield server


def job(server: OpenSSHServer, hosts: int, **more: Any) -> dict[str, Any]:
    """What a sample of a benchmark is told: so many hosts, how they are reached, and `more`."""
    return {
        "hosts": server.hosts(hosts),
        "port": server.port,
        "user": server.user,
        "key": str(server.client_key_path),
        "host_key": server.host_public_key,
        **more,
    }
