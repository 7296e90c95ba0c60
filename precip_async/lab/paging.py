"""Filters, and pages of what passes them."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
import re
from typing import TYPE_CHECKING, Final, TypeVar

from precip_async.lab.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from precip_async.lab.parameters import Parameters

    Column = Callable[["Thing"], Collection[str]]

__all__ = ["filtered", "page"]

Thing = TypeVar("Thing")

LEAST: Final = 5  # §6 "DescribeInstances": MaxResults 5..1000
MOST: Final = 1000


def filtered(
    things: Iterable[Thing],
    p: Parameters,
    columns: Mapping[str, Column[Thing]],
    tags: Callable[[Thing], Mapping[str, str]],
    *,
    honoured: str = "all",
) -> list[Thing]:
    """Those of `things` that pass the request's filters.

    Args:
        things: All of them.
        p: The request's parameters.
        columns: What each filter looks at.
        tags: The tags of a thing.
        honoured: Which filters count: all, those by tags, or none.

    Raises:
        Refusal: A filter isn't known.
    """
    left = list(things)
    for one in p.parts("Filter") if honoured != "none" else ():
        name, values = one.required("Name"), one.texts("Value")
        column = _column(name, columns, tags)
        if honoured == "tags" and not name.startswith("tag"):
            continue  # §0 "Filters": "other names silently ignored"
        if column is None:
            raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid", subject=name)
        wanted = re.compile("|".join(_pattern(value) for value in values) or r"(?!)")
        left = [thing for thing in left if any(map(wanted.fullmatch, column(thing)))]
    return left


def page(
    things: Sequence[Thing],
    p: Parameters,
    identity: Callable[[Thing], str],
    *,
    clamps: bool = False,
) -> tuple[list[Thing], str | None]:
    """The page that the request asks for, of things in the order of their identities.

    Args:
        things: All of them, in that order.
        p: The request's parameters.
        identity: What a page is said to end with.
        clamps: Whether a page of more than can be is one of as many as can be.

    Returns:
        The page, and the token of the next; ``None`` where there is none.

    Raises:
        Refusal: The size or the token can't be.
    """
    size = p.whole("MaxResults", 0)
    if clamps:
        size = min(size, MOST)
    after = _read_token(p.text("NextToken"))
    if "MaxResults" in p and not LEAST <= size <= MOST:
        raise Refusal(
            "InvalidParameterValue",
            f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value greater than"
            f" {LEAST} and less than {MOST}.",
        )
    left = [thing for thing in things if identity(thing) > after]
    if not size or len(left) <= size:
        return left, None
    return left[:size], _token(identity(left[size - 1]))


def _column(
    name: str,
    columns: Mapping[str, Column[Thing]],
    tags: Callable[[Thing], Mapping[str, str]],
) -> Column[Thing] | None:
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        return lambda thing: [tags(thing)[key]] if key in tags(thing) else []
    if name == "tag-key":
        return lambda thing: tags(thing).keys()
    if name == "tag-value":
        return lambda thing: list(tags(thing).values())
    return columns.get(name)


def _pattern(value: str) -> str:
    # Of fnmatch's special characters only * and ? are EC2's.
    return fnmatch.translate(value.replace("[", "[[]"))


def _token(after: str) -> str:
    return base64.urlsafe_b64encode(json.dumps({"after": after}).encode()).decode()


def _read_token(token: str) -> str:
    try:
        return str(json.loads(base64.urlsafe_b64decode(token))["after"]) if token else ""
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise Refusal("InvalidNextToken", "The token is invalid.") from error
