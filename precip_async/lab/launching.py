"""RunInstances: one launch, once for each token."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import anyio

from precip_async.errors import QuotaExceeded
from precip_async.lab.accepted import ENVELOPE
from precip_async.lab.account import Instance, Reservation
from precip_async.lab.ordering import order_of
from precip_async.lab.refusals import Refusal
from precip_async.lab.shapes import reservation_of
from precip_async.lab.wishes import Wish, check_token, read_wish

if TYPE_CHECKING:
    from precip_async.lab.account import Account
    from precip_async.lab.parameters import Parameters

__all__ = ["run_instances"]

PLACING: Final = 30.0  # seconds for machines to have their addresses, which takes about 0.1
LOOK_AGAIN: Final = 0.02  # seconds between two looks whether they have


async def run_instances(account: Account, p: Parameters) -> dict[str, Any]:
    """Launch what is asked for, or say what its token has launched before."""
    token = p.text("ClientToken") if account.dialect.token != "ignored" else ""  # noqa: S105 - no secret
    check_token(token)
    asked = {name: value for name, value in p.flat().items() if name not in ENVELOPE}
    if token and token in account.tokens:
        return await _again(account, account.tokens[token], asked)
    wish = read_wish(account, p)
    count = _how_many(account, wish)
    reservation = Reservation(id=account.new_id("r"), token=token, asked=asked)
    if token:
        account.tokens[token] = reservation
    reservation.instances = [_make(account, wish, reservation, index) for index in range(count)]
    try:
        await _start(account, wish, reservation)
    except BaseException:
        for one in reservation.instances:
            del account.instances[one.id.lower()]
        reservation.instances = []
        account.tokens.pop(token, None)
        raise
    finally:
        reservation.started.set()
    if account.dialect.addressed == "launch":
        await _placed(account, reservation)
    return _reply(account, reservation)


async def _placed(account: Account, reservation: Reservation) -> None:
    """Wait until machines are somewhere that are said to be somewhere at once."""
    with anyio.move_on_after(PLACING):
        while True:
            await account.look()
            if all(one.address or one.hopeless for one in reservation.instances):
                return
            await anyio.sleep(LOOK_AGAIN)


async def _again(account: Account, known: Reservation, asked: dict[str, str]) -> dict[str, Any]:
    if account.dialect.token == "checked" and known.asked != asked:  # noqa: S105 - no secret
        raise Refusal(
            "IdempotentParameterMismatch",
            "The client token is already in use with other parameters",
            subject=known.token,
        )
    await known.started.wait()
    if not known.instances:
        raise _full(account)
    await account.look()
    return _reply(account, known)


def _reply(account: Account, reservation: Reservation) -> dict[str, Any]:
    return {**reservation_of(account, reservation, reservation.instances)}


def _how_many(account: Account, wish: Wish) -> int:
    """As many as quota and capacity allow."""
    scenario, dialect = account.scenario, account.dialect
    wanted = wish.most if dialect.counts == "most" else wish.least
    least, alive = wish.least, account.alive()
    if scenario.quota is not None:
        room = scenario.quota - alive
        if room < least:
            raise Refusal(
                "InstanceLimitExceeded",
                f"You have requested more instances ({wish.most}) than your current instance limit"
                f" of {scenario.quota} allows for the specified instance type.",
            )
        wanted = min(wanted, room)
    if scenario.capacity is not None and dialect.capacity == "refuses":
        room = scenario.capacity - alive
        if room < least:
            raise _full(account)
        wanted = min(wanted, room)
    return wanted


def _full(account: Account) -> Refusal:
    return Refusal(
        "InsufficientInstanceCapacity",
        "We currently do not have sufficient capacity in the Availability Zone you requested"
        f" ({account.zones[0]}).",
        status=500,  # §6 "capacity/limits"
    )


def _make(account: Account, wish: Wish, reservation: Reservation, index: int) -> Instance:
    ordinal, account.launched = account.launched, account.launched + 1
    scenario, now = account.scenario, time.monotonic()
    delay, vanishes = scenario.seconds("boot", ordinal), scenario.happens("vanishes", ordinal)
    instance = Instance(
        id=account.new_id("i"),
        ordinal=ordinal,
        index=index,
        reservation=reservation,
        image_id=wish.image_id,
        kind=wish.kind,
        zone=wish.zone,
        key_name=wish.key_name,
        groups=wish.groups,
        delay=delay,
        held=delay if account.dialect.addressed == "launch" else 0.0,
        launched_at=account.now(),
        launched=now,
        visible=now + scenario.seconds("visible", ordinal),
        user_data=wish.user_data,
        disks=wish.disks,
        mapped=wish.mapped,
        spot=wish.spot,
        imds=wish.imds,
        ends_off=wish.ends_off,
        public=wish.public,
        tags=dict(wish.tags),
        vanishes=scenario.seconds("vanishes_after", ordinal) if vanishes else None,
    )
    account.instances[instance.id.lower()] = instance
    return instance


async def _start(account: Account, wish: Wish, reservation: Reservation) -> None:
    alive = account.alive() - len(reservation.instances)
    orders = [
        order_of(account, one, over=_is_over(account, alive + place))
        for place, one in enumerate(reservation.instances)
    ]
    # What never boots needs no machine.
    booting = [
        (one, order)
        for one, order in zip(reservation.instances, orders, strict=True)
        if order.fault != "never_boots"
    ]
    if not booting:
        return
    try:
        ids = await account.machines.start([order for _, order in booting], disk=wish.disk)
    except QuotaExceeded as error:
        raise _full(account) from error
    for (one, _), machine_id in zip(booting, ids, strict=True):
        one.machine_id = machine_id


def _is_over(account: Account, place: int) -> bool:
    """Whether there is no room for an instance that a full cloud lets fail by itself."""
    capacity = account.scenario.capacity
    return account.dialect.capacity == "fails" and capacity is not None and place >= capacity
