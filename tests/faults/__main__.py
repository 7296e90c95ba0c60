"""Plays trials by the hundred and prints what came of them: `python -m tests.faults --help`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from tests.faults.driver import Outcome, play_all
from tests.faults.trials import drawn, trials

if TYPE_CHECKING:
    from collections.abc import Sequence

MEMORY = Path("/dev/shm")  # where files cost no wait for a disk, which a trial has no need of


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--trials", type=int, default=520, help="how many (default: 520)")
    parser.add_argument("--seed", type=int, default=0, help="what they are drawn from")
    parser.add_argument("--jobs", type=int, default=4, help="how many at once (default: 4)")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these trials alone")
    parser.add_argument("--kind", help="trials of this kind alone")
    return parser.parse_args()


def show(outcome: Outcome) -> None:
    """Say at once what went wrong, and how to have it again."""
    if not outcome.violations:
        return
    trial = outcome.trial
    lines = [
        f"{trial}: exit code {outcome.code}",
        *(f"    {violation}" for violation in outcome.violations),
        *(f"    | {line}" for line in outcome.said.splitlines()[-12:]),
        f"    again: python -m tests.faults --seed {trial.seed} --only {trial.number}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each row: how many trials, and what was left before and after reaping."""
    rows: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        rows[outcome.trial.row].append(outcome)
    rows["all"] = [*outcomes]
    width = max(map(len, rows))
    lines = [f"{'point':{width}}  trials  left before reap  left after reap  violations"]
    for row, them in sorted(rows.items(), key=lambda pair: (pair[0] == "all", pair[0])):
        before, after = (sum(one.before for one in them), sum(one.after for one in them))
        wrong = sum(bool(one.violations) for one in them)
        lines.append(f"{row:{width}}  {len(them):6}  {before:16}  {after:15}  {wrong:10}")
    return "\n".join(lines)


def main() -> int:
    """Play what was asked for; 1 if anything was violated."""
    given, began = arguments(), time.monotonic()
    chosen = trials(given.seed, given.trials)
    if given.only:
        chosen = (drawn(given.seed, number) for number in given.only)
    if given.kind:
        chosen = (trial for trial in chosen if trial.kind == given.kind)
    if os.geteuid() != 0:
        sys.stdout.write("Trials on a full disk are left out: a small one needs root.\n")
        chosen = (trial for trial in chosen if not trial.needs_root)
    place = Path(tempfile.mkdtemp(prefix="faults-", dir=MEMORY if MEMORY.is_dir() else None))
    outcomes = anyio.run(partial(play_all, chosen, place, jobs=given.jobs, told=show))
    violated = sum(bool(outcome.violations) for outcome in outcomes)
    sys.stdout.write(
        f"{table(outcomes)}\n{len(outcomes)} trials by seed {given.seed} in "
        f"{time.monotonic() - began:.0f} s, {violated} violations\n"
    )
    if violated:
        sys.stdout.write(f"what they left is in {place}\n")
    else:
        shutil.rmtree(place)
    return bool(violated)


if __name__ == "__main__":
    sys.exit(main())
