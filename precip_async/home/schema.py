"""The journal's tables, version by version."""

from __future__ import annotations

from typing import Final

__all__ = ["MIGRATIONS"]

# Each takes the journal one version on, and none is ever changed: to change the tables, add one.
MIGRATIONS: Final = (
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
    (
        "ALTER TABLE launches ADD COLUMN region TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE launches ADD COLUMN zone TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE launches ADD COLUMN login_user TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE launches ADD COLUMN ssh_port INTEGER NOT NULL DEFAULT 22",
        "ALTER TABLE launches ADD COLUMN address TEXT NOT NULL DEFAULT 'public'",
        "ALTER TABLE launches ADD COLUMN cloud_init INTEGER NOT NULL DEFAULT 0",
        # NULL: as its ordinal, which is what the first version had.
        "ALTER TABLE instances ADD COLUMN place INTEGER",
        "ALTER TABLE instances ADD COLUMN launches INTEGER NOT NULL DEFAULT 1",
        # NULL: as its launch says; else renewed since.
        "ALTER TABLE instances ADD COLUMN expires TEXT",
        """
        CREATE TABLE addresses (
            key TEXT PRIMARY KEY,
            experiment TEXT NOT NULL,
            owner TEXT NOT NULL,
            machine TEXT NOT NULL,
            pid INTEGER NOT NULL,
            cloud TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            region TEXT NOT NULL,
            others TEXT NOT NULL,
            asked_at TEXT NOT NULL,
            taken_at TEXT,
            ip TEXT NOT NULL DEFAULT '',
            allocation TEXT NOT NULL DEFAULT '',
            released_at TEXT
        )
        """,
        "CREATE INDEX addresses_held ON addresses (experiment) WHERE released_at IS NULL",
    ),
)
