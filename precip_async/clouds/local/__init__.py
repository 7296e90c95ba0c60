"""Machines on this computer."""

from __future__ import annotations
