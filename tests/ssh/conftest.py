"""One OpenSSH server for all tests that leave it as it was, and a pool for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers import OpenSSHServer
from tests.ssh.rig import WORKERS, Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where connections are in worker processes, leave out what looks into those of this one."""
    if WORKERS:
        apart = [item for item in items if item.get_closest_marker("in_process")]
        config.hook.pytest_deselected(items=apart)
        items[:] = [item for item in items if item not in apart]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSSHServer]:
    """A server at many addresses."""
    with OpenSSHServer(tmp_path_factory.mktemp("shared"), address="0.0.0.0") as server:
        yield server


@pytest.fixture
async def rig(server: OpenSSHServer, tmp_path: Path) -> AsyncIterator[Rig]:
    """A pool against the shared server."""
    async with Rig(server, tmp_path) as rig:
        yield rig


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory of this machine."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A directory of the instance, which is this machine."""
    (tmp_path / "there").mkdir()
    return tmp_path / "there"
