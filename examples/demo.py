"""The demo: three machines on this computer; boot, run, copy both ways, and gone again."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from precip_async import ExperimentException, LocalExperiment

ISOLATIONS = {
    "namespace": "Linux, root and OpenSSH are here; each has its own network",
    "process": "without root, or what namespaces need; one process serves them all",
}
COMMAND = 'echo "$(hostname), $((PRECIP_INDEX + 1)) of $PRECIP_COUNT, as $(id -un)"'
ANSWER = 'read -r question <question.txt && echo "$question Yes, says $(hostname)." >answer.txt'


async def demo(folder: Path) -> None:
    """Do what an experiment does, and tell of it."""
    began = time.monotonic()
    async with LocalExperiment() as exp:
        tell("Experiment", exp.name)
        await exp.provision(count=3, tags=["worker"])
        workers = await exp.wait()
        tell("Provisioned", f"3 instances, ready after {time.monotonic() - began:.1f} s")
        for one in workers:
            tell("", f"{one.id} at {one.public_address}")
        tell("Isolation", f"{workers[0].isolation}: {ISOLATIONS[workers[0].isolation]}")

        results = await exp.run(["worker"], COMMAND, parallel=True)
        tell("Ran", COMMAND)
        for r in results.by_instance:
            tell("", f"{r.instance_id} exited with {r.exit_code}: {r.stdout.strip()}")

        question = folder / "question.txt"
        question.write_text("Has this file come from far?\n")
        await exp.put(["worker"], question, "question.txt", parallel=True)
        tell("Put", f"{question} to ~/question.txt on each")
        await exp.run(["worker"], ANSWER, parallel=True)
        answers = await exp.get(["worker"], "answer.txt", folder / "answer.txt", parallel=True)
        tell("Got", f"~/answer.txt of each, as {answers[0].parent}/answer.txt.<instance id>")
        for answer in answers:
            tell("", f"{answer.name}: {answer.read_text().strip()}")
    tell("Deprovisioned", f"all of them, and gone; it took {time.monotonic() - began:.1f} s in all")


def tell(what: str, text: str) -> None:
    """Print a line of the account."""
    print(f"{what:>14}  {text}", flush=True)


if __name__ == "__main__":
    try:
        with tempfile.TemporaryDirectory(prefix="precip-demo-") as temporary:
            asyncio.run(demo(Path(temporary)))
    except ExperimentException as error:
        sys.exit(f"The demo failed: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; the instances are gone.")
