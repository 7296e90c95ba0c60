"""Output that comes after the exit: what was on its way is taken, what goes on and on is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from precip_async.limits import Limits
from precip_async.ssh.command import Order, converse
from precip_async.ssh.conversation import Conversation
from precip_async.ssh.pool import Pool
from tests.ssh.fakes import FakeChannel, FakeConnector, FakeTransport, refused, target

if TYPE_CHECKING:
    from precip_async.events import Stream
    from precip_async.ssh.transport import Channel, Receiver

MARK = "0123456789abcdef"
LIMITS = Limits(drain_grace=0.01)
KIB = 1024


class Behind(FakeTransport):
    """Its command exits at once; its output comes in batches, each before an echo is answered."""

    def __init__(self, batches: list[int], *, closes: bool) -> None:
        super().__init__()
        self.batches, self.closes, self.refuses = batches, closes, False
        self.echoes = 0

    async def start(self, line: str, receiver: Receiver) -> Channel:
        """See `Transport.start`."""
        if line != ":":
            self.receiver = receiver
            receiver.received("stdout", f"\x02{MARK} 77\n".encode())
            receiver.exited(0)
            return FakeChannel()
        self.echoes += 1
        if self.refuses:
            raise refused()
        if self.batches:
            self.receiver.received("stdout", bytes(self.batches.pop(0)))
        elif self.closes:
            self.receiver.closed()
        return await super().start(line, receiver)


class Heard(Conversation):
    """Counts the output."""

    size = 0

    def output(self, stream: Stream, data: bytes) -> None:
        """Count it."""
        self.size += len(data)


async def drained(transport: FakeTransport) -> int:
    """How much of its output was taken."""
    connector = FakeConnector()
    connector.gate.set()
    connector.transports = [transport]
    talk = Heard(MARK)
    order = Order(command="x", user="root", mark=MARK)
    await converse(Pool(connector, LIMITS), target(), order, talk, LIMITS, None)
    return talk.size


@pytest.mark.parametrize("last", [0, 100])
async def test_what_was_on_its_way_is_taken_however_long_it_takes(last: int) -> None:
    """As long as full packets come before the answers to our echoes, more may come."""
    transport = Behind([32 * KIB] * 40 + [last], closes=True)

    assert await drained(transport) == 40 * 32 * KIB + last
    assert transport.echoes == 41


async def test_a_trickle_is_left_after_one_echo() -> None:
    """Little in the time of an echo can only be written by somebody else, just now."""
    transport = Behind([100] * 1000, closes=False)

    assert await drained(transport) == 100
    assert transport.echoes == 1


async def test_a_flood_is_left_when_more_has_come_than_can_have_been_on_its_way() -> None:
    """A window and some pipes are bounded; what comes beyond them is younger than the exit."""
    transport = Behind([1024 * KIB] * 1000, closes=False)

    assert await drained(transport) == 5 * 1024 * KIB


async def test_a_server_without_a_session_for_an_echo_is_believed() -> None:
    """Where no echo is to be had, the drain grace was all the waiting there is."""
    transport = Behind([32 * KIB] * 10, closes=False)
    transport.refuses = True

    assert await drained(transport) == 0
