"""What each cloud does, as the lab does it: one row a cloud, all of it from what is known of them.

``§`` names a section of the collection of facts about EC2 dialects (clouds.md) that a value is
taken from; ``[K]`` marks what that collection has no source for. The client has a table of its own,
and neither is made from the other: a mistake would have to be made twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from precip_async.lab.accepted import AMAZON_ACTIONS
from precip_async.lab.answers import AMAZON_ANSWERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from precip_async.lab.accepted import Accepted
    from precip_async.lab.answers import Answer

__all__ = ["DIALECTS", "Dialect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One cloud's ways. The defaults are Amazon's.

    Attributes:
        name: What the lab is told to be.
        paths: Where it answers.
        tls_only: Whether it speaks https alone.
        signatures: The versions of signatures that it reads.
        scoped: Whether a version 4 signature must be for its region.
        oldest: Seconds that a signature is valid.
        newest: Seconds that it may be ahead; ``None``: any.
        late_html: Whether a signature out of time is refused by a page of HTML.
        actions: What it can do, and the parameters that each action takes.
        unknown: What it does with other parameters: refuse the request, ignore them, or break.
        breaks_on: Actions that break on them although others ignore them.
        coerces: See `parameters.Parameters`.
        answers: What it calls a situation that Amazon calls otherwise.
        one_status: The HTTP status of all refusals; ``None``: each has its own.
        error_code: ``"action"``: the code of every refusal is the name of the action's message.
        error_type: The content type of refusals.
        request_ids: Whether replies carry the request's id.
        ids: How ids are made: 17 or 8 hexadecimal digits drawn at random (``"long"``,
            ``"short"``), in upper case, counted; ``"short36"`` has reservations of 36 characters'
            choice.
        image: What ids of images look like: a regular expression.
        missing: What describing an instance does that isn't there: the call fails, or leaves it
            out.
        eventually: Whether an instance may be unknown for a moment after its launch.
        keeps_dead: Whether terminated instances are shown, for an hour.
        buries: Whether terminating a terminated instance removes it.
        deleting_state: What an instance is said to be while it is being ended.
        token: What a launch's client token does: ``"checked"`` (idempotent, and another request
            with it is refused), ``"honoured"`` (idempotent), ``"ignored"``.
        token_ends: Whether a token is free again once its instances are terminated.
        pages: ``"full"``: by ``MaxResults``; ``"ignored"``: everything at once.
        filters: Which filters work: ``"all"``, ``"tags"`` (others are ignored), ``"none"``.
        run_tags: Whether a launch takes tags.
        tag_value: Characters of a tag's value.
        groups: What groups are known by: ``"ids"``, ``"names"``, or there are ``"none"``.
        rules: How rules are given: in the ``"nested"`` form, ``"flat"``, or ``"both"``.
        duplicate_rule: ``"refused"``, or answered with ``"false"``.
        key_types: The keys that can be imported; empty: whatever it is.
        key_overwritten: Whether importing a key's name again replaces it.
        missing_key: What describing a key that isn't there does: ``"refused"``, ``"omitted"``.
        delete_missing_key: What deleting it answers.
        addresses: ``"auto"``: instances have public addresses; ``"elastic"``: they are associated.
        max_addresses: How many elastic addresses there are to be had.
        addressed: When an instance is said to have addresses: once ``"running"``, or from its
            ``"launch"``.
        failed_boot: What an instance is whose boot failed: ``"terminated"`` or ``"error"``.
        counts: How many are launched: as many as possible up to ``MaxCount`` (``"most"``), or
            ``MinCount``, all or none (``"least"``).
        capacity: What a full cloud does: ``"refuses"`` the launch or ``"fails"`` the instances.
        user_data: Bytes of user data, decoded.
        root_image: Whether images let root in by themselves.
        buckets: Whether calls are counted against token buckets.
    """

    name: str
    paths: tuple[str, ...] = ("/",)
    tls_only: bool = False
    signatures: tuple[int, ...] = (4,)  # §0: version 2 with Amazon is [K] "avoid"
    scoped: bool = True
    oldest: float = 900.0
    newest: float | None = 900.0
    late_html: bool = False
    actions: Mapping[str, Accepted] = field(default_factory=dict)
    unknown: Literal["refuse", "ignore", "break"] = "refuse"
    breaks_on: tuple[str, ...] = ()
    coerces: bool = False
    answers: Mapping[str, Answer] = field(default_factory=dict)
    one_status: int | None = None
    error_code: Literal["own", "action"] = "own"
    error_type: str = "text/xml;charset=UTF-8"
    request_ids: bool = True
    ids: Literal["long", "short", "short36", "upper", "counter"] = "long"
    image: str = r"ami-[0-9a-f]{8}([0-9a-f]{9})?"
    missing: Literal["refused", "omitted"] = "refused"
    eventually: bool = False
    keeps_dead: bool = True
    buries: bool = False
    deleting_state: Literal["shutting-down", "running"] = "shutting-down"
    token: Literal["checked", "honoured", "ignored"] = "checked"  # noqa: S105 - no secret
    token_ends: bool = False
    pages: Literal["full", "ignored"] = "full"
    filters: Literal["all", "tags", "none"] = "all"
    run_tags: bool = True
    tag_value: int = 256  # §6 "tags"
    groups: Literal["ids", "names", "none"] = "ids"
    rules: Literal["nested", "flat", "both"] = "both"
    duplicate_rule: Literal["refused", "false"] = "refused"
    key_types: tuple[str, ...] = ("ssh-rsa", "ssh-ed25519")
    key_overwritten: bool = False
    missing_key: Literal["refused", "omitted"] = "refused"
    delete_missing_key: bool = True
    addresses: Literal["auto", "elastic"] = "auto"
    max_addresses: int = 5  # [K]: Amazon's, for who has not asked for more
    addressed: Literal["running", "launch"] = "running"
    failed_boot: Literal["terminated", "error"] = "terminated"
    counts: Literal["most", "least"] = "most"
    capacity: Literal["refuses", "fails"] = "refuses"
    user_data: int = 16_384
    root_image: bool = False
    buckets: bool = False


_ROWS: Final = (
    Dialect(
        name="amazon",
        actions=AMAZON_ACTIONS,
        answers=AMAZON_ANSWERS,
        eventually=True,  # §6 "eventual consistency"
        buckets=True,  # §6 "request buckets", "resource buckets"
    ),
)

#: All clouds that the lab can be, by name.
DIALECTS: Final[Mapping[str, Dialect]] = {row.name: row for row in _ROWS}
