"""Where the home is, whose it is, and that it is nobody else's."""

from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from precip_async.errors import HomeError, InvalidArgument
from precip_async.home.directory import Home
from tests.home.companions import companion, powerless

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCOUNT_ID = "0123456789abcdef0123456789abcdef"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def mend(error: HomeError) -> None:
    """Run the command that the error advises."""
    found = re.search(r"run: ([^,]+)", error.mend)
    assert found, error.mend
    subprocess.run(found[1], shell=True, check=True)


def left_by_03(place: Path, *, directory: int = 0o755, key: int = 0o600) -> Path:
    """A home as precip 0.3 left it."""
    place.mkdir()
    (place / "account_id").write_text(ACCOUNT_ID)
    (place / f"precip_{ACCOUNT_ID}").write_text("a private key")
    (place / f"precip_{ACCOUNT_ID}.pub").write_text("a public key")
    (place / "account_id").chmod(0o644)
    (place / f"precip_{ACCOUNT_ID}").chmod(key)
    place.chmod(directory)
    return place


def test_a_missing_home_is_made_for_us_alone(tmp_path: Path) -> None:
    """Whatever the umask, nobody else may look into a new home or read what is in it."""
    before = os.umask(0)
    try:
        home = Home.open(tmp_path / "deep" / "home")
    finally:
        os.umask(before)

    assert mode(home.path) == 0o700
    assert mode(home.path / "account_id") == 0o600


def test_an_account_id_is_made_once(tmp_path: Path) -> None:
    """The second opening finds the id of the first."""
    first = Home.open(tmp_path / "home")

    assert re.fullmatch(r"[0-9a-f]{32}", first.account_id)
    assert Home.open(tmp_path / "home") == first


def test_the_environment_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument PRECIP_HOME counts."""
    monkeypatch.setenv("PRECIP_HOME", str(tmp_path / "elsewhere"))

    assert Home.open().path == tmp_path / "elsewhere"


def test_it_is_under_the_users_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PRECIP_HOME it is ~/.precip."""
    monkeypatch.delenv("PRECIP_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Home.open().path == tmp_path / ".precip"


def test_without_home_the_password_file_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2012's scripts died of a KeyError where HOME is not set, as under cron."""
    entry = pwd.struct_passwd(("me", "x", os.getuid(), 0, "", str(tmp_path), "/bin/sh"))
    monkeypatch.delenv("PRECIP_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: entry)

    assert Home.open().path == tmp_path / ".precip"


def test_a_user_without_an_entry_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container with an invented uid there is no directory to take."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("PRECIP_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)

    with pytest.raises(HomeError, match="PRECIP_HOME"):
        Home.open()


def test_a_tilde_is_the_users_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`home="~/x"` means what it means in a shell."""
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Home.open("~/x").path == tmp_path / "x"


@pytest.mark.parametrize("path", ["home", "./home", "", "/a\0b", 7])
def test_what_is_no_absolute_path_is_refused(path: str) -> None:
    """A relative home would be another one in another working directory."""
    with pytest.raises(InvalidArgument, match="home"):
        Home.open(path)


def test_a_relative_path_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable that is wrong."""
    monkeypatch.setenv("PRECIP_HOME", "here")

    with pytest.raises(InvalidArgument, match="PRECIP_HOME"):
        Home.open()


@pytest.mark.parametrize("open_to_others", [0o755, 0o750, 0o701, 0o720])
def test_a_home_open_to_others_is_refused(tmp_path: Path, open_to_others: int) -> None:
    """The advice is a command, and it helps."""
    home = Home.open(tmp_path / "my home")
    home.path.chmod(open_to_others)

    with pytest.raises(HomeError, match="others may look into it") as caught:
        Home.open(home.path)
    mend(caught.value)

    assert Home.open(home.path) == home


def test_a_home_of_someone_else_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by root: who owns it could put anything there."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(HomeError, match="chown -R"):
        Home.open(home.path)


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    """What is not a directory can't be a home."""
    (tmp_path / "home").write_text("")

    with pytest.raises(HomeError, match="Not a directory"):
        Home.open(tmp_path / "home")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """The error says where, why and what to do."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    script = """
from precip_async.errors import HomeError
try:
    Home.open(sys.argv[1])
except HomeError as exc:
    say(exc)
"""
    with companion(script, closed / "home", wrapper=powerless()) as one:
        said = one.rest()

    assert f"{closed}/home: Permission denied; let yourself in (chmod u+rwX {closed})" in said


@pytest.mark.parametrize("content", [b"", b"0123", b"\xff" * 32, b"x" * 32, b"0" * 33])
def test_a_damaged_account_id_is_refused(home: Home, content: bytes) -> None:
    """An id cut off would be taken for another account; the advice makes a new one."""
    (home.path / "account_id").write_bytes(content)

    with pytest.raises(HomeError, match="no account id") as caught:
        Home.open(home.path)
    mend(caught.value)

    assert Home.open(home.path).account_id not in ("", home.account_id)


def test_an_id_may_end_with_a_newline(home: Home) -> None:
    """Somebody's editor may have added one."""
    (home.path / "account_id").write_text(home.account_id + "\n")

    assert Home.open(home.path) == home


def test_a_home_left_by_03_is_taken_over(tmp_path: Path) -> None:
    """It keeps its id, is closed to others, and the user hears of it."""
    place = left_by_03(tmp_path / "home")

    home = Home.open(place)

    assert home.account_id == ACCOUNT_ID
    assert mode(place) == 0o700
    assert mode(place / "account_id") == 0o600
    assert home.warnings == (f"{place}, left by precip 0.3, was open to others; it is closed now",)


def test_a_home_left_by_03_is_mended_once(tmp_path: Path) -> None:
    """Once it is ours, it is judged like any other."""
    place = left_by_03(tmp_path / "home")
    Home.open(place)
    assert Home.open(place).warnings == ()
    place.chmod(0o755)

    with pytest.raises(HomeError, match="chmod 700"):
        Home.open(place)


def test_an_open_key_left_by_03_is_closed_and_named(tmp_path: Path) -> None:
    """Who could read it may have it: the user must hear which."""
    place = left_by_03(tmp_path / "home", directory=0o700, key=0o644)

    home = Home.open(place)

    assert mode(place / f"precip_{ACCOUNT_ID}") == 0o600
    assert [f"precip_{ACCOUNT_ID} was open to others" in one for one in home.warnings] == [True]


def test_a_closed_home_left_by_03_needs_no_warning(tmp_path: Path) -> None:
    """Nothing was open, so there is nothing to say."""
    assert Home.open(left_by_03(tmp_path / "home", directory=0o700)).warnings == ()


def test_what_vanishes_while_a_home_is_mended_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process's draft may be listed and gone a moment later."""
    place = left_by_03(tmp_path / "home")
    listed = Path.iterdir

    def and_one_more(path: Path) -> Iterator[Path]:
        yield path / ".new-gone"
        yield from listed(path)

    monkeypatch.setattr(Path, "iterdir", and_one_more)

    assert Home.open(place).account_id == ACCOUNT_ID


def test_a_directory_that_is_not_03s_is_not_mended(tmp_path: Path) -> None:
    """Any other directory that is open to others may be meant to be."""
    place = tmp_path / "home"
    place.mkdir()
    (place / "account_id").write_text(ACCOUNT_ID)
    place.chmod(0o755)

    with pytest.raises(HomeError, match="chmod 700"):
        Home.open(place)


def test_a_folder_is_made_for_us_alone(home: Home) -> None:
    """What is kept in the home's folders is as private as the home."""
    assert home.runtime("output") == home.path / "output"
    assert mode(home.path / "output") == 0o700


def test_a_folder_open_to_others_is_refused(home: Home) -> None:
    """A folder is judged like the home."""
    home.runtime("local").chmod(0o755)

    with pytest.raises(HomeError, match="chmod 700"):
        home.runtime("local")


def test_drafts_of_the_dead_are_swept(home: Home) -> None:
    """What a killed process had not finished is removed once nobody can be at it any more."""
    old, young = home.path / ".new-old", home.path / ".new-young"
    old.write_text("")
    young.write_text("")
    os.utime(old, (0, 0))

    Home.open(home.path)

    assert not old.exists()
    assert young.exists()
