"""From launched to ready: rounds, probes, diagnoses, replacements; cloud and SSH in memory."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async.errors import (
    AuthenticationFailed,
    BootError,
    BootTimeout,
    CloudError,
    ConnectError,
    ConnectTimeout,
    HostKeyMismatch,
    QuotaExceeded,
    RemoteError,
    Throttled,
)
from precip_async.events import (
    Deprovisioned,
    InstanceReady,
    InstanceReplaced,
    Launched,
    StateChanged,
    Waiting,
    Warned,
)
from precip_async.fanout import in_child_task
from precip_async.home.journal import Journal
from precip_async.settings import Settings
from precip_async.ssh.openssh_errors import translate
from tests.fakes import QUICK, Bench, bench, refused
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from precip_async.ssh.transport import Target

SOON = 0.2  # seconds: a wait that is to run out of time

# The state in which a machine is that has not booted yet.
BOOTING: dict[str, Any] = {"state": "pending", "public_address": None, "private_address": None}
UP: dict[str, Any] = {"state": "running", "public_address": "127.9.9.9"}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench with an in-memory cloud and in-memory SSH."""
    async with bench(tmp_path / "home") as made:
        yield made


def trouble(kind: type[CloudError] = CloudError, message: str = "hiccup") -> CloudError:
    """What the cloud says when it can't answer."""
    return kind(message, cloud="fake", operation="test")


def saying(
    kind: type[RemoteError], said: str = "no", *, hosts: tuple[str, ...] = ()
) -> Callable[[Target], Any]:
    """What every attempt to connect fails with, or only those to `hosts`."""

    async def answer(target: Target) -> None:
        if not hosts or target.host in hosts:
            raise refused(target, kind, said)

    return answer


# -- ready -----------------------------------------------------------------------------------


async def test_an_instance_is_ready_once_a_command_has_run(at: Bench) -> None:
    """Logged in is not enough: the command `true` is run, as the login user."""
    (instance,) = await at.provision()

    await at.boot.wait([instance], 5)

    assert (instance.state, instance.diagnosis) == ("ready", None)
    assert instance.ready_at is not None
    assert instance.ready_at > instance.launched_at
    assert instance.tags == ("precip", instance.id, "127.9.9.1")
    assert [line.endswith(" true") for line in at.connector.lines] == [True]
    assert [target.user for target in at.connector.attempts] == ["root"]
    assert [event.address for event in at.of(InstanceReady)] == ["127.9.9.1"]


async def test_the_connection_of_the_probe_is_the_pools(at: Bench) -> None:
    """What follows needs no second handshake."""
    (instance,) = await at.provision()

    await at.boot.wait([instance], 5)

    assert at.pool.connected(at.reach.target(instance)[0])
    assert len(at.connector.attempts) == 1


async def test_states_are_announced_in_order_and_once(at: Bench) -> None:
    """Who watches sees each step, and how many are still to come."""
    at.cloud.first = BOOTING
    instances = await at.provision(2)

    async def boot(_: object) -> None:
        if at.cloud.count("describe") == 3:
            at.cloud.say(instances[0].id, state="running")
            at.cloud.say(instances[1].id, **UP)
        if at.cloud.count("describe") == 5:
            at.cloud.say(instances[0].id, **UP)

    at.cloud.before["describe"] = boot
    await at.boot.wait(instances, 5)

    states = [event.state for event in at.of(StateChanged) if event.instance_id == instances[0].id]
    assert states == ["running", "addressed", "reachable"]
    assert [event.pending for event in at.of(Waiting)] == [2, 1, 0]


async def test_telling_how_many_are_left_looks_at_none_of_them(at: Bench) -> None:
    """With many it would be done many times."""
    looks = 0

    class Looked(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            nonlocal looks
            looks += 1
            return super().__iter__()

    instances = Looked(await at.provision(12))
    looks = 0
    await at.boot.wait(instances, 5)

    assert [event.pending for event in at.of(Waiting)] == [*range(12, -1, -1)]
    assert looks <= 3


async def test_nothing_is_asked_when_all_are_ready(at: Bench) -> None:
    """Waiting again for what is ready costs nothing."""
    instances = await at.provision(2)
    await at.boot.wait(instances, 5)
    described, attempts = at.cloud.count("describe"), len(at.connector.attempts)

    await at.boot.wait(instances, 5)

    assert (at.cloud.count("describe"), len(at.connector.attempts)) == (described, attempts)


async def test_an_instance_with_a_private_address_only_is_waited_for(at: Bench) -> None:
    """Clouds tell the private address first: that is no failure, and is not connected to."""
    at.cloud.first = {"state": "pending", "public_address": None}
    (instance,) = await at.provision()

    async def boot(_: object) -> None:
        if at.cloud.count("describe") == 3:
            at.cloud.say(instance.id, **UP)

    at.cloud.before["describe"] = boot
    await at.boot.wait([instance], 5)

    assert [target.host for target in at.connector.attempts] == ["127.9.9.9"]


async def test_private_addresses_will_do_where_they_are_wanted(tmp_path: Path) -> None:
    """With address="private" no public one is waited for."""
    settings = Settings(address="private")
    async with bench(tmp_path / "home", settings=settings) as at:
        at.cloud.first = {"state": "running", "public_address": None}
        (instance,) = await at.provision()

        await at.boot.wait([instance], 5)

        assert [target.host for target in at.connector.attempts] == ["127.9.0.1"]
        assert instance.public_address is None


# -- rounds ----------------------------------------------------------------------------------


async def test_one_describe_call_a_round_serves_all(at: Bench) -> None:
    """However many instances there are, and however many wait for them."""
    at.cloud.first = BOOTING
    instances = await at.provision(20)

    async def boot(_: object) -> None:
        if at.cloud.count("describe") == 5:
            for one in instances:
                at.cloud.say(one.id, **UP)

    at.cloud.before["describe"] = boot
    async with anyio.create_task_group() as tasks:
        for start in range(10):
            tasks.start_soon(at.boot.wait, instances[start:], 5)

    rounds = [given for name, given in at.cloud.calls if name == "describe"]
    assert len(rounds) in (5, 6)  # the last may begin while the last of them log in
    assert all(ids == [one.id for one in instances] for ids in rounds[:5])


async def test_rounds_keep_their_distance(tmp_path: Path) -> None:
    """Clouds count calls: between two there is limits.poll_interval."""
    limits = replace(QUICK, poll_interval=0.1)
    async with bench(tmp_path / "home", limits=limits, poll_interval=None) as at:
        at.cloud.first = BOOTING
        instances = await at.provision()

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(expect_timeout, at, instances, 0.45)

        assert 3 <= at.cloud.count("describe") <= 5


async def expect_timeout(at: Bench, instances: list[Any], timeout: float) -> BootTimeout:
    """Wait for `instances` in vain."""
    with pytest.raises(BootTimeout) as caught:
        await at.boot.wait(instances, timeout)
    return caught.value


@pytest.mark.parametrize("why", ["throttled", "nothing changes"])
async def test_rounds_are_rarer_when_asking_is_no_use(tmp_path: Path, why: str) -> None:
    """A cloud that says slow down, or has said the same for a minute, is asked less often."""
    limits = replace(QUICK, poll_interval=0.02, poll_interval_idle=10, poll_idle_after=0.1)
    async with bench(tmp_path / "home", limits=limits, poll_interval=None) as at:
        at.cloud.first = BOOTING
        instances = await at.provision()

        async def throttle(_: object) -> None:
            raise trouble(Throttled)

        if why == "throttled":
            at.cloud.before["describe"] = throttle
        await expect_timeout(at, instances, 0.5)

        least, most = (1, 1) if why == "throttled" else (3, 9)
        assert least <= at.cloud.count("describe") <= most


async def test_rounds_that_cost_nothing_stay_frequent(tmp_path: Path) -> None:
    """A cloud on this computer is asked as often as ever, however long nothing changes."""
    limits = replace(QUICK, poll_interval_idle=10, poll_idle_after=0.1)
    async with bench(tmp_path / "home", limits=limits, poll_interval=0.02) as at:
        at.cloud.first = BOOTING
        await expect_timeout(at, await at.provision(), 0.6)

        assert at.cloud.count("describe") > 9


async def test_how_far_an_instance_is_is_written_once(
    at: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds that bring no news do not wake the disk."""
    written: list[dict[str, str]] = []
    saw_all = Journal.saw_all

    def counted(journal: Journal, states: dict[str, str], **where: Any) -> None:
        written.append(states)
        saw_all(journal, states, **where)

    monkeypatch.setattr(Journal, "saw_all", counted)
    at.cloud.first = BOOTING
    (instance,) = await at.provision()
    await expect_timeout(at, [instance], SOON)

    assert at.cloud.count("describe") > 2
    assert written == [{instance.id: "pending"}]


async def test_a_cancelled_wait_hands_the_rounds_over(at: Bench) -> None:
    """Of several waits one asks the cloud; when it is cancelled another goes on."""
    at.cloud.first = BOOTING
    instances = await at.provision()
    first = anyio.CancelScope()

    async def leading() -> None:
        with first:
            await at.boot.wait(instances, None)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leading)
        await eventually(lambda: at.cloud.count("describe") > 1)
        tasks.start_soon(at.boot.wait, instances, 5)
        await eventually(lambda: len(at.of(Waiting)) == 2)  # the second has begun
        first.cancel()
        asked = at.cloud.count("describe")
        await eventually(lambda: at.cloud.count("describe") > asked)
        at.cloud.say(instances[0].id, **UP)

    assert instances[0].state == "ready"


async def test_a_wait_cancelled_in_the_middle_of_a_round_hands_it_over(at: Bench) -> None:
    """A describe call that never answers its asker keeps nobody else from asking."""
    instances = await at.provision()
    at.cloud.say(instances[0].id, **BOOTING)
    instances[0].public_address = None

    async def hang_once(_: object) -> None:
        if at.cloud.count("describe") == 1:
            await anyio.sleep_forever()

    at.cloud.before["describe"] = hang_once
    task = asyncio.create_task(in_child_task(lambda: at.boot.wait(instances, None)))
    await eventually(lambda: at.cloud.count("describe") == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    at.cloud.say(instances[0].id, **UP)

    await at.boot.wait(instances, 5)

    assert instances[0].state == "ready"


async def test_a_describe_that_fails_now_and_then_is_survived(at: Bench) -> None:
    """The cloud is asked again; observers hear of it once for each kind of trouble."""
    at.cloud.first = BOOTING
    (instance,) = await at.provision()

    async def fail(_: object) -> None:
        if at.cloud.count("describe") < 4:
            raise trouble()
        at.cloud.say(instance.id, **UP)

    at.cloud.before["describe"] = fail
    await at.boot.wait([instance], 5)

    assert instance.state == "ready"
    (warning,) = at.of(Warned)
    assert "the cloud can't be asked, and is asked again: fake: test: hiccup" in warning.text


async def test_a_cloud_that_can_never_be_asked_is_the_diagnosis(at: Bench) -> None:
    """Credentials that have expired are not mistaken for a slow boot."""
    at.cloud.first = BOOTING
    instances = await at.provision()

    async def fail(_: object) -> None:
        raise trouble(message="your token has expired")

    at.cloud.before["describe"] = fail
    error = await expect_timeout(at, instances, SOON)

    assert "the cloud can't be asked: fake: test: your token has expired" in str(error)


# -- diagnoses -------------------------------------------------------------------------------


async def test_a_pending_instance_is_diagnosed_with_its_console(at: Bench) -> None:
    """The error says what was last seen, what to do, and what the console says."""
    at.cloud.first = BOOTING
    (instance,) = await at.provision()

    error = await expect_timeout(at, [instance], SOON)

    diagnosis = error.diagnoses[instance.id]
    assert (diagnosis.stage, diagnosis.seen) == ("pending", "the cloud says that it is pending")
    assert diagnosis.console == f"the console of {instance.id}"
    assert "not ready after 0 s; wait() again resumes" in str(error)


async def test_an_instance_without_an_address_is_diagnosed(at: Bench) -> None:
    """Running and unreachable by construction: the way out is named."""
    at.cloud.first = {"state": "running", "public_address": None}
    (instance,) = await at.provision()

    error = await expect_timeout(at, [instance], SOON)

    assert 'it runs, and has no address; give it more time, or see address="private"' in str(error)


@pytest.mark.parametrize(
    ("kind", "said", "seen"),
    [
        (ConnectError, "port 22 refused", ": port 22 refused"),
        (
            ConnectTimeout,
            "no answer",
            "port filtered, or silent: no answer; see the security group",
        ),
        (AuthenticationFailed, "not our key", "key refused: not our key; the key may not be"),
        (HostKeyMismatch, "other key", "host key refused: other key; find out who answers there"),
        (
            AuthenticationFailed,
            'Please login as the user "ubuntu" rather than the user "root".',
            "root login is disabled, this image wants user ubuntu; give login_user=",
        ),
    ],
)
async def test_what_a_probe_meets_is_told_in_the_users_terms(
    at: Bench, kind: type[RemoteError], said: str, seen: str
) -> None:
    """Each way in which SSH can fail has a sentence, and says what to do."""
    (instance,) = await at.provision()
    at.connector.answer = saying(kind, said)

    error = await expect_timeout(at, [instance], SOON)

    assert seen in str(error)
    assert instance.state == "addressed"


@pytest.mark.parametrize(
    ("met", "seen"),
    [
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
            "refused the connection: no SSH server listens there (yet); its SSH server may not be",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "do fewer at once"),
    ],
)
async def test_only_who_has_refused_is_said_to_have(at: Bench, met: OSError, seen: str) -> None:
    """A limit of this computer is not laid to the instance, nor is its server told to come up."""
    (instance,) = await at.provision()

    async def answer(target: Target) -> None:
        raise translate(met, target)

    at.connector.answer = answer

    await expect_timeout(at, [instance], SOON)

    said = str(instance.diagnosis)
    assert seen in said
    assert ("refused" in said) is ("not be up" in said) is isinstance(met, ConnectionRefusedError)


async def test_a_login_whose_commands_never_end_is_diagnosed(at: Bench) -> None:
    """A server that lets us in and then hangs is not ready."""
    (instance,) = await at.provision()
    at.connector.mute = True

    error = await expect_timeout(at, [instance], 1.2)

    assert "the login works, and a command does not end within 0.5 s" in str(error)
    assert instance.state == "reachable"


async def test_the_timeout_bounds_the_call_whatever_hangs(at: Bench) -> None:
    """Seconds for the whole call, not for each step of it."""
    instances = await at.provision(2)
    hung = anyio.Event()

    async def hang(_: object) -> None:
        hung.set()
        await anyio.sleep_forever()

    at.connector.answer = hang
    at.cloud.before["describe"] = hang
    began = anyio.current_time()
    await expect_timeout(at, instances, 0.3)

    assert hung.is_set()
    assert 0.3 <= anyio.current_time() - began < 0.8


async def test_consoles_that_hang_do_not_hold_up_the_error(
    at: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A diagnosis without its console is better than none."""
    monkeypatch.setattr("precip_async.boot.CONSOLE_TIMEOUT", 0.1)
    at.cloud.first = BOOTING
    instances = await at.provision()

    async def hang(_: object) -> None:
        await anyio.sleep_forever()

    at.cloud.before["console"] = hang
    began = anyio.current_time()
    error = await expect_timeout(at, instances, 0.1)

    assert error.diagnoses[instances[0].id].console == ""
    assert anyio.current_time() - began < 0.6


async def test_a_console_that_is_refused_says_so(at: Bench) -> None:
    """That there is none for us does not hide the diagnosis."""
    at.cloud.first = BOOTING
    instances = await at.provision()

    async def fail(_: object) -> None:
        raise trouble(message="not yours")

    at.cloud.before["console"] = fail
    error = await expect_timeout(at, instances, SOON)

    assert "its console ends: (not to be had: fake: test: not yours)" in str(error)


async def test_a_console_moves_no_cursor(at: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what the instance writes, who may mean us ill; its lines and no more are shown."""

    async def say(_: str) -> str:
        return "x" * 5000 + "\n[\x1b[0;32m OK \x1b[0m] up\r\n\x1b]0;title\x07login:\x9b2J"

    monkeypatch.setattr(at.cloud, "console", say)
    at.cloud.first = BOOTING
    instances = await at.provision()

    console = (await expect_timeout(at, instances, SOON)).diagnoses[instances[0].id].console

    assert len(console) == 600
    assert console.split("\n")[1:] == ["[ OK ] up", "�]0;title�login:�2J"]


# -- again -----------------------------------------------------------------------------------


async def test_what_did_boot_stays_usable_and_waiting_again_resumes(at: Bench) -> None:
    """A timeout names the missing ones; the others are ready, and the next wait gets the rest."""
    good, slow = await at.provision(2)
    at.connector.answer = saying(ConnectError, hosts=("127.9.9.2",))

    error = await expect_timeout(at, [good, slow], SOON)

    assert list(error.diagnoses) == [slow.id]
    assert good.state == "ready"
    at.connector.answer = None
    await at.boot.wait([good, slow], 5)
    assert slow.state == "ready"


async def test_an_instance_that_is_ended_meanwhile_is_not_waited_for(at: Bench) -> None:
    """Deprovisioning what somebody waits for ends the waiting, without an error."""
    at.cloud.first = BOOTING
    doomed, other = await at.provision(2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(at.boot.wait, [doomed, other], 5)
        await eventually(lambda: at.cloud.count("describe") > 1)
        await at.launcher.terminate([doomed])
        at.cloud.say(other.id, **UP)

    assert (doomed.state, other.state) == ("terminated", "ready")


async def test_an_end_during_the_probe_is_not_overtaken_by_it(at: Bench) -> None:
    """A probe that succeeds while the instance is being ended does not make it ready."""
    (instance,) = await at.provision()
    probing, go = anyio.Event(), anyio.Event()

    async def slow(_: object) -> None:
        probing.set()
        await go.wait()

    at.connector.answer = slow
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(at.boot.wait, [instance], 5)
        await probing.wait()
        tasks.start_soon(at.launcher.terminate, [instance])
        await eventually(lambda: not instance.alive)
        go.set()

    assert instance.state == "terminated"
    assert at.of(InstanceReady) == []


async def test_a_failure_during_the_probe_is_not_overtaken_by_it(at: Bench) -> None:
    """A login that still worked does not make ready what the cloud has given up meanwhile."""
    (instance,) = await at.provision()
    old, probing, go = instance.id, anyio.Event(), anyio.Event()

    async def slow(_: object) -> None:
        probing.set()
        await go.wait()

    at.connector.answer = slow
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(at.boot.wait, [instance], 5)
        await probing.wait()
        at.cloud.say(old, state="failed", reason="host down")
        await eventually(lambda: instance.state == "failed")
        go.set()

    assert (instance.state, instance.launches) == ("ready", 2)
    assert [event.instance_id for event in at.of(InstanceReady)] == [instance.id]


# -- replacing -------------------------------------------------------------------------------


async def test_an_instance_that_the_cloud_ends_is_replaced(at: Bench) -> None:
    """It keeps its tags, its index and its place, and the old machine is ended for good."""
    at.cloud.first = BOOTING
    first, doomed, last = await at.provision(3, tags=("worker",))
    old = doomed.id
    at.cloud.first = UP

    async def fail(_: object) -> None:
        for one in (first, last):
            at.cloud.say(one.id, **UP)
        if doomed.id == old:
            at.cloud.say(old, state="failed", reason="no capacity left")

    at.cloud.before["describe"] = fail
    await at.boot.wait([first, doomed, last], 5)

    assert at.launcher.instances == [first, doomed, last]
    assert (doomed.state, doomed.launches, doomed.index) == ("ready", 2, 1)
    assert doomed.user_tags == ("worker",)
    assert old not in at.cloud.alive()
    assert doomed.id in at.cloud.alive()
    (replaced,) = at.of(InstanceReplaced)
    assert (replaced.replaced_id, replaced.instance_id, replaced.launches) == (old, doomed.id, 2)
    assert replaced.seen == "the cloud ended it: no capacity left"
    assert (len(at.of(Launched)), len(at.of(Deprovisioned))) == (3, 0)


async def test_a_replacement_is_a_launch_of_its_own(at: Bench) -> None:
    """One machine, with the next ordinal and a token of its own, written down like any other."""
    at.cloud.first = {"state": "failed"}
    (instance,) = await at.provision()
    at.cloud.first = UP

    await at.boot.wait([instance], 5)

    first, second = [given for name, given in at.cloud.calls if name == "launch"]
    assert (second.count, second.min_count, second.first) == (1, 1, 1)
    assert first.token != second.token
    assert [row.instance_id for row in await at.rows()] == [instance.id]


async def test_an_instance_stays_among_the_living_while_it_is_replaced(at: Bench) -> None:
    """Who looks, or waits, in that moment does not miss it."""
    at.cloud.first = {"state": "failed"}
    (instance,) = await at.provision()
    at.cloud.first = UP
    seen = []

    async def look(_: object) -> None:
        seen.append(instance.alive)

    at.cloud.before |= {"terminate": look, "launch": look}
    await at.boot.wait([instance], 5)

    assert seen == [True, True]


async def test_launches_are_counted_and_the_last_failure_is_told(at: Bench) -> None:
    """After boot_max_tries launches it has failed; waiting again says so at once."""
    at.cloud.first = {"state": "failed", "reason": "bad image"}
    (instance,) = await at.provision(boot_max_tries=2)

    for _ in range(2):
        with pytest.raises(
            BootError, match="the cloud ended it: bad image; launched 2 time"
        ) as err:
            await at.boot.wait([instance], 5)
        assert not isinstance(err.value, BootTimeout)

    assert at.cloud.count("launch") == 2
    assert (instance.state, instance.launches) == ("failed", 2)


async def test_one_that_failed_for_good_does_not_stop_the_others(at: Bench) -> None:
    """All that can become ready do, before the error is raised."""
    at.cloud.first = {"state": "failed"}
    bad = await at.provision(boot_max_tries=1)
    at.cloud.first = BOOTING
    good = await at.provision(2)

    async def boot(_: object) -> None:
        if at.cloud.count("describe") == 5:
            for one in good:
                at.cloud.say(one.id, **UP)

    at.cloud.before["describe"] = boot
    with pytest.raises(BootError) as caught:
        await at.boot.wait(bad + good, 5)

    assert list(caught.value.diagnoses) == [bad[0].id]
    assert {one.state for one in good} == {"ready"}


async def test_one_that_dies_while_it_is_probed_is_replaced(at: Bench) -> None:
    """Running, addressed, not yet answering, and gone: the rounds go on while SSH is tried."""
    (instance,) = await at.provision()
    old = instance.id
    at.connector.answer = saying(ConnectError, hosts=("127.9.9.1",))

    async def die(_: object) -> None:
        if at.cloud.count("describe") == 3:
            at.cloud.say(old, state="terminated", reason="spot price")

    at.cloud.before["describe"] = die
    await at.boot.wait([instance], 5)

    assert instance.id != old
    assert instance.launches == 2


async def test_one_that_dies_once_it_is_ready_is_replaced_while_others_boot(at: Bench) -> None:
    """What the cloud says of one that was ready a moment ago is no reason to end the wait."""
    early, late = await at.provision(2)
    old = early.id

    async def answer(target: Target) -> None:
        if target.instance_id == old:
            await eventually(lambda: at.cloud.count("describe"))
        elif target.instance_id == late.id:
            await eventually(lambda: early.state == "failed")

    async def die(_: object) -> None:
        if at.cloud.count("describe") == 1:  # asked for while both were booting
            await eventually(lambda: early.state == "ready")
            at.cloud.say(old, state="terminated", reason="spot price")

    at.connector.answer, at.cloud.before["describe"] = answer, die
    await at.boot.wait([early, late], 5)

    assert early.id != old
    assert [early.state, late.state] == ["ready", "ready"]


async def test_one_that_is_late_is_replaced_after_its_boot_timeout(at: Bench) -> None:
    """With boot_timeout= the launch is given up that long after it, and what was seen is told."""
    (instance,) = await at.provision(boot_timeout=0.2)
    old = instance.id
    at.connector.answer = saying(ConnectError, hosts=("127.9.9.1",))

    await at.boot.wait([instance], 5)

    assert (instance.state, instance.launches) == ("ready", 2)
    assert at.cloud.alive() == [instance.id]
    (replaced,) = at.of(InstanceReplaced)
    assert (replaced.replaced_id, replaced.seen) == (old, "not ready in time: no")


async def test_time_between_provision_and_wait_counts_against_nobody(at: Bench) -> None:
    """It is judged only after a probe: what has booted meanwhile is not thrown away."""
    (instance,) = await at.provision(boot_timeout=0.01)
    await anyio.sleep(0.05)

    await at.boot.wait([instance], 5)

    assert (instance.state, instance.launches) == ("ready", 1)


async def test_a_replacement_that_is_refused_is_told_with_its_cause(at: Bench) -> None:
    """The instance has failed, for now: the next wait tries again."""
    at.cloud.first = {"state": "failed", "reason": "host down"}
    (instance,) = await at.provision()

    async def refuse(_: object) -> None:
        raise trouble(QuotaExceeded, "no more for you")

    at.cloud.before["launch"] = refuse
    with pytest.raises(BootError, match=r"host down; it can't be replaced: .*no more for you"):
        await at.boot.wait([instance], 5)

    del at.cloud.before["launch"]
    at.cloud.first = UP
    await at.boot.wait([instance], 5)
    assert (instance.state, instance.launches) == ("ready", 2)


async def test_two_waits_replace_once(at: Bench) -> None:
    """Who comes second sees what the first has done."""
    at.cloud.first = {"state": "failed"}
    instances = await at.provision(4)
    at.cloud.first = UP

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(at.boot.wait, instances, 5)

    assert at.cloud.count("launch") == 1 + 4
    assert {one.launches for one in instances} == {2}


async def test_cancelled_while_it_replaces_a_wait_leaves_nothing_unowned(at: Bench) -> None:
    """The new machine's launch is awaited; the instance takes it, and the next wait resumes."""
    at.cloud.first = {"state": "failed"}
    (instance,) = await at.provision()
    at.cloud.first = UP
    launching = anyio.Event()

    async def slow(_: object) -> None:
        launching.set()
        await anyio.sleep(0.1)

    at.cloud.before["launch"] = slow
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(at.boot.wait, [instance], None)
        await launching.wait()
        tasks.cancel_scope.cancel()

    assert at.cloud.alive() == [instance.id]
    assert instance.state in ("addressed", "ready")  # as far as it came before it heard of it
    await at.boot.wait([instance], 5)
    assert instance.launches == 2


# -- hosts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AuthenticationFailed, HostKeyMismatch])
async def test_a_host_that_refuses_us_is_not_asked_again(
    tmp_path: Path, kind: type[RemoteError]
) -> None:
    """A machine that exists already says no for good: ten minutes of asking would not help."""
    async with bench(tmp_path / "home", ends_machines=False, pins_hosts=True) as at:
        good, bad = await at.provision(2)
        at.connector.answer = saying(kind, hosts=("127.9.9.2",))

        with pytest.raises(BootError) as caught:
            await at.boot.wait([good, bad], 600)

        assert list(caught.value.diagnoses) == [bad.id]
        assert good.state == "ready"
        assert len(at.connector.attempts) == 2
        at.connector.answer = None  # somebody has mended it
        await at.boot.wait([good, bad], 5)


async def test_no_command_runs_on_a_host_by_waiting_for_it(tmp_path: Path) -> None:
    """Hosts are not ours to try things on: a login is all that is needed."""
    async with bench(tmp_path / "home", ends_machines=False, pins_hosts=True) as at:
        instances = await at.provision(2)

        await at.boot.wait(instances, 5)

        assert len(at.connector.attempts) == 2
        assert at.connector.lines == []
