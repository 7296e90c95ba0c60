"""The command line that all benchmarks share: which variants, how often, in which order."""

from __future__ import annotations

import argparse
import json
import resource
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Script"]


class Script:
    """One benchmark's command line.

    Args:
        doc: The script's docstring, whose first line `--help` shows.
        known: The variants that there are.
        rounds: How many samples of each are taken by default.
        lacks: What a variant needs and does not find here, in words; empty: nothing.
    """

    def __init__(
        self,
        doc: str | None,
        known: Iterable[str],
        *,
        rounds: int,
        lacks: Callable[[str], str] = lambda _: "",
    ) -> None:
        assert doc is not None
        self._known, self._lacks = list(known), lacks
        self._parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
        self.option = self._parser.add_argument
        self.option("--rounds", type=int, default=rounds, help="samples of each variant")
        self.option("--variants", default=",".join(self._known), help="of them, some")
        self.option("--seed", type=int, default=1, help="of the order within a round")
        self.option("--sample", action="store_true", help=argparse.SUPPRESS)

    def parse(
        self, sample: Callable[[dict[str, Any]], Mapping[str, float]]
    ) -> argparse.Namespace | None:
        """What was asked for: `variants` that can be had, and what is `skipped`.

        ``None``: it was one `sample`, which has been taken and printed.
        """
        given = self._parser.parse_args()
        if given.sample:
            # Ours raises the limit by itself; its peers are spared the search for the reason.
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            print(json.dumps(sample(json.load(sys.stdin))))
            return None
        wanted = given.variants.split(",")
        if unknown := [one for one in wanted if one not in self._known]:
            self._parser.error(
                f"no such variant: {', '.join(unknown)}; there are {', '.join(self._known)}"
            )
        given.skipped = {one: lack for one in wanted if (lack := self._lacks(one))}
        given.variants = [one for one in wanted if one not in given.skipped]
        for variant, why in given.skipped.items():
            print(f"skipped {variant}: {why} (pip install '.[bench]')", file=sys.stderr)
        return given
