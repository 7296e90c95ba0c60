"""Commands and their options."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import anyio

from precip_async.cli.plain import plain
from precip_async.cli.reap import add_reap
from precip_async.cli.rehearse import WRONG_USE, add_rehearse
from precip_async.errors import ExperimentException, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

INTERRUPTED = 130  # the exit code of a shell's command that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: those of the process) say; its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = anyio.run(options.command, options)
    except ExperimentException as error:
        sys.stderr.write(f"precip: {plain(str(error))}\n")
        return WRONG_USE if isinstance(error, InvalidArgument) else 1
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
    add_reap(commands)
    add_rehearse(commands)
    return parser
