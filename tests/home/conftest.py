"""A home, and its journal, for each test of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from precip_async.home.directory import Home
from precip_async.home.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A fresh home."""
    return Home.open(tmp_path / "home")


@pytest.fixture
def journal(home: Home) -> Iterator[Journal]:
    """The journal of a fresh home, closed at the end."""
    journal = Journal.open(home)
    yield journal
    journal.close()
