"""How instances are reached: at which address, as whom, with which key, and whom to believe."""

from __future__ import annotations

import getpass
from functools import partial
from typing import TYPE_CHECKING, TypedDict

import anyio.to_thread

from precip_async.clouds.hosts import parse_host
from precip_async.errors import HostKeyMismatch, InvalidArgument
from precip_async.home.hostkeys import HostKeys, read_known_hosts
from precip_async.home.keys import ed25519_key, rsa_key
from precip_async.settings import checked_user
from precip_async.ssh.pool import Pool
from precip_async.ssh.remote import PooledRemote
from precip_async.ssh.room import Room
from precip_async.ssh.transport import Login, Target

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from precip_async.clouds.base import Machine, Traits
    from precip_async.fleet import Instance
    from precip_async.home.directory import Home
    from precip_async.home.hostkeys import KnownHosts
    from precip_async.limits import Limits
    from precip_async.settings import AnyPath, Settings
    from precip_async.ssh.remote import Remote

__all__ = ["SSH_PORT", "Reach", "Way"]

SSH_PORT = 22


class Way(TypedDict):
    """As `Row` has it."""

    login_user: str
    ssh_port: int
    address: str


class Reach:
    """The way to the instances of one experiment; the SSH layer's `Trust` as well."""

    def __init__(self, settings: Settings, traits: Traits) -> None:
        self._settings, self._traits = settings, traits
        self._usual_user = settings.login_user or traits.login_user or _current_user()
        self._machines: dict[str, Machine] = {}  # by id: what the cloud said of each at last
        self._ways: dict[str, dict[str | None, tuple[Target, str | None]]] = {}  # by id and user
        self._pins: HostKeys | None = None
        self._known: dict[str, tuple[str, ...]] = {}
        self._given: KnownHosts | None = None
        self._looked_up: dict[tuple[str, int], tuple[str, ...]] = {}  # in what was given
        self._new: dict[str, str] = {}
        self._file: AnyPath = ""

    async def open(self, home: Home) -> tuple[str, Remote]:
        """Read the keys; return our public key, and who works on instances.

        Raises:
            HomeError: The home's keys can't be used.
            InvalidArgument: A given key or file can't be.
        """
        self._pins = HostKeys(home)
        self._file = self._settings.known_hosts or home.path / "host_keys"
        # in a thread: importing asyncssh and parsing keys take some tenths of a second
        return await anyio.to_thread.run_sync(self._prepare, home, Room.here())

    def _prepare(self, home: Home, room: Room) -> tuple[str, Remote]:
        settings = self._settings
        if given := settings.path("known_hosts"):
            self._given = read_known_hosts(given)
        own = rsa_key(home) if self._traits.key_type == "rsa" else ed25519_key(home)
        key = settings.path("ssh_key")
        line = own.public_line
        if key:
            from precip_async.ssh.openssh import load_key

            public = load_key(key, settings.key_passphrase)
            line = public.export_public_key("openssh").decode().strip()
        bastion = self._bastion()
        if bastion is not None and self._given is None:
            self._recall([bastion.alias])
        login = Login(
            keys=(key,) if key else () if settings.ssh_config else (own.private_openssh(),),
            passphrase=settings.key_passphrase,
            agent=settings.agent,
            config=settings.path("ssh_config"),
            bastion=bastion,
            bastion_keys=_paths(settings.path("bastion_key")),
        )
        return line, self._remote(login, settings.limits, room)

    def _remote(self, login: Login, limits: Limits, room: Room) -> Remote:
        workers = limits.ssh_workers
        if workers:
            from precip_async.ssh.workers.auto import AutoRemote
            from precip_async.ssh.workers.remote import ShardedRemote

            over = partial(ShardedRemote, login, self, limits)
            if workers != "auto":
                return over(workers)
        from precip_async.ssh.openssh import AsyncsshConnector

        connector = AsyncsshConnector(login, self, limits)
        pool = Pool(connector, limits, bastion=login.bastion is not None, room=room)
        here = PooledRemote(pool, limits)
        if not workers or login.bastion:  # what passes through one connection is one's
            return here
        return AutoRemote(here, over)

    def _bastion(self) -> Target | None:
        if self._settings.bastion is None:
            return None
        host = parse_host(self._settings.bastion)
        port = host.port or SSH_PORT
        return Target(
            instance_id="the jump host",
            host=host.name,
            port=port,
            user=host.user or _current_user(),
            alias=f"{host.name}:{port}",
        )

    @property
    def way(self) -> Way:
        """How instances are reached that nothing more is said of, for those who come later."""
        settings = self._settings
        return Way(
            login_user=self._usual_user, ssh_port=settings.ssh_port, address=settings.address
        )

    def address(self, instance: Instance) -> str | None:
        """Where `instance` is connected to; ``None`` while the cloud has not said."""
        if self._settings.address == "private":
            return instance.private_address
        return instance.public_address

    def target(self, instance: Instance, user: str | None = None) -> tuple[Target, str | None]:
        """Where to connect for `user` on `instance`, and whom to become there by sudo.

        ``None`` is root on clouds and the login user on hosts. A user who is not the login user is
        logged in as directly where the login user is root, and else reached by sudo.

        Raises:
            InvalidArgument: `user` can't be the name of a user.
        """
        ways = self._ways.setdefault(instance.id, {})
        if (way := ways.get(user)) is None:
            way = ways[user] = self._way(instance, user)
        return way

    def _way(self, instance: Instance, user: str | None) -> tuple[Target, str | None]:
        if user is not None:
            checked_user("user", user)
        login = self._login_user(instance)
        wanted = user or (self._traits.login_user or login)
        direct = login in (wanted, "root")
        target = self._login(instance, wanted if direct else login)
        return target, None if direct else wanted

    def probed(self, instance: Instance) -> Target:
        """Where the login user is reached."""
        return self._login(instance, self._login_user(instance))

    def shown_user(self, instance: Instance, user: str | None) -> str:
        """Who `user` is on `instance`, for messages and results."""
        return user or self._traits.login_user or self._login_user(instance)

    def _login_user(self, instance: Instance) -> str:
        machine = self._machines.get(instance.id)
        return (machine and machine.login_user) or self._usual_user

    def _login(self, instance: Instance, user: str) -> Target:
        host = self.address(instance)
        if host is None:
            raise InvalidArgument(f"{instance.id} has no address yet: call wait() first")
        machine, settings = self._machines.get(instance.id), self._settings
        port: int | None = instance.ssh_port
        shown: str | None = user
        if settings.ssh_config is not None:  # what nobody has said is the configuration's to say
            said_port = machine is not None and machine.ssh_port is not None
            port = port if said_port or settings.ssh_port != SSH_PORT else None
            said_user = settings.login_user or (machine and machine.login_user)
            shown = user if said_user or user != self._usual_user else None
        return Target(
            instance_id=instance.id,
            host=host,
            port=port,
            user=shown,
            alias=self._alias(instance, host),
        )

    def _alias(self, instance: Instance, host: str) -> str:
        return f"{host}:{instance.ssh_port}" if self._traits.pins_hosts else instance.id

    # -- Trust -------------------------------------------------------------------------------

    @property
    def learns(self) -> bool:
        """See `Trust.learns`: unless the user gave a file of keys."""
        return self._given is None

    def known(self, target: Target) -> tuple[str, ...]:
        """See `Trust.known`: what the cloud said, else what the user's file says, else our pin."""
        if keys := self._known.get(target.alias):
            return keys
        if self._given is not None:  # hashed names take a while to look up
            at = target.host, target.port or SSH_PORT
            if (keys := self._looked_up.get(at)) is None:
                keys = self._looked_up[at] = self._given(*at)
            return keys
        return ()

    def learned(self, target: Target, key: str) -> bool:
        """See `Trust.learned`: a first key is believed unless the user gave a file of them."""
        if self._given is not None:
            return False
        self._new[target.alias] = key
        self._known[target.alias] = (key,)
        return True

    def told(self, instance: Instance, machine: Machine) -> None:
        """Take what the cloud says of how `instance` is reached."""
        self._machines[instance.id] = machine
        self._ways.pop(instance.id, None)
        instance.ssh_port = machine.ssh_port or self._settings.ssh_port
        if machine.host_keys:
            instance.host_keys = machine.host_keys
            self._known[instance.id] = machine.host_keys

    async def recall(self, instances: Iterable[Instance], *, ours: bool = False) -> None:
        """Read the host keys that were pinned before, of machines that outlive experiments.

        Args:
            instances: Which.
            ours: Whether an earlier process of this experiment may have pinned them.
        """
        if not (ours or self._traits.pins_hosts) or self._given is not None:
            return
        addressed = [(one, host) for one in instances if (host := self.address(one))]
        aliases = [self._alias(one, host) for one, host in addressed]
        await anyio.to_thread.run_sync(self._recall, aliases)

    def strangers(self, instances: Iterable[Instance]) -> list[Instance]:
        """Those of `instances` of which no host key is known: the first one will be believed."""
        if self._given is not None:
            return []
        addressed = [(one, host) for one in instances if (host := self.address(one))]
        return [one for one, host in addressed if self._alias(one, host) not in self._known]

    def introduce(self, instance: Instance, keys: tuple[str, ...]) -> None:
        """Believe these host keys of `instance`, as pinned when others were."""
        host = self.address(instance)
        if host is not None:
            alias = self._alias(instance, host)
            self._known[alias] = instance.host_keys = keys
            self._new[alias] = keys[0]

    def _recall(self, aliases: Iterable[str]) -> None:
        assert self._pins is not None
        for alias in aliases:
            if alias not in self._new and (keys := self._pins.get(alias)):
                self._known[alias] = keys

    async def pin(self) -> None:
        """Write down the host keys that were learned since last time.

        Raises:
            HostKeyMismatch: Another process has met another key there since.
        """
        new, self._new = self._new, {}
        if new:
            await anyio.to_thread.run_sync(self._pin, new)

    def _pin(self, new: dict[str, str]) -> None:
        assert self._pins is not None
        others: list[str] = []
        for alias, pinned in self._pins.pin_all({one: [key] for one, key in new.items()}).items():
            key = new[alias]
            if key.split()[:2] not in [line.split()[:2] for line in pinned]:
                self._known[alias] = pinned
                others.append(alias)
        if others:
            raise HostKeyMismatch(
                instance_id=", ".join(others),
                host="",
                problem="another process has just met another host key there: one of the two met "
                f"an impostor; {self.mending}",
            )

    @property
    def mending(self) -> str:
        """What to do about a host key that is not the known one."""
        return (
            "find out who answers there; if the machine was reinstalled, remove its line from "
            f"{self._file}"
        )

    async def forget(self, ids: Iterable[str]) -> None:
        """Forget the host keys of instances that have ended."""
        for one in ids:
            self._machines.pop(one, None)
            self._ways.pop(one, None)
        if self._traits.pins_hosts:
            return
        known = [one for one in ids if self._known.pop(one, None)]
        if known and self._pins is not None:
            await anyio.to_thread.run_sync(self._pins.forget, known)


def _paths(path: Path | None) -> tuple[Path, ...]:
    return () if path is None else (path,)


def _current_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry in the password file, and no variable says
        return "root"
