"""What the rest of the home stands on: whole files, locks, and errors that say what to do."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from precip_async.errors import HomeError
from precip_async.home import files
from precip_async.home.files import check_owner, create_once, locked, replace, reported
from tests.home.companions import companion, foreign_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, r"chmod u\+rwX"),
        (errno.EPERM, r"chmod u\+rwX"),
        (errno.ENOLCK, "no locks or links"),
        (errno.EIO, "look at what is there"),
    ],
)
def test_every_failure_says_where_and_what_to_do(tmp_path: Path, number: int, advice: str) -> None:
    """The sentence names the path, the reason, and a way out."""
    with pytest.raises(HomeError, match=advice) as caught, reported(tmp_path / "x"):
        raise OSError(number, os.strerror(number))

    assert str(caught.value).startswith(f"{tmp_path}/x: {os.strerror(number)}; ")
    assert "PRECIP_HOME" in caught.value.mend


def test_an_owner_without_a_name_is_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container few uids have names."""
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)

    with pytest.raises(HomeError, match="you are 4000000"):
        check_owner(tmp_path, tmp_path.stat())


def test_a_file_is_created_once(tmp_path: Path) -> None:
    """The second writer is told so, and the first one's content stays."""
    assert create_once(tmp_path / "x", b"first")
    assert not create_once(tmp_path / "x", b"second")

    assert (tmp_path / "x").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    """Whatever the umask."""
    path = tmp_path / "x"
    path.write_text("before")
    before = os.umask(0o777)
    try:
        replace(path, b"after", 0o640)
    finally:
        os.umask(before)

    assert path.read_bytes() == b"after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_replacement_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up costs neither the old content nor room for the new."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "x"
    path.write_text("before")
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space"):
        replace(path, b"after", 0o600)

    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["x"]


def test_a_lock_is_waited_for_within_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that was stopped in the middle is named to look for, not waited for for ever."""
    monkeypatch.setattr(files, "LOCK_TIMEOUT", 0.05)
    path = tmp_path / "x.lock"

    with locked(path), pytest.raises(HomeError, match=f"fuser {path}"), locked(path):
        pytest.fail("two hold it")
    with locked(path):
        pass  # it was let go of


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    """Nothing has to be cleaned up after kill -9."""
    path = tmp_path / "x.lock"
    script = """
from pathlib import Path
from precip_async.home.files import locked
with locked(Path(sys.argv[1])):
    go()
"""
    with companion(script, path) as holder:
        assert holder.heard() == "ready"
        holder.kill()

        with locked(path):
            assert path.exists()


def test_a_foreign_file_is_told_by_its_owner(tmp_path: Path) -> None:
    """The error says whose it is."""
    path = foreign_file(tmp_path)

    with pytest.raises(HomeError, match=r"belongs to \w+, and you are \w+"):
        check_owner(path, path.stat())
