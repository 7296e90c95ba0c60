"""Whether this computer can have machines in namespaces, and with which of its tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Final

__all__ = ["found", "obstacle", "search_path"]

_TOOLS: Final = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "util-linux",
    "pivot_root": "util-linux",
    "ip": "iproute2",
    "sshd": "openssh-server",
}
_TRIAL: Final = """
set -e
mount -t tmpfs precip /tmp
mkdir /tmp/upper /tmp/work /tmp/view
options=lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work
echo "overlay /tmp/view overlay $options 0 0" >/tmp/fstab
mount --all --fstab /tmp/fstab
ip -batch - <<END
link add bridge type bridge
link add cable master bridge type veth peer name other
END
setpriv --bounding-set=-sys_module --reset-env true
cd /tmp/view
pivot_root . .
"""
_TRIAL_TIMEOUT: Final = 20.0  # seconds; it takes about 0.1


def search_path() -> str:
    """Where tools are looked for: the user's own path, then where a distribution keeps root's."""
    given = os.environ.get("PATH", "").split(os.pathsep)
    usual = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    return os.pathsep.join(dict.fromkeys(filter(None, given + usual)))


def found(tool: str) -> str | None:
    """The path of `tool`, or ``None`` where there is none."""
    return shutil.which(tool, path=search_path())


def obstacle() -> str:
    """Why machines in namespaces can't be had here; empty when they can. Tries it; blocks."""
    if sys.platform != "linux":
        return "they need Linux"
    if os.geteuid() != 0:
        return "they need root"
    for tool, package in _TOOLS.items():
        if found(tool) is None:
            return f"they need `{tool}` (package {package})"
    try:
        done = subprocess.run(
            [
                "unshare",
                "--net",
                "--mount",
                "--uts",
                "--ipc",
                "--pid",
                "--fork",
                "sh",
                "-c",
                _TRIAL,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRIAL_TIMEOUT,
            check=False,
            env={"PATH": search_path()},
        )
    except subprocess.TimeoutExpired:
        return "a trial of them took too long"
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return f"the kernel, or the container around us, forbids them ({words[-1]})"
    return ""
