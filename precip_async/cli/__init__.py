"""The ``precip`` command, also ``python -m precip_async``."""

from __future__ import annotations

from precip_async.cli.main import main

__all__ = ["main"]
