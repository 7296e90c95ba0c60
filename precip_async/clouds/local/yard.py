"""Where machines stand: what the warden asks of an isolation.

A yard lives in the warden's process, on its event loop, and owns everything that its machines are
made of. It is built with the experiment's state directory, ``SomeYard(directory)``, and may keep
files there; the warden removes the directory at the end. It writes what a machine says on its way
up (its SSH server's own words first of all) to `log_path`, which is what the machine's console
shows.

Standard library only: the warden is one process for each experiment and should cost little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from precip_async.clouds.local.metadata import Metadata

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ROOT_REFUSAL",
    "MachineSpec",
    "Placement",
    "Yard",
    "YardError",
    "log_path",
    "refusing",
]

#: What cloud-init puts before our key in root's authorized_keys on images that refuse root.
ROOT_REFUSAL: Final = (
    "no-port-forwarding,no-agent-forwarding,no-X11-forwarding,"
    'command="echo \'Please login as the user \\"ubuntu\\" rather than the user \\"root\\".\';'
    'echo;sleep 10;exit 142"'
)


class YardError(Exception):
    """A yard or a machine can't be had; the text is a sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """One machine to be started.

    Attributes:
        id: ``i-`` and 17 hexadecimal digits.
        ordinal: Which of the experiment's launches it is, from 0.
        hostname: What it calls itself.
        host_key: Its SSH server's private key: OpenSSH PEM.
        authorized_key: The public key that may log in: one OpenSSH line, or several.
        fault: What is to go wrong with its SSH: empty, ``"ssh_late"`` (no server before
            `Yard.release_ssh`), ``"ssh_refuses_key"``, ``"ssh_hangs"`` (accepts and never speaks)
            or ``"root_refused"`` (see `ROOT_REFUSAL`).
        disk: Gibibytes of its own disk; ``None`` sets no bound.
        default_user: Who else logs in with the key and may do everything through sudo, as on stock
            images; empty: nobody.
        root_login: Whether root may log in, whatever else is to go wrong; see `ROOT_REFUSAL`.
        cloud_init: What is, or plays, cloud-init: a script for ``sh`` that returns as soon as
            anybody may be let in, given the directory of its state as ``$1``; empty: there is none.
        power: What decides when it powers itself off: a script for ``sh`` that returns then, given
            a directory as ``$1`` that it makes itself; empty: nothing does.
        metadata: What its metadata service says; ``None``: it has none. Only a machine that has a
            network of its own can have one.
    """

    id: str
    ordinal: int
    hostname: str
    host_key: str
    authorized_key: str
    fault: str = ""
    disk: int | None = None
    default_user: str = ""
    root_login: bool = True
    cloud_init: str = ""
    power: str = ""
    metadata: Metadata | None = None

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        """The one that `dataclasses.asdict` made `facts` of."""
        told = facts["metadata"]
        return cls(**facts | {"metadata": None if told is None else Metadata(**told)})

    @property
    def refuses_root(self) -> bool:
        """Whether root is told to take another name."""
        return self.fault == "root_refused" or not self.root_login

    @property
    def sudoer(self) -> str:
        """The user that stock images have beside root; empty where there is none."""
        return self.default_user or ("ubuntu" if self.fault == "root_refused" else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a machine that runs can be reached."""

    public_address: str
    private_address: str
    ssh_port: int


class Yard(Protocol):
    """One experiment's machines, kept apart in one way.

    Every method may be called for several machines at once. None leaves half a machine behind when
    it raises or is cancelled.
    """

    isolation: str

    @property
    def shared_because(self) -> str:
        """Why machines share files and processes with this computer; empty where they do not."""
        ...

    async def open(self) -> None:
        """Take what all machines share, such as a network.

        Raises:
            YardError: It can't be had.
        """
        ...

    async def start(self, spec: MachineSpec) -> Placement:
        """Start a machine; its SSH server listens within milliseconds, or once cloud-init lets it.

        A fault may say otherwise.

        Raises:
            YardError: It can't be started; nothing of it is left.
        """
        ...

    async def stop(self, machine_id: str) -> None:
        """End a machine: all of it is gone on return. One that is unknown is no error."""
        ...

    def died(self) -> set[str]:
        """The machines that ended by themselves since this was last asked."""
        ...

    async def release_ssh(self, machine_id: str) -> None:
        """Let the SSH server of a machine with the fault ``ssh_late`` start now."""
        ...

    async def aclose(self) -> None:
        """End all machines and give back what `open` took. May be called more than once."""
        ...


def refusing(keys: str) -> str:
    """Root's authorized keys where root is refused: each with the command that says so."""
    return "\n".join(f"{ROOT_REFUSAL} {key}" for key in keys.strip().splitlines())


def log_path(directory: Path, machine_id: str) -> Path:
    """The file that holds what a machine says; its console."""
    return directory / f"{machine_id}.log"
