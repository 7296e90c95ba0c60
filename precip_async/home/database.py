"""SQLite as we open it: private, checked, of the right version, and explained when it fails.

No file that SQLite has open is opened here by other means: closing it would drop the locks that
SQLite holds on it, for the whole process (https://www.sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from typing import TYPE_CHECKING, Any

from precip_async.errors import HomeError
from precip_async.home.files import check_owner, locked, reported, sync_directory
from precip_async.home.mounts import is_local, mount_table

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["committed", "explained", "is_wal", "open_database"]

BUSY_TIMEOUT = 30.0  # seconds; others' transactions take milliseconds


def open_database(path: Path, migrations: Sequence[Sequence[str]]) -> sqlite3.Connection:
    """Open the database at `path`, made where it is missing and migrated where it is older.

    The n-th of `migrations`, each some statements, takes it from version n to n + 1. That it can
    be written to is tried. Transactions are the caller's: see `committed`.

    Raises:
        HomeError: It is damaged, can't be written, or is newer than `migrations`.
    """
    import sqlite3

    # SQLite does not wait for others in a change of journal mode, so they have to wait for us.
    with locked(path.with_suffix(".lock")), reported(path), explained(path):
        _make_private(path)
        db = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        try:
            _check(db, path)
            _check_version(db, path, len(migrations))
            _choose_mode(db, path)
            _migrate(db, migrations)
        except BaseException:
            db.close()
            raise
        return db


@contextlib.contextmanager
def committed(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """One transaction that writes: all of it, or nothing if it ends by an exception."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite has rolled back by itself when the disk is full
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite says of the database at `path` into a `HomeError` that says what to do."""
    import sqlite3

    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a fault of ours, such as the use of a closed one
    except sqlite3.Error as exc:
        code = (getattr(exc, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR) & 0xFF
        problem, mend = _explanation(path, code, str(exc))
        raise HomeError(path=str(path), problem=problem, mend=mend) from exc


def is_wal(db: sqlite3.Connection) -> bool:
    """Whether `db` has a write-ahead log, rather than a rollback journal."""
    return bool(_pragma(db, "journal_mode") == "wal")


def _explanation(path: Path, code: int, said: str) -> tuple[str, str]:
    import sqlite3

    here, folder = shlex.quote(str(path)), shlex.quote(str(path.parent))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        problem = f"another process has kept the journal locked for {BUSY_TIMEOUT:.0f} s"
        return problem, f"find it with: fuser {here}, and continue or end it"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        problem = f"the journal can't be written ({said})"
        return problem, f"run: chmod u+rwX {folder} {here}, or keep it elsewhere with PRECIP_STATE"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, said)
    if code == sqlite3.SQLITE_FULL:
        problem = "there is no room for the journal"
        return problem, "free some space there, or keep it elsewhere with PRECIP_STATE"
    return f"the journal failed ({said})", f"look at the disk that holds {folder}"


def _damaged(path: Path, said: str) -> tuple[str, str]:
    # With all its companions: a log that outlived its database would be played into the next one.
    here, aside = shlex.quote(str(path)), shlex.quote(str(path.parent / "damaged"))
    return f"the journal is damaged ({said})", (
        f"run: mkdir {aside} && mv {here}* {aside}, and a new one is made; instances that only "
        "the damaged one knew of have then to be looked for at the cloud"
    )


def _make_private(path: Path) -> None:
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_directory(path.parent)
    info = path.stat()
    check_owner(path, info)
    if stat.S_IMODE(info.st_mode) & 0o077:  # restored from a backup; its directory kept it private
        path.chmod(0o600)


def _check(db: sqlite3.Connection, path: Path) -> None:
    found = _pragma(db, "quick_check(1)")
    if found != "ok":
        problem, mend = _damaged(path, str(found))
        raise HomeError(path=str(path), problem=problem, mend=mend)


def _check_version(db: sqlite3.Connection, path: Path, known: int) -> None:
    version = _pragma(db, "user_version")
    if version > known:
        raise HomeError(
            path=str(path),
            problem=f"the journal was written by a newer precip_async (version {version} of it, "
            f"and this one knows {known})",
            mend="upgrade precip_async, or keep another journal with PRECIP_STATE",
        )


def _choose_mode(db: sqlite3.Connection, path: Path) -> None:
    wanted = "WAL" if is_local(path, mount_table()) else "DELETE"
    db.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
    # With a rollback journal a commit is the removal of a file: only EXTRA syncs the directory too.
    db.execute(f"PRAGMA synchronous = {'FULL' if is_wal(db) else 'EXTRA'}")
    db.execute("PRAGMA fullfsync = ON")  # macOS: through the disk's own cache as well
    db.execute("PRAGMA foreign_keys = ON")


def _migrate(db: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    with committed(db):
        for statements in migrations[_pragma(db, "user_version") :]:
            for statement in statements:
                db.execute(statement)
        # Written even where it is the same: what can't be written must be heard of now, before
        # anything is launched.
        db.execute(f"PRAGMA user_version = {len(migrations)}")


def _pragma(db: sqlite3.Connection, name: str) -> Any:
    return db.execute(f"PRAGMA {name}").fetchone()[0]
