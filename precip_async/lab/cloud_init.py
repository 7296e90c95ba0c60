"""What a machine's cloud-init writes down of itself, for who waits for it: played, not real."""

from __future__ import annotations

import json
from typing import Final

from precip_async.shell import quote

__all__ = ["played"]

_SOURCE: Final = "DataSourceEc2Local"
_ERROR: Final = "(scripts_user, RuntimeError(1 scripts failed: a fault asked for))"
_DRAFT: Final = "$1/result.json.draft"


def played(seconds: float, *, fails: bool) -> str:
    """A script for `yard.MachineSpec.cloud_init`: busy for `seconds`, then done.

    Args:
        seconds: Since the machine's boot.
        fails: Whether it finishes with an error.
    """
    status = {"v1": {"datasource": _SOURCE, "stage": "modules-final"}}
    result = {"v1": {"datasource": _SOURCE, "errors": [_ERROR] if fails else []}}
    over = f'{_written(result, _DRAFT)}; mv "{_DRAFT}" "$1/result.json"'
    begun = f'mkdir -p "$1"; {_written(status, "$1/status.json")}'
    return f"{begun}; {over}" if not seconds else f"{begun}; {{ sleep {seconds:g}; {over}; }} &"


def _written(said: object, path: str) -> str:
    return f'echo {quote(json.dumps(said))} >"{path}"'
