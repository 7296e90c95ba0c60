"""Notebook style: cells, one after the other, inside the event loop that a notebook runs."""

from __future__ import annotations

import asyncio

from precip_async import LocalExperiment
from precip_async import sync as precip


async def notebook() -> None:
    """What Jupyter does: each cell runs in a task of a loop that is running already."""
    # In [1]: the blocking twins work here, too; they have a loop of their own.
    exp = precip.LocalExperiment(quiet=True)
    exp.provision(count=2, tags=["cell"])
    exp.wait()

    # In [2]: look at what there is, as often as you like.
    for one in exp.instances():
        print(one.id, one.state)

    # In [3]: a cell may be run again; the instances are still there.
    for greeting in ("hello", "and hello again"):
        print(exp.run(["cell"], f"echo {greeting}", parallel=True)[1])

    # In [4]: `await` works as well, on an experiment of the async classes, side by side.
    async with LocalExperiment() as other:
        await other.provision()
        await other.wait()
        print((await other.run([], "echo awaited"))[1])

    # In [5]: done. Forgotten, it is done when the kernel stops.
    exp.close()
    print("closed:", exp.closed)


if __name__ == "__main__":
    asyncio.run(notebook())
