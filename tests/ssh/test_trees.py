"""Trees, both ways: as `cp -a` would, but for owners."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from precip_async.errors import TransferError
from tests.ssh.rig import Rig
from tests.ssh.trees import facts, free, names, plant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from precip_async.ssh.transport import Target
    from tests.servers import OpenSSHServer, TemporaryUser

pytestmark = pytest.mark.sshd


@pytest.fixture(autouse=True)
def freed(tmp_path: Path) -> Iterator[None]:
    """What a test made can be removed."""
    yield
    free(tmp_path)


async def test_a_tree_goes_there_and_back_as_it_is(rig: Rig, here: Path, there: Path) -> None:
    """Names, content, modes, times, links and fifos: all as before, and nothing beside it."""
    (here / "tree").mkdir()
    plant(here / "tree")

    size = await rig.put(here / "tree", there / "copy")
    place, got = await rig.get(there / "copy", here / "back")

    wanted = facts(here / "tree")
    assert facts(there / "copy") == wanted
    assert facts(here / "back") == wanted
    assert (place, got) == (here / "back", size)
    assert names(here) == ["back", "tree"]
    assert names(there) == ["copy"]
    same = (there / "copy" / "sub" / "same").stat()
    assert same.st_ino == (there / "copy" / "sub" / "file").stat().st_ino


async def test_an_empty_tree_goes_there_and_back(rig: Rig, here: Path, there: Path) -> None:
    """A directory with nothing in it is a tree of 0 bytes."""
    (here / "tree").mkdir(mode=0o750)

    assert await rig.put(here / "tree", there / "copy") == 0
    assert await rig.get(there / "copy", here / "back") == (here / "back", 0)

    assert facts(here / "back") == facts(here / "tree")


@pytest.mark.root
async def test_a_user_who_is_not_root_moves_trees_too(
    server: OpenSSHServer, tmp_path: Path, second_user: TemporaryUser, here: Path
) -> None:
    """Directories that their owner may not write to, or not even enter, are no hindrance there."""
    (here / "tree").mkdir()
    plant(here / "tree")
    (here / "tree" / "secret" / "file").write_text("x")
    (here / "tree" / "secret").chmod(0o000)
    async with Rig(server, tmp_path, user=second_user.name) as rig:
        for _ in range(2):  # the second time into the first
            await rig.put(here / "tree", ".")
        modes = await rig.out("cd tree && stat -c '%a %U' secret 'read only' sticky")
        await rig.out("chmod 700 tree/secret 'tree/read only' && [ -f tree/secret/file ]")
        await rig.out("rm -rf tree")

    user = second_user.name
    assert modes.splitlines() == [f"0 {user}", f"555 {user}", f"1777 {user}"]


async def test_a_directory_means_into_it(rig: Rig, here: Path, there: Path) -> None:
    """A tree that goes to an existing directory gets its own name there."""
    (here / "tree").mkdir()
    (here / "tree" / "file").write_text("x")

    await rig.put(here / "tree", there)
    place, _ = await rig.get(there / "tree", f"{here}/tree/")

    assert (there / "tree" / "file").read_text() == "x"
    assert place == here / "tree" / "tree"


async def test_a_dot_means_the_content(rig: Rig, here: Path, there: Path) -> None:
    """`tree/.` goes into an existing directory without a name of its own, as with `cp`."""
    (there / "tree").mkdir()
    (there / "tree" / "file").write_text("x")

    place, _ = await rig.get(f"{there}/tree/.", here)

    assert place == here
    assert names(here) == ["file"]


@pytest.mark.parametrize("way", ["put", "get"])
async def test_trees_merge(rig: Rig, here: Path, there: Path, way: str) -> None:
    """What is there stays, unless the new tree has it too; then it is replaced as a whole."""
    source, target = (here, there) if way == "put" else (there, here)
    (source / "t").mkdir()
    plant(source / "t")
    (target / "t" / "sub").mkdir(parents=True)
    (target / "t" / "sub" / "own").write_text("stays")
    (target / "t" / "sub" / "file").write_text("goes")
    (target / "t" / "to directory").symlink_to("/")
    (target / "t" / "dangling").symlink_to("elsewhere")
    (target / "t" / "to file").write_text("a file")
    (target / "t" / "run").symlink_to("sub/own")

    for _ in range(2):  # and once more into what has become of it
        await (rig.put(source / "t", target) if way == "put" else rig.get(source / "t", target))
        merged = facts(target / "t")
        assert merged.pop("sub/own")[3] == b"stays"
        assert merged == facts(source / "t")

    assert names(target) == ["t"]


@pytest.mark.parametrize("way", ["put", "get"])
@pytest.mark.parametrize(
    ("spot", "kind"),
    [
        ("t/sub/deep", "file"),
        ("t/sub/deep", "link"),
        ("t/run", "directory"),
        ("t/to directory", "directory"),
        ("t", "file"),
        ("t", "link"),
    ],
)
async def test_what_does_not_fit_is_refused_with_nothing_moved(
    rig: Rig, here: Path, there: Path, way: str, spot: str, kind: str
) -> None:
    """A file where a directory is to be, or the reverse; a link is never taken for a directory."""
    source, target = (here, there) if way == "put" else (there, here)
    (source / "t").mkdir()
    plant(source / "t")
    (target / "elsewhere").mkdir()
    (target / spot).parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "file":
            (target / spot).write_text("in the way")
        case "link":
            (target / spot).symlink_to(target / "elsewhere")
        case _:
            (target / spot).mkdir()
    before = facts(target)

    with pytest.raises(TransferError, match=r"is a directory|is no directory"):
        await (rig.put(source / "t", target) if way == "put" else rig.get(source / "t", target))

    after = facts(target)
    assert after.pop(".")[:2] == before.pop(".")[:2]  # but for its time
    assert after == before


async def test_a_tree_is_not_followed_out_of_itself(rig: Rig, here: Path, there: Path) -> None:
    """A link that came with one tree does not lead the next tree out of its place."""
    victim = here / "victim"
    victim.mkdir()
    (there / "one").mkdir()
    (there / "one" / "a").symlink_to(victim)
    (there / "two" / "a").mkdir(parents=True)
    (there / "two" / "a" / "evil").write_text("x")

    await rig.get(there / "one", here / "target")
    with pytest.raises(TransferError, match="is no directory"):
        await rig.get(f"{there}/two/.", here / "target")
    with pytest.raises(TransferError, match="is no directory"):
        await rig.get(there / "two" / "a", here / "target")

    assert names(victim) == []


async def test_a_tree_with_a_socket_is_refused(rig: Rig, here: Path, there: Path) -> None:
    """What can't be copied is named, and nothing is left there."""
    (here / "t").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(here / "t" / "sock"))
        with pytest.raises(TransferError, match=r"t/sock is a socket or a device"):
            await rig.put(here / "t", there / "t")

    assert names(there) == []


async def test_trees_from_more_hosts_than_there_are_threads(
    rig: Rig, here: Path, there: Path
) -> None:
    """Unpacking and packing take no thread from those that all share: none waits for another."""
    (there / "t").mkdir()
    for number in range(20):
        (there / "t" / str(number)).write_bytes(b"x" * 100_000)
    hosts = enumerate(rig.server.hosts(6))
    targets = [rig.on(host, number) for number, host in hosts]
    shared = anyio.to_thread.current_default_thread_limiter()
    shared.total_tokens = 2

    async def both(target: Target) -> None:
        await rig.get(there / "t", here / target.instance_id, target=target)
        await rig.put(here / target.instance_id, there / target.instance_id, target=target)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for target in targets:
                tasks.start_soon(both, target)

    for target in targets:
        assert facts(there / target.instance_id) == facts(there / "t")
