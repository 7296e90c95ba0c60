"""The cloud-init of the lab's machines: this computer's own, or what one would write down, played.

Both are scripts for `yard.MachineSpec.cloud_init`, as an image's boot would run them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from precip_async.shell import quote

__all__ = ["played", "real", "what_is_here"]

_SOURCE: Final = "DataSourceEc2Local"
_ERROR: Final = "(scripts-user, RuntimeError(Runparts: 1 failures in 1 attempted commands))"
_SCRIPT: Final = Path(__file__).with_suffix(".sh")
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DRAFT: Final = "$1/result.json.draft"


def played(seconds: float, *, fails: bool) -> str:
    """One that is busy for `seconds`, then done; it does nothing.

    Args:
        seconds: Since the machine's boot.
        fails: Whether it finishes with an error.
    """
    status = {"v1": {"datasource": _SOURCE, "stage": "modules-final"}}
    result = {"v1": {"datasource": _SOURCE, "errors": [_ERROR] if fails else []}}
    over = f'{_written(result, _DRAFT)}; mv "{_DRAFT}" "$1/result.json"'
    begun = f'mkdir -p "$1"; {_written(status, "$1/status.json")}'
    return f"{begun}; {over}" if not seconds else f"{begun}; {{ sleep {seconds:g}; {over}; }} &"


def real(script: str, seconds: float, *, fails: bool, amazon: bool) -> str:
    """The real one, with what the machine's metadata service says; it lets people in, or not.

    Args:
        script: What `what_is_here` says.
        seconds: That its last stage waits for.
        fails: Whether it finishes with an error, of a script of ours.
        amazon: Whether the machine is to look like an instance of Amazon's.
    """
    given = {
        "PATH": SEARCH_PATH,
        "platform": "aws" if amazon else "",
        "seconds": f"{seconds:g}",
        "fails": "yes" if fails else "",
    }
    assigned = "".join(f"{name}={quote(value)}\n" for name, value in given.items())
    return assigned + script


def what_is_here() -> str:
    """The script that runs this computer's own, which its machines have too; empty: it has none.

    Blocks.
    """
    has_one = shutil.which("cloud-init", path=SEARCH_PATH) is not None
    return _SCRIPT.read_text(encoding="utf-8") if has_one else ""


def _written(said: object, path: str) -> str:
    return f'echo {quote(json.dumps(said))} >"{path}"'
