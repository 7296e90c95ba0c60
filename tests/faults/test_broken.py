"""A protection that is taken away on purpose is missed: the harness sees what it is there for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async.ending import Books
from precip_async.home.journal import Journal
from precip_async.launch import Launcher
from precip_async.ssh.slot import Lease
from precip_async.stage import Stage
from tests.faults.cancelling import at_every_suspension, everything
from tests.faults.memory import world
from tests.faults.virtual import VirtualLoop, run_virtually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where a home is made."""
    return tmp_path / "home"


def test_a_launch_without_its_shield_is_noticed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launch that is abandoned has started machines that the experiment does not know."""

    @contextmanager
    def launching(_: Launcher) -> Iterator[None]:
        yield

    monkeypatch.setattr(Launcher, "_launching", launching)

    with pytest.raises(AssertionError):
        at_every_suspension(home, "provision", "scope")


def test_an_intent_that_is_written_after_the_launch_is_noticed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the cloud starts machines, nobody else could find them."""
    write, late = Books.write, list[dict[str, Any]]()

    async def written(books: Books, method: Any, *args: Any, **given: Any) -> Any:
        if method is Journal.intend:
            late.append(given)
            return None
        if method is Journal.answered:
            await write(books, Journal.intend, **late.pop())
        return await write(books, method, *args, **given)

    monkeypatch.setattr(Books, "write", written)

    async def main(loop: VirtualLoop) -> None:
        loop.strike(there.check_journal, range(1, 10**6))
        await everything(there.experiment())

    with world(home) as there, pytest.raises(AssertionError, match="knows nothing of"):
        run_virtually(main)


def test_a_command_that_is_started_without_its_shield_is_noticed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for, and goes on when nobody waits for the answer."""

    async def start(lease: Lease, line: str, receiver: Any, **_: Any) -> Any:
        return await lease.transport.start(line, receiver)

    monkeypatch.setattr(Lease, "start", start)

    with pytest.raises(AssertionError):
        at_every_suspension(home, "run", "scope")


def test_an_end_without_its_shield_is_noticed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that is cancelled leaves its machines running."""

    async def aclose(stage: Stage) -> None:
        try:
            await stage.launcher.close(keep=False)
        finally:
            with anyio.CancelScope(shield=True):
                await stage._undo.aclose()

    monkeypatch.setattr(Stage, "aclose", aclose)

    with pytest.raises(AssertionError):
        at_every_suspension(home, "everything", "scope")
