"""What an instance sends is not trusted: no stream of files gets out of its place."""

from __future__ import annotations

import io
import random
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precip_async.ssh import tree
from precip_async.ssh.download import _facts
from precip_async.ssh.tree import TreeError
from tests.ssh.trees import facts, free, names, plant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def member(name: str, kind: bytes = tarfile.REGTYPE, **settings: Any) -> tarfile.TarInfo:
    """A header."""
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in settings.items():
        setattr(made, key, value)
    return made


def stream(*members: tarfile.TarInfo, content: bytes = b"", **settings: Any) -> bytes:
    """A tar of `members`; regular ones have `content`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **settings) as tar:
        for one in members:
            if one.isreg():
                one.size = one.size or len(content)
                tar.addfile(one, io.BytesIO(content.ljust(one.size, b"x")))
            else:
                tar.addfile(one)
    return out.getvalue()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where to unpack; whatever a test does, nothing else may appear beside it."""
    (tmp_path / "yard").mkdir()
    (tmp_path / "victim").write_text("as it was")
    yield tmp_path / "yard" / "tree"
    assert set(names(tmp_path)) == {"yard", "victim"}
    assert set(names(tmp_path / "yard")) <= {"tree"}
    assert (tmp_path / "victim").read_text() == "as it was"
    free(tmp_path)


def refused(data: bytes, place: Path) -> str:
    """Why `data` is refused."""
    with pytest.raises(TreeError) as caught:
        tree.unpack(io.BytesIO(data), place)
    return str(caught.value)


DIRECTORY = tarfile.DIRTYPE
LINK = tarfile.SYMTYPE
HARD = tarfile.LNKTYPE
ROOT = member("./", DIRECTORY, mode=0o755)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([member("../evil")], "leaves the tree"),
        ([member("./a/../../evil")], "leaves the tree"),
        ([member("/tmp/evil")], "leaves the tree"),
        ([member("..", DIRECTORY)], "leaves the tree"),
        ([member("a", LINK, linkname="../.."), member("a/evil")], "outside its directories"),
        ([member("a", LINK, linkname="/etc"), member("a", DIRECTORY)], "twice"),
        ([member("a", DIRECTORY), member("a", LINK, linkname="..")], "twice"),
        ([member("a", LINK, linkname="../../victim"), member("a")], "twice"),
        ([member("a"), member("a")], "twice"),
        ([member("a"), member("a", HARD, linkname="a")], "twice"),
        ([member("a"), member("a/b")], "outside its directories"),
        ([member("missing/b")], "outside its directories"),
        ([member("."), member("b")], "twice"),
        ([member("a", HARD, linkname="../../victim")], "leaves the tree"),
        ([member("a", HARD, linkname="/etc/passwd")], "leaves the tree"),
        ([member("a", HARD, linkname="missing")], "what it lacks"),
        (
            [member("l", LINK, linkname="../../victim"), member("a", HARD, linkname="l")],
            "what it lacks",
        ),
        ([member("a", tarfile.CHRTYPE, devmajor=1, devminor=5)], "is a device"),
        ([member("a", tarfile.BLKTYPE, devmajor=8)], "is a device"),
        ([member("a", tarfile.GNUTYPE_SPARSE)], "sparse"),
        ([member("a", LINK, linkname="")], "damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_wants_out_is_refused(place: Path, members: list[tarfile.TarInfo], why: str) -> None:
    """Names that climb, links to write through, links to what is outside, devices."""
    try:
        words = refused(stream(ROOT, *members), place)
    except FileNotFoundError:  # a link to nothing is the system's to refuse
        words = "damaged"
    assert why in words


@pytest.mark.parametrize(
    "headers",
    [
        {"path": "../evil"},
        {"path": "/tmp/evil"},
        {"size": "-1"},
        {"size": str(2**70)},
        {"mtime": "nan"},
        {"mtime": "1e300"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "b"},
        {"GNU.sparse.size": str(2**50)},
        {"GNU.sparse.map": "0,1"},
        {"linkpath": "a\0b"},
    ],
    ids=str,
)
def test_what_extended_headers_say_is_not_believed(place: Path, headers: dict[str, str]) -> None:
    """They can replace every fact of a member, and each is looked at after that."""
    kind = LINK if "linkpath" in headers else tarfile.REGTYPE
    data = stream(ROOT, member("a", kind, pax_headers=headers), content=b"x" * 3000, format=2)

    refused(data, place)


@pytest.mark.parametrize("size", [2**21, 2**40, 8**11 - 1])
@pytest.mark.parametrize(
    "kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]
)
def test_a_huge_header_is_not_read(place: Path, kind: bytes, size: int) -> None:
    """A name of a gibibyte is refused before it takes memory."""
    huge = member("a", kind)
    huge.size = size

    assert "senseless size" in refused(huge.tobuf(tarfile.GNU_FORMAT) + b"x" * 10_000, place)


def test_headers_before_headers_without_end_are_refused(place: Path) -> None:
    """A stream of nothing but extended headers does not exhaust the stack."""
    one = stream(member("a", pax_headers={"comment": "x"}), format=tarfile.PAX_FORMAT)[:1024]

    refused(one * 5000, place)


@pytest.mark.parametrize("count", [*range(0, 11_776, 487), 512, 6144, 11_776, 11_900])
def test_a_stream_that_is_cut_off_is_noticed(place: Path, count: int) -> None:
    """Wherever it is cut, also between two members, it is not taken for whole."""
    whole = stream(ROOT, member("a"), member("b"), content=b"x" * 5000)

    assert "damaged or was cut off" in refused(whole[:count], place)


def test_a_stream_needs_no_more_than_its_end(place: Path) -> None:
    """How much is put behind the end differs from tar to tar."""
    whole = stream(ROOT, member("a"), content=b"x" * 5000)

    assert tree.unpack(io.BytesIO(whole[: 512 + 5632 + 512]), place).size == 5000


@given(st.binary(max_size=3000))
@settings(max_examples=60)
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Bytes that are no tar are an error of ours, whatever they are."""
    place = tmp_path_factory.mktemp("noise") / "tree"
    try:
        unpacked = tree.unpack(io.BytesIO(data), place)
    except TreeError:
        return
    assert unpacked.size == 0  # zeros are an empty tar
    assert names(place) == []


@given(st.integers(0, 2**32))
@settings(max_examples=150)
def test_a_stream_with_damaged_bytes_stays_in_its_place(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """A few bytes changed anywhere: a tree or an error of ours, and nothing outside."""
    yard = tmp_path_factory.mktemp("yard")
    link = member("l", LINK, linkname="../victim")
    members = (ROOT, member("d/", DIRECTORY, mode=0o755), member("d/a"), link, member("b"))
    hard = member("h", HARD, linkname="b")
    data = bytearray(stream(*members, hard, content=b"content"))
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 4)):
        header = 512 * chance.randrange(len(members) + 3)
        data[header + chance.randrange(300)] = chance.choice(b"./0127LgxKS\0\xff")
        if chance.random() < 0.8 and header + 512 <= len(data):  # with a checksum that fits again
            block = data[header : header + 512]
            block[148:156] = b" " * 8
            data[header + 148 : header + 156] = b"%06o\0 " % sum(block)

    try:
        tree.unpack(io.BytesIO(bytes(data)), yard / "tree")
    except (TreeError, OSError):
        pass
    finally:
        free(yard)
    assert set(names(yard)) <= {"tree"}


def test_a_tree_that_is_packed_is_unpacked_as_it_was(tmp_path: Path) -> None:
    """Our own two halves fit, but for the directories' modes, which are set at the end."""
    source = tmp_path / "source"
    source.mkdir()
    plant(source)
    out = io.BytesIO()

    size = tree.pack(source, out)
    out.seek(0)
    unpacked = tree.unpack(out, tmp_path / "copy")
    tree.merge(tmp_path / "copy" / "content", tmp_path / "place", tree.Unpacked(0, []))

    assert unpacked.size == size + (tmp_path / "copy" / tree.COMPLETE).stat().st_size
    copied, wanted = facts(tmp_path / "place"), facts(source)
    assert copied.keys() == wanted.keys()
    for name, fact in wanted.items():
        assert copied[name][3] == fact[3]
    free(tmp_path)


def test_merging_undoes_nothing_when_it_fails(tmp_path: Path) -> None:
    """A target that can't be written at all raises what the system says."""
    (tmp_path / "new").mkdir()

    with pytest.raises(OSError, match="missing"):
        tree.merge(tmp_path / "new", tmp_path / "missing" / "place", tree.Unpacked(0, []))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"X",
        b"F 644",
        b"F 644 1 2 3",
        b"F 999 1 1",
        b"F -1 1 1",
        b"F 644 " + b"9" * 60 + b" 1",
        b"F 6_4 1 1",
        b"D 1",
        b"\xff\xfe",
        b"F" * 300,
    ],
)
def test_a_first_line_that_makes_no_sense_is_refused(line: bytes) -> None:
    """Neither a number that no clock has, nor one that no mode has, goes any further."""
    with pytest.raises(TreeError, match="senseless"):
        _facts(line)


def test_a_first_line_is_read() -> None:
    """Mode, time and size; of a tree, and of an instance whose `stat` tells nothing, none."""
    assert _facts(b"F 644 1700000000 12") == [0o644, 1_700_000_000, 12]
    assert _facts(b"F") == []
    assert _facts(b"D") is None


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o555])
def test_directories_that_can_not_be_entered_are_unpacked_into(place: Path, mode: int) -> None:
    """What a directory may not hold is set when all is in it."""
    folder = member("d/", DIRECTORY, mode=mode)

    unpacked = tree.unpack(io.BytesIO(stream(ROOT, folder, member("d/a"))), place)

    assert (place / "d" / "a").is_file()
    assert [(name, found) for name, found, _ in unpacked.folders] == [("d", mode), ("", 0o755)]
    assert (place / "d").stat().st_mode & 0o777 == 0o700
