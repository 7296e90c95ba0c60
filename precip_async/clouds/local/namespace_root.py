"""What a machine in namespaces stands on: its view of the root file system, and its sshd."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["MACHINE_SCRIPT", "SSHD_CONFIG", "fstab", "nameservers"]

# In the yard a file system of its own covers /tmp.
MACHINE: Final = "/tmp/machine"  # noqa: S108 - see above
MACHINE_SCRIPT: Final = "/tmp/machine.sh"  # noqa: S108 - see above
VIEW: Final = f"{MACHINE}/view"

SSHD_CONFIG: Final = """\
Port 22
ListenAddress 0.0.0.0
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/ssh/authorized_keys .ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
PidFile none
MaxStartups 100:30:200
Subsystem sftp internal-sftp
Match User root
    AuthorizedKeysFile /etc/ssh/authorized_keys.root .ssh/authorized_keys
"""

# Each machine's own directories come from its own disk, so that its size bounds them too.
_OWN = {
    "root": "root",
    "home": "home",
    "tmp": "tmp",
    "vartmp": "var/tmp",
    "run": "run",
    "dev": "dev",
}
# Settings that belong to the host as a whole; what is under /proc/sys/net belongs to the machine.
_THE_HOSTS_OWN = ("kernel", "vm", "fs", "dev", "debug")
_OVERLAID = re.compile(r"bcachefs|btrfs|ext[234]|f2fs|nfs4?|overlay|xfs|zfs")
_HIDDEN = re.compile(r"/(proc|sys|dev|run|tmp|var/tmp|root|home|boot|mnt|media|snap)(/|$)")
_PLAIN = re.compile(r"/[\w./+-]+")


def fstab() -> str:
    """What a machine mounts, in order; the same text for every machine of this host."""
    lines = [f"overlay {VIEW} overlay lowerdir=/,upperdir={MACHINE}/upper,workdir={MACHINE}/work"]
    for number, below in enumerate(_file_systems_below_root()):
        more = f"{MACHINE}/more/{number}"
        lines.append(
            f"overlay {VIEW}{below} overlay"
            f" lowerdir={below},upperdir={more}/upper,workdir={more}/work"
        )
    lines += [f"{MACHINE}/{name} {VIEW}/{place} none bind" for name, place in _OWN.items()]
    lines += [
        f"devpts {VIEW}/dev/pts devpts newinstance,ptmxmode=0666,mode=0620,gid=5",
        f"proc {VIEW}/proc proc nosuid,nodev,noexec",
        f"sysfs {VIEW}/sys sysfs ro,nosuid,nodev,noexec",
    ]
    shut = [f"{VIEW}/proc/sys/{name}" for name in _THE_HOSTS_OWN if _is_there(f"sys/{name}")]
    shut += [f"{VIEW}/proc/sysrq-trigger"] if _is_there("sysrq-trigger") else []
    lines += [f"{place} {place} none bind,ro" for place in shut]
    return "".join(f"{line} 0 0\n" for line in lines)


def nameservers() -> str:
    """A resolv.conf that also works where the host's own loopback can't be reached."""
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
        lines = [
            line for line in text.splitlines() if not re.match(r"nameserver\s+(127\.|::1)", line)
        ]
        if any(line.startswith("nameserver") for line in lines):
            return "\n".join(lines) + "\n"
    return ""


def _is_there(name: str) -> bool:
    return Path("/proc", name).exists()


def _file_systems_below_root() -> list[str]:
    """Where further file systems of the host's own are mounted: an overlay sees only one."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        place, (kind, *_) = line.split()[4], line.partition(" - ")[2].split()
        usable = _OVERLAID.fullmatch(kind) and _PLAIN.fullmatch(place) and not _HIDDEN.match(place)
        if usable and Path(place).is_dir() and place not in found:
            found.append(place)
    return found
