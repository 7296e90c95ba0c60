"""Fan out: fifty instances at once, and how long each took."""

from __future__ import annotations

import asyncio
import statistics
import time

from precip_async import FleetError, LocalExperiment

COUNT = 50


async def main() -> None:
    """Run one command everywhere at once; one of the instances is to fail."""
    began = time.monotonic()
    async with LocalExperiment(parallel=True) as exp:
        await exp.provision(count=COUNT, tags=["worker"])
        await exp.wait()
        print(f"{COUNT} instances are ready after {time.monotonic() - began:.1f} s")

        results = await exp.run(["worker"], "echo $PRECIP_INDEX of $PRECIP_COUNT")
        first, *_, last = results[1]  # [exit codes, stdouts, stderrs], in provisioning order
        print(f"the first says {first.strip()!r}, the last {last.strip()!r}")

        durations = sorted(1000 * r.duration for r in results.by_instance)
        middle, slowest = statistics.median(durations), durations[-1]
        print(f"a command took {middle:.0f} ms in the median, {slowest:.0f} ms at most")

        try:
            await exp.run(["worker"], "[ $PRECIP_INDEX != 7 ]")
        except FleetError as error:  # all were tried; one bad host does not stop the others
            print(f"{len(error.succeeded)} succeeded; {error.failed[0].instance_id} did not")


if __name__ == "__main__":
    asyncio.run(main())
