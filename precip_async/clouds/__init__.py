"""Where machines come from: clouds, this computer, and hosts that exist already."""

from __future__ import annotations
