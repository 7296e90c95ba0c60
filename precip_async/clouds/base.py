"""What a cloud has to do for an experiment: the protocol, and the values that pass through it.

A further cloud is any object with the methods of `Cloud`, given to `precip_async.Experiment`.
Clouds know nothing of SSH and nothing of tags' meaning; they start machines, say what became of
them, and end them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

__all__ = [
    "CLOUD_INIT_STATE",
    "ENDING",
    "Access",
    "Attachable",
    "Cloud",
    "Expiring",
    "HeldAddress",
    "LaunchRequest",
    "Ledger",
    "Machine",
    "MachineState",
    "Marked",
    "Purpose",
    "Reapable",
    "Traits",
]

#: The variable by which a machine that has no /run of its own, and so no /run/cloud-init, says
#: where its cloud-init keeps its state.
CLOUD_INIT_STATE: Final = "PRECIP_CLOUD_INIT_STATE"

MachineState = Literal["pending", "running", "failed", "shutting-down", "terminated"]

#: What a machine is in whose end nothing more is to be done about.
ENDING: Final = ("shutting-down", "terminated")

#: What a cloud is prepared for: to launch; to go on with what an earlier process launched, and to
#: launch; or to look for what was left, where nothing is to be made.
Purpose = Literal["launch", "attach", "look"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What an experiment has to know of its cloud.

    Attributes:
        name: For messages: ``"local"``, ``"Amazon EC2"``.
        login_user: Who is logged in as when the user says nothing; ``None`` is the current user.
        default_image: The image launched when the user names none; ``None``: one must be named.
        ends_machines: Whether ``terminate`` ends machines. False for hosts that exist already:
            they are taken and given back, and need no probing beyond a connection.
        isolation: How machines on this computer are kept apart; empty elsewhere.
        isolation_reason: Why so, where a better way could not be had.
        endpoint: What tells two clouds of one name apart: where it is spoken to, and the region.
            An id means the same machine only at the same endpoint.
        region: What requests are signed for; empty where that means nothing.
        zone: Where machines are placed; empty: the cloud's choice.
        pins_hosts: Whether machines live on beyond the experiment, so that their host keys are
            remembered by address rather than by instance id.
        key_type: Of which type the key is to be that it is given; known before `prepare`.
        poll_interval: Seconds between two describe rounds at most, where asking costs nothing;
            ``None``: as the limits say.
        cloud_init: Which machines have user data that their cloud-init reads: those that the user
            ``"gave"`` some, ``"all"``, as the cloud adds its own, or ``"none"``.
    """

    name: str
    login_user: str | None = "root"
    default_image: str | None = None
    ends_machines: bool = True
    isolation: str = ""
    isolation_reason: str = ""
    endpoint: str = ""
    region: str = ""
    zone: str = ""
    pins_hosts: bool = False
    key_type: Literal["ed25519", "rsa"] = "ed25519"
    poll_interval: float | None = None
    cloud_init: Literal["gave", "all", "none"] = "gave"


class Ledger(Protocol):
    """Where a cloud writes down the addresses that it takes, which cost until it gives them back.

    Only `wanting` may fail: what was taken, and what was given back, is so whatever can be written.
    """

    async def wanting(self, others: Sequence[str]) -> str:
        """An address is about to be asked for, where `others` are there; a key for this one.

        Raises:
            HomeError: It can't be written down: none must be asked for.
        """
        ...

    async def took(self, key: str, ip: str, allocation: str) -> None:
        """It is `ip`, which the cloud also calls `allocation`."""
        ...

    async def gave_back(self, key: str) -> None:
        """It was given back, or there never was one."""
        ...


class _NoLedger:
    """For a cloud without an experiment: nobody reads."""

    def __init__(self) -> None:
        self._keys = itertools.count()

    async def wanting(self, others: Sequence[str]) -> str:
        return str(next(self._keys))

    async def took(self, key: str, ip: str, allocation: str) -> None: ...

    async def gave_back(self, key: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a cloud needs in order to let an experiment in.

    Attributes:
        experiment: The experiment's name.
        owner: The account id of the home.
        public_key: Our public key, one OpenSSH line.
        keep: Whether machines outlive the experiment's process.
        purpose: See `Purpose`.
        ledger: Is told of addresses.
    """

    experiment: str
    owner: str
    public_key: str
    keep: bool = False
    purpose: Purpose = "launch"
    ledger: Ledger = field(default_factory=_NoLedger, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """One launch of `count` like machines.

    Attributes:
        token: Names the launch: asked twice with one token, a cloud that can starts it once.
        first: The ordinal of the launch's first machine among all of the experiment's launches.
        instead: The ordinal of the machine that this one is launched in the place of; ``None``: it
            replaces none.
        min_count: With fewer than this the launch fails, and leaves nothing running.
        tags: The user's tags, for clouds that can mark machines with them.
        ebs_size: Gibibytes of the root volume; ``None`` leaves the image's own size.
        options: Launch parameters in the cloud's own spelling.
        expires: When the machines are to end by themselves; ``None``: never. Only an `Expiring`
            cloud is asked for it.
    """

    token: str
    image_id: str
    instance_type: str
    count: int
    min_count: int
    first: int
    instead: int | None = None
    tags: tuple[str, ...] = ()
    ebs_size: int | None = None
    user_data: str | bytes | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    expires: datetime | None = None

    @property
    def ordinal(self) -> int:
        """The ordinal that its first machine bears: a replacement keeps its predecessor's."""
        return self.first if self.instead is None else self.instead


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a cloud says of one machine at one moment.

    Attributes:
        id: The cloud's id.
        state: ``failed`` is final and was never ready; ``terminated`` includes gone.
        public_address: An address or a name, or ``None`` while there is none.
        private_address: Likewise.
        ssh_port: The port of its SSH server; ``None``: the experiment's.
        host_keys: Its SSH host keys where they are known beforehand: OpenSSH public key lines
            without a host name or a comment.
        login_user: Who logs in there, where this machine is not like the others.
        tags: What it bears by itself, beside the tags that the user gave its launch.
        reason: Why it is in this state, in the cloud's words.
    """

    id: str
    state: MachineState
    public_address: str | None = None
    private_address: str | None = None
    ssh_port: int | None = None
    host_keys: tuple[str, ...] = ()
    login_user: str | None = None
    tags: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A machine that bears a mark of ours, and what the mark says; what it does not say is empty.

    Attributes:
        machine: What the cloud says of it.
        experiment: The experiment's name.
        owner: The account id of the home that it was launched from.
        token: Of its launch.
        ordinal: Its own, among all of the experiment's launches.
        tags: The user's tags.
        mark: What it is known by, in words.
        image_id: What it was launched from, `instance_type` as what, and `zone` where.
        launched_at: When, by the cloud's clock.
        expires: When it is to end by itself.
    """

    machine: Machine
    experiment: str = ""
    owner: str = ""
    token: str = ""
    ordinal: int | None = None
    tags: tuple[str, ...] = ()
    mark: str = ""
    image_id: str = ""
    instance_type: str = ""
    zone: str = ""
    launched_at: datetime | None = None
    expires: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAddress:
    """An address that an earlier process took, by its key in the `Ledger`."""

    key: str
    ip: str
    allocation: str = ""


@runtime_checkable
class Cloud(Protocol):
    """Starts, describes and ends machines.

    Every method raises `CloudError` or one of its subclasses, and nothing else of its own. A
    cancelled `launch` may have started machines: the experiment shields it.
    """

    @property
    def traits(self) -> Traits:
        """What kind of cloud this is; complete once `prepare` has returned."""
        ...

    async def prepare(self, access: Access) -> None:
        """Check the credentials and make whatever launches need. Called once, first."""
        ...

    async def launch(self, request: LaunchRequest) -> list[Machine]:
        """Start ``request.count`` machines and return once the cloud has accepted.

        Returns between ``min_count`` and ``count`` machines in launch order.
        """
        ...

    async def describe(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """What became of `ids`: one call, however many. One that is gone is ``terminated``."""
        ...

    async def terminate(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """Ask for the end of `ids` and return what the cloud says of each then.

        The end of one that has ended already, or that nobody knows, is no error.
        """
        ...

    async def find(self, token: str) -> list[Machine]:
        """The machines that the launch named `token` has started, also when its reply was lost."""
        ...

    async def console(self, instance_id: str) -> str:
        """The end of a machine's console output; empty where there is none."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and helpers, also after a `prepare` that failed.

        Machines go on running where ``Access.keep`` was set.
        """
        ...


@runtime_checkable
class Attachable(Protocol):
    """What a `Cloud` can do besides, whose machines outlive the process that launched them."""

    async def marked(self) -> list[Marked]:
        """Every machine that bears a mark of ours and has not ended, whoever launched it."""
        ...

    async def remember(self, ages: Mapping[str, float]) -> None:
        """Machines were launched by an earlier process: what became of them can be asked for.

        Args:
            ages: Seconds since the launch of each, by id: a young one may not be seen yet.
        """
        ...

    async def adopt(self, ids: Collection[str], addresses: Sequence[HeldAddress]) -> None:
        """Take machines over that are remembered, to be ended as our own.

        Args:
            ids: Which.
            addresses: Those that were taken for them, to be given back with them.

        If it fails or is cancelled, all stays as it was when the cloud is closed.
        """
        ...


@runtime_checkable
class Keeping(Protocol):
    """A `Cloud` that can be told late that it is to end nothing when it is closed."""

    def keep(self) -> None:
        """Leave what was adopted as it was, whatever `Access` says: nobody has got hold of it."""
        ...


@runtime_checkable
class Expiring(Protocol):
    """What a `Cloud` has besides whose machines can end by themselves: see `LaunchRequest`."""

    async def extend(self, ids: Sequence[str], expires: datetime) -> None:
        """Have `ids` end at `expires` where the cloud sees to it, and say so where it only knows.

        Raises:
            CloudError: The cloud did not take note of it.
        """
        ...

    def renewal(self, expires: datetime) -> str:
        """The command line by which root has a machine end at `expires`, and not earlier.

        It fails where the machine does not end by itself. Empty: the cloud itself sees to it.
        """
        ...


@runtime_checkable
class Reapable(Protocol):
    """A `Cloud` that can say how `precip_async.reap` gets there."""

    @property
    def for_reaping(self) -> Mapping[str, Any]:
        """The keywords of `reap` that name it, and who asks there."""
        ...
