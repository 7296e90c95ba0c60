"""The journal: what was asked of which cloud, written down before it is asked.

Whatever becomes of the process, every launch that a cloud may have heard of is here. SQLite, so
that several processes can write at once and a loss of power leaves it whole. Never a secret in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

from precip_async.errors import HomeError, InvalidArgument, shortened
from precip_async.home.database import committed, explained, is_wal, open_database
from precip_async.home.directory import checked_path
from precip_async.home.files import private_directory
from precip_async.home.holdings import Holdings
from precip_async.home.rows import AddressRow, Row, as_row, as_text, now, public
from precip_async.home.schema import MIGRATIONS
from precip_async.steps import reached

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from precip_async.home.directory import Home

__all__ = ["MIGRATIONS", "AddressRow", "Journal", "Row"]

LONGEST_REASON = 1000  # characters
# An id; twice the endpoint that it is from, as clouds that count have the same ones; and twice the
# experiment that has it, as two may have taken one host.
_THOSE = (
    "WHERE id = ? AND ended_at IS NULL AND EXISTS ("
    " SELECT 1 FROM launches AS l WHERE l.token = instances.token"
    " AND (? IS NULL OR l.endpoint = ?) AND (? IS NULL OR l.experiment = ?))"
)


class Journal(Holdings):
    """An open journal; made by `Journal.open`, to be closed with `close`.

    Several threads may use it, one at a time, and several processes at once. Every method blocks
    and raises `HomeError` where the journal can't be read or written. A process that was forked
    from the one that opened it has to open its own.
    """

    def __init__(
        self, path: Path, owner: str, db: sqlite3.Connection, file: os.stat_result
    ) -> None:
        self.path = path
        self.owner = owner
        self.machine = socket.gethostname()
        self._mutex = threading.RLock()
        self._db = db
        self._is_wal = is_wal(db)
        self._file = file

    @classmethod
    def open(cls, home: Home) -> Self:
        """Open the journal of `home`, or the one in ``$PRECIP_STATE``; a missing one is made.

        Raises:
            HomeError: It is damaged, read-only, of a newer version than this one, or was removed
                meanwhile.
        """
        folder = home.path
        if given := os.environ.get("PRECIP_STATE"):
            folder = checked_path(given, "PRECIP_STATE")
            private_directory(folder)
        path = folder / "journal.sqlite"
        db = open_database(path, MIGRATIONS)
        reached("journal.opened")
        try:
            return cls(path, home.account_id, db, path.stat())
        except FileNotFoundError as error:
            db.close()
            raise _removed(path) from error

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
        region: str = "",
        zone: str = "",
        image_id: str,
        instance_type: str,
        count: int,
        first: int,
        tags: Sequence[str] = (),
        expires: datetime | None = None,
        login_user: str = "",
        ssh_port: int = 22,
        address: str = "public",
        cloud_init: bool = False,
        owner: str | None = None,
    ) -> None:
        """Write down that a launch is about to be asked for; on the disk once this returns.

        Args:
            token: Names the launch: see `Row`, where the rest is described as well.
            experiment: See `Row`.
            cloud: See `Row`.
            endpoint: See `Row`; a user and a password in it are left out.
            region: See `Row`.
            zone: See `Row`.
            image_id: See `Row`.
            instance_type: See `Row`.
            count: See `Row`.
            first: See `Row`.
            tags: See `Row`.
            expires: See `Row`; an aware time.
            login_user: See `Row`.
            ssh_port: See `Row`.
            address: See `Row`.
            cloud_init: See `Row`.
            owner: See `Row`; ``None``: the home's.

        Raises:
            InvalidArgument: The token was used before.
            HomeError: It can't be written: nothing must be launched.
        """
        self._check_still_there()
        values = {
            "token": token,
            "experiment": experiment,
            "owner": self.owner if owner is None else owner,
            "machine": self.machine,
            "pid": os.getpid(),
            "cloud": cloud,
            "endpoint": public(endpoint),
            "region": region,
            "zone": zone,
            "image_id": image_id,
            "instance_type": instance_type,
            "count": count,
            "first": first,
            "tags": json.dumps(list(tags), ensure_ascii=False),
            "expires": expires and as_text(expires),
            "login_user": login_user,
            "ssh_port": ssh_port,
            "address": address,
            "cloud_init": cloud_init,
            "asked_at": now(),
        }
        columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM launches WHERE token = ?", (token,)).fetchone():
                raise InvalidArgument(f"the launch token {token!r} was used before")
            db.execute(f"INSERT INTO launches ({columns}) VALUES ({places})", values)  # noqa: S608 - our own names

    def answered(
        self,
        token: str,
        ids: Sequence[str],
        *,
        places: Sequence[int] | None = None,
        launches: int = 1,
    ) -> None:
        """Write down the instances that a launch has started, in launch order.

        A second answer, as a search for a lost one may bring, adds to the first.

        Args:
            token: Which launch.
            ids: What it has started.
            places: The place of each in the experiment; ``None``: that of its ordinal.
            launches: See `Row`.
        """
        at = now()
        with self._transaction() as db:
            launch = db.execute("SELECT first FROM launches WHERE token = ?", (token,)).fetchone()
            if launch is None:
                raise HomeError(
                    path=str(self.path),
                    problem=f"has lost the launch {token}, which started {', '.join(ids)}",
                    mend="let nobody but precip write to it",
                )
            db.execute(
                "UPDATE launches SET answered_at = ?, ended_at = NULL WHERE token = ?", (at, token)
            )
            db.executemany(
                "INSERT INTO instances (id, token, ordinal, place, launches, state, seen_at)"
                " VALUES (?, ?, ?, ?, ?, 'pending', ?) ON CONFLICT DO NOTHING",
                [
                    (one, token, launch[0] + number, places and places[number], launches, at)
                    for number, one in enumerate(ids)
                ],
            )
            self._end_launches(db, at)

    def refused(self, token: str, reason: str) -> None:
        """Write down that a launch has started nothing, and why; the reason is no secret."""
        with self._transaction() as db:
            at = now()
            db.execute(
                "UPDATE launches SET answered_at = ?, ended_at = ?, reason = ? WHERE token = ?",
                (at, at, shortened(reason, LONGEST_REASON), token),
            )

    def saw(self, instance_id: str, state: str) -> None:
        """`saw_all` for one."""
        self.saw_all({instance_id: state})

    def saw_all(
        self,
        states: Mapping[str, str],
        *,
        endpoint: str | None = None,
        experiment: str | None = None,
    ) -> None:
        """Write down what was seen of instances; ``"terminated"`` means that one has ended.

        Not awaited to be on the disk: what a loss of power takes will be seen again.

        Args:
            states: By id.
            endpoint: Where these ids are from, as elsewhere others may have them; ``None``: they
                mean the same everywhere.
            experiment: Whose; ``None``: whosoever, where no other can have them.
        """
        gone = [one for one, state in states.items() if state == "terminated"]
        if gone:
            self.ended(gone, endpoint=endpoint, experiment=experiment)
        at = now()
        with self._transaction(durable=False) as db:
            db.executemany(
                f"UPDATE instances SET state = ?, seen_at = ? {_THOSE}",  # noqa: S608 - ours
                [(state, at, one, *_at(endpoint, experiment)) for one, state in states.items()],
            )

    def ending(
        self, ids: Iterable[str], *, endpoint: str | None = None, experiment: str | None = None
    ) -> None:
        """Write down that the end of `ids` is about to be asked for. See `saw_all`."""
        at = now()
        with self._transaction() as db:
            db.executemany(
                "UPDATE instances SET state = 'terminating', seen_at = ?,"  # noqa: S608 - ours
                f" terminate_asked_at = coalesce(terminate_asked_at, ?) {_THOSE}",
                [(at, at, one, *_at(endpoint, experiment)) for one in ids],
            )

    def ended(
        self, ids: Iterable[str], *, endpoint: str | None = None, experiment: str | None = None
    ) -> None:
        """Write down that `ids` have ended; that one had, or is unknown, is no error."""
        at = now()
        with self._transaction() as db:
            db.executemany(
                "UPDATE instances SET state = 'terminated', seen_at = ?, ended_at = ?"  # noqa: S608 - ours
                f" {_THOSE}",
                [(at, at, one, *_at(endpoint, experiment)) for one in ids],
            )
            self._end_launches(db, at)

    def renewed(
        self,
        ids: Iterable[str],
        expires: datetime | None,
        *,
        endpoint: str | None = None,
        experiment: str | None = None,
    ) -> None:
        """Write down that `ids` are to end by themselves at `expires` now; ``None``: never."""
        until = "" if expires is None else as_text(expires)  # NULL is what the launch says
        with self._transaction() as db:
            db.executemany(
                f"UPDATE instances SET expires = ? {_THOSE}",  # noqa: S608 - ours
                [(until, one, *_at(endpoint, experiment)) for one in ids],
            )

    def alive(self, experiment: str | None = None) -> list[Row]:
        """What may be running: instances that have not ended, and launches without an answer.

        Args:
            experiment: Only this experiment's; ``None``: everybody's who uses this journal.
        """
        query = """
            SELECT token, experiment, owner, machine, pid, cloud, endpoint, region, zone, image_id,
                instance_type, count, first, tags, asked_at, answered_at, login_user, ssh_port,
                address, cloud_init, coalesce(i.expires, l.expires) AS expires,
                coalesce(i.id, '') AS instance_id, coalesce(i.ordinal, first) AS ordinal,
                coalesce(i.place, i.ordinal, first) AS place, coalesce(i.launches, 1) AS launches,
                coalesce(i.state, '') AS state, i.seen_at, i.terminate_asked_at
            FROM launches AS l LEFT JOIN instances AS i USING (token)
            WHERE l.ended_at IS NULL AND i.ended_at IS NULL
                AND (:experiment IS NULL OR experiment = :experiment)
            ORDER BY asked_at, token, ordinal
        """
        return [as_row(one) for one in self._read(query, experiment=experiment)]

    def over(self, tokens: Iterable[str]) -> set[str]:
        """Those launches of `tokens` of which nothing is left."""
        query = "SELECT token FROM launches WHERE token = :token AND ended_at IS NOT NULL"
        return {one for one in tokens if self._read(query, token=one)}

    @staticmethod
    def _end_launches(db: sqlite3.Connection, at: str) -> None:
        """A launch has ended once it is answered and nothing of it is left."""
        db.execute(
            """
            UPDATE launches SET ended_at = ? WHERE ended_at IS NULL AND answered_at IS NOT NULL
            AND NOT EXISTS (
                SELECT 1 FROM instances AS i WHERE i.token = launches.token AND i.ended_at IS NULL
            )
            """,
            (at,),
        )

    def _read(self, query: str, **facts: str | None) -> list[dict[str, Any]]:
        with self._mutex, explained(self.path):
            cursor = self._db.execute(query, facts)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, values, strict=True)) for values in cursor]

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """All that is written meanwhile is, or nothing if it ends by an exception or a death."""
        with self._transaction():
            yield

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        with self._mutex, explained(self.path):
            if self._db.in_transaction:  # see `at_once`
                yield self._db
                return
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
            raise _removed(self.path)


def _removed(path: Path) -> HomeError:
    return HomeError(
        path=str(path),
        problem="the journal was removed or replaced while it was in use",
        mend="leave it there, and start the experiment again",
    )


def _at(endpoint: str | None, experiment: str | None) -> tuple[str | None, ...]:
    given = None if endpoint is None else public(endpoint)
    return given, given, experiment, experiment
