"""The directory of a warden: who holds it, and what is left of one that died."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from precip_async.clouds.local import processes
from precip_async.clouds.local.remains import claim, clear_dead, left_behind
from precip_async.clouds.local.state import Record, State, experiments_in
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AWKWARD = ["../up", "..", ".", ".hidden", "a/b", "a b", "%2F", "ünï", "new\nline", "x" * 60]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[State]:
    """A directory that somebody holds."""
    state = State(tmp_path, "hello")
    lock = state.claim(create=True)
    assert lock is not None
    yield state
    os.close(lock)


def a_record(state: State, *, pid: int = 0, **facts: object) -> Record:
    """A record of a warden that is this process, or `pid`."""
    pid = pid or os.getpid()
    given = {"isolation": "namespace", "keep": False} | facts
    return Record(
        experiment=state.experiment,
        pid=pid,
        born=processes.birth(pid),
        **given,  # type: ignore[arg-type] # as the caller says
    )


@pytest.mark.parametrize("name", AWKWARD)
def test_any_name_has_a_directory_of_its_own(tmp_path: Path, name: str) -> None:
    """Whatever an experiment is called, its directory lies right under the base and says so."""
    state = State(tmp_path, name)
    lock = state.claim(create=True)
    assert lock is not None
    os.close(lock)

    assert state.path.resolve().parent == tmp_path.resolve()
    assert experiments_in(tmp_path) == [name]


def test_a_directory_is_removed_while_another_removes_parts_of_it(held: State) -> None:
    """As the guard of a yard does that was killed: what is gone already is no trouble."""
    parts = [held.path / "yard" / f"i-{number}" for number in range(300)]
    for part in parts:
        part.mkdir(parents=True)
        (part / "file").touch()
    begun = threading.Barrier(2)

    def guard() -> None:
        begun.wait()
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)

    with ThreadPoolExecutor() as pool:
        working = pool.submit(guard)
        begun.wait()
        held.remove()
        working.result()

    assert not held.path.exists()


def test_whoever_takes_a_directory_over_keeps_it(
    held: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is free as soon as its lock is gone, and what is there then is the new holder's."""
    taken: list[int | None] = []
    rmdir = type(tmp_path).rmdir

    def taken_over_first(path: Path) -> None:
        taken.append(State(tmp_path, "hello").claim(create=True))
        rmdir(path)

    monkeypatch.setattr(type(tmp_path), "rmdir", taken_over_first)
    held.remove()

    assert taken[0] is not None
    assert [path.name for path in held.path.iterdir()] == ["lock"]
    os.close(taken[0])


def test_a_directory_is_held_once(held: State, tmp_path: Path) -> None:
    """While somebody holds a directory, nobody else gets it, whether to start or to clear."""
    other = State(tmp_path, "hello")

    assert other.claim(create=True) is None
    assert other.claim(create=False) is None
    clear_dead(tmp_path)
    assert held.path.exists()


def test_a_directory_whose_holder_is_gone_is_cleared(tmp_path: Path) -> None:
    """What a dead warden left is removed by the next start."""
    state = State(tmp_path, "hello")
    lock = state.claim(create=True)
    assert lock is not None
    state.write(a_record(state))
    os.close(lock)

    clear_dead(tmp_path)

    assert experiments_in(tmp_path) == []


def test_clearing_makes_no_directory(tmp_path: Path) -> None:
    """Where there never was an experiment, clearing leaves nothing, not even the base."""
    clear_dead(tmp_path / "local")

    assert not (tmp_path / "local").exists()


def test_a_directory_that_is_removed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever locks a file that has just been removed holds nothing, and notices."""
    state = State(tmp_path, "hello")
    dying = state.claim(create=True)
    assert dying is not None
    real_open, opened = os.open, []

    def open_and_lose(path: str, flags: int, mode: int = 0o777) -> int:
        descriptor = real_open(path, flags, mode)
        opened.append(descriptor)
        if len(opened) == 1:  # its holder removes it between our open and our lock
            (state.path / "lock").unlink()
            os.close(dying)
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    lock = state.claim(create=True)
    monkeypatch.undo()

    assert lock is not None
    assert len(opened) == 2
    assert State(tmp_path, "hello").claim(create=True) is None
    os.close(lock)


def test_nobody_can_claim_a_directory_that_is_being_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock goes last, when there is nothing left to be cleared by two at once."""
    state = State(tmp_path, "hello")
    lock = state.claim(create=True)
    assert lock is not None
    for name in ("a", "b"):  # one would be removed before the lock in any order, perhaps
        (state.path / name / "home").mkdir(parents=True)
        (state.path / f"{name}.log").touch()
    real_unlink, claims = os.unlink, list[int | None]()

    def unlink_and_claim(path: str, **given: Any) -> None:
        real_unlink(path, **given)
        if str(path).endswith(".log"):
            claims.append(State(tmp_path, "hello").claim(create=False))

    monkeypatch.setattr(os, "unlink", unlink_and_claim)
    state.remove()
    monkeypatch.undo()

    assert claims == [None, None]
    assert not state.path.exists()
    os.close(lock)


def test_a_directory_is_removed_while_another_removes_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard of a dead warden's machines clears them at the same time, without the lock."""
    state = State(tmp_path, "hello")
    lock = state.claim(create=True)
    assert lock is not None
    for name in ("i-1", "i-2"):
        (state.path / "machines" / name).mkdir(parents=True)
    real_rmdir, beaten = os.rmdir, list[str]()

    def rmdir_too_late(path: str, **given: Any) -> None:
        real_rmdir(path, **given)
        if not beaten:
            beaten.append(path)
            raise FileNotFoundError(path)

    monkeypatch.setattr(os, "rmdir", rmdir_too_late)
    state.remove()
    monkeypatch.undo()

    assert len(beaten) == 1
    assert not state.path.exists()
    os.close(lock)


async def test_claiming_waits_for_one_that_is_about_to_end(held: State, tmp_path: Path) -> None:
    """With patience a held directory is waited for; without success, there is no lock."""
    assert await claim(State(tmp_path, "hello"), patience=0.2) is None
    assert held.path.exists()


def test_a_record_comes_back_as_it_was_written(held: State) -> None:
    """What is written is read, the machines included."""
    record = a_record(held).with_machines(["i-1", "i-2"]).with_machines(["i-3"])
    held.write(record)

    assert held.read() == record
    assert record.machines == ("i-1", "i-2", "i-3")


def test_who_is_left_behind_is_who_lives(held: State, tmp_path: Path) -> None:
    """Only wardens that live are listed."""
    held.write(a_record(held, keep=True))
    other = State(tmp_path, "other")
    lock = other.claim(create=True)
    assert lock is not None
    other.write(Record(experiment="other", isolation="process", keep=True, pid=1, born="long ago"))
    os.close(lock)

    assert [record.experiment for record in left_behind(tmp_path)] == ["hello"]


def test_marked_processes_of_a_dead_warden_are_killed(tmp_path: Path) -> None:
    """What ran on machines without namespaces, and bears their mark, is ended with the rest."""
    state = State(tmp_path, "hello")
    lock = state.claim(create=True)
    assert lock is not None
    marks = ("i-0123456789abcdef0", "i-0123456789abcdef1")
    left, spared = (
        subprocess.Popen(["sleep", "1000"], env=os.environ | {"PRECIP_INSTANCE": mark})
        for mark in marks
    )
    try:
        state.write(a_record(state, isolation="process", machines=(marks[0],)))
        os.close(lock)

        clear_dead(tmp_path)

        assert left.wait(5) == -9
        assert spared.poll() is None
    finally:
        for process in (left, spared):
            process.kill()
            process.wait()


def test_a_process_is_told_from_a_later_one() -> None:
    """A birth is the process's own: a wrong one kills nobody, and an ended one has none."""
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = processes.birth(sleeper.pid)

    assert born == processes.birth(sleeper.pid) != processes.birth(os.getpid())
    assert not processes.kill(sleeper.pid, "another")
    assert sleeper.poll() is None
    assert processes.kill(sleeper.pid, born)
    until(lambda: processes.birth(sleeper.pid) == "")  # ended, and not reaped yet
    assert not processes.kill(sleeper.pid, born)

    sleeper.communicate()
