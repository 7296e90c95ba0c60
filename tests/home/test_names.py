"""Names: what one may be, and that a living process holds it alone."""

from __future__ import annotations

import fcntl
import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from precip_async.errors import HomeError, InvalidArgument, NameInUse
from precip_async.home.names import checked_name, default_name, hold_name
from tests.home.companions import companion, together
from tests.polling import until

if TYPE_CHECKING:
    from precip_async.home.directory import Home

HOLDING = """
hold = hold_name(Home.open(sys.argv[1]), "mine")
go()
hold.release()
go()
"""


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "9", "x" * 64])
def test_a_proper_name_is_taken(name: str) -> None:
    """Letters, digits and three signs, up to 64."""
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "ä", "x" * 65, None, 7]
)
def test_an_improper_name_is_refused(home: Home, name: str) -> None:
    """It would be a bad file name, host name or tag; the message says what is wanted."""
    with pytest.raises(InvalidArgument, match="1 to 64 letters"):
        hold_name(home, name)


def test_default_names_are_readable_and_unique() -> None:
    """An adjective, an animal and four digits; a thousand of them hardly ever meet."""
    names = {default_name() for _ in range(1000)}

    assert all(re.fullmatch(r"[a-z]+-[a-z]+-[0-9a-f]{4}", checked_name(name)) for name in names)
    assert len(names) > 995


def test_a_second_holder_in_this_process_is_refused(home: Home) -> None:
    """Two experiments of one script must not share a name either."""
    with hold_name(home, "mine"), pytest.raises(NameInUse, match=f"process {os.getpid()} on host"):
        hold_name(home, "mine")


def test_a_hold_shows_its_state(home: Home) -> None:
    """It may end up in a log."""
    with hold_name(home, "mine") as hold:
        assert repr(hold) == "<Hold 'mine' held>"
    assert repr(hold) == "<Hold 'mine' released>"


def test_other_names_are_free(home: Home) -> None:
    """A hold is of one name."""
    with hold_name(home, "mine"), hold_name(home, "yours"):
        assert len(list(home.runtime("names").iterdir())) == 2


def test_a_released_name_is_free(home: Home) -> None:
    """It leaves no file behind, and may be released twice."""
    hold = hold_name(home, "mine")
    hold.release()
    hold.release()

    assert list(home.runtime("names").iterdir()) == []
    with hold_name(home, "mine"):
        hold.release()  # no longer its own to release
        with pytest.raises(NameInUse):
            hold_name(home, "mine")


def test_another_process_holds_its_name_until_it_releases_it(home: Home) -> None:
    """The error tells which process it is."""
    with companion(HOLDING, home.path) as other:
        assert other.heard() == "ready"

        with pytest.raises(NameInUse) as caught:
            hold_name(home, "mine")
        assert re.fullmatch(
            rf"process {other.pid} on host \S+ since \d{{4}}-\S+", caught.value.holder
        )

        other.go()
        assert other.heard() == "ready"
        hold_name(home, "mine").release()


def test_a_killed_process_holds_nothing(home: Home) -> None:
    """After kill -9 the name is free, and the next holder is named instead."""
    with companion(HOLDING, home.path) as other:
        assert other.heard() == "ready"
        other.kill()
    left = home.runtime("names") / "mine.lock"
    left.write_text(left.read_text() + "and much more\n" * 10)

    with hold_name(home, "mine"), pytest.raises(NameInUse) as caught:
        hold_name(home, "mine")
    assert re.fullmatch(rf"process {os.getpid()} on host \S+ since \S+", caught.value.holder)


def test_a_forked_child_does_not_hold_its_parents_name(home: Home) -> None:
    """A worker that outlives its killed parent must not keep the name from everybody."""
    script = """
hold = hold_name(Home.open(sys.argv[1]), "mine")
child = os.fork()
if not child:
    hold.release()
    say("child")
    signal.pause()
say(child)
signal.pause()
"""
    with companion(script, home.path) as parent:
        said = {parent.heard(), parent.heard()}
        child = int((said - {"child"}).pop())
        try:
            with pytest.raises(NameInUse):
                hold_name(home, "mine")  # the child's release was not the parent's
            os.kill(parent.pid, signal.SIGKILL)
            parent.process.wait()
            hold_name(home, "mine").release()
            os.kill(child, 0)  # it lives, and holds nothing
        finally:
            os.kill(child, signal.SIGKILL)


def test_one_holds_at_a_time_however_many_try(home: Home) -> None:
    """Also while the lock's file is removed and made again by each."""
    script = """
from precip_async.errors import NameInUse
home, inside = Home.open(sys.argv[1]), sys.argv[2]
go()
held = 0
while held < 25:
    try:
        hold = hold_name(home, "mine")
    except NameInUse:
        continue
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    os.unlink(inside)
    hold.release()
    held += 1
say(held)
"""
    assert together(script, [[home.path, home.path / "inside"]] * 6) == ["25\n"] * 6


def test_a_name_that_is_just_being_released_is_free(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder has removed the file, and not yet let go of it."""
    path = home.runtime("names") / "mine.lock"
    flock = fcntl.flock

    def just_released(*_: object) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        raise BlockingIOError

    monkeypatch.setattr(fcntl, "flock", just_released)

    with hold_name(home, "mine"):
        assert path.exists()


def test_a_lock_that_cannot_be_made_is_explained(home: Home) -> None:
    """A name that nobody can hold is no name in use."""
    (home.runtime("names") / "mine.lock").mkdir()

    with pytest.raises(HomeError, match=r"mine\.lock: Is a directory"):
        hold_name(home, "mine")


def test_a_holder_without_a_word_is_another_process(home: Home) -> None:
    """Between the locking and the writing the file is empty."""
    with hold_name(home, "mine"):
        os.truncate(home.runtime("names") / "mine.lock", 0)

        with pytest.raises(NameInUse, match="another process"):
            hold_name(home, "mine")


def test_waiting_for_a_name_is_the_callers_business(home: Home) -> None:
    """A refusal comes at once, and trying again succeeds once the holder is gone."""
    with companion(HOLDING, home.path) as other:
        assert other.heard() == "ready"
        other.go()

        def free() -> bool:
            try:
                hold_name(home, "mine").release()
            except NameInUse:
                return False
            return True

        assert until(free)
