"""What instances say as they boot, where a cloud that speaks EC2 shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from precip_async.clouds.ec2_calls import BRIEF
from precip_async.clouds.ec2_documents import console_of
from precip_async.errors import CloudError

if TYPE_CHECKING:
    from precip_async.clouds.ec2_calls import Calls

__all__ = ["console"]


async def console(calls: Calls, instance_id: str) -> str:
    """The end of an instance's console output; empty where the cloud has none.

    Raises:
        CloudError: The cloud does not say.
    """
    if not calls.dialect.can("GetConsoleOutput"):
        return ""
    wanted = {"InstanceId": instance_id}
    if "Latest" in calls.dialect.accepts["GetConsoleOutput"]:
        try:
            latest = {**wanted, "Latest": True}
            return await calls.ask("GetConsoleOutput", latest, console_of, patience=BRIEF)
        except CloudError as error:  # only some types have it (section 6, "host keys")
            if error.code not in ("UnsupportedOperation", "InvalidParameterValue"):
                raise
    return await calls.ask("GetConsoleOutput", wanted, console_of, patience=BRIEF)
