"""Repeatable experiments on clouds, on machines you have, and on this one."""

from __future__ import annotations

__version__ = "0.1.0"
