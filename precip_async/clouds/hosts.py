"""Machines that exist already: taken in the order given, given back, never ended."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from precip_async.clouds.base import (
    Access,
    HeldAddress,
    LaunchRequest,
    Machine,
    Marked,
    Traits,
)
from precip_async.errors import CapacityUnavailable, CloudError, InvalidArgument, QuotaExceeded
from precip_async.fleet import Tags, checked_tags

__all__ = ["Host", "Hosts", "HostsCloud", "parse_host"]

Hosts = Sequence[str] | Mapping[str, Tags]

NAME = re.compile(r"\w[\w.-]*")  # also an alias of an ssh_config; never an option of ssh's
USER = re.compile(r"[^\s:/\x00-\x1f\x7f-]([^\s:/\x00-\x1f\x7f])*")
PORT = re.compile(r"[0-9]{1,5}")
LAST_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host as the user wrote it.

    Attributes:
        name: What is connected to: a name or an address, without brackets.
        port: The port given; ``None``: the experiment's.
        user: The user given; ``None``: the experiment's login user.
        tags: The tags given with it.
    """

    name: str
    port: int | None = None
    user: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The host as it was given, without the user: ``host``, ``host:port``, ``[v6]:port``."""
        if self.port is None:
            return self.name
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


def parse_host(text: str, tags: Tags = None) -> Host:
    """The host that `text` names: ``[user@]host[:port]``; an IPv6 address with port in brackets.

    Raises:
        InvalidArgument: It names none, or `tags` are none.
    """
    if not isinstance(text, str):
        raise InvalidArgument(f"{text!r} is not a string")
    user, at, place = text.rpartition("@")
    if at and not USER.fullmatch(user):
        raise InvalidArgument(f"{text!r}: {user!r} is no user name")
    name, port = _split(place)
    if not _is_name(name):
        raise InvalidArgument(f"{text!r}: {name!r} is neither a host name nor an address")
    if port is not None and not (PORT.fullmatch(port) and 0 < int(port) <= LAST_PORT):
        raise InvalidArgument(f"{text!r}: the port must be a number from 1 to 65535, not {port!r}")
    try:
        return Host(
            name=name,
            port=None if port is None else int(port),
            user=user or None,
            tags=checked_tags(tags),
        )
    except InvalidArgument as exc:
        raise InvalidArgument(f"{text!r}: {exc}") from exc


def _split(place: str) -> tuple[str, str | None]:
    """The host and the port in `place`; more than one colon without brackets is an address."""
    if place.startswith("["):
        name, bracket, rest = place[1:].partition("]")
        if not bracket or not (rest == "" or rest.startswith(":")):
            return place, None  # refused as a name
        return name, rest[1:] if rest else None
    name, colon, port = place.partition(":")
    return (name, port) if colon and ":" not in port else (place, None)


def _is_name(name: str) -> bool:
    if ":" not in name:
        return NAME.fullmatch(name) is not None
    try:
        return ipaddress.ip_address(name).version == 6  # noqa: PLR2004 - IPv6
    except ValueError:
        return False


class HostsCloud:
    """A `Cloud` of hosts that exist already.

    ``launch`` takes the next free ones in the order given, ``terminate`` gives them back; nothing
    is started, changed or ended on them. Images, instance types and user data mean nothing here and
    are ignored, so that a script written for a cloud runs on hosts unchanged.

    Args:
        hosts: A list of ``"host"``, ``"user@host:port"``, ``"[v6]:port"``, or a mapping of such to
            the tags that each bears.

    Raises:
        InvalidArgument: No hosts, hosts given twice, or such as can't be understood: all of them
            are named at once.
    """

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = _checked(hosts)
        self._taken: dict[str, str] = {}  # host id -> token of the launch that took it
        # Made once: a boot describes all that it still waits for every second.
        self._running = {host_id: _running(host) for host_id, host in self._hosts.items()}

    @property
    def traits(self) -> Traits:
        """Hosts are not ended, and keep their host keys."""
        return Traits(
            name="hosts",
            login_user=None,
            default_image="host",
            ends_machines=False,
            pins_hosts=True,
            cloud_init="none",
        )

    async def prepare(self, access: Access) -> None:
        """Nothing to prepare: whether a host lets us in is seen when it is connected to."""

    async def launch(self, request: LaunchRequest) -> list[Machine]:
        """Take the next ``request.count`` free hosts; the same ones again for the same token.

        Raises:
            QuotaExceeded: Fewer than ``min_count`` hosts were given to the experiment.
            CapacityUnavailable: Fewer than ``min_count`` hosts are free.
            CloudError: ``ebs_size`` or ``options`` are given, which a host can't fulfil.
        """
        if request.ebs_size is not None or request.options:
            raise CloudError(
                "ebs_size= and options= are for machines that are made for the experiment",
                cloud=self.traits.name,
                operation="provision",
                hint="leave them out for hosts that exist already",
            )
        if not (ids := self._of(request.token)):
            ids = self._next_free(request)
            self._taken.update(dict.fromkeys(ids, request.token))
        return [self._machine(host_id) for host_id in ids]

    def _of(self, token: str) -> list[str]:
        return [host_id for host_id in self._hosts if self._taken.get(host_id) == token]

    def _next_free(self, request: LaunchRequest) -> list[str]:
        free = [host_id for host_id in self._hosts if host_id not in self._taken]
        if len(free) < request.min_count:
            given = len(self._hosts)
            error = QuotaExceeded if given < request.min_count else CapacityUnavailable
            raise error(
                f"{request.min_count} asked for, {len(free)} of the {given} given hosts are free",
                cloud=self.traits.name,
                operation="provision",
                hint="ask for fewer, give the experiment more hosts, or deprovision some first",
            )
        return free[: request.count]

    async def describe(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """Hosts that are taken are running; all others are none of the experiment's."""
        return {host_id: self._machine(host_id) for host_id in ids}

    async def terminate(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """Give hosts back: they are free to be taken again."""
        for host_id in ids:
            self._taken.pop(host_id, None)
        return await self.describe(ids)

    async def find(self, token: str) -> list[Machine]:
        """The hosts that the launch named `token` has taken."""
        return [self._machine(host_id) for host_id in self._of(token)]

    async def marked(self) -> list[Marked]:
        """Hosts bear no marks: which were taken is known to the journal alone."""
        return []

    async def remember(self, ages: Mapping[str, float]) -> None:
        """Hosts were taken by an earlier process; those that are not given any more are not."""
        for host_id in ages:
            if host_id in self._hosts:
                self._taken.setdefault(host_id, "")

    async def adopt(self, ids: Collection[str], addresses: Sequence[HeldAddress]) -> None:
        """Nothing more to do: see `remember`."""

    async def console(self, instance_id: str) -> str:
        """Hosts have no console that we could read."""
        return ""

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _machine(self, host_id: str) -> Machine:
        if host_id not in self._taken:
            why = "given back" if host_id in self._hosts else "not one of the given hosts"
            return Machine(id=host_id, state="terminated", reason=why)
        return self._running[host_id]


def _running(host: Host) -> Machine:
    return Machine(
        id=host.id,
        state="running",
        public_address=host.name,
        private_address=host.name,
        ssh_port=host.port,
        login_user=host.user,
        tags=host.tags,
    )


def _checked(hosts: Hosts) -> dict[str, Host]:
    if isinstance(hosts, str | bytes) or not isinstance(hosts, Sequence | Mapping):
        raise InvalidArgument(
            "hosts must be a list of strings, or a mapping of strings to tags, "
            f'such as ["user@host:port"], not {hosts!r}'
        )
    if not hosts:
        raise InvalidArgument("hosts is empty; give at least one host")
    entries = hosts.items() if isinstance(hosts, Mapping) else ((host, None) for host in hosts)
    found: dict[str, Host] = {}
    problems: list[str] = []
    for text, tags in entries:
        try:
            host = parse_host(text, tags)
        except InvalidArgument as exc:
            problems.append(str(exc))
            continue
        if host.id in found:
            problems.append(f"{host.id!r} is given more than once")
        found[host.id] = host
    if problems:
        raise InvalidArgument("hosts can't be used as given: " + "; ".join(problems))
    return found
