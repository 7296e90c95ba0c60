"""Tasks in groups: their errors are raised as they are, and their shields hold."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from anyio.abc import TaskGroup

__all__ = ["in_child_task", "task_group"]

Value = TypeVar("Value")


async def in_child_task(operation: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
    """Await `operation` in a task of its own.

    asyncio's own cancellation knows no shields: it strikes whatever its task waits for. In a child
    task `operation` is cancelled by anyio instead, and what it shields is left to end. The child's
    error goes before a cancellation.
    """
    outcome: list[Value] = []

    async def child() -> None:
        outcome.append(await operation())

    async with task_group() as tasks:
        tasks.start_soon(child)
    return outcome[0]


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """A task group that raises a task's error as it is; of several the first, which names them."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    # A KeyboardInterrupt stays in its group: bare it would tear asyncio's loop out of its shutdown.
    except ExceptionGroup as group:
        first, *others = group.exceptions
        for other in others:  # what ends everything often strikes more than once
            first.add_note(f"and at the same time: {type(other).__name__}: {other}")
        raise first from first.__cause__
