"""The keywords that every experiment takes, checked at once."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from precip_async.clouds.base import Expiring
from precip_async.clouds.hosts import parse_host
from precip_async.errors import InvalidArgument
from precip_async.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from precip_async.clouds.base import Cloud
    from precip_async.events import Observer

__all__ = [
    "AnyPath",
    "Parallel",
    "Settings",
    "Shared",
    "checked_number",
    "checked_parallel",
    "checked_user",
]

AnyPath = str | os.PathLike[str]
Parallel = bool | int
LAST_PORT = 65535
LONGEST_LIFE = 10 * 365 * 24 * 3600  # seconds
WAIT_FOR_CLOUD_INIT = "WaitForCloudInit"  # the one of the options that is ours, and no cloud's
FILES = ("ssh_key", "ssh_config", "known_hosts", "bastion_key")

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@$+-]{0,127}").fullmatch


class Shared(TypedDict, total=False):
    """The keywords of `Settings`, for the signatures of the constructors."""

    name: str | None
    home: AnyPath | None
    keep: bool
    max_lifetime: float | None
    ssh_port: int
    login_user: str | None
    ssh_key: AnyPath | None
    key_passphrase: str | None
    agent: bool
    ssh_config: AnyPath | None
    known_hosts: AnyPath | None
    address: Literal["public", "private"]
    bastion: str | None
    bastion_key: AnyPath | None
    parallel: Parallel
    limits: Limits
    observer: Observer | Iterable[Observer] | None
    verify: bool | AnyPath
    ssh_cidr: str
    options: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every experiment can be told beside its cloud.

    Attributes:
        name: The experiment's name; ``None``: a readable one that nobody has.
        home: Where keys and the journal are; ``None``: ``$PRECIP_HOME``, else ``~/.precip``.
        keep: Leave instances running when the experiment is closed.
        max_lifetime: Seconds after its launch in which an instance ends by itself, whatever has
            become of us, unless `Experiment.extend` puts that off.
        ssh_port: Where SSH servers listen, unless the cloud or the host says otherwise.
        login_user: Who logs in; ``None``: root on clouds, on hosts the given or the current user.
        ssh_key: The private key to log in with; ``None``: the home's own.
        key_passphrase: What `ssh_key` and `bastion_key` are encrypted with.
        agent: Whether the SSH agent is asked for keys as well.
        ssh_config: An OpenSSH client configuration to read host settings from.
        known_hosts: The only host keys that are believed; ``None``: a first one is, and pinned.
        address: Which address instances are reached at.
        bastion: A jump host for all connections: ``"user@host:port"``.
        bastion_key: The private key for it; ``None``: the same as for the instances.
        parallel: What verbs do whose ``parallel`` is ``None``.
        limits: The bounds of what is done at once and how long is waited.
        observer: A callable, or several, given every event.
        verify: How TLS certificates are checked: True, False, or a file of authorities.
        ssh_cidr: From where clouds let SSH in.
        options: Launch parameters in the cloud's own spelling, and ``WaitForCloudInit``, which is
            ours: see `Experiment.provision`.
    """

    name: str | None = None
    home: AnyPath | None = None
    keep: bool = False
    max_lifetime: float | None = None
    ssh_port: int = 22
    login_user: str | None = None
    ssh_key: AnyPath | None = None
    key_passphrase: str | None = field(default=None, repr=False)
    agent: bool = False
    ssh_config: AnyPath | None = None
    known_hosts: AnyPath | None = None
    address: Literal["public", "private"] = "public"
    bastion: str | None = None
    bastion_key: AnyPath | None = None
    parallel: Parallel = False
    limits: Limits = field(default_factory=Limits)
    observer: Observer | Iterable[Observer] | None = None
    verify: bool | AnyPath = True
    ssh_cidr: str = "0.0.0.0/0"
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        checked_number("max_lifetime", self.max_lifetime)
        if self.max_lifetime is not None and self.max_lifetime > LONGEST_LIFE:
            raise InvalidArgument(
                f"max_lifetime must be {LONGEST_LIFE} seconds (ten years) at most, "
                f"not {self.max_lifetime!r}"
            )
        checked_parallel(self.parallel)
        _check_options(self.options)
        if type(self.ssh_port) is not int or not 0 < self.ssh_port <= LAST_PORT:
            raise InvalidArgument(f"ssh_port must be from 1 to {LAST_PORT}, not {self.ssh_port!r}")
        if self.address not in ("public", "private"):
            raise InvalidArgument(f"address must be 'public' or 'private', not {self.address!r}")
        if not isinstance(self.limits, Limits):
            raise InvalidArgument(f"limits must be a Limits value, not {self.limits!r}")
        if self.login_user is not None:
            checked_user("login_user", self.login_user)
        if self.key_passphrase is not None and not isinstance(self.key_passphrase, str):
            raise InvalidArgument("key_passphrase must be a string")  # and never shown
        if self.bastion is not None:
            try:
                parse_host(self.bastion)
            except InvalidArgument as error:
                raise InvalidArgument(f"bastion: {error}") from error
        for name in FILES:
            path = getattr(self, name)
            if path is not None and not isinstance(path, str | os.PathLike):
                raise InvalidArgument(f"{name} must be the path of a file, not {path!r}")
        if not isinstance(self.verify, bool | str | os.PathLike):
            raise InvalidArgument(f"verify must be True, False or a file, not {self.verify!r}")
        for name in ("keep", "agent"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgument(f"{name} must be True or False, not {getattr(self, name)!r}")
        try:
            ipaddress.ip_network(str(self.ssh_cidr))
        except ValueError as error:
            raise InvalidArgument(
                f"ssh_cidr must be a network, as 192.0.2.0/24: {error}"
            ) from error
        object.__setattr__(self, "observer", _checked_observers(self.observer))

    def check_files(self) -> None:
        """See that the files that were given are there. Blocks.

        Raises:
            InvalidArgument: One is not.
        """
        for name in FILES if isinstance(self.verify, bool) else (*FILES, "verify"):
            path = self.path(name)
            if path is not None and not path.is_file():
                raise InvalidArgument(f"{name}: there is no file {path}")

    def check_lifetime(self, cloud: Cloud) -> None:
        """Raise `InvalidArgument` where instances are to end by themselves and those can't."""
        if self.max_lifetime is not None and not isinstance(cloud, Expiring):
            raise InvalidArgument(
                f"max_lifetime: instances of {cloud.traits.name!r} can't end by themselves; leave "
                "it out, and bound what runs there with timeout="
            )

    @property
    def observers(self) -> tuple[Observer, ...]:
        """The observers, however they were given."""
        assert isinstance(self.observer, tuple)
        return self.observer

    def launch_options(self, given: Mapping[str, Any] | None) -> tuple[dict[str, Any], bool]:
        """What a launch with `given` options asks of the cloud; whether cloud-init is waited for.

        Raises:
            InvalidArgument: They can't be.
        """
        _check_options(given)
        options = {**(self.options or {}), **(given or {})}
        return options, options.pop(WAIT_FOR_CLOUD_INIT, True)

    def path(self, name: str) -> Path | None:
        """The path given as `name`, a leading ``~`` resolved."""
        given = getattr(self, name)
        return None if given is None else Path(given).expanduser()


def checked_number(what: str, value: float | None, *, least: float = 0) -> None:
    """Raise `InvalidArgument` unless `value` is ``None`` or a number of seconds above `least`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > least:
        raise InvalidArgument(f"{what} must be a number of seconds above {least:g}, not {value!r}")


def checked_user(what: str, user: object) -> None:
    """Raise `InvalidArgument` unless `user` can be the name of a user."""
    if not isinstance(user, str) or not _USER(user):
        raise InvalidArgument(f"{what} must be the name of a user, not {user!r}")


def _check_options(options: object) -> None:
    """Raise `InvalidArgument` unless `options` can be launch parameters."""
    if options is None:
        return
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise InvalidArgument(f"options must map names to values, not {options!r}")
    waits = options.get(WAIT_FOR_CLOUD_INIT, True)
    if not isinstance(waits, bool):
        raise InvalidArgument(
            f"options: {WAIT_FOR_CLOUD_INIT} must be True or False, not {waits!r}"
        )


def checked_parallel(parallel: object) -> None:
    """Raise `InvalidArgument` unless `parallel` is a bool or a number from 1 on."""
    if not isinstance(parallel, bool | int) or (not isinstance(parallel, bool) and parallel < 1):
        raise InvalidArgument(
            f"parallel must be True, False, or how many at once from 1 on, not {parallel!r}"
        )


def _checked_observers(given: Observer | Iterable[Observer] | None) -> tuple[Observer, ...]:
    """The observers as a tuple: one that can be read once only, such as a generator, is read."""
    if given is None:
        return ()
    try:
        observers = (given,) if callable(given) else tuple(given)
    except TypeError:
        raise InvalidArgument(
            f"observer must be a callable, or several of them, not {given!r}"
        ) from None
    for observer in observers:
        if not callable(observer):
            raise InvalidArgument(f"an observer must be callable, and {observer!r} is not")
    return observers
