"""The journal: on the disk before a cloud is asked, and readable whatever ended the writer."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from precip_async.errors import HomeError, InvalidArgument
from precip_async.home.journal import Journal
from tests.home.companions import companion, together

if TYPE_CHECKING:
    from precip_async.home.directory import Home

LAUNCH: dict[str, Any] = {
    "experiment": "swift-otter",
    "cloud": "Amazon EC2",
    "endpoint": "https://ec2.us-west-2.amazonaws.com",
    "image_id": "ami-8a1e92ba",
    "instance_type": "m1.small",
    "count": 2,
    "first": 3,
}


def ids(journal: Journal, experiment: str | None = None) -> list[str]:
    """The ids of what is alive; of a launch without an answer, its token in brackets."""
    return [row.instance_id or f"[{row.token}]" for row in journal.alive(experiment)]


def test_an_intent_is_alive_until_it_is_answered(journal: Journal, home: Home) -> None:
    """It holds all that is needed to find at the cloud what it may have started."""
    expires = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    before = datetime.now(UTC)

    journal.intend(token="t1", tags=["wörker", "test1"], expires=expires, **LAUNCH)

    (row,) = journal.alive()
    assert {name: getattr(row, name) for name in LAUNCH} == LAUNCH
    assert (row.token, row.tags, row.expires) == ("t1", ("wörker", "test1"), expires)
    assert (row.owner, row.machine, row.pid) == (home.account_id, socket.gethostname(), os.getpid())
    assert before <= row.asked_at <= datetime.now(UTC)
    assert (row.answered_at, row.instance_id, row.ordinal, row.state) == (None, "", 3, "")


def test_an_answer_names_the_instances(journal: Journal) -> None:
    """Each has its own ordinal, in launch order, and is pending."""
    journal.intend(token="t1", **LAUNCH)
    journal.answered("t1", ["i-b", "i-a"])

    rows = journal.alive()
    assert [(row.instance_id, row.ordinal, row.state) for row in rows] == [
        ("i-b", 3, "pending"),
        ("i-a", 4, "pending"),
    ]
    assert all(row.answered_at and row.seen_at for row in rows)


def test_what_is_written_at_once_is_written_whole(journal: Journal) -> None:
    """Several launches with their answers, or, where one can't be written, none of them."""

    def write(*tokens: str) -> None:
        with journal.at_once():
            for token in tokens:
                journal.intend(token=token, **LAUNCH)
                journal.answered(token, [f"i-{token}"])

    with pytest.raises(InvalidArgument):
        write("t1", "t2", "t1")
    assert ids(journal) == []

    write("t1", "t2")
    assert ids(journal) == ["i-t1", "i-t2"]


def test_a_second_answer_adds_to_the_first(journal: Journal) -> None:
    """A search for what a lost reply started may find what is known, and more."""
    journal.intend(token="t1", **LAUNCH)
    journal.answered("t1", ["i-a"])
    journal.saw("i-a", "running")
    journal.answered("t1", ["i-a", "i-b"])

    assert [(row.instance_id, row.ordinal, row.state) for row in journal.alive()] == [
        ("i-a", 3, "running"),
        ("i-b", 4, "pending"),
    ]


def test_an_answer_after_all_reopens_a_launch(journal: Journal) -> None:
    """One that was thought refused, and had started something."""
    journal.intend(token="t1", **LAUNCH)
    journal.refused("t1", "no reply")
    journal.answered("t1", ["i-a"])

    assert ids(journal) == ["i-a"]


def test_a_refused_launch_has_started_nothing(journal: Journal) -> None:
    """The others are as they were."""
    journal.intend(token="t1", **LAUNCH)
    journal.intend(token="t2", **LAUNCH)
    journal.refused("t1", "InsufficientInstanceCapacity")

    assert ids(journal) == ["[t2]"]


def test_an_empty_answer_ends_a_launch(journal: Journal) -> None:
    """There is nothing that could be alive."""
    journal.intend(token="t1", **LAUNCH)
    journal.answered("t1", [])

    assert ids(journal) == []


def test_what_was_seen_is_kept(journal: Journal) -> None:
    """The last of it."""
    journal.intend(token="t1", **LAUNCH)
    journal.answered("t1", ["i-a", "i-b"])
    journal.saw("i-a", "running")
    journal.saw("i-a", "ready")

    assert [row.state for row in journal.alive()] == ["ready", "pending"]


def test_what_is_ending_is_alive_until_it_has_ended(journal: Journal) -> None:
    """A termination that was asked for is not one that was confirmed."""
    journal.intend(token="t1", **LAUNCH)
    journal.answered("t1", ["i-a", "i-b"])
    journal.ending(["i-a"])
    asked = journal.alive()[0].terminate_asked_at
    journal.ending(["i-a", "i-b"])

    first, second = journal.alive()
    assert first.state == second.state == "terminating"
    assert first.terminate_asked_at == asked is not None

    journal.ended(["i-a"])
    assert ids(journal) == ["i-b"]
    journal.ended(["i-b"])
    assert ids(journal) == []


def test_a_launch_without_an_answer_is_alive_whatever_else_ends(journal: Journal) -> None:
    """Nobody knows what it started: only an answer or a refusal ends it."""
    journal.intend(token="t1", **LAUNCH)
    journal.intend(token="t2", **LAUNCH)
    journal.answered("t2", ["i-a"])
    journal.ended(["i-a"])

    assert ids(journal) == ["[t1]"]


def test_what_is_seen_terminated_has_ended(journal: Journal) -> None:
    """The cloud may have ended it by itself; what is seen later of it changes nothing."""
    journal.intend(token="t1", **LAUNCH)
    journal.answered("t1", ["i-a", "i-b"])
    journal.saw("i-a", "terminated")
    journal.saw("i-a", "running")

    assert ids(journal) == ["i-b"]


def test_a_teardown_is_not_stopped_by_what_nobody_knows(journal: Journal) -> None:
    """Instances of another journal, or ended twice, are no error."""
    journal.ending(["i-x"])
    journal.ended(["i-x"])
    journal.ended(["i-x"])
    journal.saw("i-x", "running")

    assert ids(journal) == []


def test_a_closed_journal_is_not_used(journal: Journal) -> None:
    """That is a fault of the program, and no state of the home."""
    journal.close()

    with pytest.raises(sqlite3.ProgrammingError):
        journal.ended(["i-a"])


def test_experiments_are_told_apart(journal: Journal) -> None:
    """Asked for one, it says nothing of the others."""
    journal.intend(token="t1", **LAUNCH)
    journal.intend(token="t2", **{**LAUNCH, "experiment": "other"})

    assert ids(journal, "other") == ["[t2]"]
    assert ids(journal, "nobody's") == []
    assert ids(journal) == ["[t1]", "[t2]"]


def test_a_place_is_not_an_ordinal(journal: Journal) -> None:
    """A replacement stands where its predecessor stood, and knows how often it was launched."""
    journal.intend(token="t1", region="us-west-2", zone="us-west-2c", ssh_port=2222, **LAUNCH)
    journal.answered("t1", ["i-a", "i-b"], places=[7, 1], launches=2)

    rows = journal.alive()
    assert [(row.ordinal, row.place, row.launches) for row in rows] == [(3, 7, 2), (4, 1, 2)]
    assert {(row.region, row.zone, row.ssh_port) for row in rows} == {
        ("us-west-2", "us-west-2c", 2222)
    }


def test_an_expiry_is_renewed(journal: Journal) -> None:
    """For the instances that it was renewed for; it may be taken away altogether."""
    soon, later = (datetime(2030, 1, day, tzinfo=UTC) for day in (1, 2))
    journal.intend(token="t1", expires=soon, **LAUNCH)
    journal.answered("t1", ["i-a", "i-b", "i-c"])

    journal.renewed(["i-b"], later)
    journal.renewed(["i-c"], None)

    assert [row.expires for row in journal.alive()] == [soon, later, None]


def test_clouds_that_count_have_the_same_ids(journal: Journal) -> None:
    """What is written of an instance is written of no other cloud's."""
    journal.intend(token="t1", **LAUNCH)
    journal.intend(token="t2", **{**LAUNCH, "endpoint": "https://other"})
    journal.answered("t1", ["i-00000001"])
    journal.answered("t2", ["i-00000001"])

    journal.saw_all({"i-00000001": "ready"}, endpoint=LAUNCH["endpoint"])
    journal.ending(["i-00000001"], endpoint="https://me:secret@other")
    assert [row.state for row in journal.alive()] == ["ready", "terminating"]

    journal.ended(["i-00000001"], endpoint=LAUNCH["endpoint"])
    assert [row.token for row in journal.alive()] == ["t2"]
    assert journal.over(["t1", "t2", "t3"]) == {"t1"}


def test_an_address_is_held_until_it_is_released(journal: Journal, home: Home) -> None:
    """It is there from before it is asked for, with what tells it from those of others."""
    facts = {"experiment": "x", "cloud": "OpenStack", "endpoint": "http://c", "region": "r"}
    journal.wanting_address("k1", others=["192.0.2.1"], **facts)
    journal.wanting_address("k2", **{**facts, "experiment": "y"})
    unsure, _ = journal.addresses()
    journal.took_address("k1", "192.0.2.9", "eipalloc-1")

    (taken,) = journal.addresses("x")
    assert (unsure.ip, unsure.taken_at, unsure.others) == ("", None, ("192.0.2.1",))
    assert (taken.ip, taken.allocation, taken.owner) == ("192.0.2.9", "eipalloc-1", home.account_id)
    assert taken.taken_at is not None

    journal.released_address("k1")
    assert [one.key for one in journal.addresses()] == ["k2"]


def test_a_token_is_used_once(journal: Journal) -> None:
    """Two launches of one token could not be told apart."""
    journal.intend(token="t1", **LAUNCH)

    with pytest.raises(InvalidArgument, match="used before"):
        journal.intend(token="t1", **LAUNCH)


def test_an_answer_to_nothing_is_an_error(journal: Journal) -> None:
    """Somebody took the launch out of the journal: what it started has to be heard of."""
    with pytest.raises(HomeError, match=r"has lost the launch t1.*i-a"):
        journal.answered("t1", ["i-a"])
    assert ids(journal) == []


@pytest.mark.parametrize(
    "given", ["https://me:secret@cloud:8773/x", "https://a:s@cret@cloud:8773/x"]
)
def test_a_password_in_an_endpoint_is_left_out(journal: Journal, given: str) -> None:
    """Never a secret in the journal, whatever it is written for."""
    journal.intend(token="t1", **{**LAUNCH, "endpoint": given})
    journal.wanting_address("k1", experiment="x", cloud="c", endpoint=given)

    assert journal.alive()[0].endpoint == "https://cloud:8773/x"
    assert journal.addresses()[0].endpoint == "https://cloud:8773/x"


def test_it_is_there_for_the_next_process(home: Home, journal: Journal) -> None:
    """While it is open, and after it was closed; to close it twice does nothing."""
    journal.intend(token="t1", **LAUNCH)
    second = Journal.open(home)
    assert ids(second) == ["[t1]"]
    second.close()
    journal.close()
    journal.close()

    third = Journal.open(home)
    assert ids(third) == ["[t1]"]
    third.close()


def test_an_intent_survives_its_killed_writer(home: Home) -> None:
    """After kill -9 between the question and the answer: the next process knows what was asked."""
    script = """
journal = Journal.open(Home.open(sys.argv[1]))
journal.intend(token="t1", experiment="x", cloud="c", image_id="i", instance_type="t",
               count=2, first=0)
go()
"""
    with companion(script, home.path) as writer:
        assert writer.heard() == "ready"
        writer.kill()

    journal = Journal.open(home)
    assert [(row.token, row.pid, row.answered_at) for row in journal.alive()] == [
        ("t1", writer.pid, None)
    ]
    journal.close()


def test_two_processes_write_at_once(home: Home) -> None:
    """Neither is refused, and neither loses anything."""
    script = """
journal, who = Journal.open(Home.open(sys.argv[1])), sys.argv[2]
go()
for number in range(100):
    token = f"{who}{number:02}"
    journal.intend(token=token, experiment=who, cloud="c", image_id="i", instance_type="t",
                   count=1, first=number)
    journal.answered(token, [f"i-{token}"])
    journal.saw(f"i-{token}", "running")
    if number % 2:
        journal.ending([f"i-{token}"])
        journal.ended([f"i-{token}"])
journal.close()
"""
    together(script, [[home.path, who] for who in "ab"])

    journal = Journal.open(home)
    assert sorted(ids(journal)) == [f"i-{who}{n:02}" for who in "ab" for n in range(0, 100, 2)]
    assert {row.state for row in journal.alive()} == {"running"}
    journal.close()


def test_several_threads_share_one(journal: Journal) -> None:
    """They take turns."""

    def write(who: str) -> None:
        for number in range(25):
            journal.intend(token=f"{who}{number}", **LAUNCH)
            journal.answered(f"{who}{number}", [f"i-{who}{number}"])

    threads = [threading.Thread(target=write, args=(who,)) for who in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids(journal)) == 100


def test_half_a_change_is_none(journal: Journal) -> None:
    """What fails in the middle leaves no trace, and the journal usable."""
    journal.intend(token="t1", **LAUNCH)

    with pytest.raises(HomeError):
        journal.answered("t1", ["i-a", None])  # type: ignore[list-item] # what SQLite refuses
    assert ids(journal) == ["[t1]"]

    journal.answered("t1", ["i-a"])
    assert ids(journal) == ["i-a"]
