"""``precip rehearse``: a script runs unchanged, and the lab answers in the place of its clouds."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import anyio.to_thread

from precip_async.errors import InvalidArgument

__all__ = ["WRONG_USE", "add_rehearse"]

WRONG_USE = 2  # the exit code of a command that can't be understood


def add_rehearse(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = commands.add_parser(
        "rehearse",
        usage="precip rehearse [options] script [arguments]",
        help="run a script unchanged, with clouds on this computer in the place of real ones",
        description="Run a classic or an async script as it is: every cloud that its experiments "
        "speak to is played on this computer, with real SSH, and nothing of it stays. At the end "
        "it says what was launched, how long that took, which calls were made, and what was left "
        "running. The script's own process is led, not programs that it starts.",
        epilog="The clouds, the words and what is not led are in docs/rehearsal.md; "
        "--scenario help lists the words.",
    )
    parser.add_argument(
        "--cloud",
        metavar="CLOUD",
        help="what plays every cloud of the script, local instances and hosts included: ec2, "
        "openstack, eucalyptus, nimbus, or one of the lab's dialects, such as nova-kilo "
        "(default: each is played by its own kind)",
    )
    parser.add_argument(
        "--scenario",
        metavar="WORDS",
        action="append",
        default=[],
        help="what is to go wrong, such as 'boot=2..20 throttled=0.3'; may be repeated",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of all that a scenario draws")
    parser.add_argument(
        "--isolation",
        choices=("auto", "namespace", "process"),
        default="auto",
        help="how instances are kept apart (default: the better one that can be had)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the facts as JSON, too")
    # as one, because argparse would take a `--` between them for its own
    parser.add_argument("script", nargs=argparse.REMAINDER, help="its path, and its arguments")
    parser.set_defaults(command=_rehearse)


async def _rehearse(options: argparse.Namespace) -> int:
    from precip_async.rehearsal.rehearse import Rehearsal

    if "help" in options.scenario:
        sys.stdout.write(_words())
        return 0
    words = [*options.scenario, *([] if options.seed is None else [f"seed={options.seed}"])]
    script, *arguments = options.script[options.script[:1] == ["--"] :] or [""]
    try:
        rehearsal = await anyio.to_thread.run_sync(  # it looks for the files
            lambda: Rehearsal(
                script=script,
                arguments=arguments,
                cloud=options.cloud,
                scenario=" ".join(words),
                isolation=options.isolation,
                report=options.report,
            )
        )
    except InvalidArgument as error:
        sys.stderr.write(f"precip: {error}\n")
        return WRONG_USE
    return await rehearsal.perform()


def _words() -> str:
    """The words of scenarios, each with its default and what it means."""
    from precip_async.lab.scenario import Scenario

    meanings = dict(
        re.findall(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", Scenario.__doc__ or "", re.MULTILINE)
    )
    lines = [
        "What can go wrong, as word=value. Shares have a point (0.3), ordinals have none (0,2);",
        "true is all; seconds may be a range (2..20).",
        "",
    ]
    width = max(len(one.name) for one in fields(Scenario))
    for one in fields(Scenario):
        meaning = " ".join(meanings.get(one.name, "").split()).replace("`", "")
        lines.append(f"  {one.name:{width}}  {meaning} (default: {_shown(one.default)})")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "..".join(f"{one:g}" for one in value)
    return str(value).lower()
