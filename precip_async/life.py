"""An experiment's life: named, opened, closed by any road."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread

from precip_async import forsaken
from precip_async.clouds.base import Cloud
from precip_async.detour import taken
from precip_async.errors import ExperimentClosed
from precip_async.home.names import checked_name, default_name
from precip_async.ssh.tasks import in_child_task

if TYPE_CHECKING:
    from types import TracebackType

    from precip_async.detour import Source
    from precip_async.limits import Limits
    from precip_async.settings import Settings
    from precip_async.stage import Stage

__all__ = ["Life"]


class Life:
    """What holds for every experiment before and after its verbs."""

    def __init__(self, cloud: Source, settings: Settings) -> None:
        if isinstance(cloud, Cloud):  # and else when it is made
            settings.check_lifetime(cloud)
        self._cloud, self._settings = taken(cloud, settings)
        self._name = default_name() if settings.name is None else checked_name(settings.name)
        self._open_stage: Stage | None = None
        self._attaching = False
        self._opening = self._closed = False
        self._gone: anyio.Event | None = None  # set when what was open is closed

    @classmethod
    async def attach(cls, name: str, *args: Any, **keywords: Any) -> Self:
        """Go on with the running experiment called `name`, which another process has left.

        Its instances are this experiment's from now on, with their tags, their order and their
        indexes, and leaving it ends them unless ``keep``. What was ready is ready; the others can
        be waited for, and are not replaced when they fail. They are found by the journal, or, where
        it has nothing of that name, by their marks at the cloud, where these say enough: see
        ``docs/leaks.md``. A host key that nobody knows is pinned anew, and observers are warned.

        Args:
            name: The experiment's name.
            args: As for the constructor.
            keywords: Likewise; from another home with the ``ssh_key`` that they were launched with.

        Raises:
            NameInUse: A living process holds the name.
            InvalidArgument: There is nothing of that name, or nobody can tell what; nothing was
                ended.
            HomeError: The home can't be used.
            CloudError: The cloud does not accept us.

        If cancelled, nothing is held, and the instances go on running.
        """
        experiment = cls(*args, **{**keywords, "name": name})
        experiment._attaching = True
        await experiment.open()
        return experiment

    def __repr__(self) -> str:
        state = "open" if self._open_stage else "closed" if self._closed else "not open yet"
        return f"<{type(self).__name__} {self._name!r}, {state}>"

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._name

    @property
    def limits(self) -> Limits:
        """Its limits."""
        return self._settings.limits

    @property
    def keep(self) -> bool:
        """Whether its instances go on running when it is closed."""
        return self._settings.keep

    @property
    def closed(self) -> bool:
        """Whether it was closed; it can't be opened again."""
        return self._closed

    async def open(self) -> None:
        """Take the name, read the keys, and have the cloud accept us.

        Raises:
            NameInUse: A living process holds the name, or instances bear it that still run.
            HomeError: The home can't be used.
            CloudError: The cloud does not accept us.
            ExperimentClosed: It was closed.

        If cancelled, nothing is held.
        """
        if self._closed:
            raise ExperimentClosed(f"experiment {self._name!r} was closed: make a new one")
        if self._opening:
            raise ExperimentClosed(f"experiment {self._name!r} is being opened already")
        if self._open_stage is not None:
            return

        async def open_stage() -> None:
            stage = await anyio.to_thread.run_sync(_stage_class)
            self._open_stage = await stage.open(
                self._name, self._cloud, self._settings, attach=self._attaching
            )

        self._opening = True
        forsaken.attend()
        try:
            await in_child_task(open_stage)
        except BaseException:  # cancelled, it may be open all the same
            await self._close_stage(untouched=self._attaching)
            raise
        finally:
            self._opening = False
        if self._closed:  # aclose() came by meanwhile
            await self._close_stage()
            raise ExperimentClosed(f"experiment {self._name!r} was closed while it was opened")
        forsaken.hold(self)

    async def aclose(self) -> None:
        """End the instances, unless ``keep``, and let go of everything. A second time: nothing.

        Raises:
            ExperimentException: Something may still be running; the message says what.

        Cancellation does not stop it, but its deadlines do: see ``limits``. Where the event loop
        that it was opened on has been closed, what the journal knows of it is ended from this one.
        """
        self._closed = True
        await self._close_stage()

    async def _close_stage(self, *, untouched: bool = False) -> None:
        stage, self._open_stage = self._open_stage, None
        if stage is not None:
            forsaken.release(self)
            self._gone = anyio.Event()
            try:
                close = stage.aclose_afresh if stage.stranded else stage.aclose
                await in_child_task(stage.let_go if untouched else close)
            finally:
                self._gone.set()
                forsaken.released(self)
        elif self._gone is not None:  # somebody else is at it
            await self._gone.wait()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.aclose()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"and while the experiment was closed: {failure}")  # it comes first

    @property
    def _stage(self) -> Stage:
        if self._open_stage is None:
            what = "was closed" if self._closed else "is not open: use `async with`, or open()"
            raise ExperimentClosed(f"experiment {self._name!r} {what}")
        return self._open_stage


def _stage_class() -> type[Stage]:
    """Half of all there is to import: only when it is used, and not on the loop."""
    from precip_async.stage import Stage

    return Stage
