"""Which private parts of asyncssh are as they were when ours were written.

What replaces a method of asyncssh may do so only as long as that method does what it did. Its
shape tells: its parameters, and all names that it and its inner functions touch. A new version
that does more touches more, and then asyncssh's own method stays.
"""

from __future__ import annotations

import hashlib
import operator
from typing import TYPE_CHECKING

import asyncssh

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import CodeType

__all__ = ["as_known", "shape"]


def as_known(shapes: Mapping[str, str]) -> bool:
    """Whether each of asyncssh's functions named in `shapes` is there, and of that shape."""
    return all(shape(name) == wanted for name, wanted in shapes.items())


def shape(name: str) -> str:
    """The shape of the function ``asyncssh.<name>``; empty where there is none."""
    try:
        code: CodeType = operator.attrgetter(f"{name}.__code__")(asyncssh)
    except AttributeError:
        return ""
    # not the bytecode, which is another one with each Python
    return hashlib.sha256(" ".join(sorted(set(_names(code)))).encode()).hexdigest()[:8]


def _names(code: CodeType) -> Iterator[str]:
    """What `code` touches, inner functions included."""
    yield from code.co_names
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        if not name.startswith("."):  # the iterator of a comprehension, up to Python 3.11
            yield name
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            yield from _names(constant)
