"""The journal: what was asked of which cloud, written down before it is asked.

Whatever becomes of the process, every launch that a cloud may have heard of is here. SQLite, so
that several processes can write at once and a loss of power leaves it whole. Never a secret in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from precip_async.errors import HomeError, InvalidArgument, shortened
from precip_async.home.database import committed, explained, is_wal, open_database
from precip_async.home.directory import checked_path
from precip_async.home.files import private_directory

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from precip_async.home.directory import Home

__all__ = ["Journal", "Row"]

LONGEST_REASON = 1000  # characters

# Each takes the journal one version on, and none is ever changed: to change the tables, add one.
MIGRATIONS = (
    (
        """
        CREATE TABLE launches (
            token TEXT PRIMARY KEY,
            experiment TEXT NOT NULL,
            owner TEXT NOT NULL,
            machine TEXT NOT NULL,
            pid INTEGER NOT NULL,
            cloud TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            image_id TEXT NOT NULL,
            instance_type TEXT NOT NULL,
            count INTEGER NOT NULL,
            first INTEGER NOT NULL,
            tags TEXT NOT NULL,
            expires TEXT,
            asked_at TEXT NOT NULL,
            answered_at TEXT,
            ended_at TEXT,
            reason TEXT NOT NULL DEFAULT ''
        )
        """,
        """
        CREATE TABLE instances (
            id TEXT NOT NULL,
            token TEXT NOT NULL REFERENCES launches (token),
            ordinal INTEGER NOT NULL,
            state TEXT NOT NULL,
            seen_at TEXT NOT NULL,
            terminate_asked_at TEXT,
            ended_at TEXT,
            PRIMARY KEY (id, token)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX launches_alive ON launches (experiment) WHERE ended_at IS NULL",
        "CREATE INDEX instances_of ON instances (token)",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An instance that has not ended as far as the journal knows, or a launch without an answer.

    Attributes:
        token: Names the launch, here and at the cloud.
        experiment: The experiment's name.
        owner: The account id of the home it was launched from.
        machine: The host name of the computer it was launched from.
        pid: The process that launched it, on that computer.
        cloud: The cloud's name.
        endpoint: Where the cloud was spoken to.
        image_id: What was launched.
        instance_type: Likewise.
        count: How many the launch asked for.
        first: The ordinal of the launch's first instance in its experiment.
        tags: The user's tags.
        expires: When its dead-man's switch ends it; ``None``: never.
        asked_at: When the launch was written down, just before it was asked for.
        answered_at: When the cloud answered; ``None``: it is not known what the launch started.
        instance_id: The cloud's id; empty where the launch has no answer.
        ordinal: Its own ordinal; that of the first where the launch has no answer.
        state: What was last seen of it; empty where the launch has no answer.
        seen_at: When that was.
        terminate_asked_at: When its end was asked for.
    """

    token: str
    experiment: str
    owner: str
    machine: str
    pid: int
    cloud: str
    endpoint: str
    image_id: str
    instance_type: str
    count: int
    first: int
    tags: tuple[str, ...]
    expires: datetime | None
    asked_at: datetime
    answered_at: datetime | None
    instance_id: str
    ordinal: int
    state: str
    seen_at: datetime | None
    terminate_asked_at: datetime | None


class Journal:
    """An open journal; made by `Journal.open`, to be closed with `close`.

    Several threads may use it, one at a time, and several processes at once. Every method blocks
    and raises `HomeError` where the journal can't be read or written. A process that was forked
    from the one that opened it has to open its own.
    """

    def __init__(self, path: Path, owner: str, db: sqlite3.Connection) -> None:
        self.path = path
        self._owner = owner
        self._machine = socket.gethostname()
        self._mutex = threading.Lock()
        self._db = db
        self._is_wal = is_wal(db)
        self._file = path.stat()

    @classmethod
    def open(cls, home: Home) -> Self:
        """Open the journal of `home`, or the one in ``$PRECIP_STATE``; a missing one is made.

        Raises:
            HomeError: It is damaged, read-only, or of a newer version than this one.
        """
        folder = home.path
        if given := os.environ.get("PRECIP_STATE"):
            folder = checked_path(given, "PRECIP_STATE")
            private_directory(folder)
        path = folder / "journal.sqlite"
        return cls(path, home.account_id, open_database(path, MIGRATIONS))

    def close(self) -> None:
        """Close it; a second time does nothing."""
        with self._mutex, explained(self.path):
            self._db.close()

    def intend(
        self,
        *,
        token: str,
        experiment: str,
        cloud: str,
        endpoint: str = "",
        image_id: str,
        instance_type: str,
        count: int,
        first: int,
        tags: Sequence[str] = (),
        expires: datetime | None = None,
    ) -> None:
        """Write down that a launch is about to be asked for; on the disk once this returns.

        Args:
            token: Names the launch: see `Row`, where the rest is described as well.
            experiment: See `Row`.
            cloud: See `Row`.
            endpoint: See `Row`; a user and a password in it are left out.
            image_id: See `Row`.
            instance_type: See `Row`.
            count: See `Row`.
            first: See `Row`.
            tags: See `Row`.
            expires: See `Row`; an aware time.

        Raises:
            InvalidArgument: The token was used before.
            HomeError: It can't be written: nothing must be launched.
        """
        self._check_still_there()
        values = {
            "token": token,
            "experiment": experiment,
            "owner": self._owner,
            "machine": self._machine,
            "pid": os.getpid(),
            "cloud": cloud,
            "endpoint": re.sub(r"//[^/@]*@", "//", endpoint),
            "image_id": image_id,
            "instance_type": instance_type,
            "count": count,
            "first": first,
            "tags": json.dumps(list(tags), ensure_ascii=False),
            "expires": expires and _text(expires),
            "asked_at": _now(),
        }
        columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM launches WHERE token = ?", (token,)).fetchone():
                raise InvalidArgument(f"the launch token {token!r} was used before")
            db.execute(f"INSERT INTO launches ({columns}) VALUES ({places})", values)  # noqa: S608 - our own names

    def answered(self, token: str, ids: Sequence[str]) -> None:
        """Write down the instances that a launch has started, in launch order.

        A second answer, as a search for a lost one may bring, adds to the first.
        """
        now = _now()
        with self._transaction() as db:
            launch = db.execute("SELECT first FROM launches WHERE token = ?", (token,)).fetchone()
            if launch is None:
                raise HomeError(
                    path=str(self.path),
                    problem=f"has lost the launch {token}, which started {', '.join(ids)}",
                    mend="let nobody but precip write to it",
                )
            db.execute(
                "UPDATE launches SET answered_at = ?, ended_at = NULL WHERE token = ?", (now, token)
            )
            db.executemany(
                "INSERT INTO instances (id, token, ordinal, state, seen_at)"
                " VALUES (?, ?, ?, 'pending', ?) ON CONFLICT DO NOTHING",
                [(one, token, launch[0] + place, now) for place, one in enumerate(ids)],
            )
            self._end_launches(db, now)

    def refused(self, token: str, reason: str) -> None:
        """Write down that a launch has started nothing, and why; the reason is no secret."""
        with self._transaction() as db:
            now = _now()
            db.execute(
                "UPDATE launches SET answered_at = ?, ended_at = ?, reason = ? WHERE token = ?",
                (now, now, shortened(reason, LONGEST_REASON), token),
            )

    def saw(self, instance_id: str, state: str) -> None:
        """Write down what was seen of an instance; ``"terminated"`` means that it has ended.

        Not awaited to be on the disk: what a loss of power takes will be seen again.
        """
        if state == "terminated":
            self.ended([instance_id])
            return
        with self._transaction(durable=False) as db:
            db.execute(
                "UPDATE instances SET state = ?, seen_at = ? WHERE id = ? AND ended_at IS NULL",
                (state, _now(), instance_id),
            )

    def ending(self, ids: Iterable[str]) -> None:
        """Write down that the end of `ids` is about to be asked for."""
        now = _now()
        with self._transaction() as db:
            db.executemany(
                "UPDATE instances SET state = 'terminating', seen_at = ?,"
                " terminate_asked_at = coalesce(terminate_asked_at, ?)"
                " WHERE id = ? AND ended_at IS NULL",
                [(now, now, one) for one in ids],
            )

    def extended(self, ids: Iterable[str], expires: datetime) -> None:
        """Write down that `ids` are to end by themselves at `expires`, an aware time.

        It is known by launch: the latest end of all its instances counts for each of them.
        """
        with self._transaction() as db:
            db.executemany(
                "UPDATE launches SET expires = max(coalesce(expires, ''), ?)"
                " WHERE token IN (SELECT token FROM instances WHERE id = ? AND ended_at IS NULL)",
                [(_text(expires), one) for one in ids],
            )

    def ended(self, ids: Iterable[str]) -> None:
        """Write down that `ids` have ended; one that had, or that nobody knows, is no error."""
        now = _now()
        with self._transaction() as db:
            db.executemany(
                "UPDATE instances SET state = 'terminated', seen_at = ?, ended_at = ?"
                " WHERE id = ? AND ended_at IS NULL",
                [(now, now, one) for one in ids],
            )
            self._end_launches(db, now)

    def alive(self, experiment: str | None = None) -> list[Row]:
        """What may be running: instances that have not ended, and launches without an answer.

        Args:
            experiment: Only this experiment's; ``None``: everybody's who uses this journal.
        """
        with self._mutex, explained(self.path):
            cursor = self._db.execute(
                """
                SELECT token, experiment, owner, machine, pid, cloud, endpoint, image_id,
                    instance_type, count, first, tags, expires, asked_at, answered_at,
                    coalesce(i.id, '') AS instance_id, coalesce(i.ordinal, first) AS ordinal,
                    coalesce(i.state, '') AS state, i.seen_at, i.terminate_asked_at
                FROM launches AS l LEFT JOIN instances AS i USING (token)
                WHERE l.ended_at IS NULL AND i.ended_at IS NULL
                    AND (:experiment IS NULL OR experiment = :experiment)
                ORDER BY asked_at, token, ordinal
                """,
                {"experiment": experiment},
            )
            names = [column[0] for column in cursor.description]
            return [_row(dict(zip(names, values, strict=True))) for values in cursor]

    @staticmethod
    def _end_launches(db: sqlite3.Connection, now: str) -> None:
        """A launch has ended once it is answered and nothing of it is left."""
        db.execute(
            """
            UPDATE launches SET ended_at = ? WHERE ended_at IS NULL AND answered_at IS NOT NULL
            AND NOT EXISTS (
                SELECT 1 FROM instances AS i WHERE i.token = launches.token AND i.ended_at IS NULL
            )
            """,
            (now,),
        )

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        with self._mutex, explained(self.path):
            if durable or not self._is_wal:  # without syncs a rollback journal would not be safe
                with committed(self._db):
                    yield self._db
                return
            self._db.execute("PRAGMA synchronous = NORMAL")
            try:
                with committed(self._db):
                    yield self._db
            finally:
                self._db.execute("PRAGMA synchronous = FULL")

    def _check_still_there(self) -> None:
        """Refuse to write where nobody would find it: into a file that was removed or replaced."""
        try:
            there = os.path.samestat(self.path.stat(), self._file)
        except FileNotFoundError:
            there = False
        if not there:
            raise HomeError(
                path=str(self.path),
                problem="the journal was removed or replaced while it was in use",
                mend="leave it there, and start the experiment again",
            )


def _now() -> str:
    return _text(datetime.now(UTC))


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _row(values: dict[str, Any]) -> Row:
    times = ("expires", "asked_at", "answered_at", "seen_at", "terminate_asked_at")
    values.update({name: _time(values[name]) for name in times})
    return Row(**{**values, "tags": tuple(json.loads(values["tags"]))})
