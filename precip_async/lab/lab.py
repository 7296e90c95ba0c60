"""A cloud on this computer: an EC2 endpoint whose instances are local machines with real SSH."""

from __future__ import annotations

import secrets
import ssl
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import anyio

from precip_async.errors import CloudError, InvalidArgument
from precip_async.lab.account import Account
from precip_async.lab.dialects import DIALECTS
from precip_async.lab.doors import Doors
from precip_async.lab.forwarding import can_listen
from precip_async.lab.http import HOST, serving
from precip_async.lab.keys import make_certificate
from precip_async.lab.machines import Machines, choose_cloud_init, choose_isolation, port_of
from precip_async.lab.scenario import Scenario
from precip_async.lab.service import LabCall, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from precip_async.clouds.local.cloud import Isolation
    from precip_async.lab.account import Instance

__all__ = ["Lab", "LabAddress", "LabInstance"]

CLOSE_GRACE: Final = 120.0  # seconds for everything; hundreds of machines take about one
FOREIGN: Final = "elsewhere.invalid"  # the host of a certificate that is not for this one


@dataclass(frozen=True, slots=True, kw_only=True)
class LabInstance:
    """What the lab knows of one instance: more than it tells.

    Attributes:
        id: The cloud's id for it.
        ordinal: Which of all that were launched, from 0.
        image_id: What it was launched from, and `instance_type` as what.
        state: What the cloud says it is.
        alive: Whether it would be found on a bill, or counts against a quota: it is, or may become,
            anything, or failed in a way that has to be cleared up, and nobody has asked for its
            end.
        machine_id: The local machine's id.
        address: Where the machine is; empty while it is nowhere.
        host_keys: Its SSH host keys, OpenSSH lines.
        token: The client token that launched it.
        fault: What the scenario has in store for its boot; empty: nothing.
        boot: Seconds that its boot takes.
        launched: When it was launched, `ran` when it began to run, as near as is known, and `ended`
            when it was first seen to have ended: seconds since the lab was opened; ``None``: not
            yet.
    """

    id: str
    ordinal: int
    image_id: str
    instance_type: str
    state: str
    alive: bool
    machine_id: str
    address: str
    host_keys: tuple[str, ...]
    token: str
    fault: str
    boot: float
    launched: float
    ran: float | None
    ended: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabAddress:
    """An elastic address that somebody has taken, and the id of the instance behind it."""

    public: str
    instance_id: str


class Lab:
    """A cloud on this computer, for as long as the ``async with`` lasts.

    Args:
        dialect: Which cloud: a name in `DIALECTS`.
        directory: Where state is kept.
        isolation: How machines are kept apart; see `LocalExperiment`.
        fleet: Whether there are to be thousands of machines, for a fraction of a millisecond and
            40 KiB each: SSH servers of one process, each with an address, a home and nothing else
            of its own.
        cloud_init: Whether machines run this computer's cloud-init at their boot, which takes
            namespaces; ``None``: where that can be had. Without it the lab does what it can read
            of user data: who may log in.
        scenario: What is to go wrong.
        tls: Whether it speaks https, with a certificate that `ca_file` verifies.
        region: What it calls itself.
        credentials: Access keys and their secrets; ``None``: one pair that is made up.
        session_token: What every request must bring; empty: nothing.

    Attributes:
        endpoint: Its URL.
        access_key: One that is let in.
        secret_key: That one's secret.
        region: The region to sign requests for.
        ca_file: With `tls`: the authority's certificate.
        opened: When it was, by `time.monotonic`, which processes of one computer share.

    Raises:
        InvalidArgument: There is no such dialect.
    """

    def __init__(
        self,
        dialect: str = "amazon",
        *,
        directory: Path,
        isolation: Isolation = "auto",
        fleet: bool = False,
        cloud_init: bool | None = None,
        scenario: Scenario | None = None,
        tls: bool = False,
        region: str = "us-west-2",
        credentials: Mapping[str, str] | None = None,
        session_token: str = "",
    ) -> None:
        if dialect not in DIALECTS:
            raise InvalidArgument(
                f"the lab can be {', '.join(map(repr, DIALECTS))}, and not {dialect!r}"
            )
        self.region = region
        self.endpoint = ""
        self.ca_file: Path | None = None
        known = credentials or {f"AKIA{secrets.token_hex(8).upper()}": secrets.token_urlsafe(30)}
        self.access_key, self.secret_key = next(iter(known.items()))
        self.session_token = session_token
        self._dialect = DIALECTS[dialect]
        self._tls = tls or self._dialect.tls_only
        self._directory = directory.absolute()
        self._isolation: Isolation = "process" if fleet else isolation
        self._fleet, self._cloud_init = fleet, cloud_init
        self._scenario = scenario or Scenario()
        self._doors = Doors(known, session_token=session_token)
        self._stack = AsyncExitStack()
        self.opened = 0.0
        self._account: Account
        self._service: Service

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            isolation = await self._choose()
            machines = Machines(
                self._directory,
                isolation,
                fleet=self._fleet,
                cloud_init=await choose_cloud_init(self._cloud_init, isolation),
            )
            undo.push_async_callback(_end, machines)
            self._account = Account(self._dialect, self._scenario, machines, region=self.region)
            undo.push_async_callback(self._release)
            self._service = Service(self._account, self._doors)
            tls = await undo.enter_async_context(self._certified()) if self._tls else None
            port = await undo.enter_async_context(
                serving(self._service.answer, clock=self._account.now, tls=tls)
            )
            scheme = "https" if tls else "http"
            self.endpoint = f"{scheme}://{HOST}:{port}{self._dialect.paths[0]}"
            self.opened = time.monotonic()
            self._stack = undo.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):  # each step is bounded by itself
            await self._stack.aclose()

    @property
    def dialect(self) -> str:
        """Which cloud it is."""
        return self._dialect.name

    @property
    def isolation(self) -> str:
        """How its machines are kept apart."""
        return self._account.machines.isolation

    @property
    def cloud_init(self) -> bool:
        """Whether its machines run the real cloud-init."""
        return bool(self._account.machines.cloud_init)

    @property
    def ssh_port(self) -> int:
        """Where the machines' SSH servers listen."""
        return self._account.machines.ssh_port

    @property
    def calls(self) -> Sequence[LabCall]:
        """Every call that was made, in order."""
        return self._service.calls

    def add_zone(self, zone: str) -> None:
        """Have a further zone: regions differ in how many they have, and the lab has three."""
        account = self._account
        if zone not in account.zones:
            account.zones = (*account.zones, zone)
            account.subnets[zone] = account.new_id("subnet")

    async def instances(self) -> tuple[LabInstance, ...]:
        """Every instance that was ever launched, in order, as it is now."""
        await self._account.look()
        return tuple(self._seen(one) for one in self._account.instances.values())

    def addresses(self) -> tuple[LabAddress, ...]:
        """The elastic addresses that are taken."""
        return tuple(
            LabAddress(public=one.public, instance_id=one.instance.id if one.instance else "")
            for one in self._account.addresses.values()
        )

    def _seen(self, one: Instance) -> LabInstance:
        state = one.state(self._dialect)
        return LabInstance(
            id=one.id,
            ordinal=one.ordinal,
            image_id=one.image_id,
            instance_type=one.kind,
            state=state,
            alive=one.alive or (state == "error" and not one.gone),
            machine_id=one.machine_id,
            address=one.address,
            host_keys=one.machine.host_keys if one.machine else (),
            token=one.reservation.token,
            fault=self._scenario.fault(one.ordinal),
            boot=one.delay,
            launched=one.launched - self.opened,
            ran=None if one.booted is None else one.booted - self.opened,
            ended=None if one.ended is None else one.ended - self.opened,
        )

    async def _choose(self) -> Isolation:
        """How machines are kept apart: elastic addresses need a port that nobody else has."""
        chosen = await choose_isolation(self._isolation)
        if self._dialect.addresses == "auto" or can_listen(port_of(chosen)):
            return chosen
        if self._isolation == "auto" and can_listen(port_of("process")):
            return "process"
        raise CloudError(
            f"elastic addresses can't be had: port {port_of(chosen)} of this computer's loopback"
            " is taken",
            cloud="lab",
            operation="open",
            hint="isolation='process' uses another",
        )

    async def _release(self) -> None:
        with anyio.move_on_after(CLOSE_GRACE, shield=True):
            for address in self._account.addresses.values():
                await address.forwarder.aclose()

    @asynccontextmanager
    async def _certified(self) -> AsyncIterator[ssl.SSLContext]:
        host = FOREIGN if self._scenario.wrong_host else HOST
        made = await anyio.to_thread.run_sync(make_certificate, self._directory, host)
        try:
            self.ca_file = made[0]
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            await anyio.to_thread.run_sync(context.load_cert_chain, *made)
            yield context
        finally:
            for path in made:
                with anyio.move_on_after(CLOSE_GRACE, shield=True):
                    await anyio.Path(path).unlink()


async def _end(machines: Machines) -> None:
    with anyio.move_on_after(CLOSE_GRACE, shield=True):
        await machines.aclose()
