"""Tags: reading them from a request, and what may be one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from precip_async.lab.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from precip_async.lab.dialects import Dialect
    from precip_async.lab.parameters import Parameters

__all__ = ["MAX_TAGS", "read_specifications", "read_tags", "tag_set"]

MAX_TAGS: Final = 50  # a resource; §6 "tags"
MAX_KEY: Final = 127  # the stricter of the two figures in §6; §3 and §4 have the same
RESERVED: Final = ("aws:", "euca:")  # §4 "Ids"


def read_specifications(
    p: Parameters, dialect: Dialect, kind: str, *, also: tuple[str, ...] = ()
) -> dict[str, str]:
    """The tags that a request gives what it makes.

    Args:
        p: Its parameters.
        dialect: What the cloud allows.
        kind: What it makes.
        also: What it makes beside that, whose tags nobody asks for.

    Raises:
        Refusal: They can't be.
    """
    tags: dict[str, str] = {}
    for specification in p.parts("TagSpecification"):
        wanted = specification.required("ResourceType")
        if wanted not in (kind, *also):
            raise Refusal(
                "InvalidParameterValue",
                f"'{wanted}' is not a valid taggable resource type for this operation.",
            )
        read = read_tags(specification.parts("Tag"), dialect)
        if wanted == kind:
            tags |= read
    return tags


def read_tags(listed: Iterable[Parameters], dialect: Dialect) -> dict[str, str]:
    """The tags of a list.

    Raises:
        Refusal: They can't be.
    """
    tags: dict[str, str] = {}
    for one in listed:
        key, value = one.required("Key"), one.text("Value")
        if key in tags:
            raise Refusal("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
        if len(key) > MAX_KEY or len(value) > dialect.tag_value:
            raise Refusal("InvalidParameterValue", f"Tag key or value of '{key[:40]}' is too long.")
        if key.lower().startswith(RESERVED):
            raise Refusal(
                "InvalidParameterValue",
                f"Tag keys starting with {' and '.join(map(repr, RESERVED))} are reserved",
            )
        tags[key] = value
    if len(tags) > MAX_TAGS:
        raise Refusal(
            "TagLimitExceeded", f"The maximum number of tags for a resource is {MAX_TAGS}"
        )
    return tags


def tag_set(tags: dict[str, str]) -> list[dict[str, str]] | None:
    """Tags as replies have them; ``None`` for none."""
    return [{"key": key, "value": value} for key, value in tags.items()] or None
