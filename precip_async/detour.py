"""Where an experiment may be led to another cloud than its script says.

Every experiment passes here when it is made. In production nobody stands here: no environment
variable and no setting can put anybody, only `set_detour`, which a rehearsal calls in the process
that it has started for the script.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from precip_async.clouds.base import Cloud

if TYPE_CHECKING:
    from precip_async.home.directory import Home
    from precip_async.settings import Settings

__all__ = ["Detour", "Source", "set_detour", "taken"]

Source = Cloud | Callable[["Home"], Cloud]
"""Where instances come from: a cloud, or what makes one once the home is known, in a thread."""

Detour = Callable[[Source, "Settings"], tuple[Source, "Settings"]]

_detours: list[Detour] = []  # at most one


def set_detour(detour: Detour) -> None:
    """Lead every experiment that is made from now on, in this process and its forks.

    `detour` is given what an experiment was made of and returns what it is to be made of. It is
    called on event loops, so it must not block; the maker of a cloud that it returns may.
    """
    _detours[:] = [detour]


def taken(cloud: Source, settings: Settings) -> tuple[Source, Settings]:
    """What an experiment is to be made of: what was given, where there is no detour."""
    for detour in _detours:
        return detour(cloud, settings)
    return cloud, settings
