"""In the child: the script runs as ``python script.py`` would run it, with its experiments led."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import traceback
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from precip_async.detour import set_detour
from precip_async.rehearsal.classic import hint, provide_precip, provide_variables
from precip_async.rehearsal.guide import Guide
from precip_async.rehearsal.report import say
from precip_async.rehearsal.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, TracebackType

__all__ = ["command", "prepared"]

ROOT: Final = str(Path(__file__).resolve().parents[2])

# Run by the child as its ``__main__``, whose names the script then has for its own.
_BOOT: Final = f"""
import sys
sys.path += [one for one in [{ROOT!r}] if one not in sys.path]
from precip_async.rehearsal.script import prepared
exec(prepared(sys.argv[1], sys.argv[2:]))
"""
_ABSENT: Final = ("prepared", "sys")  # what it leaves behind otherwise


def command(
    script: str, arguments: Sequence[str], *, line: int, scratch: Path, cloud: str | None
) -> list[str]:
    """How the child is started.

    Args:
        script: The script as the user named it.
        arguments: The script's own.
        line: The descriptor of the socket to the rehearsal.
        scratch: The directory of the rehearsal.
        cloud: See `Guide`.
    """
    flags = [f"-W{one}" for one in sys.warnoptions]
    flags += ["-O"] * sys.flags.optimize
    flags += ["-B"] * sys.flags.dont_write_bytecode + ["-Xdev"] * sys.flags.dev_mode
    told = {
        "line": line,
        "scratch": str(scratch),
        "cloud": cloud,
        "beside": not sys.flags.safe_path,
    }
    # -P: what lies in the working directory is the script's to import, and not ours
    return [sys.executable, *flags, "-P", "-c", _BOOT, json.dumps(told), script, *arguments]


def prepared(told: str, argv: list[str]) -> CodeType:
    """Make this process what the script expects, set the detour, and return the script's code.

    Raises:
        SyntaxError: It is no Python; the interpreter says so as always, and we how to mend it.
    """
    facts: dict[str, Any] = json.loads(told)
    line = socket.socket(fileno=facts["line"])
    line.set_inheritable(False)
    scratch = Path(facts["scratch"])
    set_detour(
        Guide(
            Wire(line, lambda: _end_with_it(scratch)), home=scratch / "home", cloud=facts["cloud"]
        )
    )
    provide_precip()
    provide_variables(os.environ)
    path = str(Path(argv[0]).absolute())
    sys.argv[:] = argv
    if facts["beside"]:
        sys.path.insert(0, str(Path(path).resolve().parent))
    namespace = vars(sys.modules["__main__"])
    for name in _ABSENT:
        del namespace[name]
    loader = SourceFileLoader("__main__", path)
    namespace.update(__file__=path, __cached__=None, __loader__=loader)
    sys.excepthook = _Traceback(path)
    return compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)


class _Traceback:
    """An excepthook that leaves out what lies above the script."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        while trace is not None and trace.tb_frame.f_code.co_filename != self._path:
            trace = trace.tb_next
        traceback.print_exception(kind, error, trace)
        advice = ""
        if isinstance(error, SyntaxError) and error.filename == self._path:
            advice = hint(error)
        if advice:
            say(f"precip: {advice}\n")


def _end_with_it(scratch: Path) -> None:
    """End this process at once: the rehearsal has gone, and with it all labs and their machines."""
    say("precip: the rehearsal has been ended from outside, and the script with it\n")
    shutil.rmtree(scratch, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)
