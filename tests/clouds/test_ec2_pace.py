"""How fast is asked: the published limits, what refusals make of them, and recovery."""

from __future__ import annotations

from precip_async.clouds.dialects import AMAZON, NOVA_2012
from precip_async.clouds.ec2_pace import JITTER, MOST_WAIT, SLOWEST, Bucket, Pace, backoff


class Clock:
    """Time that stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """What it shows."""
        return self.now


def late(*seconds: float) -> list[float]:
    """Waits that are as long as the buckets say, and as requests may come early."""
    return [one + JITTER for one in seconds]


def test_a_burst_costs_nothing_and_what_follows_waits() -> None:
    """As many as the bucket holds at once, and then one each time that one has come in."""
    bucket = Bucket(5, 2, now=0.0)

    assert [bucket.take(1, 0.0) for _ in range(7)] == [0, 0, 0, 0, 0, *late(0.5, 1.0)]


def test_a_bucket_fills_up_again_and_does_not_overflow() -> None:
    """After a long time there is as much as at first."""
    bucket = Bucket(5, 2, now=0.0)
    for _ in range(5):
        bucket.take(1, 0.0)

    assert bucket.take(1, 0.5) == 0
    assert [bucket.take(1, 1000.0) for _ in range(6)][-2:] == [0, *late(0.5)]


def test_a_refusal_halves_the_pace_and_successes_bring_it_back() -> None:
    """Others may draw from the same bucket, for a while."""
    bucket = Bucket(5, 2, now=0.0)
    bucket.refused(0.0)

    assert [bucket.take(1, 0.0)] == late(1.0)
    for _ in range(10):
        bucket.accepted()
    assert bucket.speed == 1.0


def test_the_pace_never_comes_to_nothing() -> None:
    """However often it is refused."""
    bucket = Bucket(5, 2, now=0.0)
    for _ in range(100):
        bucket.refused(0.0)

    assert bucket.speed == SLOWEST


def test_nobody_waits_for_ever() -> None:
    """An account may be allowed more than what is published: the cloud says so, or not."""
    bucket = Bucket(1000, 2, now=0.0)

    assert bucket.take(5000, 0.0) == MOST_WAIT
    assert bucket.take(1, 0.0) <= MOST_WAIT


def test_launches_of_a_fleet_stay_within_what_is_published() -> None:
    """Five launch calls at once, two a second from then on; 500 instances are no matter."""
    pace = Pace(AMAZON, Clock())
    waits = [pace.delay("RunInstances", 100) for _ in range(8)]

    assert waits == [0, 0, 0, 0, 0, *late(0.5, 1.0, 1.5)]


def test_instances_beyond_what_is_published_wait() -> None:
    """A thousand at once, two a second from then on."""
    pace = Pace(AMAZON, Clock())
    pace.delay("RunInstances", 1000)

    assert [pace.delay("RunInstances", 20)] == late(10.0)


def test_what_was_refused_has_launched_nothing() -> None:
    """The thousand that were asked for too early can be asked for again, without waiting more."""
    pace = Pace(AMAZON, Clock())
    pace.delay("RunInstances", 1000)
    pace.refused("RunInstances", 1000)

    assert [pace.delay("RunInstances", 1000)] == late(1.0)


def test_each_kind_of_call_has_a_bucket_of_its_own() -> None:
    """Looking does not wait for launching, and what changes shares one."""
    clock = Clock()
    pace = Pace(AMAZON, clock)
    for _ in range(50):
        pace.delay("ImportKeyPair")

    assert pace.delay("CreateSecurityGroup") > 0
    assert pace.delay("DescribeInstances") == 0
    assert pace.delay("TerminateInstances", 100) == 0
    clock.now += 10
    assert pace.delay("ImportKeyPair") == 0


def test_a_refused_kind_slows_down_alone() -> None:
    """The others are asked for as before."""
    pace = Pace(AMAZON, Clock())
    pace.refused("DescribeInstances")

    assert pace.delay("DescribeKeyPairs") > 0
    assert pace.delay("RunInstances") == 0


def test_clouds_that_publish_nothing_are_slowed_by_refusals_only() -> None:
    """Until then only what is in flight at once is bounded."""
    pace = Pace(NOVA_2012, Clock())

    assert max(pace.delay("RunInstances", 100) for _ in range(500)) == 0
    pace.refused("RunInstances")
    assert pace.delay("RunInstances") > 0


def test_backoff_grows_is_jittered_and_bounded() -> None:
    """Those who were refused together don't come back together."""
    assert 0.2 <= backoff(1) <= 0.4
    assert 4.0 <= backoff(100) <= 8.0
    assert len({backoff(3) for _ in range(20)}) > 1
