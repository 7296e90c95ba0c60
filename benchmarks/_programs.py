"""The clients that are programs: started for each command, with as many SSH processes as hosts.

They keep no connection, but for OpenSSH's masters (`ssh-mux`, `ansible`): what is measured as warm
is the same command once more. All have OpenSSH do without its post-quantum key exchange and take
AES-GCM, as ours does: with Debian 12's defaults each connection costs five times as much.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import _measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _clients import Job
    from _measure import Meter

__all__ = ["PROGRAMS", "SETTINGS", "options", "program"]

QUICK = {
    "BatchMode": "yes",
    "Ciphers": "aes128-gcm@openssh.com",
    "GSSAPIAuthentication": "no",
    "IdentitiesOnly": "yes",
    "KexAlgorithms": "curve25519-sha256",
    "LogLevel": "ERROR",
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
}
MASTERS = {"ControlMaster": "auto", "ControlPersist": "60"}
SETTINGS = {
    "OpenSSH's options": QUICK,
    "at once": "as many as there are hosts",
    "masters": {"ssh-mux": MASTERS, "ansible": MASTERS},
    "ansible": "raw module, pipelining, no facts",
}


def options(**more: str) -> list[str]:
    """OpenSSH's options: what makes it quick, and `more`."""
    given = {**QUICK, **more}
    return [word for name, value in given.items() for word in ("-o", f"{name}={value}")]


def _ssh(job: Job, masters: bool = False) -> list[str]:
    more = {**MASTERS, "ControlPath": f"{job.home}/%C"} if masters else {}
    return ["-F", "none", "-i", job.key, "-p", str(job.port), *options(**more)]


def _xargs(job: Job, command: str, masters: bool = False) -> list[str]:
    """OpenSSH's client, started by xargs."""
    return [
        *("xargs", "-a", _list(job), "-P", str(len(job.hosts)), "-I", "{}"),
        *("ssh", *_ssh(job, masters), "-l", job.user, "{}", command),
    ]


def _pdsh(job: Job, command: str) -> list[str]:
    """pdsh, with its module for SSH."""
    return [
        *("env", f"PDSH_SSH_ARGS_APPEND={' '.join(_ssh(job))}", program("pdsh")),
        *("-R", "ssh", "-f", str(len(job.hosts)), "-l", job.user, "-w", f"^{_list(job)}", command),
    ]


def _clush(job: Job, command: str) -> list[str]:
    """ClusterShell's command."""
    return [
        *(program("clush"), "-q", "-S", "-f", str(len(job.hosts)), "-l", job.user),
        *("-o", " ".join(_ssh(job)), "-w", ",".join(job.hosts), command),
    ]


def _pyinfra(job: Job, command: str) -> list[str]:
    """pyinfra's command, whose SSH is Paramiko's."""
    facts = {
        "ssh_user": job.user,
        "ssh_port": job.port,
        "ssh_key": job.key,
        "ssh_strict_host_key_checking": "no",
        "ssh_known_hosts_file": "/dev/null",
    }
    inventory = Path(job.home, "inventory.py")
    inventory.write_text(f"hosts = {[(host, facts) for host in job.hosts]!r}\n")
    return [program("pyinfra"), "-y", str(inventory), "exec", "--", command]


def _ansible(job: Job, command: str) -> list[str]:
    """Ansible's command for one task."""
    inventory = Path(job.home, "inventory")
    facts = f"ansible_port={job.port} ansible_user={job.user}"
    facts += f" ansible_ssh_private_key_file={job.key}"
    inventory.write_text("".join(f"{host} {facts}\n" for host in job.hosts))
    ssh = " ".join(["-F", "none", *options(**MASTERS)])
    return [
        *("env", "ANSIBLE_HOST_KEY_CHECKING=False", "ANSIBLE_PIPELINING=True"),
        *(f"ANSIBLE_SSH_ARGS={ssh}", f"ANSIBLE_SSH_CONTROL_PATH_DIR={job.home}/masters"),
        *(f"ANSIBLE_HOME={job.home}/ansible", "LC_ALL=C.UTF-8", program("ansible"), "all"),
        *("-i", str(inventory), "-m", "raw", "-a", command, "-f", str(len(job.hosts))),
    ]


def _list(job: Job) -> str:
    path = Path(job.home, "hosts")
    path.write_text("".join(f"{host}\n" for host in job.hosts))
    return str(path)


def program(name: str) -> str:
    """Where a program is: beside this Python, or on the PATH; empty where it is not."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or ""


def _measured(make: Callable[[Job, str], Sequence[str]], job: Job, meter: Meter) -> None:
    from _clients import ANSWER, COMMAND

    command = make(job, COMMAND)
    environment = {**os.environ, "HOME": job.home}

    def run() -> None:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        said = f"{ran.stdout}\n{ran.stderr}".split()
        count = sum(word == ANSWER for word in said)
        assert count >= len(job.hosts), f"{count} answered: {ran.stderr[-200:]}"

    _measure.adopt()  # masters leave whoever started them, and their CPU counts
    try:
        with meter.phase("cold", per=len(job.hosts)):
            run()
        with meter.phase("warm", per=len(job.hosts)):
            run()
    finally:
        _measure.end_adopted()


_MAKERS: dict[str, Callable[[Job, str], Sequence[str]]] = {
    "ssh-xargs": _xargs,
    "ssh-mux": partial(_xargs, masters=True),
    "pdsh": _pdsh,
    "clustershell": _clush,
    "pyinfra": _pyinfra,
    "ansible": _ansible,
}
PROGRAMS: dict[str, Callable[[Job, Meter], None]] = {
    name: partial(_measured, make) for name, make in _MAKERS.items()
}
