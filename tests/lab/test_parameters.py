"""Parameters: a tree of what was sent, and the refusal of what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precip_async.lab.parameters import MAX_PARAMETERS, Parameters
from precip_async.lab.refusals import Refusal


def parsed(*pairs: tuple[str, str], coerces: bool = False) -> Parameters:
    """A tree of pairs."""
    return Parameters.parse(pairs, coerces=coerces)


def refused(error: pytest.ExceptionInfo[Refusal]) -> str:
    """The code of a refusal."""
    return error.value.code


def test_lists_are_in_the_order_of_their_numbers() -> None:
    """Ten comes after two, whatever order they were sent in."""
    p = parsed(*((f"InstanceId.{n}", str(n)) for n in (10, 2, 1)))

    assert p.texts("InstanceId") == ["1", "2", "10"]


def test_where_values_are_coerced_lists_are_in_the_order_of_their_text() -> None:
    """Nova and ec2-api sort 10 before 2."""
    p = parsed(*((f"InstanceId.{n}", f"i{n}") for n in (10, 2, 1)), coerces=True)

    assert p.texts("InstanceId") == ["i1", "i10", "i2"]


@pytest.mark.parametrize("value", ["1", "0x1f", "1e5", "true", "None", "nan", "-inf", "1.5"])
def test_where_values_are_coerced_a_text_that_looks_like_a_number_breaks(value: str) -> None:
    """A key called 123 is fine with Amazon and a crash with nova."""
    assert parsed(("KeyName", value)).text("KeyName") == value
    with pytest.raises(Refusal) as error:
        parsed(("KeyName", value), coerces=True).text("KeyName")
    assert refused(error) == "crash"


@pytest.mark.parametrize("value", ["precip", "7d0e-4b", "10.0.0.1", "x1", "2011-01-01"])
def test_other_texts_are_left_alone(value: str) -> None:
    """Names, addresses and tokens with dashes survive coercion."""
    assert parsed(("KeyName", value), coerces=True).text("KeyName") == value


def test_structures_are_read_by_their_branches() -> None:
    """A list of structures with lists in them."""
    p = parsed(
        ("Filter.1.Name", "tag:a"),
        ("Filter.1.Value.1", "x"),
        ("Filter.1.Value.2", "y"),
        ("Filter.2.Name", "image-id"),
    )

    assert [(f.text("Name"), f.texts("Value")) for f in p.parts("Filter")] == [
        ("tag:a", ["x", "y"]),
        ("image-id", []),
    ]
    assert sorted(p.names()) == ["Filter.N.Name", "Filter.N.Name", *["Filter.N.Value.N"] * 2]


@pytest.mark.parametrize(
    "pairs",
    [
        [("A", "1"), ("A", "2")],
        [("A", "1"), ("A.B", "2")],
        [("A.B", "1"), ("A", "2")],
        [("A..B", "1")],
        [(".A", "1")],
        [("A.", "1")],
        [(".".join("A" * 100), "1")],
        [("A", "\x00")],
        [("A\x1b", "1")],
        [(f"A.{n}", "1") for n in range(MAX_PARAMETERS + 1)],
    ],
    ids=lambda pairs: repr(pairs[0])[:30],
)
def test_what_contradicts_itself_is_malformed(pairs: list[tuple[str, str]]) -> None:
    """Doubled, contradicting, empty, too deep, too many, or nothing that XML could carry."""
    with pytest.raises(Refusal) as error:
        Parameters.parse(pairs)
    assert refused(error) == "MalformedQueryString"


@pytest.mark.parametrize("value", ["", "x", "1.5", "9" * 30, "-"])
def test_a_number_has_to_be_one(value: str) -> None:
    """What isn't a whole number is refused, and so is none where one is needed."""
    with pytest.raises(Refusal):
        parsed(("MinCount", value)).whole("MinCount")


@given(st.dictionaries(st.text(max_size=30), st.text(max_size=10), max_size=20))
def test_anything_is_parsed_or_refused(pairs: dict[str, str]) -> None:
    """No names and values make it fall over, and what it takes it gives back."""
    try:
        p = Parameters.parse(pairs.items())
    except Refusal:
        return
    assert p.flat() == pairs


def test_only_what_is_taken_is_kept() -> None:
    """What a cloud ignores is not seen by what it does."""
    p = parsed(("InstanceId.1", "a"), ("TagSpecification.1.ResourceType", "x"), ("DryRun", "true"))

    assert p.only({"InstanceId.N"}.__contains__).flat() == {"InstanceId.1": "a"}
