"""Commands and their options."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import anyio

from precip_async.cli.rehearse import add_rehearse
from precip_async.errors import ExperimentException

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precip_async.reaping import Leftover

__all__ = ["main"]

INTERRUPTED = 130  # the exit code of a shell's command that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: those of the process) say; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = anyio.run(options.command, options)
    except ExperimentException as error:
        sys.stderr.write(f"precip: {error}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="precip", description="Repeatable experiments: what looks after them."
    )
    release = f"precip_async {version('precip_async')}"
    parser.add_argument("--version", action="version", version=release)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    reap = commands.add_parser(
        "reap",
        help="list instances that were left running, and end them with --yes",
        description="List the instances that are still running by the journal, and those on this "
        "machine. What a living script answers for is never ended.",
    )
    reap.add_argument("--yes", action="store_true", help="end what nobody answers for")
    reap.add_argument("--experiment", metavar="NAME", help="only this experiment's")
    reap.add_argument("--home", metavar="DIR", help="default: $PRECIP_HOME, else ~/.precip")
    reap.set_defaults(command=_reap)
    add_rehearse(commands)
    return parser


async def _reap(options: argparse.Namespace) -> int:
    from precip_async.reaping import reap

    found = await reap(home=options.home, experiment=options.experiment, end=options.yes)
    for leftover in found:
        sys.stdout.write(_line(leftover) + "\n")
    if not found:
        sys.stdout.write("Nothing is left running.\n")
    elif not options.yes and any(not one.holder for one in found):
        sys.stdout.write("Nothing was ended; `precip reap --yes` ends what nobody answers for.\n")
    return 0


def _line(one: Leftover) -> str:
    age = "" if one.age is None else f", {_duration(one.age)} old"
    if one.ended:
        what = "ended"
    elif one.holder:
        what = f"in use by {one.holder}"
    elif one.cloud == "local":
        what = "running, and nobody answers for it"
    else:
        what = f"may be running: look at {one.cloud} itself"
    kind = f" {one.instance_type}" if one.instance_type else ""
    return f"{one.instance_id}  {one.experiment} on {one.cloud}{kind}{age}: {what}"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
