"""What a client has to do differently in each of the lab's clouds, as the facts have it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from tests.lab.clients import OPEN_ROOT, PLAIN, lab_and_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from precip_async.lab.lab import Lab
    from precip_async.lab.scenario import Scenario

__all__ = ["COLUMNS", "RSA", "Column", "column_of", "columns", "opened_in"]

RSA = asyncssh.generate_private_key("ssh-rsa", key_size=2048)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One cloud, as a client sees it."""

    name: str
    image: str
    signature: str = "v4"
    elastic: bool = False
    groups: str = "names"
    flat: bool = False
    dead: str = "gone"  # what becomes of terminated instances: "gone", "omitted", or "terminated"

    def __str__(self) -> str:
        return self.name


COLUMNS = (
    Column(name="amazon", image="ami-8a1e92ba", groups="ids", dead="terminated"),
    Column(name="nova-essex", image="ami-0000004c", signature="v2", elastic=True, dead="omitted"),
    Column(name="nova-havana", image="ami-0000004c", signature="v2", elastic=True),
    Column(name="nova-kilo", image="ami-0000004c", elastic=True),
    Column(name="ec2-api", image="ami-0000004c", elastic=True),
    Column(name="eucalyptus-3", image="emi-77373D4C", signature="v2", flat=True, dead="terminated"),
    Column(name="eucalyptus-4", image="emi-77373d4c", groups="ids", dead="terminated"),
    Column(name="nimbus", image="centos-5.7-x64.gz", signature="v2", groups="none", dead="omitted"),
)

columns = pytest.mark.parametrize("column", COLUMNS, ids=str)


def column_of(name: str) -> Column:
    """The column of this name."""
    return next(column for column in COLUMNS if column.name == name)


@asynccontextmanager
async def opened_in(
    column: Column, directory: Path, scenario: Scenario = PLAIN, **given: Any
) -> AsyncIterator[tuple[Lab, Any, dict[str, Any]]]:
    """A lab, a client, and what a launch is to be given for our RSA key to be let in as root."""
    signing = {"signature": column.signature}
    async with lab_and_client(
        directory, scenario, dialect=column.name, signing=signing, **given
    ) as (lab, client):
        material = RSA.export_public_key().strip()
        await client.import_key_pair(KeyName="mine", PublicKeyMaterial=material)
        launch: dict[str, Any] = {"ImageId": column.image, "KeyName": "mine"}
        if column.groups != "none":
            made = await client.create_security_group(GroupName="open", Description="for tests")
            flat = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
            ranges = [{"CidrIp": "0.0.0.0/0"}]
            rule: dict[str, Any] = (
                {**flat, "CidrIp": "0.0.0.0/0"}
                if column.flat
                else {"IpPermissions": [{**flat, "IpRanges": ranges}]}
            )
            if column.groups == "ids":
                launch["SecurityGroupIds"] = [made["GroupId"]]
                await client.authorize_security_group_ingress(GroupId=made["GroupId"], **rule)
            else:
                launch["SecurityGroups"] = ["open"]
                await client.authorize_security_group_ingress(GroupName="open", **rule)
            launch["UserData"] = OPEN_ROOT
        yield lab, client, launch
