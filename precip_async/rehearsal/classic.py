"""What scripts of 2012 find: the names that they import, and the variables that they read."""

from __future__ import annotations

import ast
import re
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Final

from precip_async import sync
from precip_async.lab.http import HOST

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["STAND_INS", "hint", "provide_precip", "provide_variables"]

#: The variables that the manual's examples read. No place and nobody is called so.
STAND_INS: Final = {
    "EC2_URL": "http://cloud.invalid:8773/services/Cloud",
    "EC2_ACCESS_KEY": "REHEARSAL",
    "EC2_SECRET_KEY": "rehearsal",
    "AMAZON_EC2_ACCESS_KEY": "REHEARSAL",
    "AMAZON_EC2_SECRET_KEY": "rehearsal",
}

_PRINT: Final = re.compile(r"\s*print\s+([^(>\s].*)")


def provide_precip() -> None:
    """Have ``precip`` and ``precip.experiment`` mean the blocking twins, also beside 0.3."""
    names = {name: getattr(sync, name) for name in sync.__all__}
    for name in ("precip", "precip.experiment"):
        module = ModuleType(name, "The blocking twins of precip_async, as a rehearsal has them.")
        vars(module).update(names, __all__=list(names), __path__=[])
        sys.modules[name] = module
    vars(sys.modules["precip"])["experiment"] = sys.modules["precip.experiment"]


def provide_variables(environment: MutableMapping[str, str]) -> None:
    """Set those variables of the manual's examples that nobody has set, and keep off proxies."""
    for name, value in STAND_INS.items():
        environment.setdefault(name, value)
    if any(name.lower() in ("http_proxy", "https_proxy") for name in environment):
        # a proxy could not reach the lab, and is not to hear of it
        spared = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
        both = spared if spared == "*" else ",".join(filter(None, [spared, HOST]))
        environment["no_proxy"] = environment["NO_PROXY"] = both


def hint(error: SyntaxError) -> str:
    """What to change in a line of Python 2; empty where it is something else."""
    line = error.text or ""
    if found := _PRINT.match(line):
        what = found[1]
        ends = [len(what), *(end for end in range(len(what) - 1, 0, -1) if what[end] == "#")]
        for end in ends:  # a comment may follow, and what is printed may hold a #
            printed = f"print({what[:end].rstrip()})"
            if _is_python(printed):
                return f"that is Python 2; in line {error.lineno} write: {printed}"
    if found := re.match(r"\s*except\s+([\w.]+)\s*,\s*(\w+)\s*:", line):
        return f"that is Python 2; in line {error.lineno} write: except {found[1]} as {found[2]}:"
    return ""


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True
