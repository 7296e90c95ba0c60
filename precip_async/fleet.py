"""The instances of an experiment: what is known of each, and how tags select among them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from precip_async.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

__all__ = [
    "OWN_TAG",
    "BootDiagnosis",
    "Instance",
    "State",
    "Tags",
    "checked_tags",
    "select",
    "tail_of",
]

OWN_TAG = "precip"  # every instance bears it, as in 2012

State = Literal[
    "pending", "running", "addressed", "reachable", "ready", "failed", "terminating", "terminated"
]
Tags = str | list[str] | tuple[str, ...] | None


_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # of terminals: colours, above all


def tail_of(console: str, length: int) -> str:
    """The last `length` characters of a console, with nothing in it that a terminal would obey."""
    text = _SEQUENCE.sub("", console[-2 * length :]).replace("\r\n", "\n").expandtabs()
    shown = (
        one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text
    )
    return "".join(shown)[-length:]


@dataclass(frozen=True, slots=True, kw_only=True)
class BootDiagnosis:
    """Why an instance is not ready yet, or will never be.

    Attributes:
        stage: How far it came: the state it was in.
        seen: What was last seen of it.
        advice: What to do next.
        console: The end of its console output where the cloud gives one.
    """

    stage: State
    seen: str
    advice: str = ""
    console: str = ""

    def __str__(self) -> str:
        text = f"{self.seen}; {self.advice}" if self.advice else self.seen
        if self.console:
            text += "\n    its console ends: " + self.console.strip().replace("\n", "\n    | ")
        return text


@dataclass(eq=False, slots=True, kw_only=True)
class Instance:
    """One instance of an experiment: a live handle, kept up to date by the experiment.

    The handle outlives the machine: when one that failed to boot is replaced, the handle keeps
    its index, its tags and its place, and takes the new machine's id.

    Attributes:
        id: The cloud's id of the machine it stands for now.
        index: Its place in the experiment, from 0, in provisioning order.
        user_tags: The tags it was provisioned with.
        state: How far it is; ``ready`` means that commands run on it.
        public_address: Where we reach it, once the cloud has said; with ``address="private"`` too.
        private_address: Where the other instances reach it.
        image_id: The image it was launched from.
        instance_type: The type it was launched as.
        launched_at: When its (latest) launch was asked for, an aware UTC time.
        ready_at: When it became ready, likewise.
        expires_at: When it ends by itself, likewise; ``None``: never.
        launches: Launches so far; over 1 when it had to be replaced.
        diagnosis: What stands between it and being ready.
        isolation: How an instance on this machine is kept apart from it; empty elsewhere.
        ssh_port: The port its SSH server listens at.
    """

    id: str
    index: int
    image_id: str
    instance_type: str
    launched_at: datetime
    user_tags: tuple[str, ...] = ()
    state: State = "pending"
    public_address: str | None = None
    private_address: str | None = None
    ready_at: datetime | None = None
    expires_at: datetime | None = None
    launches: int = 1
    diagnosis: BootDiagnosis | None = None
    isolation: str = ""
    ssh_port: int = 22
    host_keys: tuple[str, ...] = field(default=(), repr=False)

    @property
    def tags(self) -> tuple[str, ...]:
        """``"precip"``, its id, the user's tags and, once it is ready, its public address."""
        own = (OWN_TAG, self.id, *self.user_tags)
        if self.ready_at is not None and self.public_address:
            own += (self.public_address,)
        return own

    def bears(self, tags: Iterable[str]) -> bool:
        """Whether it bears all of `tags`; true of no tags at all."""
        return set(tags).issubset(self.tags)

    @property
    def alive(self) -> bool:
        """Whether it is still the experiment's: neither ended nor being ended."""
        return self.state not in ("terminating", "terminated")


def checked_tags(tags: Tags) -> tuple[str, ...]:
    """`tags` as a tuple: one string is one tag, ``None`` is none.

    Raises:
        InvalidArgument: A tag is not a string, is empty, or holds a control character.
    """
    given = (tags,) if isinstance(tags, str) else () if tags is None else tags
    if not isinstance(given, list | tuple):
        raise InvalidArgument(f"tags must be a list of strings or one string, not {tags!r}")
    for tag in given:
        if not isinstance(tag, str) or not tag.strip() or not tag.isprintable():
            raise InvalidArgument(
                f"a tag must be a string with something printable in it, not {tag!r}"
            )
    return tuple(dict.fromkeys(given))


def select(instances: Iterable[Instance], tags: Tags, *, ending: bool = False) -> list[Instance]:
    """Those of `instances` that are alive and bear all of `tags`, in provisioning order.

    Args:
        instances: Of which.
        tags: Which.
        ending: Also those whose end was asked for and is not confirmed.

    Raises:
        InvalidArgument: See `checked_tags`.
    """
    wanted = checked_tags(tags)
    return [
        instance
        for instance in instances
        if (instance.alive or (ending and instance.state == "terminating"))
        and instance.bears(wanted)
    ]
