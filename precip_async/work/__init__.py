"""What the verbs do on instances: commands, scripts and transfers, each as one batch.

All of a call is made before any of it is done, so that bad input is refused before anything runs.
"""

from __future__ import annotations

from precip_async.work.commands import command_work, environments, script_work
from precip_async.work.instances import text_of, whereto
from precip_async.work.transfers import get_work, put_work

__all__ = [
    "command_work",
    "environments",
    "get_work",
    "put_work",
    "script_work",
    "text_of",
    "whereto",
]
