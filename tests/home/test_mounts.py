"""Which file systems are taken for this machine's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from precip_async.home.mounts import file_system_of, is_local, mount_table

MOUNTINFO = r"""
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:21 / /proc rw,relatime - proc proc rw
40 21 0:40 / /home rw,relatime shared:2 master:1 - nfs4 server:/home rw,vers=4.2
41 40 254:1 / /home/me/scratch rw - xfs /dev/vdb rw
42 21 0:42 / /data\040of\040all rw - cifs //server/share rw
43 21 0:43 / /twice rw - tmpfs tmpfs rw
44 21 0:44 / /twice rw - fuse.sshfs me@server:/ rw
45 21 0:45 / /overlaid rw - fuse.fuse-overlayfs fuse-overlayfs rw
46 21 0:46 / /host rw - 9p host rw
a line that makes no sense
"""


@pytest.mark.parametrize(
    ("path", "kind", "local"),
    [
        ("/", "ext4", True),
        ("/var/lib", "ext4", True),
        ("/home", "nfs4", False),
        ("/home/me/.precip", "nfs4", False),
        ("/homeless", "ext4", True),
        ("/home/me/scratch/x", "xfs", True),
        ("/data of all/x", "cifs", False),
        ("/data", "ext4", True),
        ("/twice/x", "fuse.sshfs", False),
        ("/overlaid", "fuse.fuse-overlayfs", True),
        ("/host/home", "9p", False),
    ],
)
def test_the_longest_mount_point_decides(path: str, kind: str, local: bool) -> None:
    """Of two at one point the later one, as the kernel sees it."""
    assert file_system_of(path, MOUNTINFO) == kind
    assert is_local(path, MOUNTINFO) is local


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "afs", "fuse.x"]
)
def test_file_systems_of_clusters_are_not_local(kind: str) -> None:
    """A home on one is likely where experiments are run from."""
    assert not is_local("/x", f"21 1 0:1 / / rw - {kind} x rw")


def test_where_nothing_is_known_it_is_local() -> None:
    """There is no mountinfo on macOS."""
    assert is_local("/x", "")


def test_without_a_table_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing /proc is no error."""

    def missing(path: Path, **_: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)

    assert mount_table() == ""


def test_the_table_of_this_machine_is_understood() -> None:
    """The root is in it, where there is one."""
    table = mount_table()

    assert not table or file_system_of("/", table)
