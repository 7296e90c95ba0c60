"""The demo: three machines on this computer; boot, run, copy both ways, and gone again."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from pathlib import Path

from precip_async import ExperimentException, LocalExperiment

FOLDER = Path(".precip-demo")  # always the same: what a killed demo leaves, the next one removes
ISOLATIONS = {
    "namespace": "Linux, root and OpenSSH are here; each has its own network",
    "process": "namespaces take Linux, root and OpenSSH; one process serves all",
}
COMMAND = 'echo "$(hostname), $((PRECIP_INDEX + 1)) of $PRECIP_COUNT, as $(id -un)"'
ANSWER = 'read -r question <question.txt && echo "$question Yes, says $(hostname)." >answer.txt'


async def demo() -> None:
    """Do what an experiment does, and tell of it."""
    began = time.monotonic()
    async with LocalExperiment() as exp:
        await exp.provision(count=3, tags=["worker"])
        workers = await exp.wait()
        tell("Experiment", f"{exp.name}, ready after {time.monotonic() - began:.1f} s")
        tell("Instances", *(f"{one.id} at {one.public_address}" for one in workers))
        tell("Isolation", f"{workers[0].isolation}: {ISOLATIONS[workers[0].isolation]}")

        ran = (await exp.run(["worker"], COMMAND, parallel=True)).by_instance
        said = (f"{r.instance_id} exit {r.exit_code}: {r.stdout.strip()}" for r in ran)
        tell("Command", COMMAND, *said)

        question = FOLDER / "question.txt"
        question.write_text("Are you far?\n")
        await exp.put(["worker"], question, "question.txt", parallel=True)
        tell("Put", f"{question} to ~/question.txt on each")

        await exp.run(["worker"], ANSWER, parallel=True)
        answers = await exp.get(["worker"], "answer.txt", FOLDER / "answer.txt", parallel=True)
        tell("Got", *(f"{answer}: {answer.read_text().strip()}" for answer in answers))
    tell("Deprovisioned", f"all three, and gone; it took {time.monotonic() - began:.1f} s in all")


def tell(what: str, *lines: str) -> None:
    """Print a part of the account."""
    for line in lines:
        print(f"{what:>14}  {line}", flush=True)
        what = ""


if __name__ == "__main__":
    try:
        FOLDER.mkdir(exist_ok=True)
        asyncio.run(demo())
    except (ExperimentException, OSError) as error:
        sys.exit(f"The demo failed: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; the instances are gone.")
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
