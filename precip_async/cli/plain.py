"""Strangers' text for a terminal."""

from __future__ import annotations

__all__ = ["plain"]


def plain(text: str, most: int = 10_000) -> str:
    """`text`, which may be a cloud's or a host's, as one line that moves no cursor."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
