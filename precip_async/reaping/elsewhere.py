"""What experiments left at one cloud: by the journal, and by the marks that machines bear there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from precip_async.clouds.base import ENDING, HeldAddress
from precip_async.ending import Ender
from precip_async.errors import CloudError, ExperimentException
from precip_async.events import Warned
from precip_async.home.journal import Journal
from precip_async.plan import SETTLED
from precip_async.reaping.leftover import Leftover

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from precip_async.clouds.base import Machine, Marked
    from precip_async.clouds.ec2 import EC2Cloud
    from precip_async.ending import Books
    from precip_async.events import Announcer
    from precip_async.home.rows import AddressRow, Row
    from precip_async.limits import Limits
    from precip_async.reach import Reach
    from precip_async.reaping.holders import Holders
    from precip_async.reaping.leftover import Selection
    from precip_async.ssh.remote import Remote

__all__ = ["Elsewhere", "from_the_journal"]

# Seconds after which an address that was asked for and never answered is not under way any more.
SETTLED_ADDRESS: Final = 120.0

PERHAPS: Final = (
    "the answer to a request for an address was lost: this one, which nobody uses and which is "
    "newer, may be it, or somebody else's; unsure=True (--unsure) releases it"
)
UNANSWERED: Final = "its launch was asked for and not answered: it may still start something"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A leftover, and what ending it takes."""

    one: Leftover
    address: HeldAddress | None = None


class Elsewhere:
    """One cloud, which is open, with all that reaping it needs."""

    def __init__(
        self,
        cloud: EC2Cloud,
        books: Books,
        holders: Holders,
        selection: Selection,
        owner: str,
    ) -> None:
        self._cloud, self._books, self._holders = cloud, books, holders
        self._selection, self._owner = selection, owner
        self._endpoint = cloud.traits.endpoint

    async def found(
        self, marks: Sequence[Marked], rows: Sequence[Row], addresses: Sequence[AddressRow]
    ) -> tuple[list[_Found], list[str]]:
        """What is there, as far as it is meant; and the ids of all instances that are ours.

        Args:
            marks: What bears a mark there.
            rows: What the journal has there, read after the marks.
            addresses: Likewise.

        Raises:
            CloudError: The cloud did not say.
            HomeError: The journal can't be used.
        """
        marked = {one.machine.id.lower(): one for one in marks}
        rows, lost = await self._resolved(rows, [*marked.values()])
        await self._cloud.remember({row.instance_id: row.age for row in rows})
        ids = [row.instance_id for row in rows]
        machines = await self._cloud.describe(ids) if ids else {}
        gone = {one for one, machine in machines.items() if machine.state in ENDING}
        await self._books.write(Journal.ended, gone, endpoint=self._endpoint)
        left = [row for row in rows if row.instance_id not in gone]
        known = {row.instance_id.lower() for row in left}
        found = [
            _Found(one=await self._of_row(row, machines, marked.get(row.instance_id.lower())))
            for row in left
        ]
        found += [
            _Found(one=await self._of_mark(mark, lost))
            for key, mark in marked.items()
            if key not in known
        ]
        found += [_Found(one=await self._of_launch(row)) for row in lost]
        found += await self._addresses(addresses, {one.one.id for one in found})
        return [one for one in found if self._selection.takes(one.one)], [
            one.one.id for one in found if one.one.kind == "instance" and one.one.mine
        ]

    async def _resolved(
        self, rows: Sequence[Row], marked: Sequence[Marked]
    ) -> tuple[list[Row], list[Row]]:
        """Instances that the journal knows, and launches that nobody knows the outcome of."""
        known, lost = [row for row in rows if row.instance_id], []
        for row in [row for row in rows if not row.instance_id]:
            ids = [one.machine.id for one in marked if one.token == row.token]
            ids = ids or [one.id for one in await self._cloud.find(row.token)]
            # of another home that shares the journal nobody can tell from here
            idle = row.owner == self._owner and not await self._holders.of(row.experiment, row)
            if ids:
                if idle:  # else who launched it knows more of it, and writes it himself
                    await self._books.write(Journal.answered, row.token, ids)
                known += [replace(row, instance_id=one) for one in ids]
            elif idle and row.age > SETTLED:
                await self._books.write(Journal.refused, row.token, "nothing of it was found")
            else:
                lost.append(row)
        return known, lost

    async def _of_row(
        self, row: Row, machines: Mapping[str, Machine], mark: Marked | None
    ) -> Leftover:
        machine = machines[row.instance_id]
        one = _of_row(row, self._owner, await self._holders.of(row.experiment, row))
        if mark is not None:
            one = replace(one, zone=mark.zone, expires=mark.expires or one.expires)
        return replace(one, state=machine.state)

    async def _of_mark(self, mark: Marked, lost: Sequence[Row]) -> Leftover:
        """What the marks of a machine say that the journal does not know."""
        mine = mark.owner == self._owner
        holder = await self._holders.of(mark.experiment) if mark.experiment and mine else ""
        if mine and not mark.experiment:  # it may be of a launch that is under way
            for row in lost:
                holder = holder or await self._holders.of(row.experiment, row)
        nobody = "" if mark.owner else "its mark does not say whose it is: end it where it runs"
        return Leftover(
            kind="instance",
            id=mark.machine.id,
            experiment=mark.experiment,
            owner=mark.owner,
            mine=mine,
            cloud=self._cloud.traits.name,
            endpoint=self._endpoint,
            instance_type=mark.instance_type,
            zone=mark.zone,
            state=mark.machine.state,
            known_by=mark.mark,
            launched_at=mark.launched_at,
            expires=mark.expires,
            holder=holder,
            problem=nobody,
        )

    async def _of_launch(self, row: Row) -> Leftover:
        holder = await self._holders.of(row.experiment, row)
        one = _of_row(row, self._owner, holder)
        return replace(one, kind="launch", id=row.token, problem=UNANSWERED)

    # -- addresses ---------------------------------------------------------------------------

    async def _addresses(self, rows: Sequence[AddressRow], alive: set[str]) -> list[_Found]:
        """Addresses of ours that no instance of ours uses; those that `alive` have go with them."""
        if not rows:
            return []
        now = await self._cloud.remains.addresses()
        ours = {row.ip for row in rows if row.ip}
        found: list[_Found] = []
        for row in rows:
            holder = await self._holders.of(row.experiment, row)
            if row.ip:
                ips, problem = [row.ip] if now.get(row.ip) == "" else [], ""
                over = row.ip not in now or now[row.ip] not in ("", *alive)
            else:
                free = {ip for ip, instance in now.items() if not instance} - ours
                ips, problem = sorted(free - {*row.others}), PERHAPS
                over = not ips and row.age > SETTLED_ADDRESS
            if over and not holder:
                await self._books.write(Journal.released_address, row.key)
            found += [
                _Found(
                    one=replace(_of_address(row, ip, self._owner, holder), problem=problem),
                    address=HeldAddress(key=row.key, ip=ip, allocation=row.allocation),
                )
                for ip in ips
            ]
        return [*{one.one.id: one for one in found}.values()]

    # -- ending ------------------------------------------------------------------------------

    async def ended(
        self,
        found: Sequence[_Found],
        ours: Sequence[str],
        addresses: Sequence[AddressRow],
        ways: tuple[Remote, Reach, Limits, Announcer],
    ) -> list[Leftover]:
        """End what the selection says of what was found.

        Args:
            found: See `found`.
            ours: The ids of all instances that are ours, so that what they share stays.
            addresses: What the journal has of addresses.
            ways: What ending takes.

        Returns:
            All of it, each with what became of it; and addresses of theirs that are left.

        Raises:
            CloudError: The cloud did not say who has which address, before anything was ended.
            HomeError: The journal can't be used.
        """
        remote, reach, limits, announce = ways
        chosen = [one for one in found if self._selection.ends(one.one)]
        ids = [one.one.id for one in chosen if one.one.kind == "instance"]
        problems: dict[str, str] = {}
        kept: list[Leftover] = []
        if ids:
            experiments = {one.one.experiment for one in chosen}
            held = [
                HeldAddress(key=row.key, ip=row.ip, allocation=row.allocation)
                for row in addresses
                if row.ip and row.experiment in experiments
            ]
            await self._cloud.adopt(ours, held)
            ender = Ender(self._cloud, self._books, remote, reach, limits, announce)
            problems = await ender.end(ids, lambda _: None, interval=limits.poll_interval)
            try:
                await self._give_back(held, ids)
            except CloudError as error:  # they have ended all the same, which is to be told
                kept = await self._still_held(held, str(error))
        for one in chosen:
            if one.address is not None and (not one.one.problem or self._selection.unsure):
                try:
                    await self._cloud.remains.give_back([one.address])
                except CloudError as error:
                    problems[one.one.id] = str(error)
        try:
            await self._drop_keys()
        except CloudError as error:  # the next reaping does, and they cost nothing
            announce(Warned(experiment=announce.experiment, text=str(error)))
        return kept + [self._outcome(one, one in chosen, problems) for one in found]

    async def _give_back(self, addresses: Sequence[HeldAddress], ids: Sequence[str]) -> None:
        """Release what the instances `ids` had, where ending them has not done so."""
        now = await self._cloud.remains.addresses() if addresses else {}
        left = [one for one in addresses if now.get(one.ip) in ("", *ids)]
        if left:
            await self._cloud.remains.give_back(left, ids)

    async def _still_held(self, held: Sequence[HeldAddress], problem: str) -> list[Leftover]:
        """Those of `held` that the journal has still, with why they are."""
        keys = {one.key for one in held}
        rows = [one for one in await self._books.write(Journal.addresses) if one.key in keys]
        return [
            replace(_of_address(row, row.ip, self._owner, ""), state="", problem=problem)
            for row in rows
        ]

    async def _drop_keys(self) -> None:
        """Delete the key pairs of launches of which nothing is left."""
        tokens = await self._cloud.remains.launches_with_keys()
        if tokens:
            over = await self._books.write(Journal.over, tokens)
            await self._cloud.remains.drop_keys(over)

    def _outcome(self, found: _Found, chosen: bool, problems: Mapping[str, str]) -> Leftover:
        one = found.one
        sure = one.kind == "instance" or (
            one.kind == "address" and (not one.problem or self._selection.unsure)
        )
        if not chosen or not sure:
            return one
        if problem := problems.get(one.id):
            return replace(one, problem=problem)
        return replace(one, ended=True, problem="")


def _of_row(row: Row, owner: str, holder: str) -> Leftover:
    return Leftover(
        kind="instance",
        id=row.instance_id,
        experiment=row.experiment,
        owner=row.owner,
        mine=row.owner == owner,
        cloud=row.cloud,
        endpoint=row.endpoint,
        instance_type=row.instance_type,
        zone=row.zone,
        state=row.state,
        launched_at=row.asked_at,
        expires=row.expires,
        holder=holder,
    )


def _of_address(row: AddressRow, ip: str, owner: str, holder: str) -> Leftover:
    return Leftover(
        kind="address",
        id=ip,
        experiment=row.experiment,
        owner=row.owner,
        mine=row.owner == owner,
        cloud=row.cloud,
        endpoint=row.endpoint,
        state="unused",
        launched_at=row.asked_at,
        holder=holder,
    )


async def from_the_journal(
    rows: Sequence[Row],
    addresses: Sequence[AddressRow],
    holders: Holders,
    owner: str,
    error: ExperimentException | str,
) -> list[Leftover]:
    """What the journal says of a cloud that can't be asked, each with the reason."""
    problem = f"not looked at: {error}"
    found = []
    for row in rows:
        one = _of_row(row, owner, await holders.of(row.experiment, row))
        if not row.instance_id:
            one = replace(one, kind="launch", id=row.token)
        found.append(replace(one, problem=problem))
    for address in addresses:
        holder = await holders.of(address.experiment, address)
        one = _of_address(address, address.ip or "?", owner, holder)
        found.append(replace(one, state="", problem=problem))
    return found
