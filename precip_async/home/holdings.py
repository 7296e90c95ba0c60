"""What the journal holds beside instances: elastic addresses, which cost until given back."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Protocol

from precip_async.home.rows import AddressRow, as_address, now, public

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

__all__ = ["Holdings"]


class Holdings(Protocol):
    """The part of the journal that is about addresses. Every method blocks."""

    owner: str
    machine: str

    def wanting_address(
        self,
        key: str,
        *,
        experiment: str,
        cloud: str,
        endpoint: str,
        region: str = "",
        others: Sequence[str] = (),
    ) -> None:
        """Write down that an address is about to be asked for; see `AddressRow`.

        Raises:
            HomeError: It can't be written: none must be taken.
        """
        self._check_still_there()
        values = {
            "key": key,
            "experiment": experiment,
            "owner": self.owner,
            "machine": self.machine,
            "pid": os.getpid(),
            "cloud": cloud,
            "endpoint": public(endpoint),
            "region": region,
            "others": json.dumps([*others]),
            "asked_at": now(),
        }
        columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        with self._transaction() as db:
            db.execute(f"INSERT INTO addresses ({columns}) VALUES ({places})", values)  # noqa: S608 - our own names

    def took_address(self, key: str, ip: str, allocation: str = "") -> None:
        """Write down which address the cloud gave."""
        with self._transaction() as db:
            db.execute(
                "UPDATE addresses SET taken_at = ?, ip = ?, allocation = ? WHERE key = ?",
                (now(), ip, allocation, key),
            )

    def released_address(self, key: str) -> None:
        """Write down that an address was given back, or that none was taken."""
        with self._transaction() as db:
            db.execute("UPDATE addresses SET released_at = ? WHERE key = ?", (now(), key))

    def addresses(self, experiment: str | None = None) -> list[AddressRow]:
        """The addresses that were not given back, the oldest first.

        Args:
            experiment: Only this experiment's; ``None``: everybody's who uses this journal.
        """
        query = """
            SELECT key, experiment, owner, machine, pid, cloud, endpoint, region, others, asked_at,
                taken_at, ip, allocation
            FROM addresses WHERE released_at IS NULL
                AND (:experiment IS NULL OR experiment = :experiment)
            ORDER BY asked_at, key
        """
        return [as_address(one) for one in self._read(query, experiment=experiment)]

    # -- what the journal is -----------------------------------------------------------------

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]: ...

    def _read(self, query: str, **facts: str | None) -> list[dict[str, Any]]: ...

    def _check_still_there(self) -> None: ...
