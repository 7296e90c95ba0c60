"""One request, from what was sent to what is answered."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio

from precip_async.lab import addresses, groups, instances, key_pairs, launching, places
from precip_async.lab.accepted import ENVELOPE
from precip_async.lab.documents import html_document, response_document
from precip_async.lab.messages import Reply
from precip_async.lab.parameters import Parameters
from precip_async.lab.refusals import Refusal
from precip_async.lab.refusing import refusal_reply
from precip_async.lab.throttle import Buckets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from precip_async.lab.account import Account
    from precip_async.lab.doors import Doors
    from precip_async.lab.messages import Request
    from precip_async.lab.scenario import Fate

__all__ = ["LabCall", "Service"]

Action = Callable[["Account", Parameters], Awaitable[dict[str, Any]]]

ACTIONS: Final[Mapping[str, Action]] = {
    "AllocateAddress": addresses.allocate_address,
    "AssociateAddress": addresses.associate_address,
    "AuthorizeSecurityGroupIngress": groups.authorize_ingress,
    "CreateSecurityGroup": groups.create_group,
    "CreateTags": places.create_tags,
    "DeleteKeyPair": key_pairs.delete_key_pair,
    "DeleteSecurityGroup": groups.delete_group,
    "DescribeAddresses": addresses.describe_addresses,
    "DescribeAvailabilityZones": places.describe_zones,
    "DescribeImages": places.describe_images,
    "DescribeInstances": instances.describe_instances,
    "DescribeKeyPairs": key_pairs.describe_key_pairs,
    "DescribeRegions": places.describe_regions,
    "DescribeSecurityGroups": groups.describe_groups,
    "DescribeSubnets": places.describe_subnets,
    "DescribeTags": places.describe_tags,
    "DescribeVpcs": places.describe_vpcs,
    "DisassociateAddress": addresses.disassociate_address,
    "GetConsoleOutput": instances.get_console_output,
    "ImportKeyPair": key_pairs.import_key_pair,
    "ReleaseAddress": addresses.release_address,
    "RevokeSecurityGroupIngress": groups.revoke_ingress,
    "RunInstances": launching.run_instances,
    "TerminateInstances": instances.terminate_instances,
}
LARGE: Final = 50  # launches or instances in a reply that is written on another thread


@dataclass(slots=True, kw_only=True)
class LabCall:
    """One call that was made.

    Attributes:
        action: What was asked for; empty where it couldn't be read.
        parameters: By their full names; what belongs to the signature left out.
        at: Seconds since the lab was opened.
        status: The HTTP status that it was, or would have been, answered with; 0 while it is being
            worked on, or when the connection was reset before anything was done.
        code: Amazon's word for why it was refused, or one of those in `answers`; ``"failed"`` where
            the lab itself did; empty where it was done.
        answered: Whether the client was sent the answer.
    """

    action: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    at: float = 0.0
    status: int = 0
    code: str = ""
    answered: bool = True

    @property
    def throttled(self) -> bool:
        """Whether it was refused as one too many."""
        return self.code == "throttled"


class Service:
    """The cloud's front: answers requests, and keeps count of them."""

    def __init__(self, account: Account, doors: Doors) -> None:
        self.calls: list[LabCall] = []
        self._account = account
        self._doors = doors
        self._buckets = Buckets()
        self._opened = time.monotonic()
        self._launches = 0

    async def answer(self, request: Request) -> Reply:
        """What a request is answered with."""
        call = LabCall(at=time.monotonic() - self._opened)
        number = len(self.calls)
        self.calls.append(call)
        request_id = f"{self._account.dialect.request_ids or ''}{uuid.uuid4()}"
        try:
            reply = await self._work(request, call, number, request_id)
        except Refusal as refusal:
            call.code = refusal.code
            reply = refusal_reply(refusal, self._account.dialect, call.action, request_id)
        except Exception:
            call.status, call.code = 500, "failed"  # the lab itself: its server says how
            raise
        call.status = 0 if reply.cut and not call.status else reply.status
        call.answered = not reply.cut
        return reply

    async def _work(self, request: Request, call: LabCall, number: int, request_id: str) -> Reply:
        account, dialect = self._account, self._account.dialect
        if request.path.rstrip("/") not in {path.rstrip("/") for path in dialect.paths}:
            return _not_found(request.path)
        pairs = [*request.query_pairs(), *request.form_pairs()]
        p = Parameters.parse(pairs, coerces=dialect.coerces)
        call.action = p.text("Action")
        call.parameters = {name: text for name, text in p.flat().items() if name not in ENVELOPE}
        fate = self._fate(call.action, number)
        await anyio.sleep(fate.slow)
        if fate.reset:
            return Reply(cut=True)
        if dialect.versions and not re.fullmatch(dialect.versions, p.text("Version")):
            raise Refusal("NoSuchVersion", "The version is not one of this service.")
        self._doors.check(account, request, pairs)
        if fate.error:
            raise Refusal("broken", "An internal error has occurred", status=500)
        if fate.throttled or not self._has_tokens(call.action, p):
            raise Refusal("throttled", "Request limit exceeded.", status=503)
        body = await self._act(call.action, p)
        document = await self._written(call.action, p, body, request_id)
        if fate.lost:
            call.status = 200
            return Reply(cut=True)
        return Reply(body=document)

    def _fate(self, action: str, number: int) -> Fate:
        launches = None
        if action == "RunInstances":
            launches, self._launches = self._launches, self._launches + 1
        return self._account.scenario.fate(number, launches=launches)

    def _has_tokens(self, action: str, p: Parameters) -> bool:
        counted = self._account.dialect.buckets and self._account.scenario.buckets
        return not counted or self._buckets.take(action, p)

    async def _act(self, action: str, p: Parameters) -> dict[str, Any]:
        dialect = self._account.dialect
        if not action:
            raise Refusal("MissingAction", "The request must contain the parameter Action")
        accepted = dialect.actions.get(action)
        if accepted is None:
            raise Refusal(
                "InvalidAction",
                f"The action {action} is not valid for this web service.",
                subject=action,
            )
        unknown = next(accepted.unknown(p.names()), None)
        if unknown is not None:
            if dialect.unknown == "refuse":
                raise Refusal(
                    "UnknownParameter",
                    f"The parameter {unknown} is not recognized",
                    subject=unknown,
                )
            if dialect.unknown == "break" or action in dialect.breaks_on:
                raise Refusal("crash", f"{unknown} is not taken", subject="TypeError", status=500)
            p = p.only(accepted.takes)
        if "DryRun" in accepted and p.flag("DryRun"):
            raise Refusal(
                "DryRunOperation",
                "Request would have succeeded, but DryRun flag is set.",
                status=412,
            )
        return await ACTIONS[action](self._account, p)

    async def _written(
        self, action: str, p: Parameters, body: dict[str, Any], request_id: str
    ) -> bytes:
        version = self._account.dialect.namespace or p.text("Version", "2016-11-15")
        namespace = f"http://ec2.amazonaws.com/doc/{version}/"
        shown = None if self._account.dialect.request_ids is None else request_id

        def write() -> bytes:
            return response_document(action, body, namespace=namespace, request_id=shown)

        long = sum(len(part) for part in body.values() if isinstance(part, list)) > LARGE
        return await anyio.to_thread.run_sync(write) if long else write()


def _not_found(path: str) -> Reply:
    body = html_document("404 Not Found", f"There is nothing at {path[:200]}.")
    return Reply(status=404, body=body, content_type="text/html")
