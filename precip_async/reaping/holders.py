"""Who answers for an experiment: the living process that holds its name, if any does."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import anyio
import anyio.to_thread

from precip_async.errors import InvalidArgument, NameInUse
from precip_async.home.names import hold_name

if TYPE_CHECKING:
    from types import TracebackType

    from precip_async.home.directory import Home
    from precip_async.home.names import Hold
    from precip_async.home.rows import AddressRow, Row

__all__ = ["Holders"]

RELEASE = 10.0  # seconds for letting go of a name


class Holders:
    """Names of experiments, each held by us from when it was asked for, unless somebody has it.

    So nobody starts an experiment whose remains are being ended. An async context manager: at its
    end the names are free again.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._known: dict[str, str] = {}
        self._lock = anyio.Lock()
        self._undo = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._undo.aclose()

    async def of(self, experiment: str, row: Row | AddressRow | None = None) -> str:
        """The living process that answers for `experiment`; empty: nobody does.

        Args:
            experiment: Its name, which may be a stranger's text.
            row: What the journal has of it. Of a process on another computer it can't be told from
                here whether it lives: it is taken to.
        """
        if row is not None and row.machine != socket.gethostname():
            return f"process {row.pid} on host {row.machine}, unless it has ended"
        async with self._lock:
            if experiment not in self._known:
                self._known[experiment] = await self._asked(experiment)
        return self._known[experiment]

    async def _asked(self, experiment: str) -> str:
        try:
            hold = await anyio.to_thread.run_sync(hold_name, self._home, experiment)
        except NameInUse as error:
            return error.holder
        except InvalidArgument:  # no experiment here can be called that
            return ""
        self._undo.push_async_callback(_released, hold)
        return ""


async def _released(hold: Hold) -> None:
    with anyio.move_on_after(RELEASE, shield=True):
        await anyio.to_thread.run_sync(hold.release)
