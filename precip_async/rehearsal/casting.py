"""Which of the lab's clouds plays what a script speaks to, and what stands in for its images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from precip_async.clouds.dialects import AMAZON, EUCALYPTUS, NIMBUS, OPENSTACK
from precip_async.errors import InvalidArgument
from precip_async.lab.dialects import DIALECTS

if TYPE_CHECKING:
    from precip_async.clouds.dialects import Dialect

__all__ = ["FAMILIES", "Role", "cast", "choices", "own_role"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Clouds of one make.

    Attributes:
        name: What ``--cloud`` calls it.
        spoken: What our client may find there, the newest first.
        played: The dialects of it that the lab plays. The first is the default: the oldest that the
            manual knew, which forgives least.
        image: The id of an image as they have it.
        kind: A type of instance that all of them have.
    """

    name: str
    spoken: tuple[Dialect, ...]
    played: tuple[str, ...]
    image: str
    kind: str = "m1.small"

    @property
    def title(self) -> str:
        """What its users call it."""
        return self.spoken[0].title


FAMILIES: Final = (
    Family(name="ec2", spoken=(AMAZON,), played=("amazon",), image="ami-0123456789abcdef0"),
    Family(
        name="openstack",
        spoken=OPENSTACK,
        played=("nova-essex", "nova-havana", "nova-kilo", "ec2-api"),
        image="ami-0000004c",
    ),
    Family(
        name="eucalyptus",
        spoken=EUCALYPTUS,
        played=("eucalyptus-3", "eucalyptus-4"),
        image="emi-77373d4c",
    ),
    Family(name="nimbus", spoken=(NIMBUS,), played=("nimbus",), image="centos-5.7-x64.gz"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A cloud that the lab plays: a dialect of a family."""

    family: Family
    dialect: str

    def image_for(self, image_id: str) -> str:
        """`image_id`, or what stands in for it where it can't be one of this cloud's."""
        fits = re.fullmatch(DIALECTS[self.dialect].image, image_id)
        return image_id if fits else self.family.image

    def kind_for(self, instance_type: str) -> str:
        """Likewise the type of an instance."""
        fits = re.fullmatch(DIALECTS[self.dialect].types, instance_type)
        return instance_type if fits else self.family.kind


def cast(name: str) -> Role:
    """The role that ``--cloud`` means by `name`: a family's default dialect, or one dialect.

    Raises:
        InvalidArgument: There is none of that name.
    """
    for family in FAMILIES:
        if name == family.name or name in family.played:
            return Role(family=family, dialect=family.played[0] if name == family.name else name)
    raise InvalidArgument(f"the lab plays {', '.join(choices())}, and not {name!r}")


def own_role(title: str) -> Role:
    """The role of the clouds that are called `title`."""
    return next(cast(family.name) for family in FAMILIES if family.title == title)


def choices() -> list[str]:
    """The names that `cast` knows: the families' first, then the other dialects'."""
    families = [family.name for family in FAMILIES]
    return list(dict.fromkeys([*families, *(one for family in FAMILIES for one in family.played)]))
