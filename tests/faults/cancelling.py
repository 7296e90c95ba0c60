"""Cancelling a verb at each of its suspensions, in memory and on virtual time."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import anyio

from precip_async import Experiment
from precip_async.ssh.remote import PooledRemote
from tests.faults.memory import World, world
from tests.faults.virtual import VirtualLoop, run_virtually

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path


__all__ = ["CASES", "Case", "Means", "at_every_suspension", "attempt", "everything"]

Means = Literal["scope", "native", "twice"]
"""A scope of anyio's, asyncio's own cancellation, or that twice in short succession."""


# -- what is cancelled -----------------------------------------------------------------------


async def nothing(_: Experiment) -> None:
    pass


async def opened(exp: Experiment) -> None:
    await exp.open()


async def provisioned(exp: Experiment) -> None:
    await exp.open()
    await exp.provision(count=3)


async def ready(exp: Experiment) -> None:
    await provisioned(exp)
    await exp.wait()


async def everything(exp: Experiment) -> None:
    async with exp:
        await exp.provision(count=3)
        await exp.wait()
        await exp.run([], "work", parallel=True)
        await exp.deprovision()


async def gone(there: World, _: Experiment) -> None:
    """It was closed, and there is nothing left."""
    there.check_gone()


async def closes(_: World, exp: Experiment) -> None:
    """It may be open, and then it can be closed."""
    await exp.aclose()


async def owns_all(there: World, exp: Experiment) -> None:
    """What was started is the experiment's, and it goes on."""
    assert sorted(one.id for one in exp.instances()) == sorted(there.cloud.machines)
    await exp.provision()
    await exp.wait()
    await exp.aclose()


async def boots_on(there: World, exp: Experiment) -> None:
    """Another wait sees to the rest, also where a machine was being replaced."""
    machines = await exp.wait()
    assert [one.index for one in machines] == [0, 1, 2]
    assert {one.id for one in machines} == set(there.cloud.alive())
    assert len(there.cloud.machines) == 4
    await exp.aclose()


async def runs_nothing(there: World, exp: Experiment) -> None:
    """Nothing runs there any more, and the next command does."""
    # A bare cancel in the very moment of the start costs the connection: the next one ends it.
    stage = exp._stage
    assert isinstance(stage.remote, PooledRemote)
    targets = [stage.reach.target(one)[0] for one in exp.instances()]
    unconnected = [one for one in targets if not stage.remote.pool.connected(one)]
    assert len(there.machines.running) <= len(unconnected)
    # a short one: what was left would else have come to its own end meanwhile
    assert (await exp.run([], "true", parallel=True))[0] == [0, 0, 0]
    assert there.machines.running == {}
    await exp.aclose()


async def ends_the_rest(there: World, exp: Experiment) -> None:
    """What was not ended is when that is asked for again."""
    await exp.deprovision()
    assert there.cloud.alive() == []
    await exp.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A verb, what comes before it, and what has to hold when it was cancelled.

    Attributes:
        before: Comes to where the verb makes sense.
        verb: Is cancelled.
        after: Looks at what is left, and closes the experiment.
        fewest: How often it is suspended at least: else the loop no longer counts all.
    """

    before: Callable[[Experiment], Coroutine[Any, Any, object]]
    verb: Callable[[Experiment], Coroutine[Any, Any, object]]
    after: Callable[[World, Experiment], Coroutine[Any, Any, object]]
    fewest: int = 10


CASES = {
    "open": Case(before=nothing, verb=Experiment.open, after=closes),
    "provision": Case(
        before=opened, verb=lambda exp: exp.provision(count=3), after=owns_all, fewest=5
    ),
    "wait": Case(before=provisioned, verb=Experiment.wait, after=boots_on, fewest=20),
    "run": Case(
        before=ready, verb=lambda exp: exp.run([], "work", parallel=True), after=runs_nothing
    ),
    "deprovision": Case(before=ready, verb=Experiment.deprovision, after=ends_the_rest),
    "close": Case(before=ready, verb=Experiment.aclose, after=gone),
    "everything": Case(before=nothing, verb=everything, after=gone, fewest=80),
}


# -- how -------------------------------------------------------------------------------------


async def cancelled(
    loop: VirtualLoop, work: Callable[[], Coroutine[Any, Any, object]], number: int, means: Means
) -> None:
    """Do `work`, and cancel it at the suspension numbered `number`, counted from here."""
    if means == "scope":
        with anyio.CancelScope() as scope:
            loop.strike(scope.cancel, [number])
            await work()
    else:

        async def begun() -> None:
            loop.strike(task.cancel, [number, number + 2] if means == "twice" else [number])
            await work()

        task = asyncio.create_task(begun())
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
    loop.spare()


def attempt(home: Path, case: Case, means: Means, number: int) -> bool:
    """Cancel `case` at suspension `number` and see that nothing is lost; whether it got so far.

    Raises:
        AssertionError: Something was lost; a note says where it was cancelled.
    """
    random.seed(0)  # pauses are jittered
    struck: list[str] = []

    async def main(loop: VirtualLoop) -> None:
        exp = there.experiment()
        await case.before(exp)
        await cancelled(loop, lambda: case.verb(exp), number, means)
        struck.extend(loop.struck)
        await case.after(there, exp)

    with world(home) as there:
        try:
            run_virtually(main)
            there.check_gone()
        except Exception as error:
            error.add_note(f"by {means}, at suspension {number}: {struck}")
            raise
    return bool(struck)


def at_every_suspension(home: Path, verb: str, means: Means) -> int:
    """Cancel a verb at each of its suspensions, one after the other; how many there are.

    Raises:
        AssertionError: See `attempt`.
    """
    number = 1
    while attempt(home, CASES[verb], means, number):
        number += 1
    return number - 1
