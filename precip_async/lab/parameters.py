"""The parameters of a request: names with dots, as a tree that is asked for what one needs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from precip_async.lab.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["MAX_PARAMETERS", "Parameters"]

MAX_PARAMETERS: Final = 20_000  # names in a request: a thousand resources with some tags each
MAX_DEPTH: Final = 12  # parts of a name
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INDEX: Final = re.compile(r"[0-9]{1,6}")

#: What nova and ec2-api turn into numbers, booleans and the like (clouds.md section 2, "Parameter
#: coercion"): everywhere that a text is wanted, such a value breaks the call.
_COERCED: Final = re.compile(
    r"(?i)true|false|none|[+-]?(nan|inf|infinity|0x[0-9a-f]+|\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?)"
)

_Tree = dict[str, "str | _Tree"]


class Parameters:
    """A tree of parameters, or a branch of one.

    Args:
        tree: What is below here.
        prefix: The dotted name of here, for messages.
        coerces: Whether values that look like numbers and the like are turned into them, which
            breaks where a text is wanted; and whether indices are put in order as texts.
    """

    def __init__(self, tree: _Tree, *, prefix: str = "", coerces: bool = False) -> None:
        self._tree = tree
        self._prefix = prefix
        self._coerces = coerces

    @classmethod
    def parse(cls, pairs: Iterable[tuple[str, str]], *, coerces: bool = False) -> Parameters:
        """Make a tree of names and values.

        Raises:
            Refusal: There are too many, or they contradict each other.
        """
        tree: _Tree = {}
        for number, (name, value) in enumerate(pairs):
            if number >= MAX_PARAMETERS or _NOT_XML.search(name + value):
                raise _malformed()
            _plant(tree, name, value)
        return cls(tree, coerces=coerces)

    def names(self) -> Iterator[str]:
        """The full names of all values, each index written as ``N``."""
        waiting: list[tuple[str, _Tree]] = [("", self._tree)]
        while waiting:
            prefix, tree = waiting.pop()
            for name, below in tree.items():
                full = prefix + ("N" if _INDEX.fullmatch(name) else name)
                if isinstance(below, str):
                    yield full
                else:
                    waiting.append((f"{full}.", below))

    def flat(self) -> dict[str, str]:
        """All values by their full names."""
        found: dict[str, str] = {}
        waiting: list[tuple[str, _Tree]] = [("", self._tree)]
        while waiting:
            prefix, tree = waiting.pop()
            for name, below in tree.items():
                if isinstance(below, str):
                    found[prefix + name] = below
                else:
                    waiting.append((f"{prefix}{name}.", below))
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._tree

    def only(self, takes: Callable[[str], bool]) -> Parameters:
        """Those whose full names, each index written as ``N``, are taken."""
        kept = {
            name: value
            for name, value in self.flat().items()
            if takes(".".join("N" if _INDEX.fullmatch(part) else part for part in name.split(".")))
        }
        return Parameters.parse(kept.items(), coerces=self._coerces)

    def is_text(self, name: str) -> bool:
        """Whether there is a value of this name, rather than a list or a structure."""
        return isinstance(self._tree.get(name), str)

    def text(self, name: str, default: str = "") -> str:
        """A value; `default` where there is none or an empty one."""
        value = self._tree.get(name, "")
        if isinstance(value, dict):
            raise _unknown(f"{self._full(name)}.{next(iter(value))}")
        if self._coerces and _COERCED.fullmatch(value):
            raise Refusal("crash", f"{self._full(name)} is no text", subject="TypeError")
        return value or default

    def required(self, name: str) -> str:
        """A value that has to be there."""
        value = self.text(name)
        if not value:
            raise self._missing(name)
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number; required without a default."""
        value = self._tree.get(name, "")
        if value == "" and default is not None:
            return default
        if value == "":
            raise self._missing(name)
        if not isinstance(value, str) or not re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            raise Refusal(
                "InvalidParameterValue",
                f"Value ({value}) for parameter {self._full(name)} is invalid."
                " Expected an integer.",
            )
        return int(value)

    def flag(self, name: str) -> bool:
        """Whether something is asked for."""
        value = self._tree.get(name, "false")
        if not isinstance(value, str) or value.lower() not in ("true", "false", "1", "0"):
            raise Refusal(
                "InvalidParameterValue",
                f"Value ({value}) for parameter {self._full(name)} is invalid. Expected a boolean.",
            )
        return value.lower() in ("true", "1")

    def texts(self, name: str) -> list[str]:
        """The values of a list."""
        listed = self.part(name)
        return [listed.text(index) for index in listed._indices()]  # noqa: SLF001 - our own kind

    def parts(self, name: str) -> list[Parameters]:
        """The structures of a list."""
        listed = self.part(name)
        return [listed.part(index) for index in listed._indices()]  # noqa: SLF001 - our own kind

    def part(self, name: str) -> Parameters:
        """A structure; an empty one where there is none."""
        below = self._tree.get(name, {})
        if isinstance(below, str):
            if below:
                raise _unknown(self._full(name))
            below = {}
        return Parameters(below, prefix=self._full(name), coerces=self._coerces)

    def _indices(self) -> list[str]:
        for index in self._tree:
            if not _INDEX.fullmatch(index):
                raise _unknown(self._full(index))
        return sorted(self._tree, key=None if self._coerces else int)

    def _full(self, name: str) -> str:
        return f"{self._prefix}.{name}" if self._prefix else name

    def _missing(self, name: str) -> Refusal:
        return Refusal(
            "MissingParameter",
            f"The request must contain the parameter {self._full(name)}",
            subject=self._full(name),
        )


def _plant(tree: _Tree, name: str, value: str) -> None:
    *branches, leaf = name.split(".", MAX_DEPTH)
    if "." in leaf or not leaf:
        raise _malformed()
    for branch in branches:
        below = tree.setdefault(branch, {})
        if isinstance(below, str) or not branch:
            raise _malformed()
        tree = below
    if leaf in tree:
        raise _malformed()
    tree[leaf] = value


def _malformed() -> Refusal:
    return Refusal("MalformedQueryString", "The query string is malformed.")


def _unknown(name: str) -> Refusal:
    return Refusal("UnknownParameter", f"The parameter {name} is not recognized", subject=name)
