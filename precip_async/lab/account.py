"""What an account has in the lab's cloud, and what is known of it.

State changes are synchronous, so that no two requests see half of one; what takes time (starting,
ending and looking at machines) follows, or comes before.
"""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

from precip_async.lab.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from precip_async.clouds.base import Machine
    from precip_async.lab.dialects import Dialect
    from precip_async.lab.forwarding import Forwarder
    from precip_async.lab.key_pairs import KeyPair
    from precip_async.lab.machines import Machines
    from precip_async.lab.scenario import Scenario

__all__ = [
    "Account",
    "Address",
    "Group",
    "Imds",
    "Instance",
    "Reservation",
    "Rule",
]

OWNER: Final = "123456789012"
_INSTANCE_ID: Final = re.compile(r"i-[0-9a-f]{8}([0-9a-f]{9})?", re.IGNORECASE)
_BASE36: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One source that may reach some ports.

    Attributes:
        protocol: ``"tcp"``, ``"udp"``, ``"icmp"``, a number, or ``"-1"`` for all.
        cidr: Addresses; empty where it is a group.
        group: The id of a group; empty where it is addresses.
    """

    protocol: str
    first: int
    last: int
    cidr: str = ""
    group: str = ""

    def opens(self, port: int) -> bool:
        """Whether TCP `port` is reached from somewhere outside."""
        reached = self.protocol == "-1" or (
            self.protocol in ("tcp", "6") and self.first <= port <= self.last
        )
        return bool(self.cidr) and reached


@dataclass(slots=True, eq=False, kw_only=True)
class Group:
    """A security group."""

    id: str
    name: str
    description: str
    rules: list[Rule] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imds:
    """What is wanted of an instance's metadata service.

    Attributes:
        tokens: Whether requests must show a token: ``"optional"`` or ``"required"``.
        endpoint: ``"enabled"``, or ``"disabled"``: nobody is answered.
        hops: How many hops a token may travel.
    """

    tokens: str = "optional"
    endpoint: str = "enabled"
    hops: int = 1


@dataclass(slots=True, eq=False, kw_only=True)
class Reservation:
    """One launch.

    Attributes:
        token: Its client token; empty where there was none.
        asked: The parameters that the token stands for.
        started: Set once its machines have been ordered, or could not be.
    """

    id: str
    token: str
    asked: dict[str, str]
    instances: list[Instance] = field(default_factory=list)
    started: anyio.Event = field(default_factory=anyio.Event)


@dataclass(slots=True, eq=False, kw_only=True)
class Instance:
    """One instance.

    Attributes:
        ordinal: Which of all that the lab launched, from 0.
        index: Which of its launch, from 0.
        delay: Seconds that its boot takes.
        launched_at: Seconds since the epoch, by the cloud's clock.
        launched: By our own clock, which only goes forward; likewise `visible`, `placed`, `ended`.
        visible: From when on the cloud is sure of it.
        imds: What its metadata service wants.
        public: Whether it is to have a public address.
        placed: When its machine began to run, as near as is known, which is `held` seconds before
            it is said to.
        disks: The names of its volumes.
        mapped: Whether its launch said anything of volumes.
        machine_id: The machine's own id; empty until it has been ordered.
        machine: What was last seen of it.
        hopeless: Whether the scenario has its boot fail.
        ends_off: Whether it is ended when it powers itself off, and not only stopped.
        stopped: Whether it was.
        dead: That, and why, it ended: the code and the text of the reason.
        gone: Whether the cloud has forgotten it.
    """

    id: str
    ordinal: int
    index: int
    reservation: Reservation
    image_id: str
    kind: str
    zone: str
    key_name: str
    groups: tuple[Group, ...]
    delay: float
    launched_at: float
    launched: float
    visible: float
    user_data: bytes = b""
    disks: tuple[str, ...] = ()
    mapped: bool = False
    spot: bool = False
    imds: Imds = field(default_factory=Imds)
    public: bool = True
    tags: dict[str, str] = field(default_factory=dict)
    vanishes: float | None = None
    placed: float | None = None
    held: float = 0.0
    ended: float | None = None
    machine_id: str = ""
    machine: Machine | None = None
    hopeless: bool = False
    ending: bool = False
    failed: bool = False
    ends_off: bool = False
    stopped: bool = False
    dead: tuple[str, str] = ("", "")
    gone: bool = False

    @property
    def alive(self) -> bool:
        """Whether it is, or may become, anything, and nobody has asked for its end."""
        return self.ended is None and not self.failed and not self.ending

    def state(self, dialect: Dialect) -> str:
        """What a cloud says it is."""
        if self.failed and not self.ending:
            return dialect.failed_boot
        if self.ended is not None:
            return "terminated"
        if self.ending:
            return dialect.deleting_state
        if self.stopped:
            return "stopped"
        return "pending" if self.booted is None else "running"

    @property
    def booted(self) -> float | None:
        """When it had booted; ``None``: it has not yet."""
        if self.placed is None or time.monotonic() < self.placed + self.held:
            return None
        return self.placed + self.held

    @property
    def address(self) -> str:
        """Where its machine is; empty while it is nowhere."""
        return (self.machine and self.machine.public_address) or ""


@dataclass(slots=True, eq=False, kw_only=True)
class Address:
    """An elastic address."""

    id: str
    public: str
    forwarder: Forwarder
    domain: str
    instance: Instance | None = None
    association: str = ""
    tags: dict[str, str] = field(default_factory=dict)


class Account:
    """Everything there is in the cloud; one account has all of it.

    Args:
        region: The region's name; its zones are called so too, with a letter.
    """

    def __init__(
        self, dialect: Dialect, scenario: Scenario, machines: Machines, *, region: str
    ) -> None:
        self.dialect = dialect
        self.scenario = scenario
        self.machines = machines
        self.region = region
        self.zones = tuple(f"{region}{letter}" for letter in "abc")
        self.instances: dict[str, Instance] = {}
        self.tokens: dict[str, Reservation] = {}
        self.keys: dict[str, KeyPair] = {}
        self.addresses: dict[str, Address] = {}
        self.launched = 0
        self._random = random.Random(f"{scenario.seed}:ids")  # noqa: S311 - repeatable on purpose
        self._counters: dict[str, int] = {}
        self._looked = time.monotonic()
        self.has_vpc = dialect.vpc and scenario.default_vpc
        self.vpc = self.new_id("vpc")
        self.subnets = {zone: self.new_id("subnet") for zone in self.zones}
        default = Group(id=self.new_id("sg"), name="default", description="default group")
        default.rules.append(Rule(protocol="-1", first=-1, last=-1, group=default.id))
        self.groups: dict[str, Group] = {default.id: default}

    def now(self) -> float:
        """Seconds since the epoch, by the cloud's clock."""
        return time.time() + self.scenario.clock_skew

    def new_id(self, kind: str) -> str:
        """An id that nothing has, in the cloud's shape."""
        style = self.dialect.ids
        if kind == "r" and self.dialect.base36:
            return "r-" + "".join(self._random.choices(_BASE36, k=8))
        if style == "counter":
            self._counters[kind] = self._counters.get(kind, 0) + 1
            return f"{kind}-{self._counters[kind]:08x}"
        if style == "long":
            return f"{kind}-{self._random.getrandbits(68):017x}"
        short = f"{self._random.getrandbits(32):08x}"
        return f"{kind}-{short.upper() if style == 'upper' else short}"

    def instance(self, instance_id: str) -> Instance | None:
        """The instance of this id; ``None``: the cloud knows of none.

        Raises:
            Refusal: It is no id.
        """
        if not _INSTANCE_ID.fullmatch(instance_id):
            raise Refusal(
                "InvalidInstanceID.Malformed",
                f'Invalid id: "{instance_id}"',
                subject=instance_id,
            )
        found = self.instances.get(instance_id.lower())
        if found is None or found.gone or (self.dialect.eventually and not self.is_sure(found)):
            return None
        return found

    def groups_of(self, *, ids: Iterable[str] = (), names: Iterable[str] = ()) -> tuple[Group, ...]:
        """The groups of these ids and names.

        Raises:
            Refusal: One isn't there.
        """
        named = {group.name.lower(): group for group in self.groups.values()}
        found = {one: self.groups.get(one) for one in ids}
        found |= {one: named.get(one.lower()) for one in names}  # §6 "name case-insensitive"
        for one, group in found.items():
            if group is None:
                raise Refusal(
                    "InvalidGroup.NotFound",
                    f"The security group '{one}' does not exist",
                    subject=one,
                )
        return tuple(dict.fromkeys(group for group in found.values() if group is not None))

    def known(self) -> list[Instance]:
        """All instances that the cloud shows, in no order that tells anything."""
        shown = [
            one
            for one in self.instances.values()
            if not one.gone and (not self.dialect.eventually or self.is_sure(one))
        ]
        return sorted(shown, key=lambda one: one.id)

    def is_sure(self, instance: Instance) -> bool:
        """Whether the cloud is sure that there is this instance."""
        return time.monotonic() >= instance.visible

    def alive(self) -> int:
        """How many instances count against quota and capacity."""
        return sum(one.alive for one in self.instances.values())

    async def look(self) -> None:
        """Bring what is known of all instances up to date."""
        watched = {
            one.machine_id: one
            for one in self.instances.values()
            if one.machine_id and one.ended is None
        }
        if not watched:
            return
        seen = await self.machines.look(list(watched))
        lost = [one for one in watched.values() if self._observe(one, seen[one.machine_id])]
        self._looked = time.monotonic()
        if lost:
            await self.machines.end([one.machine_id for one in lost])

    async def end(self, instances: Iterable[Instance]) -> None:
        """Begin to end instances; of those that have ended already, some clouds forget."""
        asked = list(instances)
        for one in asked:
            if one.ended is not None:
                one.gone = one.gone or self.dialect.buries or not self.dialect.keeps_dead
            elif not one.ending:
                one.ending = True
                one.dead = ("Client.UserInitiatedShutdown", "User initiated shutdown")
        for one in asked:
            await one.reservation.started.wait()
            if not one.machine_id and one.ended is None:
                self._over(one)
        ending = [one.machine_id for one in asked if one.ended is None and one.machine_id]
        await self.machines.end(ending)
        await self.look()

    def _observe(self, one: Instance, machine: Machine) -> bool:
        """Take note of what became of a machine; whether it is to be lost now."""
        now = time.monotonic()
        if one.machine is None or machine.public_address:
            one.machine = machine  # of one that has ended, the address is remembered
        if machine.ssh_port not in (None, self.machines.ssh_port):
            self._fail(one, "this computer has no address left for a machine of its own")
        elif machine.state == "running" and one.placed is None:
            due = one.launched + one.delay - one.held
            one.placed = min(now, max(due, self._looked))
        elif machine.state == "failed":
            self._fail(one, machine.reason)
        elif machine.state == "terminated" and (one.ending or one.gone or self._went_off(one)):
            self._over(one)
        if (
            one.vanishes is None
            or one.placed is None
            or now < one.placed + one.vanishes
            or one.gone
        ):
            return False
        one.gone = True
        return True

    def _went_off(self, one: Instance) -> bool:
        """Take note of an end that nobody asked for; whether that is all there is to be of it."""
        if one.placed is None:
            self._fail(one, "Internal error on launch")
        elif one.ends_off:
            one.dead = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown")
        else:
            one.stopped = True
        return not one.stopped

    def _fail(self, one: Instance, why: str) -> None:
        one.failed, one.dead = True, ("Server.InternalError", why)

    def _over(self, one: Instance) -> None:
        """Take note of an end, and free what was held: an address, and where it is so, a token."""
        one.ended = time.monotonic()
        one.gone = one.gone or (one.ending and not self.dialect.keeps_dead)
        for address in self.addresses.values():
            if address.instance is one:
                address.instance, address.association = None, ""
        reservation = one.reservation
        over = all(other.ended is not None for other in reservation.instances)
        if self.dialect.token_ends and over:
            self.tokens.pop(reservation.token, None)
