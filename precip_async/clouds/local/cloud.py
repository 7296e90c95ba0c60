"""Machines on this computer, as a cloud: no account, no container engine, and no root needed."""

from __future__ import annotations

import os
import re
import secrets
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import anyio

from precip_async import clock, descriptors
from precip_async.clouds.base import Access, LaunchRequest, Machine, Marked, Traits
from precip_async.clouds.local.faults import SSH_FAULTS, Faults, Orders
from precip_async.clouds.local.hostkeys import make_host_key
from precip_async.clouds.local.namespace_probe import obstacle
from precip_async.clouds.local.remains import claim, clear_dead, end_left_behind, until_cleared
from precip_async.clouds.local.spawning import not_started, ourselves, silent, spawn, tail
from precip_async.clouds.local.state import Record, State
from precip_async.clouds.local.wire import WardenGone, Wire, machine_of
from precip_async.clouds.local.yard import MachineSpec, log_path
from precip_async.errors import CloudError, InvalidArgument, NameInUse

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from precip_async.clouds.base import HeldAddress

__all__ = ["Isolation", "LocalCloud"]

Isolation = Literal["auto", "namespace", "process"]
START_TIMEOUT: Final = 60.0  # seconds for a warden to stand ready, of which it needs about 0.2
CLOSE_TIMEOUT: Final = 60.0  # seconds for it to end hundreds of machines and itself
HANDOVER: Final = 15.0  # seconds that the warden of a script that was killed may take to end
KEPT_HANDOVER: Final = 3.0  # likewise for one that was to keep machines and has none any more
POLL_INTERVAL: Final = 0.1  # seconds; a round costs 0.2 ms, a machine starts in 50
_ID = re.compile(r"i-[0-9a-f]{17}")


class LocalCloud:
    """Starts machines on this computer; a `Cloud`.

    Args:
        home_local_dir: Where state is kept: the directory ``local`` of the home.
        isolation: ``"namespace"``: file system view, process tree, network and OpenSSH server of
            each machine's own; Linux and root only. ``"process"``: anywhere, by anybody.
            ``"auto"``: the first of these that works here.
        internet: Whether machines in namespaces may reach what this computer reaches; the others
            use its own network anyway.
        faults: What is to go wrong.
        crowd: Whether machines in a process go without spaces of their own and are bounded by this
            computer's means only: thousands, cheaply, for the lab.

    Attributes:
        isolation_reason: Once prepared: why this isolation and not the better one; may be empty.

    Raises:
        InvalidArgument: An argument is none of these.
    """

    def __init__(
        self,
        home_local_dir: Path,
        *,
        isolation: Isolation = "auto",
        internet: bool = False,
        faults: Faults | None = None,
        crowd: bool = False,
    ) -> None:
        if isolation not in get_args(Isolation):
            choices = ", ".join(map(repr, get_args(Isolation)))
            raise InvalidArgument(f"isolation must be one of {choices}, not {isolation!r}")
        if not isinstance(internet, bool):
            raise InvalidArgument(f"internet must be True or False, not {internet!r}")
        if faults is not None and not isinstance(faults, Faults):
            raise InvalidArgument(f"faults must be a Faults, not {faults!r}")
        self.isolation_reason = ""
        self._base = home_local_dir.absolute()
        self._wanted, self._internet = isolation, internet
        self._faults = faults or Faults()
        self._crowd = crowd
        self._isolation = ""
        self._access: Access | None = None
        self._wire: Wire | None = None
        self._keep = False
        self._record: Record | None = None

    @property
    def traits(self) -> Traits:
        """What kind of cloud this is; ``isolation`` is known once `prepare` has returned."""
        return Traits(
            name="local",
            endpoint=socket.gethostname(),  # homes are often shared by several computers
            default_image="local",
            isolation=self._isolation,
            isolation_reason=self.isolation_reason,
            poll_interval=POLL_INTERVAL,
        )

    async def prepare(self, access: Access) -> None:
        """Clear what dead experiments left, and start this one's warden.

        Raises:
            NameInUse: Instances that were left running hold the experiment's name.
            CloudError: The isolation can't be had, or the warden does not start.
        """
        try:
            await self._prepare(access)
        except OSError as error:
            raise CloudError(
                f"the state of local instances can't be kept: {error}",
                cloud="local",
                operation="prepare",
                hint=f"see to it that {self._base} can be written to",
            ) from error

    async def launch(
        self, request: LaunchRequest, *, orders: Sequence[Orders] = ()
    ) -> list[Machine]:
        """Begin to start machines. Image and type may be any: the machine is this computer's.

        Args:
            request: How many.
            orders: What each of them is to be, for a cloud that is made of these machines; empty:
                what the experiment's access and faults say.

        Raises:
            InvalidArgument: The request asks for what only other clouds have.
            QuotaExceeded: There is no room for so many.
        """
        if request.user_data is not None:
            raise InvalidArgument(
                "local instances run no cloud-init and take no user_data; use copy_and_run"
            )
        if request.options:
            raise InvalidArgument(
                f"local instances have no launch parameters such as {min(request.options)!r}"
            )
        machines = await anyio.to_thread.run_sync(self._plan, request, orders)
        views = await self._ask(
            "launch",
            token=request.token,
            least=request.min_count,
            machines=machines,
            lifetime=_left(request.expires) if request.expires else None,
        )
        return [machine_of(view) for view in views]

    async def describe(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """What became of `ids`."""
        return await self._states("describe", ids)

    async def terminate(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """Begin to end `ids`."""
        return await self._states("terminate", ids)

    async def extend(self, ids: Sequence[str], expires: datetime) -> None:
        """Have the warden end `ids` at `expires`; see `Expiring`."""
        await self._ask("extend", ids=list(ids), lifetime=_left(expires))

    def renewal(self, expires: datetime) -> str:
        """Nothing: the warden ends machines, whatever runs on them."""
        return ""

    async def find(self, token: str) -> list[Machine]:
        """The machines of the launch named `token`."""
        return [machine_of(view) for view in await self._ask("find", token=token)]

    async def marked(self) -> list[Marked]:
        """None: who keeps them knows their ids, and only the journal the rest."""
        return []

    async def remember(self, ages: Mapping[str, float]) -> None:
        """Nothing to do: their warden knows them."""

    async def adopt(self, ids: Collection[str], addresses: Sequence[HeldAddress]) -> None:
        """Have the warden end them with this script, unless they are to be kept."""
        keep = self._prepared().keep
        try:
            await self._ask("keep", keep=keep)
        except BaseException:  # it may have heard it all the same
            self.keep()
            raise
        self._keep = keep

    def keep(self) -> None:
        """Have the warden keep them once we hang up; see `Keeping`."""
        self._keep = True
        if self._wire is not None:
            self._wire.tell("keep", keep=True)

    async def console(self, instance_id: str) -> str:
        """The end of what a machine's SSH server and boot said."""
        if self._access is None or not _ID.fullmatch(instance_id):
            return ""
        path = log_path(State(self._base, self._access.experiment).path, instance_id)
        return await anyio.to_thread.run_sync(tail, path)

    async def aclose(self) -> None:
        """End all machines, and their warden; with ``keep``, leave both alone."""
        wire, self._wire = self._wire, None
        if wire is None or self._access is None:
            return
        if self._keep:
            wire.close()
            return
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await wire.dismiss()
            await until_cleared(State(self._base, self._access.experiment), self._record)
            return
        wire.close()
        with anyio.CancelScope(shield=True):  # bounded by itself
            await end_left_behind(self._base, self._access.experiment)

    async def _choose(self) -> str:
        if self._wanted == "process":
            return "process"
        self.isolation_reason = await anyio.to_thread.run_sync(obstacle)
        if not self.isolation_reason:
            return "namespace"
        if self._wanted == "namespace":
            raise CloudError(
                f"instances in namespaces can't be had here: {self.isolation_reason}",
                cloud="local",
                operation="prepare",
                hint="isolation='process' works anywhere",
            )
        return "process"

    async def _prepare(self, access: Access) -> None:
        await anyio.to_thread.run_sync(clear_dead, self._base)
        state = State(self._base, access.experiment)
        if access.purpose == "attach":
            await self._attach(state, access)
            return
        self._isolation = await self._choose()
        lock = await self._claim(state)
        try:
            await self._start(state, access, lock)
        except BaseException:
            # Its line to us has ended: a warden that there may be ends, and clears what it took.
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await until_cleared(state, await anyio.to_thread.run_sync(state.read))
            raise

    async def _claim(self, state: State) -> int:
        record = await anyio.to_thread.run_sync(state.read)
        lock = await claim(state, patience=KEPT_HANDOVER if record and record.keep else HANDOVER)
        if lock is not None:
            return lock
        record = await anyio.to_thread.run_sync(state.read)
        keeper = f" (process {record.pid})" if record else ""
        raise NameInUse(
            name=state.experiment,
            holder=f"instances that were left running on this computer{keeper}",
            left=True,
        )

    async def _attach(self, state: State, access: Access) -> None:
        """Take over the warden of an earlier script, which goes on as before until `adopt`."""
        record = await anyio.to_thread.run_sync(state.read)
        script = await anyio.to_thread.run_sync(ourselves)
        line = await anyio.to_thread.run_sync(state.call) if record is not None else None
        if line is None or record is None:
            raise InvalidArgument(
                f"nothing of an experiment {access.experiment!r} goes on on this computer: "
                "instances here outlive their script with keep=True only"
            )
        try:
            wire, greeting = await Wire.over(line, op="attach", script=script)
        except BaseException:
            line.close()
            raise
        try:
            with anyio.fail_after(START_TIMEOUT):
                await greeting
        except BaseException as error:
            wire.close()
            if isinstance(error, TimeoutError):
                raise silent(record.pid) from error
            raise
        self._access, self._wire, self._record, self._keep = access, wire, record, True
        self._isolation = record.isolation

    async def _start(self, state: State, access: Access, lock: int) -> None:
        ours, theirs = socket.socketpair()
        try:
            try:
                facts = self._facts(access)
                await anyio.to_thread.run_sync(spawn, state, facts, lock, theirs)
            finally:
                os.close(lock)  # the warden has copies of both
                theirs.close()
            wire, greeting = await Wire.over(ours)
        except BaseException:
            ours.close()
            raise
        try:
            with anyio.fail_after(START_TIMEOUT):
                shared_because = await greeting
            self._record = await anyio.to_thread.run_sync(state.read)
        except BaseException as error:
            wire.close()
            if isinstance(error, WardenGone | TimeoutError):
                raise await anyio.to_thread.run_sync(not_started, state) from error
            raise
        self._access, self._wire, self._keep = access, wire, access.keep
        if shared_because:
            shared = f"files and processes are shared with this computer: {shared_because}"
            self.isolation_reason = "; ".join(filter(None, (self.isolation_reason, shared)))

    def _facts(self, access: Access) -> dict[str, Any]:
        return {
            "base": str(self._base),
            "experiment": access.experiment,
            "isolation": self._isolation,
            "internet": self._internet,
            "crowd": self._crowd,
            "keep": access.keep,
            "open_files": descriptors.given(),
        }

    def _plan(self, request: LaunchRequest, orders: Sequence[Orders]) -> list[dict[str, Any]]:
        """What the warden is to start: ids and host keys are ours to draw. Takes a while."""
        ordinals = range(request.first, request.first + request.count)
        wanted = orders or [self._usual(ordinal) for ordinal in ordinals]
        return [
            self._machine(request, ordinal, order)
            for ordinal, order in zip(ordinals, wanted, strict=True)
        ]

    def _usual(self, ordinal: int) -> Orders:
        return Orders(
            authorized_key=self._prepared().public_key,
            fault=self._faults.of(ordinal),
            boot_delay=self._faults.delay(ordinal),
            dies_after=self._faults.dies_after,
            ssh_late_by=self._faults.ssh_late_by,
        )

    def _machine(self, request: LaunchRequest, ordinal: int, order: Orders) -> dict[str, Any]:
        access = self._prepared()
        private, public = make_host_key()
        slug = re.sub(r"[^a-z0-9]+", "-", access.experiment.lower()).strip("-")[:40]
        spec = MachineSpec(
            id=f"i-{secrets.token_hex(9)[:17]}",
            ordinal=ordinal,
            hostname=f"{slug or 'precip'}-{ordinal}",
            host_key=private,
            authorized_key=order.authorized_key.strip(),
            fault=order.fault if order.fault in SSH_FAULTS else "",
            disk=request.ebs_size,
            default_user=order.default_user,
            root_login=order.root_login,
            cloud_init=order.cloud_init,
            power=order.power,
            metadata=order.metadata,
        )
        return {
            "spec": asdict(spec),
            "public_key": public,
            "delay": order.boot_delay,
            "never_boots": order.fault == "never_boots",
            "dies_after": order.dies_after if order.fault == "dies_booting" else -1.0,
            "ssh_late_by": order.ssh_late_by,
        }

    def _prepared(self) -> Access:
        if self._access is None:
            raise CloudError("prepare it first", cloud="local", operation="launch")
        return self._access

    async def _ask(self, operation: str, **facts: Any) -> Any:
        self._prepared()
        if self._wire is None:
            raise CloudError("it is closed", cloud="local", operation=operation)
        return await self._wire.ask(operation, **facts)

    async def _states(self, operation: str, ids: Sequence[str]) -> dict[str, Machine]:
        try:
            views = await self._ask(operation, ids=list(ids))
        except WardenGone as error:
            # Machines don't outlive their warden by more than a moment; what does is cleared here.
            await anyio.to_thread.run_sync(clear_dead, self._base)
            views, reason = [], error.message
        else:
            reason = "there is no such instance"
        seen = {view["id"]: machine_of(view) for view in views}
        return {
            one: seen.get(one) or Machine(id=one, state="terminated", reason=reason) for one in ids
        }


def _left(expires: datetime) -> float:
    """Seconds from now."""
    return (expires - clock.now()).total_seconds()
