"""Calls to a cloud, at the pace that it allows, and again where that is safe and makes sense."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio

from precip_async.clouds.ec2_errors import ReplyLost, ServerTrouble, is_worth_repeating
from precip_async.clouds.ec2_pace import Pace, backoff
from precip_async.errors import CloudError, EndpointUnreachable, NotAuthorized, Throttled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from xml.etree import ElementTree as ET

    from precip_async.clouds.dialects import Dialect
    from precip_async.clouds.ec2_client import Client
    from precip_async.clouds.ec2_errors import Interpreter

__all__ = ["BRIEF", "PATIENT", "Calls", "recognised", "together"]

T = TypeVar("T")

BRIEF: Final = 12.0  # seconds that are spent on a call which somebody makes again anyway
PATIENT: Final = 75.0  # likewise, on one whose failure ends an experiment; below `launch_timeout`
MOST_BLIND: Final = 5  # times that trouble or silence is answered by asking again


class Calls:
    """What the parts of the EC2 client ask with."""

    def __init__(self, dialect: Dialect, client: Client, pace: Pace) -> None:
        self.dialect = dialect
        self._client, self._pace = client, pace

    @property
    def tell(self) -> Interpreter:
        """What makes errors of this cloud."""
        return self._client.tell

    async def ask(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        read: Callable[[ET.Element], T],
        *,
        patience: float = PATIENT,
        repeat: bool = True,
        instances: int = 0,
        timeout: float | None = None,
    ) -> T:
        """Ask until there is an answer, or asking again makes no sense.

        A refusal for the pace was not carried out, and is always asked again. So is what never
        reached the cloud.

        Args:
            operation: The name of the action.
            parameters: In botocore's names; what the dialect does not accept is left out.
            read: Reads the document.
            patience: Seconds after which nothing is tried again.
            repeat: Whether asking twice does no more than asking once, so that trouble of the
                cloud's own and lost answers are asked again as well.
            instances: How many instances it is about, where that counts.
            timeout: Seconds for one answer; ``None``: the dialect's.

        Raises:
            CloudError: The last answer.
        """
        if not self.dialect.can(operation):
            raise self.tell.invalid(operation, f"{self.dialect.title} has no such thing")
        began, attempt, blind = time.monotonic(), 0, 0
        while True:
            try:
                return await self._ask_once(operation, parameters, read, instances, timeout)
            except CloudError as error:
                attempt += 1
                pause = backoff(attempt)
                unsure = isinstance(error, ServerTrouble | ReplyLost)
                blind += unsure or isinstance(error, EndpointUnreachable)
                if (
                    not is_worth_repeating(error)
                    or (unsure and not repeat)
                    or blind >= MOST_BLIND
                    or time.monotonic() + pause - began > patience
                ):
                    raise
            await anyio.sleep(pause)

    async def _ask_once(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        read: Callable[[ET.Element], T],
        instances: int,
        timeout: float | None,
    ) -> T:
        await anyio.sleep(self._pace.delay(operation, instances))
        async with self._pace.in_flight:
            try:
                answer = await self._client.ask(
                    operation,
                    self.dialect.allowed(operation, parameters),
                    read,
                    timeout=timeout or self.dialect.read_timeout,
                )
            except Throttled:
                self._pace.refused(operation, instances)
                raise
        self._pace.accepted(operation)
        return answer


async def recognised(client: Client, candidates: Sequence[Dialect], patience: float) -> Dialect:
    """Which of `candidates`, the newest first, the cloud speaks: each is asked what older refuse.

    Args:
        client: What is asked with.
        candidates: Which it may be.
        patience: Seconds for all, after which nothing is tried again.

    Raises:
        CloudError: It speaks to nobody, or not to us.
    """
    until = time.monotonic() + patience
    for dialect in candidates[:-1]:
        assert dialect.probe is not None
        operation, parameters = dialect.probe
        client.speak(dialect)
        calls = Calls(dialect, client, Pace(dialect))
        try:
            await calls.ask(
                operation, parameters, lambda root: root, patience=until - time.monotonic()
            )
        except (NotAuthorized, Throttled, ServerTrouble, EndpointUnreachable):
            raise
        except CloudError:  # it does not know what was asked for: it is an older one
            continue
        return dialect
    client.speak(candidates[-1])
    return candidates[-1]


async def together(jobs: Sequence[Callable[[], Awaitable[T]]]) -> list[T | CloudError]:
    """Do `jobs` at once; one that the cloud refuses leaves its error in its place."""
    outcomes: list[T | CloudError | None] = [None] * len(jobs)

    async def do(place: int) -> None:
        try:
            outcomes[place] = await jobs[place]()
        except CloudError as error:
            outcomes[place] = error

    async with anyio.create_task_group() as tasks:
        for place in range(len(jobs)):
            tasks.start_soon(do, place)
    return outcomes  # type: ignore[return-value] # none is left out
