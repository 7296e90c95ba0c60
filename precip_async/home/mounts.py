"""Which file systems are this machine's own: a write-ahead log needs memory that writers share."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["file_system_of", "is_local", "mount_table"]

# Other machines may write to these at the same time, or their shared memory is not to be relied on.
_REMOTE = (
    "9p acfs afs autofs beegfs beegfs_nodev ceph cifs coda cvfs drvfs gfs gfs2 gpfs kafs lustre "
    "mmfs ncpfs nfs nfs3 nfs4 ocfs2 orangefs panfs prl_fs pvfs2 smb2 smb3 smbfs vboxsf virtiofs "
    "vmhgfs wekafs"
)
_LOCAL_FUSE = "fuse.fuse-overlayfs"
_ESCAPE = re.compile(r"\\([0-7]{3})")


def mount_table() -> str:
    """The text of ``/proc/self/mountinfo``; empty where there is none. Blocks."""
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # macOS, or no /proc
        return ""


def file_system_of(path: str, mountinfo: str) -> str:
    """The type of the file system that holds `path`; empty where `mountinfo` does not say.

    Args:
        path: An absolute path, its symbolic links resolved.
        mountinfo: As in proc(5).
    """
    found, longest = "", -1
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(" "), right.partition(" ")[0]
        if not separator or len(fields) < 5:  # noqa: PLR2004 - the fifth is the mount point
            continue
        point = _ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # of two at one point the later covers the earlier
            found, longest = kind, len(point)
    return found


def is_local(path: str | os.PathLike[str], mountinfo: str) -> bool:
    """Whether `path` is on a file system of this machine alone, as far as `mountinfo` says.

    What is in user space counts as remote, but for overlays: it may be anything.
    """
    kind = file_system_of(os.path.realpath(path), mountinfo)
    if kind == "fuse" or kind.startswith("fuse."):
        return kind == _LOCAL_FUSE
    return kind not in _REMOTE.split()
