"""What is kept under ``~/.precip``: keys, host keys, held names and the journal."""

from __future__ import annotations
