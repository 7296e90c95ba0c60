"""An event loop that counts how often its tasks are suspended, and strikes at the n-th time."""

from __future__ import annotations

import asyncio
import types
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Coroutine, Generator

__all__ = ["CountingLoop"]

T = TypeVar("T")


class CountingLoop(asyncio.SelectorEventLoop):
    """The loop.

    Attributes:
        suspensions: The code that was suspended each time, since `strike` was called last.
        struck: Where the blow has struck.
        failures: What a blow has found.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.suspensions: list[str] = []
        self.struck: list[str] = []
        self.failures: list[AssertionError] = []
        self._blow: Callable[[], object] = _nothing
        self._at: Container[int] = ()
        self.set_task_factory(self._make_task)

    def strike(self, blow: Callable[[], object], at: Container[int]) -> None:
        """Call `blow` at the suspensions whose numbers, from 1 and from here on, are in `at`."""
        self._blow, self._at = blow, at
        self.suspensions, self.struck = [], []

    def spare(self) -> None:
        """Strike no more."""
        self._at = ()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Any, **given: Any
    ) -> asyncio.Task[Any]:
        async def counted() -> Any:
            return await _counted(coro, partial(self._has_suspended, coro))

        task = asyncio.Task(counted(), loop=loop, **given)
        task.add_done_callback(lambda _: coro.close())  # one that was cancelled before it began
        return task

    def _has_suspended(self, coro: Any) -> None:
        self.suspensions.append(_place(coro))
        if len(self.suspensions) in self._at:
            self.struck.append(self.suspensions[-1])
            try:
                self._blow()
            except AssertionError as error:  # no concern of the task that happens to be suspended
                self.failures.append(error)


def _nothing() -> None:
    """Strikes nobody."""


@types.coroutine
def _counted(
    coro: Coroutine[Any, Any, T], suspended: Callable[[], object]
) -> Generator[Any, Any, T]:
    """Await `coro`, and call `suspended` whenever it is about to wait."""
    step: Callable[[], Any] = partial(coro.send, None)
    while True:
        try:
            awaited = step()
        except StopIteration as stop:
            result: T = stop.value
            return result
        suspended()
        try:
            sent = yield awaited
        except GeneratorExit:
            coro.close()
            raise
        except BaseException as error:  # noqa: BLE001 - it is the coroutine's, whatever it is
            step = partial(coro.throw, error)
        else:
            step = partial(coro.send, sent)


def _place(coro: Any) -> str:
    """Where `coro` waits: the innermost line of the package."""
    place = ""
    while coro is not None:
        code, frame = getattr(coro, "cr_code", None), getattr(coro, "cr_frame", None)
        if code is not None and frame is not None and "/precip_async/" in code.co_filename:
            name = code.co_filename.rpartition("/precip_async/")[2]
            place = f"{name}:{frame.f_lineno} in {code.co_qualname}"
        coro = getattr(coro, "cr_await", None)
    return place
