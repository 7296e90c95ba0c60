"""Which clouds are looked at, and with whose keys."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from precip_async.clouds.dialects import AMAZON, EUCALYPTUS, NIMBUS, OPENSTACK, Dialect
from precip_async.clouds.ec2 import EC2Cloud
from precip_async.clouds.ec2_endpoint import parse_endpoint, parse_region
from precip_async.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from precip_async.home.rows import AddressRow, Row

__all__ = ["FAMILIES", "Keys", "Target", "named_target", "targets_of"]

FAMILIES: Final[dict[str, tuple[Dialect, ...]]] = {
    "ec2": (AMAZON,),
    "openstack": OPENSTACK,
    "eucalyptus": EUCALYPTUS,
    "nimbus": (NIMBUS,),
}
# As the tools of these clouds have it, and the files that their dashboards hand out.
ACCESS, SECRET = "EC2_ACCESS_KEY", "EC2_SECRET_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Who asks; what is not given comes from the environment, on Amazon as AWS has it."""

    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    profile: str | None = None

    @property
    def given(self) -> bool:
        """Whether any were."""
        return self != Keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A cloud to be looked at.

    Attributes:
        family: A name in `FAMILIES`.
        url: Where it is spoken to; empty: where Amazon has the region.
        region: What requests are signed for; empty: what the dialect says.
    """

    family: str
    url: str
    region: str

    @property
    def title(self) -> str:
        """What the journal calls it."""
        return FAMILIES[self.family][0].title

    def cloud(self, keys: Keys, verify: bool | str | os.PathLike[str]) -> EC2Cloud:
        """The cloud.

        Raises:
            InvalidArgument: There are no keys for it, or they do not go together.
        """
        dialects = FAMILIES[self.family]
        access, secret = keys.access_key, keys.secret_key
        if self.family != "ec2" and access is None and secret is None:
            access, secret = os.environ.get(ACCESS), os.environ.get(SECRET)
            if not access or not secret:
                raise InvalidArgument(
                    f"there are no keys for {self.title} at {self.url}: set {ACCESS} and {SECRET}, "
                    f"and say --cloud {self.family} --endpoint {self.url} where there are several"
                )
        return EC2Cloud(
            dialect=dialects,
            endpoint=parse_endpoint(self.url, *dialects) if self.url else None,
            region=self.region or None,
            access_key=access,
            secret_key=secret,
            session_token=keys.session_token,
            profile=keys.profile if access is None else None,
            verify=verify if isinstance(verify, bool) else Path(verify),
        )


def targets_of(rows: Iterable[Row | AddressRow]) -> set[Target]:
    """The clouds that the journal names."""
    return {_target_of(row) for row in rows if _family_of(row) is not None}


def _target_of(row: Row | AddressRow) -> Target:
    url, _, region = row.endpoint.rpartition(" ")  # see `EC2Cloud.traits`
    return Target(family=_family_of(row) or "", url=url, region=row.region or region)


def _family_of(row: Row | AddressRow) -> str | None:
    return next((name for name, (one, *_) in FAMILIES.items() if one.title == row.cloud), None)


def named_target(
    family: str, endpoint: str | None, region: str | None, known: Iterable[Target]
) -> set[Target]:
    """The cloud that was named, or all of that name that the journal knows.

    Raises:
        InvalidArgument: It is not said where it is.
    """
    if family not in FAMILIES:
        choices = ", ".join([*FAMILIES, "local"])
        raise InvalidArgument(f"cloud must be one of {choices}, not {family!r}")
    name = region or ""
    if name and family == "ec2":
        name = parse_region(name)[0]
    if endpoint is not None:
        found = parse_endpoint(endpoint, *FAMILIES[family])
        region = name or found.region or FAMILIES[family][0].region
        return {Target(family=family, url=found.url, region=region)}
    if name and family == "ec2":
        same = {one for one in known if one.family == family and one.region == name}
        return same or {Target(family=family, url="", region=name)}
    if same := {one for one in known if one.family == family}:
        return same
    what = "its region or its endpoint" if family == "ec2" else "its endpoint"
    raise InvalidArgument(
        f"cloud {family!r}: say where it is, by {what}: the journal knows of none"
    )
