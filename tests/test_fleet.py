"""Instances and their tags: who bears what, and how tags select."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precip_async.errors import InvalidArgument
from precip_async.fleet import BootDiagnosis, Instance, State, checked_tags, select

NOW = datetime(2024, 1, 1, tzinfo=UTC)
words = st.text("abcdefg", min_size=1, max_size=2)


def instance(index: int = 0, *tags: str, **facts: Any) -> Instance:
    """The instance at `index` with `tags`, still pending but for the `facts` given."""
    known: dict[str, Any] = {
        "id": f"i-{index}",
        "index": index,
        "image_id": "local",
        "instance_type": "m1.small",
        "launched_at": NOW,
        "user_tags": tags,
    }
    return Instance(**(known | facts))


def test_an_instance_bears_its_own_tags_and_the_users() -> None:
    """While it boots: `precip`, its id, and the user's tags in the order given."""
    assert instance(0, "worker", "big").tags == ("precip", "i-0", "worker", "big")


def test_a_ready_instance_bears_its_address() -> None:
    """Once ready it can be selected by its public address as well, as in 2012."""
    one = instance(0, public_address="127.0.0.5")
    assert "127.0.0.5" not in one.tags

    one.state, one.ready_at = "ready", NOW

    assert one.tags == ("precip", "i-0", "127.0.0.5")


def test_a_replaced_instance_bears_its_new_id() -> None:
    """The handle of a replaced instance is selected by the new id, and no longer by the old."""
    one = instance(0, "worker")
    one.id = "i-new"

    assert one.bears(["i-new", "worker"])
    assert not one.bears(["i-0"])


@pytest.mark.parametrize("state", get_args(State))
def test_only_ending_takes_an_instance_out_of_the_experiment(state: State) -> None:
    """An instance is the experiment's until its end has begun, also one that failed."""
    one = instance(0, state=state)

    assert one.alive == (state not in {"terminating", "terminated"})
    assert bool(select([one], None)) == one.alive


@pytest.mark.parametrize("everything", [None, [], (), "precip", ["precip"]], ids=repr)
def test_no_tags_and_the_common_one_mean_all(everything: Any) -> None:
    """No tags at all select every instance, and so does the tag that all bear."""
    fleet = [instance(0, "a"), instance(1)]

    assert select(fleet, everything) == fleet


def test_one_string_is_one_tag() -> None:
    """A string is a tag, not its letters."""
    fleet = [instance(0, "master"), instance(1, "m", "a", "s", "t", "e", "r")]

    assert select(fleet, "master") == fleet[:1]


@given(
    st.lists(st.lists(words, max_size=4), max_size=8),
    st.lists(words, max_size=3),
)
def test_an_instance_matches_when_it_bears_all_tags(
    given_tags: list[list[str]], wanted: list[str]
) -> None:
    """Selected are those with every wanted tag, and they come in provisioning order."""
    fleet = [instance(index, *tags) for index, tags in enumerate(given_tags)]

    expected = [index for index, tags in enumerate(given_tags) if set(wanted) <= set(tags)]

    assert [one.index for one in select(fleet, wanted)] == expected


@given(st.lists(words, max_size=6))
def test_checked_tags_keep_their_order_and_lose_their_doubles(tags: list[str]) -> None:
    """Each tag is there once, where it was first, and checking again changes nothing."""
    checked = checked_tags(tags)

    assert set(checked) == set(tags)
    assert len(checked) == len(set(tags))
    assert list(checked) == sorted(set(tags), key=tags.index)
    assert checked_tags(checked) == checked


@pytest.mark.parametrize("tags", ["a b", "größe", "x=1/2", "emoji 🙂"])
def test_a_printable_string_is_a_tag(tags: str) -> None:
    """Spaces and any script do."""
    assert checked_tags(tags) == (tags,)


@pytest.mark.parametrize(
    "tags",
    ["", " ", [""], ["ok", "\t"], ["a\nb"], ["\x1b[31m"], [None], [1], [b"x"], [["a"]]],
    ids=repr,
)
def test_what_is_no_tag_is_refused(tags: Any) -> None:
    """Empty, unprintable and non-string tags are refused; the message shows the culprit."""
    culprit = tags if isinstance(tags, str) else tags[-1]
    with pytest.raises(InvalidArgument) as refused:
        checked_tags(tags)

    assert repr(culprit) in str(refused.value)


@pytest.mark.parametrize(
    "tags", [1, {"a"}, {"a": 1}, b"a", iter("ab")], ids=lambda tags: type(tags).__name__
)
def test_what_is_no_list_of_tags_is_refused(tags: Any) -> None:
    """Tags are a list or one string; a set has no order, and a number is a mistake."""
    with pytest.raises(InvalidArgument, match="a list of strings or one string"):
        checked_tags(tags)


def test_a_diagnosis_says_what_was_seen_and_what_to_do() -> None:
    """A diagnosis is one sentence, with the end of the console below it where there is one."""
    bare = BootDiagnosis(stage="pending", seen="no address")
    whole = BootDiagnosis(
        stage="addressed", seen="refused", advice="wait", console="\nbooting\npanic\n"
    )

    assert str(bare) == "no address"
    assert str(whole) == "refused; wait\n    its console ends: booting\n    | panic"


def test_two_instances_are_never_equal() -> None:
    """A handle is itself: two of the same facts are two machines, and each can be a key."""
    one, other = instance(), instance()

    assert one != other
    assert len({one, other}) == 2
