"""Elastic addresses, on clouds whose instances are reached by no other.

Each is allocated for an instance of ours and released with it. A free address that we did not
allocate is somebody's who is about to use it; one of ours that has been given to another instance
has found a new owner. Neither is touched.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any, Final

import anyio

from precip_async.clouds.ec2_calls import BRIEF, PATIENT
from precip_async.clouds.ec2_documents import addresses_of, truth_of
from precip_async.clouds.ec2_errors import ReplyLost, ServerTrouble, is_worth_repeating
from precip_async.errors import CloudError, ExperimentException
from precip_async.steps import reached

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from precip_async.clouds.base import HeldAddress, Ledger
    from precip_async.clouds.ec2_calls import Calls
    from precip_async.clouds.ec2_documents import Address, Seen

__all__ = ["Addresses"]

AT_ONCE: Final = 4  # addresses that are being given at one time; a small cloud takes seconds each
PAUSE: Final = 10.0  # seconds before asking again, where there was none to be had
ALLOCATION: Final = 30.0  # seconds for the answer to an allocation, also when nobody waits any more

# Section 2, "Floating IP flow": disassociating what is not associated.
_LOOSE: Final = frozenset({"InvalidAssociationID.NotFound"})
_UNKNOWN: Final = frozenset({"InvalidAddress.NotFound", "InvalidAllocationID.NotFound"})


class Addresses:
    """The elastic addresses of one experiment.

    Args:
        calls: What is asked with.
        ledger: Is told of each before it is taken, and after.
    """

    def __init__(self, calls: Calls, ledger: Ledger) -> None:
        self._calls, self._ledger = calls, ledger
        self._ours: dict[str, Address] = {}  # by address: those that we allocated
        self._held: dict[str, str] = {}  # by address: the instance that we gave it to
        self._keys: dict[str, str] = {}  # by address: the ledger's key for it
        self._known: set[str] = set()  # addresses that were there before the first of ours
        self._there: list[str] = []  # those that were there when last looked
        self._unsure: set[str] = set()  # the ledger's keys of allocations whose answer was lost
        self._not_before = float("-inf")  # when allocating may be tried again
        self.trouble: dict[str, str] = {}  # by instance: why it has none

    async def provide(self, instances: Iterable[Seen]) -> dict[str, str]:
        """See that each of the running `instances` has an address.

        Returns:
            The address of each that has one, by instance id.

        Raises:
            CloudError: The cloud did not say who has which.
        """
        wanting = {seen.id: seen for seen in instances}
        if not wanting:
            return {}
        known = await self._describe()
        self._there = [address.ip for address in known]
        if not self._ours and not self._unsure:
            self._known = set(self._there)
        free = {address.ip for address in known if not address.instance}
        for ip in free & {*self._held}:
            del self._held[ip]  # giving it was refused, or its answer was lost
        given = {address.instance: address.ip for address in known if address.instance in wanting}
        limiter = anyio.Semaphore(AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for one in [seen for seen in wanting.values() if seen.id not in given]:
                if time.monotonic() < self._not_before:
                    break
                tasks.start_soon(self._give, one, given, limiter)
        return given

    async def _give(self, seen: Seen, given: dict[str, str], limiter: anyio.Semaphore) -> None:
        async with limiter:
            try:
                address = self._spare(seen) or await self._allocate(seen)
                await self._associate(address, seen)
            except ExperimentException as error:  # a later round tries again
                why = error.message if isinstance(error, CloudError) else str(error)
                self.trouble[seen.id] = f"it has no elastic address: {why}"
            else:
                given[seen.id] = address.ip
                self.trouble.pop(seen.id, None)

    def _spare(self, seen: Seen) -> Address | None:
        """One of ours that no instance holds: giving it was refused. From now on `seen` does."""
        spare = next((one for ip, one in self._ours.items() if ip not in self._held), None)
        if spare is not None:
            self._held[spare.ip] = seen.id
        return spare

    async def _allocate(self, seen: Seen) -> Address:
        parameters = {"Domain": "vpc"} if seen.vpc else {}
        # Not asked again when the answer is lost, and not left alone before it is there: each time
        # takes an address, for good.
        with anyio.move_on_after(ALLOCATION, shield=True):
            key = await self._ledger.wanting([*self._there, *self._ours])
            self._unsure.add(key)
            try:
                found = await self._calls.ask(
                    "AllocateAddress", parameters, addresses_of, repeat=False, patience=BRIEF
                )
            except CloudError as error:
                if not isinstance(error, ReplyLost | ServerTrouble):
                    self._unsure.discard(key)
                    await self._ledger.gave_back(key)
                if not is_worth_repeating(error):
                    self._not_before = time.monotonic() + PAUSE
                raise
            if found:
                self._unsure.discard(key)
                self._ours[found[0].ip], self._keys[found[0].ip] = found[0], key
                self._held[found[0].ip] = seen.id  # before anybody else can take it for a spare one
                await self._ledger.took(key, found[0].ip, found[0].allocation)
                reached("address.allocated")
                return found[0]
        raise self._calls.tell.invalid("AllocateAddress", "there is no address in the answer")

    async def _associate(self, address: Address, seen: Seen) -> None:
        parameters: dict[str, Any] = {"InstanceId": seen.id}
        # section 3, "Addresses": naming it the other way is an `InvalidParameterCombination`
        if address.allocation and seen.vpc:
            parameters["AllocationId"] = address.allocation
        else:
            parameters["PublicIp"] = address.ip
        await self._calls.ask("AssociateAddress", parameters, truth_of, patience=BRIEF)
        reached("address.given")

    async def adopt(self, addresses: Iterable[HeldAddress], ids: Collection[str]) -> None:
        """Take over what an earlier process took for the instances `ids`.

        One that is gone, or that somebody gave to another instance, is ours no more.

        Raises:
            CloudError: The cloud did not say who has which.
        """
        taken = {one.ip: one for one in addresses}
        if not taken:
            return
        now = {address.ip: address for address in await self._describe(PATIENT)}
        for ip, one in taken.items():
            self._keys[ip] = one.key
            address = now.get(ip)
            if address is None or address.instance not in ("", *ids):
                await self._forget(ip)
                continue
            self._ours[ip] = address
            if address.instance:
                self._held[ip] = address.instance

    async def ended(self, ids: Collection[str]) -> None:
        """Release the addresses of instances that have ended.

        Raises:
            CloudError: One can't be released; it is tried again in `release`.
        """
        await self._release([ip for ip, held in self._held.items() if held in ids])

    async def release(self) -> None:
        """Release all that is ours still.

        Raises:
            CloudError: Some can't be released; the message names them.
        """
        await self._release([*self._ours])
        if self._unsure:
            # One that appeared since may be ours; or somebody else's, and then it is not ours to
            # release.
            new = [one for one in await self._describe() if one.ip not in self._known]
            free = sorted(one.ip for one in new if not one.instance)
            while not free and self._unsure:  # then nothing was taken
                await self._ledger.gave_back(self._unsure.pop())
            if free:
                warnings.warn(
                    f"{len(self._unsure)} answer(s) to requests for an address were lost: of "
                    f"{', '.join(free)} as many may be left of this experiment; release those that "
                    "are nobody else's",
                    UserWarning,
                    stacklevel=2,
                )

    async def _release(self, ips: list[str]) -> None:
        if not ips:
            return
        now = {address.ip: address for address in await self._describe(PATIENT)}
        problems: dict[str, CloudError] = {}
        limiter = anyio.Semaphore(AT_ONCE)

        async def release(ip: str) -> None:
            async with limiter:
                try:
                    await self._release_one(ip, now.get(ip))
                except CloudError as error:
                    problems[ip] = error

        async with anyio.create_task_group() as tasks:
            for ip in ips:
                tasks.start_soon(release, ip)
        if problems:
            error = next(iter(problems.values()))
            raise self._calls.tell.invalid(
                "ReleaseAddress",
                f"still allocated: {', '.join(problems)}: {error.message}",
                "release them yourself: they may cost",
            ) from error

    async def _release_one(self, ip: str, now: Address | None) -> None:
        address = self._ours[ip]
        if now is not None and now.instance in ("", self._held.get(ip)):
            if now.instance:
                await self._leave(now)
            by_id = {"AllocationId": address.allocation} if address.allocation else {}
            try:
                await self._calls.ask("ReleaseAddress", by_id or {"PublicIp": ip}, truth_of)
            except CloudError as error:
                if error.code not in _UNKNOWN:
                    raise
        await self._forget(ip)

    async def _forget(self, ip: str) -> None:
        self._ours.pop(ip, None)
        self._held.pop(ip, None)
        if (key := self._keys.pop(ip, None)) is not None:
            await self._ledger.gave_back(key)
        reached("address.released")

    async def _leave(self, address: Address) -> None:
        by_id = {"AssociationId": address.association} if address.association else {}
        try:
            await self._calls.ask(
                "DisassociateAddress", by_id or {"PublicIp": address.ip}, truth_of
            )
        except CloudError as error:  # the cloud was faster: its instance has ended
            if error.code not in _LOOSE | _UNKNOWN:
                raise

    async def _describe(self, patience: float = BRIEF) -> list[Address]:
        return await self._calls.ask("DescribeAddresses", {}, addresses_of, patience=patience)
