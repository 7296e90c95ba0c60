"""Going on with an experiment that another process has left: its instances, as they were."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import anyio

from precip_async.clouds.base import ENDING, Attachable, HeldAddress, LaunchRequest
from precip_async.errors import CloudError, ExperimentException, InvalidArgument
from precip_async.fanout import task_group
from precip_async.fleet import Instance
from precip_async.home.journal import Journal
from precip_async.plan import SETTLED, Plan
from precip_async.reach import SSH_PORT, Reach

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from precip_async.clouds.base import Machine, Marked, Traits
    from precip_async.ending import Books
    from precip_async.home.directory import Home
    from precip_async.home.rows import Row
    from precip_async.settings import Settings
    from precip_async.stage import Stage

__all__ = ["as_before", "attach_to", "host_keys_in"]

CONSOLES: Final = 8  # consoles that are asked for at once
CONSOLE_TIMEOUT: Final = 20.0  # seconds for all of them

_HOST_KEYS: Final = re.compile(
    r"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL
)
_KEY: Final = re.compile(r"((?:ssh-[a-z0-9]+|ecdsa-sha2-[a-z0-9]+) [A-Za-z0-9+/=]{40,2000})")


async def as_before(books: Books, name: str, traits: Traits, settings: Settings) -> Settings:
    """`settings`, and where they say nothing, what the experiment was reached by before."""
    rows = [row for row in await books.write(Journal.alive, name) if row.cloud == traits.name]
    if not rows:
        return settings
    usual, last = Reach(settings, traits).way, rows[-1]
    before: dict[str, Any] = {}
    if settings.login_user is None and last.login_user not in ("", usual["login_user"]):
        before["login_user"] = last.login_user
    if settings.ssh_port == SSH_PORT and last.ssh_port != settings.ssh_port:
        before["ssh_port"] = last.ssh_port
    if settings.address == "public" and last.address != settings.address:
        before["address"] = last.address
    return replace(settings, **before)


async def attach_to(stage: Stage, home: Home) -> None:
    """Make the instances of an earlier process the stage's, or leave them as they are.

    Raises:
        InvalidArgument: There are none, or nobody can tell which they are.
        CloudError: The cloud does not say what became of them.
        HomeError: The journal can't be used.
    """
    cloud = stage.cloud
    if not isinstance(cloud, Attachable):
        raise InvalidArgument(
            f"{cloud.traits.name} can't be attached to: its class has none of the methods of "
            "Attachable, in precip_async.clouds.base"
        )
    rows = await _rows(stage) or await _rows_by_marks(stage, cloud, home)
    for host in {row.machine for row in rows} - {stage.books.machine}:
        stage.warn(
            f"it was launched from host {host}, and whether its script lives can't be told "
            "from here: two scripts must not have one experiment"
        )
    rows, lost = await _resolved(stage, rows)
    await cloud.remember({row.instance_id: row.age for row in rows})
    machines = await cloud.describe([row.instance_id for row in rows]) if rows else {}
    gone = {one for one, machine in machines.items() if machine.state in ENDING}
    where = cloud.traits.endpoint
    await stage.books.write(Journal.ended, gone, endpoint=where, experiment=stage.name)
    rows = [row for row in rows if row.instance_id not in gone]
    if not rows and not lost:
        raise _nothing(stage, "those that there were have ended")
    addresses = [
        HeldAddress(key=row.key, ip=row.ip, allocation=row.allocation)
        for row in await stage.books.write(Journal.addresses, stage.name)
        if row.ip and row.endpoint == where
    ]
    instances = [_instance(row, machines[row.instance_id], stage) for row in rows]
    await _introduced(stage, instances, machines)
    # from here on they are ours: nothing below waits, or fails
    await cloud.adopt([one.id for one in instances], addresses)
    for row, instance in sorted(zip(rows, instances, strict=True), key=lambda one: one[0].place):
        machine = machines[instance.id]
        stage.launcher.take_over(instance, _plan(row), machine, launched=row.first + row.count)
        if row.state == "ready" and instance.state == "addressed":
            instance.state, instance.ready_at = "ready", row.seen_at
    for row in lost:
        stage.launcher.seek(_plan(row))


# -- what there is -------------------------------------------------------------------------------


async def _rows(stage: Stage) -> list[Row]:
    """What the journal has of the experiment at this cloud."""
    traits = stage.cloud.traits
    rows = await stage.books.write(Journal.alive, stage.name)
    here = [row for row in rows if (row.cloud, row.endpoint) == (traits.name, traits.endpoint)]
    if rows and not here:
        places = sorted({f"{row.cloud} {row.endpoint}".strip() for row in rows})
        raise _nothing(stage, f"the journal has it at {', '.join(places)}")
    return here


async def _rows_by_marks(stage: Stage, cloud: Attachable, home: Home) -> list[Row]:
    """What the marks at the cloud say of it, written into our journal."""
    marked = await cloud.marked()
    ours = [one for one in marked if one.experiment == stage.name and one.ordinal is not None]
    if not ours:
        why = "the journal has nothing of it, and nothing at the cloud bears its marks"
        if unnamed := [one for one in marked if not one.experiment]:
            why += (
                f"; {len(unnamed)} instance(s) are known by {unnamed[0].mark}, which does not say "
                "of which experiment: only the journal of the home that launched them can tell"
            )
        raise _nothing(stage, why)
    owners = {one.owner for one in ours}
    if home.account_id in owners:
        ours = [one for one in ours if one.owner == home.account_id]
    elif len(owners) > 1:
        raise InvalidArgument(
            f"several homes have an experiment {stage.name!r} there: {', '.join(sorted(owners))}; "
            "attach from the one that is meant"
        )
    elif stage.settings.ssh_key is None and not stage.settings.agent:
        raise InvalidArgument(
            f"experiment {stage.name!r} was launched from another home ({ours[0].owner}): give "
            "ssh_key= the key that it was launched with"
        )
    launches: dict[str, list[Marked]] = {}
    for one in sorted(ours, key=lambda one: one.ordinal or 0):
        launches.setdefault(one.token, []).append(one)
    await stage.books.write(_written, stage, launches)
    stage.warn(
        f"the journal knew nothing of {len(ours)} instance(s), which were found by their marks: "
        "how far they are is not known, so call wait()"
    )
    return await _rows(stage)


def _written(journal: Journal, stage: Stage, launches: Mapping[str, Sequence[Marked]]) -> None:
    """Take launches into the journal that another home, or a lost journal, knew of: all, or none.

    Who attaches next believes the journal, and would miss what is not in it.
    """
    with journal.at_once():
        for token, instances in launches.items():
            _write(journal, stage, token, instances)


def _write(journal: Journal, stage: Stage, token: str, instances: Sequence[Marked]) -> None:
    first, traits = instances[0], stage.cloud.traits
    ordinals = [one.ordinal or 0 for one in instances]
    if not journal.over([token]):  # else it is only opened again
        journal.intend(
            token=token,
            experiment=stage.name,
            cloud=traits.name,
            endpoint=traits.endpoint,
            region=traits.region,
            zone=first.zone,
            image_id=first.image_id,
            instance_type=first.instance_type,
            count=len(instances),
            first=ordinals[0],
            tags=[tag for tag in first.tags if tag.strip() and tag.isprintable()],
            expires=first.expires,
            owner=first.owner,
            **stage.reach.way,
        )
    journal.answered(token, [one.machine.id for one in instances], places=ordinals)


async def _resolved(stage: Stage, rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Instances, and launches of which it is not known yet what they started."""
    known, lost, found = [row for row in rows if row.instance_id], [], False
    for row in [row for row in rows if not row.instance_id]:
        if machines := await stage.cloud.find(row.token):
            found = True
            await stage.books.write(Journal.answered, row.token, [one.id for one in machines])
        elif row.age > SETTLED:
            await stage.books.write(Journal.refused, row.token, "nothing of it was found")
        else:
            lost.append(row)
    if found:
        known = [row for row in await _rows(stage) if row.instance_id]
    return known, lost


def _nothing(stage: Stage, why: str) -> InvalidArgument:
    traits = stage.cloud.traits
    return InvalidArgument(
        f"there is nothing of an experiment {stage.name!r} to attach to at {traits.name} "
        f"{traits.endpoint}: {why}; `precip reap` lists what there is"
    )


# -- what is made of it --------------------------------------------------------------------------


def _instance(row: Row, machine: Machine, stage: Stage) -> Instance:
    instance = Instance(
        id=row.instance_id,
        index=row.place,
        image_id=row.image_id,
        instance_type=row.instance_type,
        launched_at=row.asked_at,
        expires_at=row.expires,
        user_tags=tuple(dict.fromkeys((*row.tags, *machine.tags))),
        launches=row.launches,
        isolation=stage.cloud.traits.isolation,
        public_address=machine.public_address,
        private_address=machine.private_address,
    )
    stage.reach.told(instance, machine)
    return instance


def _plan(row: Row) -> Plan:
    """How it goes on booting; user data is not in the journal, so that it can't be replaced."""
    request = LaunchRequest(
        token=row.token,
        image_id=row.image_id,
        instance_type=row.instance_type,
        count=1 if row.instance_id else row.count,
        min_count=1,
        first=row.ordinal,
        instead=row.ordinal,
        tags=row.tags,
    )
    return Plan(
        request=request,
        boot_timeout=None,
        boot_max_tries=row.launches,
        cloud_init=row.cloud_init,
        asked_at=row.asked_at,
    )


async def _introduced(
    stage: Stage, instances: Sequence[Instance], machines: Mapping[str, Machine]
) -> None:
    """See whom to believe: whoever was pinned, else whom the console names, else whoever comes."""
    reach = stage.reach
    await reach.recall(instances, ours=True)
    strangers = reach.strangers(one for one in instances if machines[one.id].state == "running")
    limiter = anyio.Semaphore(CONSOLES)

    async def ask(one: Instance) -> None:
        async with limiter:
            try:
                keys = host_keys_in(await stage.cloud.console(one.id))
            except CloudError:  # it is one way of several
                return
            if keys:
                reach.introduce(one, keys)

    with anyio.move_on_after(CONSOLE_TIMEOUT):
        async with task_group() as tasks:
            for one in strangers:
                tasks.start_soon(ask, one)
    if unknown := [one.id for one in reach.strangers(strangers)]:
        stage.warn(
            f"the host keys of {', '.join(unknown)} are not known here: whatever keys are met at "
            "first are pinned"
        )
    try:
        await reach.pin()
    except ExperimentException as error:
        stage.warn(str(error))


def host_keys_in(console: str) -> tuple[str, ...]:
    """The host keys that cloud-init has written to a console, each as ``keytype base64``.

    The last block counts: an instance that was made from another's disk shows that one's first.
    """
    blocks = _HOST_KEYS.findall(console)
    return tuple(dict.fromkeys(_KEY.findall(blocks[-1]))) if blocks else ()
