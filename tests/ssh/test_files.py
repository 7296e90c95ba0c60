"""Single files, both ways: whatever their name and content, whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from precip_async.errors import TransferError
from tests.ssh.rig import Rig
from tests.ssh.trees import names

if TYPE_CHECKING:
    from tests.servers import OpenSSHServer, TemporaryUser

pytestmark = pytest.mark.sshd

NAMES = [
    "plain",
    "with space",
    "quote'quote\"",
    "new\nline",
    "ends in newline\n",
    "-rf",
    "--",
    "$(id) `id` $HOME",
    "~",
    "*?[a]",
    "back\\slash",
    os.fsdecode(b"\xff\xfe not utf-8"),
    "Ünïcødé 🎈",
    " ",
]
SIZES = [0, 1, 65_536, 1024 * 1024, 5_000_001]


@pytest.mark.parametrize("name", NAMES)
async def test_a_file_of_any_name_goes_there_and_back(
    rig: Rig, here: Path, there: Path, name: str
) -> None:
    """Names with spaces, quotes, newlines, dashes and bytes that are no text arrive as they are."""
    (here / name).write_bytes(b"content")
    odd = there / f"{name}.d"
    odd.mkdir()

    assert await rig.put(here / name, there / name) == 7
    assert await rig.put(here / name, odd) == 7
    assert await rig.get(there / name, here / "back") == (here / "back", 7)
    assert await rig.get(odd / name, f"{here}/") == (here / name, 7)

    assert names(there) == sorted([name, odd.name])
    assert names(odd) == [name]
    assert names(here) == sorted(["back", name])
    assert (here / "back").read_bytes() == b"content"


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_of_any_size_goes_there_and_back(
    rig: Rig, here: Path, there: Path, size: int
) -> None:
    """Not a byte is lost, also of none."""
    content = secrets.token_bytes(size)
    (here / "file").write_bytes(content)

    assert await rig.put(here / "file", there / "file") == size
    assert await rig.get(there / "file", here / "back") == (here / "back", size)

    assert (there / "file").read_bytes() == content
    assert (here / "back").read_bytes() == content


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o755, 0o400, 0o4755])
async def test_mode_and_time_are_kept(rig: Rig, here: Path, there: Path, mode: int) -> None:
    """As `cp -a` keeps them; but set-id bits are not, as the copy may have another owner."""
    (here / "file").write_text("x")
    (here / "file").chmod(mode)
    os.utime(here / "file", (1_000_000_001, 1_000_000_001))

    await rig.put(here / "file", there / "file")
    (there / "file").chmod(mode)
    os.utime(there / "file", (1_000_000_001, 1_000_000_001))
    await rig.get(there / "file", here / "back")

    for copy in (there / "file", here / "back"):
        assert copy.stat().st_mtime == 1_000_000_001
    assert stat.S_IMODE((here / "back").stat().st_mode) == mode & 0o777


async def test_a_put_file_has_the_mode_of_its_source(rig: Rig, here: Path, there: Path) -> None:
    """Whatever mode the file had that was there, and whatever the umask."""
    (there / "file").write_text("old")
    (there / "file").chmod(0o666)
    (here / "file").write_text("new")
    (here / "file").chmod(0o4710)

    await rig.put(here / "file", there / "file")

    assert stat.S_IMODE((there / "file").stat().st_mode) == 0o710


async def test_a_directory_means_into_it(rig: Rig, here: Path, there: Path) -> None:
    """With and without a slash at its end, in both directions."""
    (here / "file").write_text("x")
    for number in range(4):
        (there / f"d{number}").mkdir()
        (here / f"d{number}").mkdir()

    await rig.put(here / "file", there / "d0")
    await rig.put(here / "file", f"{there}/d1/")
    assert await rig.get(there / "d0" / "file", here / "d2") == (here / "d2" / "file", 1)
    assert await rig.get(there / "d1" / "file", f"{here}/d3/") == (here / "d3" / "file", 1)

    assert (there / "d1" / "file").read_text() == "x"


async def test_a_suffix_tells_instances_apart(rig: Rig, here: Path, there: Path) -> None:
    """What comes from several instances is named after each, in a directory as well."""
    (there / "file").write_text("x")

    assert (await rig.get(there / "file", here / "a", ".i-1"))[0] == here / "a.i-1"
    assert (await rig.get(there / "file", f"{here}/", ".i-1"))[0] == here / "file.i-1"


@pytest.mark.root
async def test_a_path_that_is_not_absolute_begins_at_home(
    server: OpenSSHServer, tmp_path: Path, here: Path, second_user: TemporaryUser
) -> None:
    """So does one that begins with a tilde."""
    (here / "file").write_text("x")
    async with Rig(server, tmp_path, user=second_user.name) as rig:
        await rig.put(here / "file", "~/from tilde")
        await rig.put(here / "file", "~")
        await rig.put(here / "file", "bare")
        for name in ("~/from tilde", "~/file", "bare"):
            assert (await rig.get(name, here / "back"))[0].read_text() == "x"

    assert {"from tilde", "file", "bare"} <= set(names(second_user.home))


async def test_a_link_named_as_source_is_followed_and_gives_its_name(
    rig: Rig, here: Path, there: Path
) -> None:
    """As `cp -L` would: the content of what it leads to, under the name that was given."""
    (here / "real").write_text("x")
    (here / "link").symlink_to("real")

    await rig.put(here / "link", there)
    (there / "link2").symlink_to("link")
    await rig.get(there / "link2", f"{here}/")

    assert names(there) == ["link", "link2"]
    assert not (there / "link").is_symlink()
    assert (here / "link2").read_text() == "x"
    assert not (here / "link2").is_symlink()


async def test_a_link_named_as_target_is_written_through(rig: Rig, here: Path, there: Path) -> None:
    """The file that it leads to is replaced, and the link stays one."""
    (here / "file").write_text("new")
    for place in (here, there):
        (place / "real").write_text("old")
        (place / "link").symlink_to("real")

    await rig.put(here / "file", there / "link")
    await rig.get(there / "real", here / "link")

    for place in (here, there):
        assert (place / "link").is_symlink()
        assert (place / "real").read_text() == "new"


async def test_a_file_that_says_no_size_comes_whole(rig: Rig, here: Path, there: Path) -> None:
    """What the kernel makes up when it is read has a size of 0 and content all the same."""
    await rig.get("/proc/cpuinfo", here / "got")
    await rig.put(Path("/proc/version"), there / "put")

    assert (here / "got").stat().st_size > 100
    assert "Linux" in (there / "put").read_text()


@pytest.mark.root
async def test_files_go_through_sudo(
    server: OpenSSHServer, tmp_path: Path, here: Path, sudoer: TemporaryUser
) -> None:
    """What the login user may not read or write, another one may."""
    (here / "file").write_text("secret")
    target = tmp_path / "roots"
    target.mkdir(mode=0o700)
    async with Rig(server, tmp_path, user=sudoer.name) as rig:
        with pytest.raises(TransferError):
            await rig.put(here / "file", target / "file")
        await rig.put(here / "file", target / "file", user="root", sudo_user="root")
        with pytest.raises(TransferError):
            await rig.get(target / "file", here / "back")
        await rig.get(target / "file", here / "back", user="root", sudo_user="root")

    assert (here / "back").read_text() == "secret"
    assert (target / "file").stat().st_uid == 0


async def test_concurrent_copies_of_one_file_are_each_whole(
    rig: Rig, here: Path, there: Path
) -> None:
    """Whoever comes last wins, and nobody ever sees half a file."""
    (there / "file").write_bytes(b"x" * 3_000_000)

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(rig.get, there / "file", here / "same")
            tasks.start_soon(rig.put, there / "file", there / "copy")

    assert (here / "same").stat().st_size == 3_000_000
    assert (there / "copy").stat().st_size == 3_000_000
    assert names(here) == ["same"]
    assert names(there) == ["copy", "file"]


# -- refused, and nothing is changed ------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("missing/file", "there is no directory .*missing"),
        ("missing/", "there is no directory .*missing/"),
        ("taken", "is a directory"),
        ("pipe", "is there and is no file"),
    ],
)
async def test_a_put_that_can_not_be_is_refused(
    rig: Rig, here: Path, there: Path, target: str, words: str
) -> None:
    """The sentence names the path, and nothing is left there."""
    (here / "file").write_text("x")
    (here / "d").mkdir()
    (there / "taken" / "file").mkdir(parents=True)
    os.mkfifo(there / "pipe")
    before = names(there)

    with pytest.raises(TransferError, match=words):
        await rig.put(here / "file", f"{there}/{target}")

    assert names(there) == before
    assert names(there / "taken") == ["file"]


@pytest.mark.parametrize(
    ("source", "local", "words"),
    [
        ("missing", "got", "there is no .*missing"),
        ("pipe", "got", "neither a file nor a directory"),
        ("file", "missing/got", "there is no directory .*missing"),
        ("file", "missing/", "there is no directory .*missing"),
        ("file", "taken", "taken/file.*[Ii]s a directory"),
        ("file", "pipe", "is neither a file nor a directory"),
        ("..", "taken/", "give it one"),
    ],
)
async def test_a_get_that_can_not_be_is_refused(
    rig: Rig, here: Path, there: Path, source: str, local: str, words: str
) -> None:
    """The sentence names the path; no empty file is left here, and no temporary one."""
    (there / "file").write_text("x")
    (here / "taken" / "file").mkdir(parents=True)
    for place in (here, there):
        os.mkfifo(place / "pipe")
    before = names(here)

    with pytest.raises(TransferError, match=words):
        await rig.get(f"{there}/{source}", f"{here}/{local}")

    assert names(here) == before
    assert names(here / "taken") == ["file"]


async def test_a_source_that_is_no_file_is_refused(rig: Rig, here: Path, there: Path) -> None:
    """A fifo would be waited for, and a socket can't be read; a missing file is named."""
    os.mkfifo(here / "pipe")
    with anyio.fail_after(10):
        for name in ("pipe", "missing"):
            with pytest.raises(TransferError, match=name):
                await rig.put(here / name, there / "x")

    assert names(there) == []


@pytest.mark.root
async def test_a_device_is_not_replaced_by_a_file(rig: Rig, here: Path, there: Path) -> None:
    """Root could: /dev/null would be an ordinary file from then on."""
    (there / "file").write_text("x")
    for place in (here, there):
        os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))

    with pytest.raises(TransferError):
        await rig.put(there / "file", there / "null")
    with pytest.raises(TransferError):
        await rig.get(there / "file", here / "null")

    assert (here / "null").is_char_device()
    assert (there / "null").is_char_device()
