"""The scripts by which detached commands are kept, in each shell that may be ``sh`` somewhere."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from precip_async.ssh import detached
from precip_async.ssh.detached import starting

if TYPE_CHECKING:
    from pathlib import Path

SHELLS = [name for name in ("dash", "bash", "busybox", "ksh", "mksh", "yash") if shutil.which(name)]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 3", 3), ("exit 143", 143), ("kill -TERM $$", -15), ("kill -KILL $$", -9)],
)
def test_the_shell_that_waits_tells_a_signal_from_a_number(
    shell: str, command: str, code: int, tmp_path: Path
) -> None:
    """By what it says where the user's command can't be heard."""
    argv = [shell, *(["sh"] if shell == "busybox" else []), "-c", detached._KEEP, "precip-job"]
    with (tmp_path / "note").open("w") as note:
        subprocess.run([*argv, str(tmp_path), command], stderr=note, check=False, timeout=30)

    assert (tmp_path / "status").read_text().split()[0] == str(code)
    assert (tmp_path / "stderr").read_text() == ""


def test_csh_can_hand_the_scripts_on() -> None:
    """They have neither line ends nor exclamation marks, which it would not leave alone."""
    scripts = [starting("0" * 16, {"name": "x"}, "true"), detached._READ, detached._LIST]
    scripts += [detached._CLOSE, detached._REMOVE]

    assert not [text for text in scripts if "\n" in text or "!" in text]
