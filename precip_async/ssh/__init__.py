"""SSH: one connection a host, many channels over it, and what runs through a channel."""

from __future__ import annotations
