"""Clouds that speak the EC2 query API, as a `Cloud`: Amazon, OpenStack, Eucalyptus, Nimbus."""

from __future__ import annotations

import contextlib
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from precip_async import clock
from precip_async.clouds.base import Access, LaunchRequest, Machine, Traits
from precip_async.clouds.dialects import Dialect
from precip_async.clouds.ec2_addresses import Addresses
from precip_async.clouds.ec2_calls import Calls, recognised
from precip_async.clouds.ec2_console import console
from precip_async.clouds.ec2_endpoint import check_credentials, reaped_by
from precip_async.clouds.ec2_groups import Groups
from precip_async.clouds.ec2_keys import Keys
from precip_async.clouds.ec2_launch import Launches
from precip_async.clouds.ec2_lifetime import check_lifetime, mark_expiry
from precip_async.clouds.ec2_pace import Pace
from precip_async.clouds.ec2_parts import Parts
from precip_async.clouds.ec2_remains import Remains
from precip_async.clouds.ec2_roster import Roster
from precip_async.clouds.ec2_switch import renewing
from precip_async.clouds.ec2_wire import checked_options, machine_of
from precip_async.errors import CloudError, EndpointUnreachable, InvalidArgument, Throttled

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from precip_async.clouds.base import HeldAddress, Marked
    from precip_async.clouds.dialects import KeyType
    from precip_async.clouds.ec2_client import Client
    from precip_async.clouds.ec2_documents import Seen
    from precip_async.clouds.ec2_endpoint import Endpoint

__all__ = ["EC2Cloud"]

FIRST_ANSWER: Final = 18.0  # seconds until it is known whether the cloud answers us
FIRST_PATIENCE: Final = 12.0  # seconds in which it is asked again when it has no answer yet
THROTTLED_PATIENCE: Final = 60.0  # likewise, when it only wants to be asked later
RELEASE: Final = 120.0  # seconds for giving back addresses and key pairs


class EC2Cloud:
    """Starts, describes and ends instances of a cloud that speaks EC2; a `Cloud`.

    Args:
        dialect: How it speaks; where its age is not known, the candidates, the newest first.
        endpoint: Where; ``None``: where Amazon has the region.
        region: What requests are signed for; ``None``: what the endpoint or the dialect says.
        zone: Where instances are placed; ``None``: the cloud's choice.
        access_key: Who asks; ``None``: whoever the standard AWS chain finds.
        secret_key: Goes with `access_key`.
        session_token: Goes with temporary keys.
        profile: A profile of the AWS configuration to find keys in.
        verify: How TLS certificates are checked: True, False, or a file of authorities.
        ssh_cidr: From where SSH is let in.
        ssh_port: Where it listens.
        public: Whether instances are to have public addresses, where those must be asked for.
        root_login: Whether images that refuse root are to let it in with the experiment's key.
        max_lifetime: Seconds after which an instance ends by itself.

    Raises:
        InvalidArgument: These do not go together, or can't be.
    """

    def __init__(
        self,
        *,
        dialect: Dialect | Sequence[Dialect],
        endpoint: Endpoint | None = None,
        region: str | None = None,
        zone: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        session_token: str | None = None,
        profile: str | None = None,
        verify: bool | str | Path = True,
        ssh_cidr: str = "0.0.0.0/0",
        ssh_port: int = 22,
        public: bool = True,
        root_login: bool = True,
        max_lifetime: float | None = None,
    ) -> None:
        self._dialects = (dialect,) if isinstance(dialect, Dialect) else tuple(dialect)
        amazon = self._dialects[0].name == "amazon"
        if endpoint is None and not amazon:
            raise InvalidArgument(f"endpoint: where is {self._dialects[0].title} spoken to?")
        there = endpoint.region if endpoint else None
        if region and there and region != there:
            raise InvalidArgument(
                f"the region is {region}, and the endpoint {endpoint and endpoint.host} is that of "
                f"{there}: leave one of the two out, or make them match"
            )
        check_credentials(access_key, secret_key, session_token, profile, needed=not amazon)
        check_lifetime(max_lifetime, *self._dialects)
        self._endpoint, self._zone = endpoint, zone
        self._region = region or there or self._dialects[0].region
        self._given = (access_key, secret_key, session_token, profile)
        self._verify = verify if isinstance(verify, bool) else str(Path(verify).expanduser())
        self._ssh = (ssh_cidr, ssh_port)
        self._public, self._root_login, self._max_lifetime = public, root_login, max_lifetime
        self._client: Client | None = None
        self._parts: Parts | None = None
        self._keep = False

    def __repr__(self) -> str:
        return f"<EC2Cloud {self._dialects[0].name} {self.traits.endpoint}>"

    @property
    def traits(self) -> Traits:
        """What kind of cloud this is; complete once `prepare` has returned."""
        url = self._endpoint.url if self._endpoint else ""
        if self._client is not None:
            url = self._client.url
        ours = self._root_login or self._max_lifetime is not None  # see `ec2_user_data`
        return Traits(
            name=self._dialects[0].title,
            endpoint=f"{url} {self._region}".strip(),
            region=self._region,
            zone=self._zone or "",
            key_type=self.key_type,
            cloud_init="none" if not self.dialect.cloud_init else "all" if ours else "gave",
        )

    @property
    def key_type(self) -> KeyType:
        """Of which type the key in `Access` should be; known before `prepare`."""
        return self._dialects[0].key_types[0]

    @property
    def dialect(self) -> Dialect:
        """How the cloud speaks; known for sure once `prepare` has returned."""
        return self._parts.calls.dialect if self._parts else self._dialects[-1]

    @property
    def region(self) -> str:
        """What requests are signed for."""
        return self._region

    @property
    def zone(self) -> str | None:
        """Where instances are placed; ``None``: the cloud's choice."""
        return self._zone

    def elsewhere(
        self,
        *,
        endpoint: Endpoint,
        access_key: str,
        secret_key: str,
        verify: bool | Path,
        ssh_port: int,
    ) -> EC2Cloud:
        """The same cloud at another place, with other credentials; nothing is shared with it."""
        return EC2Cloud(
            dialect=self._dialects,
            endpoint=endpoint,
            region=self._region,
            zone=self._zone,
            access_key=access_key,
            secret_key=secret_key,
            verify=verify,
            ssh_cidr=self._ssh[0],
            ssh_port=ssh_port,
            public=self._public,
            root_login=self._root_login,
            max_lifetime=self._max_lifetime,
        )

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise `InvalidArgument` where `options` can't be launch parameters there."""
        checked_options(self.dialect, options)

    # -- the protocol ------------------------------------------------------------------------

    async def prepare(self, access: Access) -> None:
        """See that the cloud answers us, and that our key and our group are there.

        Raises:
            NotAuthorized: It does not accept the credentials.
            EndpointUnreachable: It does not answer, or what answers is no EC2 API.
            CloudError: It refuses something else.
            InvalidArgument: The key is of a kind that it does not take, or its instances can't end
                by themselves, and are to.
        """
        if self._verify is False:
            warnings.warn(
                f"the certificate of {self.traits.endpoint} is not checked (verify=False): whoever "
                "is in between can read and change everything",
                UserWarning,
                stacklevel=2,
            )
        self._keep = access.keep or access.purpose != "launch"
        client, began = None, time.monotonic()
        while True:
            try:
                with anyio.fail_after(FIRST_ANSWER):
                    client = client or await self._connected()
                    parts = await self._answered(client, access)
                break
            except Throttled:  # it answers, and is only to be asked later
                if time.monotonic() - began > THROTTLED_PATIENCE:
                    raise
            except TimeoutError as error:
                raise EndpointUnreachable(
                    f"no answer from {self.traits.endpoint} within {FIRST_ANSWER:.0f} s",
                    cloud=self._dialects[0].title,
                    operation="prepare",
                    hint="check the endpoint's host and port, and the network in between",
                ) from error
        check_lifetime(self._max_lifetime, parts.calls.dialect)
        if access.purpose != "look":
            await parts.keys.register()
            await parts.groups.prepare()
        self._parts = parts

    async def launch(self, request: LaunchRequest) -> list[Machine]:
        """Start instances, and return once the cloud has accepted; see `Cloud.launch`.

        Raises:
            InvalidArgument: The request asks for what can't be had; nothing was started.
            EndpointUnreachable: Nobody knows what was started; `find` may.
            CloudError: It was refused, and nothing of it is left.
        """
        started = await self._prepared("provision").launches.start(request)
        return [self._machine(one.id, one) for one in started]

    async def describe(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """What became of `ids`."""
        parts = self._prepared("describe")
        seen = await parts.roster.look(ids)
        given: dict[str, str] = {}
        if parts.addresses is not None and parts.access.purpose != "look":
            ready = [one for one in seen.values() if parts.wants_address(one)]
            given = await parts.addresses.provide(ready)
        return {one: self._machine(one, seen.get(one.lower()), given) for one in ids}

    async def terminate(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """Ask for the end of `ids`, and give back what they held."""
        parts = self._prepared("terminate")
        ended = await parts.roster.end(ids)
        # what can't be given back now is tried again by `aclose`, which says so if it must
        with contextlib.suppress(CloudError):
            await parts.keys.ended(ids)
        if parts.addresses is not None:
            with contextlib.suppress(CloudError):
                await parts.addresses.ended(ids)
        return {one: self._machine(one, ended.get(one.lower())) for one in ids}

    async def find(self, token: str) -> list[Machine]:
        """The instances that the launch named `token` has started."""
        found = await self._prepared("find").launches.find(token)
        return [self._machine(one.id, one) for one in found]

    async def marked(self) -> list[Marked]:
        """Every instance of the account that bears a mark of ours; see `Attachable.marked`."""
        return await self.remains.marked()

    async def remember(self, ages: Mapping[str, float]) -> None:
        """See `Attachable.remember`."""
        self._prepared("look").roster.remember(ages)

    async def adopt(self, ids: Collection[str], addresses: Sequence[HeldAddress]) -> None:
        """Take over what an earlier process has launched; see `Attachable.adopt`."""
        access = self._prepared("adopt").access
        await self.remains.adopt(ids, addresses)
        if access.purpose == "attach":  # until here, and without it, all is to stay as it was
            self._keep = access.keep

    def keep(self) -> None:
        """Give nothing back at the end; see `Keeping`."""
        self._keep = True

    @property
    def remains(self) -> Remains:
        """What earlier processes have left at the cloud."""
        return Remains(self._prepared("look"))

    async def console(self, instance_id: str) -> str:
        """The end of an instance's console output; empty where the cloud has none."""
        return await console(self._prepared("console").calls, instance_id)

    async def extend(self, ids: Sequence[str], expires: datetime) -> None:
        """Mark `ids` with their new end; see `Expiring`."""
        await mark_expiry(self._prepared("extend").calls, ids, expires)

    def renewal(self, expires: datetime) -> str:
        """What puts the end of an instance off; see `Expiring`."""
        return renewing((expires - clock.now()).total_seconds())

    async def aclose(self) -> None:
        """Give back addresses and key pairs unless machines are kept, and close connections.

        Raises:
            CloudError: Something may be left at the cloud; the message names it.
        """
        parts, self._parts = self._parts, None
        client, self._client = self._client, None
        try:
            if parts is not None and not self._keep:
                with anyio.move_on_after(RELEASE, shield=True) as scope:
                    await parts.release()
                if scope.cancelled_caught:
                    raise parts.calls.tell.invalid(
                        "close",
                        f"addresses and key pairs were not given back in {RELEASE:.0f} s",
                        "see to it yourself: addresses may cost",
                    )
        finally:
            if client is not None:
                await client.aclose()

    @property
    def for_reaping(self) -> Mapping[str, Any]:
        """See `Reapable`; secrets are among it."""
        return reaped_by(self.dialect, self._endpoint, self._region, self._verify, self._given)

    # -- how ---------------------------------------------------------------------------------

    async def _answered(self, client: Client, access: Access) -> Parts:
        """What there is to work with, once the cloud has answered.

        Raises:
            CloudError: It does not, or says no.
        """
        until = time.monotonic() + FIRST_PATIENCE
        dialect = await recognised(client, self._dialects, FIRST_PATIENCE)
        parts = self._built(Calls(dialect, client, Pace(dialect)), access)
        await parts.keys.check(until - time.monotonic())
        return parts

    async def _connected(self) -> Client:
        def made() -> Client:
            # in a thread: importing the vendor's library takes some tenths of a second
            from precip_async.clouds.ec2_client import Client
            from precip_async.clouds.ec2_credentials import Credentials

            return Client(
                dialect=self._dialects[0],
                url=self._endpoint.url if self._endpoint else None,
                region=self._region,
                credentials=Credentials(*self._given),
                verify=self._verify,
            )

        client = await anyio.to_thread.run_sync(made)
        self._client = client  # whose `aclose` is ours from here on
        await client.open()
        return client

    def _built(self, calls: Calls, access: Access) -> Parts:
        keys, roster = Keys(calls, access), Roster(calls)
        groups = Groups(calls, *self._ssh)
        launches = Launches(
            calls,
            access,
            keys,
            groups,
            roster,
            zone=self._zone,
            root_login=self._root_login,
            max_lifetime=self._max_lifetime,
        )
        elastic = calls.dialect.elastic and self._public
        return Parts(
            access=access,
            calls=calls,
            keys=keys,
            groups=groups,
            roster=roster,
            launches=launches,
            addresses=Addresses(calls, access.ledger) if elastic else None,
        )

    def _prepared(self, operation: str) -> Parts:
        if self._parts is None:
            raise CloudError("it is not open", cloud=self._dialects[0].title, operation=operation)
        return self._parts

    def _machine(
        self, instance_id: str, seen: Seen | None, given: Mapping[str, str] | None = None
    ) -> Machine:
        parts = self._prepared("describe")
        if seen is None:
            state = parts.roster.missing(instance_id)
            why = "the cloud does not know of it, or not yet"
            if state != "pending":
                why = "there is no such instance any more"
            return Machine(id=instance_id, state=state, reason=why)
        trouble = parts.addresses.trouble.get(seen.id, "") if parts.addresses else ""
        elastic = (given or {}).get(seen.id)
        return machine_of(parts.calls.dialect, seen, public=elastic, note=trouble)
