"""The journal as a file: private, whole, of the right version, and refused when it is not."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import stat
from typing import TYPE_CHECKING

import pytest

from precip_async.errors import HomeError, InvalidArgument
from precip_async.home import database
from precip_async.home.database import committed, open_database
from precip_async.home.journal import MIGRATIONS, Journal
from precip_async.steps import watched
from tests.home.companions import companion, powerless
from tests.home.test_directory import mend
from tests.home.test_journal import LAUNCH, ids

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.home.directory import Home

OPENING = """
from precip_async.errors import HomeError
try:
    journal = Journal.open(Home.open(sys.argv[1]))
    journal.intend(token="t", experiment="x", cloud="c", image_id="i", instance_type="t",
                   count=1, first=0)
except HomeError as exc:
    say(exc)
else:
    journal.close()
    say("written")
"""


def test_it_is_ours_alone(home: Home) -> None:
    """Whatever the umask, and its companions too."""
    before = os.umask(0)
    try:
        journal = Journal.open(home)
        journal.intend(token="t1", **LAUNCH)
        files = list(home.path.glob("journal.sqlite*"))
        modes = {stat.S_IMODE(path.stat().st_mode) for path in files}
    finally:
        os.umask(before)
    journal.close()

    assert len(files) == 3
    assert modes == {0o600}


def test_one_restored_from_a_backup_is_closed_again(home: Home, journal: Journal) -> None:
    """Its directory has kept it private meanwhile."""
    journal.close()
    journal.path.chmod(0o644)
    Journal.open(home).close()

    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600


def test_a_commit_is_on_the_disk_when_it_returns(journal: Journal) -> None:
    """A local file system has a write-ahead log, synced at each commit, also after a `saw`."""
    journal.intend(token="t1", **LAUNCH)
    journal.answered("t1", ["i-a"])
    journal.saw("i-a", "running")

    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_network_file_system_has_a_rollback_journal(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write-ahead log needs memory that all writers share; a home may move from disk to disk."""
    local = Journal.open(home)
    local.intend(token="t1", **LAUNCH)
    local.close()
    monkeypatch.setattr(database, "mount_table", lambda: "1 1 0:1 / / rw - nfs4 server:/ rw")

    journal = Journal.open(home)
    journal.answered("t1", ["i-a"])
    journal.saw("i-a", "running")

    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (3,)
    assert [row.state for row in journal.alive()] == ["running"]
    journal.close()


def test_a_log_in_use_on_a_network_file_system_is_refused(
    home: Home, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone has it open as a local one: another machine would not see what they wrote."""
    journal.intend(token="t1", **LAUNCH)
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.05)
    monkeypatch.setattr(database, "mount_table", lambda: "1 1 0:1 / / rw - nfs4 server:/ rw")

    with pytest.raises(HomeError, match="kept the journal locked"):
        Journal.open(home)


def test_the_state_can_be_kept_elsewhere(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home on a network may have its journal on a local disk."""
    monkeypatch.setenv("PRECIP_STATE", str(tmp_path / "state"))
    journal = Journal.open(home)
    journal.close()

    assert journal.path == tmp_path / "state" / "journal.sqlite"
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert not (home.path / "journal.sqlite").exists()


def test_a_relative_state_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be another one in another working directory."""
    monkeypatch.setenv("PRECIP_STATE", "state")

    with pytest.raises(InvalidArgument, match="PRECIP_STATE"):
        Journal.open(home)


@pytest.mark.parametrize("where", [0, 100, -6000])
def test_a_damaged_journal_is_refused(home: Home, journal: Journal, where: int) -> None:
    """Before anything is launched; the advice moves it aside with all that belongs to it."""
    for number in range(50):
        journal.intend(token=f"t{number}", **LAUNCH)
    journal.close()
    with journal.path.open("r+b") as file:
        file.seek(where, os.SEEK_SET if where >= 0 else os.SEEK_END)
        file.write(b"garbage " * 500)

    with pytest.raises(HomeError, match="damaged") as caught:
        Journal.open(home)
    mend(caught.value)

    journal = Journal.open(home)
    assert ids(journal) == []
    assert (home.path / "damaged" / "journal.sqlite").exists()
    journal.close()


def test_a_journal_of_a_newer_version_is_refused(home: Home, journal: Journal) -> None:
    """And left as it is."""
    journal.close()
    with contextlib.closing(sqlite3.connect(journal.path)) as db:
        db.execute("PRAGMA user_version = 99")

    with pytest.raises(HomeError, match=r"version 99 .* knows 2.* upgrade precip_async"):
        Journal.open(home)

    with contextlib.closing(sqlite3.connect(journal.path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)


def test_an_older_journal_is_taken_on(home: Home) -> None:
    """What the first version wrote is there, and what it did not know of is as it was then."""
    old = open_database(home.path / "journal.sqlite", MIGRATIONS[:1])
    with contextlib.closing(old), committed(old):
        old.execute(
            "INSERT INTO launches VALUES ('t1', 'x', 'me', 'here', 7, 'Nimbus', 'https://c nimbus',"
            " 'image', 'm1.small', 1, 4, '[\"a\"]', NULL, '2026-01-01T00:00:00+00:00',"
            " '2026-01-01T00:00:01+00:00', NULL, '')"
        )
        old.execute(
            "INSERT INTO instances VALUES ('i-a', 't1', 4, 'pending', '2026-01-01T00:00:01+00:00',"
            " NULL, NULL)"
        )

    journal = Journal.open(home)
    (row,) = journal.alive()
    journal.renewed(["i-a"], row.asked_at)
    again = journal.alive()[0]
    journal.close()

    assert (row.instance_id, row.tags, row.place, row.launches) == ("i-a", ("a",), 4, 1)
    assert (row.region, row.zone, row.login_user, row.expires) == ("", "", "", None)
    assert again.expires == row.asked_at


def test_a_directory_that_cannot_be_written_is_refused(home: Home) -> None:
    """There is no journal yet, and there can't be one."""
    home.path.chmod(0o500)
    with companion(OPENING, home.path, wrapper=powerless()) as one:
        said = one.rest()
    home.path.chmod(0o700)

    assert re.search(r"journal\S*: Permission denied; .*chmod u\+rwX", said)


def test_a_journal_that_cannot_be_written_is_refused(home: Home, journal: Journal) -> None:
    """There is one, and it can only be read: heard of when it is opened."""
    journal.close()
    journal.path.chmod(0o400)
    with companion(OPENING, home.path, wrapper=powerless()) as one:
        said = one.rest()

    assert "the journal can't be written (attempt to write a readonly database)" in said
    assert f"chmod u+rwX {home.path}" in said


@pytest.mark.root
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """No launch may be asked for that can't be written down."""
    place = tmp_path / "small"
    place.mkdir(mode=0o700)
    script = """
import contextlib, subprocess
mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "small", sys.argv[1]]
subprocess.run(mount, check=True)
from precip_async.errors import HomeError
home = Home.open(sys.argv[1])
journal = Journal.open(home)
try:
    for number in range(10_000):
        journal.intend(token=str(number), experiment="x" * 500, cloud="c", image_id="i",
                       instance_type="t", count=1, first=0)
except HomeError as exc:
    say(exc)
say(len(journal.alive()) == number > 0)
journal.close()
with contextlib.suppress(OSError), open(sys.argv[1] + "/rest", "wb", buffering=0) as rest:
    while rest.write(bytes(100)):
        pass
os.environ["PRECIP_STATE"] = sys.argv[1] + "/fresh"  # the old one's log has room for a line or two
try:
    Journal.open(home)
except HomeError as exc:
    say(exc)
"""
    wrapper = [shutil.which("unshare") or "", "--mount"]
    with companion(script, place, wrapper=wrapper) as one:
        written, alive, opened = one.rest().splitlines()

    assert "there is no room for the journal; free some space" in written
    assert alive == "True"
    assert "free some space" in opened


def test_a_locked_journal_says_who_to_look_for(
    home: Home, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone has left a transaction open."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.05)
    second = Journal.open(home)
    with contextlib.closing(sqlite3.connect(journal.path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(HomeError, match=r"locked.*fuser"):
            second.intend(token="t1", **LAUNCH)
    second.close()


def test_a_journal_removed_while_in_use_is_noticed(journal: Journal) -> None:
    """An intent in a file that nobody can find would be none, of an address as of a launch."""
    for path in journal.path.parent.glob("journal.sqlite*"):
        path.unlink()

    with pytest.raises(HomeError, match="removed or replaced"):
        journal.intend(token="t1", **LAUNCH)
    with pytest.raises(HomeError, match="removed or replaced"):
        journal.wanting_address("k1", experiment="x", cloud="c", endpoint="e")


def test_a_journal_removed_while_it_is_opened_is_noticed(home: Home) -> None:
    """As a home that somebody clears away in that very moment; nothing is left open."""

    def clear(step: str) -> None:
        if step == "journal.opened":
            (home.path / "journal.sqlite").unlink()

    with watched(clear), pytest.raises(HomeError, match="removed or replaced"):
        Journal.open(home)


def test_an_older_journal_is_migrated(home: Home) -> None:
    """What was in it is kept, and each step is taken once."""
    path = home.path / "old.sqlite"
    one = (("CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"),)
    two = (*one, ("ALTER TABLE t ADD COLUMN b DEFAULT 2",))
    database.open_database(path, one).close()
    for _ in range(2):
        with contextlib.closing(database.open_database(path, two)) as db:
            assert db.execute("SELECT a, b FROM t").fetchall() == [(1, 2)]
            assert db.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_migration_that_fails_changes_nothing(home: Home) -> None:
    """The older program can go on with it."""
    path = home.path / "old.sqlite"
    one = (("CREATE TABLE t (a)",),)
    database.open_database(path, one).close()

    with pytest.raises(HomeError, match="no such table"):
        database.open_database(path, (*one, ("CREATE TABLE u (a)", "DROP TABLE nobodys")))
    with contextlib.closing(database.open_database(path, one)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]


def test_the_version_is_that_of_the_migrations(journal: Journal) -> None:
    """A new journal has them all."""
    assert journal._db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
