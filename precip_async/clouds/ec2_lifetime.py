"""Instances that end by themselves: on which clouds they can, and what the cloud is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precip_async.clouds.ec2_calls import BRIEF
from precip_async.clouds.ec2_documents import truth_of
from precip_async.clouds.ec2_wire import MARK, expiry
from precip_async.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from precip_async.clouds.dialects import Dialect
    from precip_async.clouds.ec2_calls import Calls

__all__ = ["check_lifetime", "mark_expiry"]


def check_lifetime(lifetime: float | None, *dialects: Dialect) -> None:
    """Raise `InvalidArgument` where there is a lifetime, and none of `dialects` can keep to it."""
    if lifetime is None or any(one.ends_off and one.cloud_init for one in dialects):
        return
    first = dialects[0]
    why = "an instance that powers itself off is only stopped there, and may cost all the same"
    if not first.cloud_init:
        why = "its images read no user data that could have them end"
    raise InvalidArgument(
        f"max_lifetime: instances of this {first.title} ({first.name}) can't end by themselves: "
        f"{why}; leave it out, and see `precip reap` for what a script leaves behind"
    )


async def mark_expiry(calls: Calls, ids: Sequence[str], expires: datetime) -> None:
    """Rewrite the one mark of instances that is ever rewritten, where they have marks.

    Raises:
        CloudError: The cloud did not take note.
    """
    dialect = calls.dialect
    if not dialect.can("CreateTags") or not (dialect.mark == "tags" or dialect.tags_after):
        return  # the journal alone knows
    parameters = {
        "Resources": [*ids],
        "Tags": [{"Key": f"{MARK}expires", "Value": expiry(expires)}],
    }
    await calls.ask("CreateTags", parameters, truth_of, patience=BRIEF)
