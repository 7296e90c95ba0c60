"""``precip reap``: what is still running, as a table, and its end."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from precip_async import clock
from precip_async.cli.plain import plain
from precip_async.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from precip_async.reaping.leftover import Leftover

__all__ = ["LEFT", "add_reap", "table"]

LEFT: Final = 3  # the exit code when something is left that nobody answers for
SHORT: Final = 8  # characters by which people tell account ids apart
WIDEST: Final = 60  # characters of a cell

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|m|h|d)?")
_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
_COLUMNS: Final = (
    *("id", "experiment", "owner", "cloud", "type", "zone", "age", "state", "expires"),
    *("holder", "known by"),
)


def add_reap(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    parser = commands.add_parser(
        "reap",
        help="list instances that were left running, and end them with --yes",
        description="List what is still running: by the journal, at the clouds that it names, and "
        "on this machine; with --cloud by the marks at a cloud as well, which needs no journal. "
        "What bears no mark of ours and is not in the journal is never touched. What a living "
        "script answers for is ended with --force only.",
        epilog="Keys come from the environment: EC2_ACCESS_KEY and EC2_SECRET_KEY, on Amazon the "
        "standard AWS chain. Exit codes: 0: nothing is left that nobody answers for; 3: something "
        "is; 1: an error; 2: wrong use. What can be told from what is in docs/leaks.md.",
    )
    parser.add_argument("--yes", action="store_true", help="end what nobody answers for")
    select = parser.add_argument_group("which")
    select.add_argument("--experiment", metavar="NAME", help="only this experiment's")
    select.add_argument(
        "--older-than", metavar="AGE", type=_duration, help="such as 90min, 2h, 3d or seconds"
    )
    select.add_argument("--owner", metavar="ID", help="this account's, by the id in its home")
    select.add_argument("--expired", action="store_true", help="what should have ended by itself")
    select.add_argument("--everyone", action="store_true", help="show others' as well")
    select.add_argument("--force", action="store_true", help="also what a living script holds")
    select.add_argument(
        "--unsure", action="store_true", help="also addresses that may be somebody else's"
    )
    where = parser.add_argument_group("where")
    where.add_argument("--cloud", help="ec2, openstack, eucalyptus, nimbus, or local")
    where.add_argument("--endpoint", metavar="URL", help="of that cloud's EC2 API")
    where.add_argument("--region", help="of that cloud")
    where.add_argument("--profile", help="of the AWS configuration, for keys")
    where.add_argument("--ca-file", metavar="FILE", help="authorities that its certificate is from")
    where.add_argument("--insecure", action="store_true", help="take any certificate")
    where.add_argument("--home", metavar="DIR", help="default: $PRECIP_HOME, else ~/.precip")
    hosts = parser.add_argument_group("runs on hosts that exist already")
    hosts.add_argument("--hosts", metavar="A,B", help="end what bears the mark of a run there")
    hosts.add_argument("--login-user", metavar="USER", help="default: the current user")
    hosts.add_argument("--ssh-key", metavar="FILE", help="default: the home's own")
    hosts.add_argument("--ssh-port", metavar="PORT", type=int, default=22)
    parser.add_argument("--json", action="store_true", help="for scripts: a list of objects")
    parser.set_defaults(command=_reap)


async def _reap(options: argparse.Namespace) -> int:
    from precip_async.reaping import reap

    if options.insecure and options.ca_file:
        raise InvalidArgument("--insecure and --ca-file do not go together")
    found = await reap(
        end=options.yes,
        experiment=options.experiment,
        older_than=options.older_than,
        owner=options.owner,
        expired=options.expired,
        everyone=options.everyone,
        force=options.force,
        unsure=options.unsure,
        cloud=options.cloud,
        endpoint=options.endpoint,
        region=options.region,
        profile=options.profile,
        verify=options.ca_file or not options.insecure,
        hosts=None if options.hosts is None else [one.strip() for one in options.hosts.split(",")],
        login_user=options.login_user,
        ssh_key=options.ssh_key,
        ssh_port=options.ssh_port,
        home=options.home,
    )
    left = [one for one in found if not one.ended and (one.problem or not one.holder)]
    if options.json:
        sys.stdout.write(json.dumps([_facts(one) for one in found], indent=2) + "\n")
    else:
        sys.stdout.write(
            table(found) + (_conclusion(found, left, options) if found else _nothing(options))
        )
    return LEFT if left else 0


def _duration(text: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age, such as 90min, 2h or 3d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _facts(one: Leftover) -> dict[str, Any]:
    """A leftover for a program: times as text, text as it came."""
    facts = asdict(one)
    return {
        key: value.isoformat() if isinstance(value, datetime) else value
        for key, value in facts.items()
    }


def table(found: Sequence[Leftover]) -> str:
    """What was found, for people: without the columns that are empty."""
    rows = [_COLUMNS, *(_cells(one) for one in found)]
    shown = [place for place in range(len(_COLUMNS)) if any(row[place] for row in rows[1:])]
    widths = {place: max(len(row[place]) for row in rows) for place in shown}
    lines = []
    for row, one in zip(rows, [None, *found], strict=True):
        lines.append("  ".join(row[place].ljust(widths[place]) for place in shown).rstrip())
        if one is not None and one.problem:
            lines.append(f"    {plain(one.problem, 1000)}")
    return "".join(f"{line}\n" for line in lines if found)


def _cells(one: Leftover) -> tuple[str, ...]:
    state = "ended" if one.ended else one.state
    kind = "" if one.kind == "instance" else f"{one.kind} "
    expires = ""
    if one.expires is not None:
        seconds = (one.expires - clock.now()).total_seconds()
        expires = "expired" if seconds <= 0 else f"in {_spoken(seconds)}"
    cells = (
        kind + one.id,
        one.experiment,
        "me" if one.mine else one.owner[:SHORT] or "?",
        " ".join(filter(None, (one.cloud, one.endpoint))),
        one.instance_type,
        one.zone,
        "" if one.age is None else _spoken(one.age),
        state,
        expires,
        one.holder,
        "" if one.known_by == "the journal" else one.known_by,
    )
    return tuple(plain(cell, WIDEST) for cell in cells)


def _nothing(options: argparse.Namespace) -> str:
    """That there is nothing, and where was looked: an empty list must not comfort too much."""
    if options.experiment or options.older_than or options.owner or options.expired:
        return "Nothing of that kind is left running.\n"
    if options.cloud or options.hosts:
        return "Nothing is left running there.\n"
    return (
        "Nothing is left running by the journal and on this machine; "
        "--cloud looks for marks at a cloud itself.\n"
    )


def _conclusion(
    found: Sequence[Leftover], left: Sequence[Leftover], options: argparse.Namespace
) -> str:
    if not left:
        return "All else is in use.\n" if any(one.holder for one in found) else "All has ended.\n"
    text = f"{len(left)} not ended: see above."
    if not options.yes:  # not the bare command: it would end more than was listed
        text = "Nothing was ended; the same command with --yes ends what nobody answers for."
    if options.owner is None and any(not one.mine for one in left):
        text += " What others launched is ended with --owner only."
    return f"{text}\n"


def _spoken(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
