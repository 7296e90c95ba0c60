"""The manual's Hello World, awaited."""

from __future__ import annotations

import asyncio
import sys

from precip_async import ExperimentException, LocalExperiment


async def main() -> None:
    """Run one command on one instance."""
    # Leaving the block, by whatever road, ends the instances.
    async with LocalExperiment() as exp:
        # Tags are how instances are named: any number of them, any words.
        await exp.provision(tags=["test1"], count=1)

        # `provision` only starts them; `wait` returns when commands run on all of them.
        await exp.wait()
        print(exp.list())

        # On each instance that bears the tag. Here it is one.
        results = await exp.run(["test1"], "echo 'Hello world from a experiment instance'")
        for r in results.by_instance:
            print(r.instance_id, r.exit_code, r.stdout)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ExperimentException as error:  # the root of all that goes wrong
        sys.exit(f"ERROR: {error}")
