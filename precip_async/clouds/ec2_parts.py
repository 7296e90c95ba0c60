"""What an open cloud that speaks EC2 stands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from precip_async.clouds.ec2_wire import machine_of

if TYPE_CHECKING:
    from precip_async.clouds.base import Access
    from precip_async.clouds.ec2_addresses import Addresses
    from precip_async.clouds.ec2_calls import Calls
    from precip_async.clouds.ec2_documents import Seen
    from precip_async.clouds.ec2_groups import Groups
    from precip_async.clouds.ec2_keys import Keys
    from precip_async.clouds.ec2_launch import Launches
    from precip_async.clouds.ec2_roster import Roster

__all__ = ["Parts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts, each of which knows those that it needs; `addresses` only where they are given."""

    access: Access
    calls: Calls
    keys: Keys
    groups: Groups
    roster: Roster
    launches: Launches
    addresses: Addresses | None

    async def release(self) -> None:
        """Give back addresses and key pairs.

        Raises:
            CloudError: Some can't be.
        """
        try:
            if self.addresses is not None:
                await self.addresses.release()
        finally:
            await self.keys.release()

    def wants_address(self, seen: Seen) -> bool:
        """Whether an instance of ours runs, and has no public address by itself."""
        if not self.roster.is_ours(seen.id):
            return False
        machine = machine_of(self.calls.dialect, seen)
        # with a private address: the cloud has to know where an elastic one leads
        return bool(
            machine.state == "running" and machine.private_address and not machine.public_address
        )
