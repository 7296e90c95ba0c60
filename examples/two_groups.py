"""Two groups: a master that serves the work, and workers that fetch it from there."""

from __future__ import annotations

import asyncio

from precip_async import Instance, LocalExperiment

SERVE = "echo 'three sacks of peas' >work.txt; exec python3 -u -m http.server 8765 --bind $MASTER"
FETCH = """exec python3 -c '
import os, urllib.request
work = "http://" + os.environ["MASTER"] + ":8765/work.txt"
print(urllib.request.urlopen(work).read().decode())'"""


async def main() -> None:
    """Tell the workers where their master is, and let them talk to it."""
    async with LocalExperiment() as exp, asyncio.TaskGroup() as tasks:
        await exp.provision(tags=["master"])
        await exp.provision(count=3, tags=["worker"])
        await exp.wait()
        where = {"MASTER": exp.get_private_hostnames(["master"])[0]}
        serving = asyncio.Event()

        def hear(_master: Instance, _stream: str, text: str) -> None:
            print(text, end="")
            serving.set()  # the first thing it says is that it serves

        server = tasks.create_task(exp.run(["master"], SERVE, env=where, on_output=hear))
        await serving.wait()
        results = await exp.run(["worker"], FETCH, env=where, parallel=True)
        for r in results.by_instance:
            print(f"{r.instance_id} got: {r.stdout.strip()}")
        server.cancel()  # ends it on the master, too


if __name__ == "__main__":
    asyncio.run(main())
