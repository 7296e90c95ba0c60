"""What a cloud has to do for an experiment: the protocol, and the values that pass through it.

A further cloud is any object with the methods of `Cloud`, given to `precip_async.Experiment`.
Clouds know nothing of SSH and nothing of tags' meaning; they start machines, say what became of
them, and end them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

__all__ = [
    "CLOUD_INIT_STATE",
    "Access",
    "Cloud",
    "Expiring",
    "LaunchRequest",
    "Machine",
    "MachineState",
    "Traits",
]

#: The variable by which a machine that has no /run of its own, and so no /run/cloud-init, says
#: where its cloud-init keeps its state.
CLOUD_INIT_STATE: Final = "PRECIP_CLOUD_INIT_STATE"

MachineState = Literal["pending", "running", "failed", "shutting-down", "terminated"]


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
    pins_hosts: bool = False
    key_type: Literal["ed25519", "rsa"] = "ed25519"
    poll_interval: float | None = None
    cloud_init: Literal["gave", "all", "none"] = "gave"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a cloud needs in order to let an experiment in.

    Attributes:
        experiment: The experiment's name.
        owner: The account id of the home.
        public_key: Our public key, one OpenSSH line.
        keep: Whether machines outlive the experiment's process.
    """

    experiment: str
    owner: str
    public_key: str
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """One launch of `count` like machines.

    Attributes:
        token: Names the launch: asked twice with one token, a cloud that can starts it once.
        first: The ordinal of the launch's first machine among all of the experiment's launches.
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
    tags: tuple[str, ...] = ()
    ebs_size: int | None = None
    user_data: str | bytes | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    expires: datetime | None = None


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
