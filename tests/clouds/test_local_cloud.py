"""The local cloud, whole: script, warden, machines; with either isolation."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import anyio
import asyncssh
import pytest
from anyio import CancelScope, create_task_group, move_on_after

from precip_async.clouds.base import Cloud
from precip_async.clouds.local import cloud as cloud_module
from precip_async.clouds.local import register, spawning
from precip_async.clouds.local.cloud import LocalCloud
from precip_async.clouds.local.faults import Faults
from precip_async.clouds.local.remains import end_left_behind, left_behind
from precip_async.clouds.local.state import State, experiments_in
from precip_async.clouds.local.wire import Wire
from precip_async.errors import CloudError, InvalidArgument, NameInUse, QuotaExceeded
from tests.clouds.local_machines import access, boxes_of, content, host, links, request, settled
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from precip_async.clouds.base import Machine
    from precip_async.clouds.local.cloud import Isolation

NAMESPACE = pytest.param("namespace", marks=[pytest.mark.root, pytest.mark.sshd])


@pytest.fixture(params=[NAMESPACE, "process"])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    """Either isolation."""
    chosen: Isolation = request.param
    return chosen


@pytest.fixture
async def clouds(tmp_path: Path) -> AsyncIterator[Callable[..., LocalCloud]]:
    """A maker of clouds; after the test they are closed, and nothing of them is left."""
    before = host()
    made: list[LocalCloud] = []

    def make(isolation: Isolation = "process", **facts: Any) -> LocalCloud:
        made.append(LocalCloud(tmp_path / "local", isolation=isolation, **facts))
        return made[-1]

    yield make
    for cloud in made:
        await cloud.aclose()
    for name in experiments_in(tmp_path / "local"):
        await end_left_behind(tmp_path / "local", name)
    assert host() == before


@pytest.fixture
async def cloud(clouds: Callable[..., LocalCloud], isolation: Isolation) -> LocalCloud:
    """A cloud that is prepared."""
    cloud = clouds(isolation)
    await cloud.prepare(access())
    return cloud


def by_state(machines: dict[str, Machine]) -> list[str]:
    """The states of machines, in order."""
    return [machine.state for machine in machines.values()]


async def test_machines_live_and_end(cloud: LocalCloud, isolation: Isolation) -> None:
    """Machines are launched pending, run, are reached with known host keys, and end as asked."""
    launched = await cloud.launch(request(3))
    assert [machine.state for machine in launched] == ["pending"] * 3
    assert cloud.traits.isolation == isolation

    boxes = await boxes_of(cloud, 1, first=3)
    ids = [machine.id for machine in launched]
    assert by_state(await settled(cloud, ids)) == ["running"] * 3
    assert await boxes[0].run("hostname; id -u; echo hello") == "hello-3\n0\nhello"

    ending = await cloud.terminate(ids[:2])
    assert [ending[one].state for one in ids[:2]] == ["shutting-down"] * 2
    assert by_state(await settled(cloud, ids)) == ["terminated", "terminated", "running"]


async def test_ids_are_a_clouds(cloud: LocalCloud) -> None:
    """An id is ``i-`` and 17 hexadecimal digits, and never the same."""
    launched = await cloud.launch(request(5))

    assert len({machine.id for machine in launched}) == 5
    for machine in launched:
        assert len(machine.id) == 19
        assert int(machine.id.removeprefix("i-"), 16) >= 0


async def test_a_token_launches_once(cloud: LocalCloud) -> None:
    """The same token again returns the same machines, and finds them; another finds none."""
    first = await cloud.launch(request(2, token="one"))
    again = await cloud.launch(request(2, token="one"))

    assert [machine.id for machine in again] == [machine.id for machine in first]
    assert [machine.id for machine in await cloud.find("one")] == [m.id for m in first]
    assert await cloud.find("two") == []


async def test_ending_twice_or_what_is_unknown_is_no_error(cloud: LocalCloud) -> None:
    """The end of what has ended, or never was, is reported as ``terminated``."""
    (box,) = await boxes_of(cloud)
    unknown = "i-00000000000000000"
    await cloud.terminate([box.id])
    assert by_state(await settled(cloud, [box.id])) == ["terminated"]

    assert by_state(dict(await cloud.terminate([box.id, unknown]))) == ["terminated"] * 2
    assert (await cloud.describe([unknown]))[unknown].reason == "there is no such instance"


async def test_ending_one_that_boots_ends_it(cloud: LocalCloud) -> None:
    """Machines that are ended in the middle of their boot end, and never run again."""
    ids = [machine.id for machine in await cloud.launch(request(8))]
    await cloud.terminate(ids)

    assert by_state(await settled(cloud, ids)) == ["terminated"] * 8


async def test_many_requests_may_be_in_flight(cloud: LocalCloud) -> None:
    """Replies find who asked for them, also when somebody has stopped waiting."""
    boxes = await boxes_of(cloud, 2)
    seen: list[set[str]] = []

    async def ask(number: int) -> None:
        ids = [box.id for box in boxes[: number % 3]]
        seen.append(set(await cloud.describe(ids)) ^ set(ids))

    async with create_task_group() as group:
        for number in range(50):
            group.start_soon(ask, number)
        with CancelScope() as scope:
            scope.cancel()
            await cloud.describe([boxes[0].id])

    assert seen == [set()] * 50


async def test_the_console_shows_what_the_ssh_server_says(cloud: LocalCloud) -> None:
    """The console holds the SSH server's own words; an id that is none has an empty one."""
    (box,) = await boxes_of(cloud)
    await box.run("true")

    assert "Server listening on" in await cloud.console(box.id)
    assert await cloud.console("i-00000000000000000") == ""
    assert await cloud.console("../../warden") == ""


async def test_closing_ends_everything(
    clouds: Callable[..., LocalCloud], isolation: Isolation, tmp_path: Path
) -> None:
    """When `aclose` returns, warden, machines and state directory are gone; twice is once."""
    cloud = clouds(isolation)
    await cloud.prepare(access())
    (record,) = left_behind(tmp_path / "local")
    (box,) = await boxes_of(cloud)
    taken = json.loads(content(f"{tmp_path}/local/hello/taken.json") or b"{}")

    await cloud.aclose()
    await cloud.aclose()

    assert not record.alive
    assert experiments_in(tmp_path / "local") == []
    assert taken.get("link") not in links()
    if isolation == "process":  # without the link, packets to the others would leave this computer
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(box.address, box.port)
    with pytest.raises(CloudError, match="closed"):
        await cloud.describe([box.id])


async def test_two_experiments_share_a_home(
    clouds: Callable[..., LocalCloud], isolation: Isolation
) -> None:
    """Two experiments at once have different addresses, and the end of one spares the other."""
    one, two = clouds(isolation), clouds(isolation)
    async with create_task_group() as group:
        group.start_soon(one.prepare, access("one"))
        group.start_soon(two.prepare, access("two"))
    (first,), (second,) = await boxes_of(one), await boxes_of(two)
    assert first.address != second.address

    await one.aclose()

    assert await second.run("echo still here") == "still here"


async def test_kept_machines_outlive_the_script(
    clouds: Callable[..., LocalCloud],
    isolation: Isolation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With ``keep`` machines go on after `aclose`; their name is taken until they are ended."""
    monkeypatch.setattr(cloud_module, "KEPT_HANDOVER", 0.1)
    base = tmp_path / "local"
    cloud = clouds(isolation)
    await cloud.prepare(access(keep=True))
    (box,) = await boxes_of(cloud)
    await cloud.aclose()

    assert await box.run("echo still here") == "still here"
    (record,) = left_behind(base)
    assert record.keep
    assert record.machines == (box.id,)
    with pytest.raises(NameInUse, match=f"process {record.pid}"):
        await clouds(isolation).prepare(access())

    assert await end_left_behind(base, "hello")
    assert not record.alive
    assert experiments_in(base) == []
    assert not await end_left_behind(base, "hello")


async def test_an_adoption_that_is_cancelled_is_taken_back(tmp_path: Path) -> None:
    """The warden may have heard that it is to end its machines with us: it hears the contrary."""
    ours, theirs = socket.socketpair()
    cloud = LocalCloud(tmp_path, isolation="process")
    with theirs:
        cloud._wire, _ = await Wire.over(ours)
        cloud._access, cloud._keep = access("kept"), True
        with CancelScope() as scope:
            asyncio.get_running_loop().call_soon(scope.cancel)
            await cloud.adopt(["i-1"], [])
        await cloud.aclose()
        theirs.setblocking(False)
        heard = await asyncio.get_running_loop().sock_recv(theirs, 1000)

    assert scope.cancelled_caught
    assert [json.loads(line)["keep"] for line in heard.splitlines()] == [False, True]


async def test_a_warden_without_machines_is_not_kept(
    clouds: Callable[..., LocalCloud], isolation: Isolation, tmp_path: Path
) -> None:
    """With ``keep`` but nothing to keep, nothing stays."""
    cloud = clouds(isolation)
    await cloud.prepare(access(keep=True))
    (record,) = left_behind(tmp_path / "local")
    await cloud.aclose()

    await eventually(lambda: not record.alive)
    assert experiments_in(tmp_path / "local") == []


async def test_a_name_is_free_once_nothing_is_kept_under_it(
    clouds: Callable[..., LocalCloud], isolation: Isolation
) -> None:
    """Right after the last of its kept machines has ended, an experiment may start anew."""
    cloud = clouds(isolation)
    await cloud.prepare(access(keep=True))
    (box,) = await boxes_of(cloud)
    await cloud.terminate([box.id])
    await cloud.aclose()

    await clouds(isolation).prepare(access())


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.1, 0.15, 0.2])
async def test_a_cancelled_prepare_leaves_nothing(
    clouds: Callable[..., LocalCloud], isolation: Isolation, tmp_path: Path, moment: float
) -> None:
    """Cancelling `prepare` at any moment leaves neither warden nor directory after `aclose`."""
    cloud = clouds(isolation)
    with move_on_after(moment):
        await cloud.prepare(access())
    await cloud.aclose()

    assert experiments_in(tmp_path / "local") == []
    assert left_behind(tmp_path / "local") == []


async def test_a_home_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    """Where no state can be kept, the error says where it was to be."""
    (tmp_path / "file").touch()

    with pytest.raises(CloudError, match=r"see to it that .*/file/local can be written to"):
        await LocalCloud(tmp_path / "file" / "local", isolation="process").prepare(access())


async def test_what_cannot_be_written_down_is_not_started(
    clouds: Callable[..., LocalCloud], tmp_path: Path
) -> None:
    """As on a full disk: the launch fails and says why, and the machines that there are go on."""
    cloud = clouds(isolation="process")
    await cloud.prepare(access("full"))
    (one,) = await cloud.launch(request(1))
    await settled(cloud, [one.id])
    state = State(tmp_path / "local", "full")
    in_the_way = anyio.Path(state.path / "warden.json.new")
    await in_the_way.mkdir()

    with pytest.raises(CloudError, match="can't be kept"):
        await cloud.launch(request(1, token="second"))
    await in_the_way.rmdir()
    (two,) = await cloud.launch(request(1, token="third"))

    assert (await cloud.describe([one.id]))[one.id].state == "running"
    record = state.read()
    assert record is not None
    assert record.machines == (one.id, two.id)


async def test_when_the_warden_is_killed_the_machines_are_terminated(
    cloud: LocalCloud, tmp_path: Path
) -> None:
    """A cloud whose warden was killed says that its machines have ended, and can't launch more."""
    (box,) = await boxes_of(cloud)
    (record,) = left_behind(tmp_path / "local")
    os.kill(record.pid, 9)

    machines = await cloud.describe([box.id])

    assert machines[box.id].state == "terminated"
    assert "has ended" in machines[box.id].reason
    assert (await cloud.terminate([box.id]))[box.id].state == "terminated"
    with pytest.raises(CloudError, match="has ended"):
        await cloud.launch(request())
    await cloud.aclose()
    assert experiments_in(tmp_path / "local") == []


async def test_a_boot_delay_is_kept(clouds: Callable[..., LocalCloud]) -> None:
    """With a boot delay a machine is pending for so long."""
    cloud = clouds(faults=Faults(boot_delay=0.5))
    await cloud.prepare(access())
    clock = asyncio.get_running_loop().time
    began = clock()

    await boxes_of(cloud)

    assert clock() - began >= 0.5


async def test_never_boots(clouds: Callable[..., LocalCloud]) -> None:
    """Such a machine stays pending, without an address, until it is ended."""
    cloud = clouds(faults=Faults(never_boots=[0]))
    await cloud.prepare(access())
    (stuck,) = await cloud.launch(request())
    await boxes_of(cloud, first=1)  # the next one boots

    assert (await cloud.describe([stuck.id]))[stuck.id].state == "pending"
    await cloud.terminate([stuck.id])
    assert by_state(await settled(cloud, [stuck.id])) == ["terminated"]


async def test_dies_booting(clouds: Callable[..., LocalCloud]) -> None:
    """Such a machine goes from pending to terminated, with the cloud's reason."""
    cloud = clouds(faults=Faults(dies_booting=[0], dies_after=0.1))
    await cloud.prepare(access())
    (doomed,) = await cloud.launch(request())
    assert doomed.state == "pending"

    machine = (await settled(cloud, [doomed.id]))[doomed.id]

    assert machine.state == "terminated"
    assert machine.reason.startswith("Server.InternalError")
    assert machine.public_address is None


async def test_ssh_late(clouds: Callable[..., LocalCloud], isolation: Isolation) -> None:
    """Such a machine runs, refuses connections at first, and lets us in later."""
    cloud = clouds(isolation, faults=Faults(ssh_late=True, ssh_late_by=0.7))
    await cloud.prepare(access())
    (box,) = await boxes_of(cloud)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(box.address, box.port)

    assert await box.run("echo here") == "here"


async def test_ssh_faults_reach_the_machine(
    clouds: Callable[..., LocalCloud], isolation: Isolation
) -> None:
    """A fault spoils the launch that it names and not the next."""
    cloud = clouds(isolation, faults=Faults(ssh_refuses_key=[0], ssh_hangs=[1]))
    await cloud.prepare(access())
    refusing, hanging, good = await boxes_of(cloud, 3)

    with pytest.raises(asyncssh.PermissionDenied):
        await refusing.connect()
    connected = False
    with move_on_after(0.5):
        await hanging.connect()
        connected = True
    assert not connected
    assert await good.run("echo good") == "good"


async def test_there_is_an_end_to_room(
    clouds: Callable[..., LocalCloud],
) -> None:
    """More machines than there is room for are refused, and none is started."""
    cloud = clouds(faults=Faults(never_boots=True))
    await cloud.prepare(access())
    most = register.MAX_MACHINES

    with pytest.raises(QuotaExceeded, match=f"{most} local instances at once"):
        await cloud.launch(request(most + 1))

    launched = await cloud.launch(request(most + 1, min_count=1))
    assert len(launched) == most


async def test_auto_takes_namespaces_where_they_work(
    clouds: Callable[..., LocalCloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where something is in the way of namespaces, ``auto`` takes processes and says why."""
    monkeypatch.setattr(cloud_module, "obstacle", lambda: "they need root")
    cloud = clouds("auto")
    assert cloud.traits.isolation == ""

    await cloud.prepare(access())

    assert cloud.traits.isolation == "process"
    assert cloud.isolation_reason == "they need root"


@pytest.mark.root
@pytest.mark.sshd
async def test_auto_takes_the_better_one(clouds: Callable[..., LocalCloud]) -> None:
    """Where nothing is in the way, ``auto`` takes namespaces."""
    cloud = clouds("auto")
    await cloud.prepare(access())

    assert cloud.traits.isolation == "namespace"
    assert cloud.isolation_reason == ""


async def test_namespaces_that_cannot_be_had_are_refused(
    clouds: Callable[..., LocalCloud], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Asked for by name, namespaces are had or refused with the reason and what to do."""
    monkeypatch.setattr(cloud_module, "obstacle", lambda: "they need root")

    with pytest.raises(CloudError, match=r"they need root; isolation='process' works anywhere"):
        await clouds("namespace").prepare(access())
    assert experiments_in(tmp_path / "local") == []


@pytest.mark.root
@pytest.mark.sshd
async def test_a_yard_that_cannot_open_is_an_error_that_leaves_nothing(
    clouds: Callable[..., LocalCloud], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the warden could not take is said in its words, and warden and directory are gone."""
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "ip").write_text("#!/bin/sh\necho no network today >&2\nexit 1\n")
    (broken / "ip").chmod(0o755)
    cloud = clouds("namespace")

    with monkeypatch.context() as patched:
        patched.setattr(cloud_module, "obstacle", lambda: "")
        patched.setenv("PATH", f"{broken}{os.pathsep}{os.environ['PATH']}")
        with pytest.raises(CloudError, match=r"local: prepare: .*no network today"):
            await cloud.prepare(access())

    assert experiments_in(tmp_path / "local") == []
    assert left_behind(tmp_path / "local") == []


async def test_a_warden_that_cannot_start_is_an_error(
    clouds: Callable[..., LocalCloud], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the interpreter can't find the package the error shows its last words."""
    monkeypatch.setattr(spawning, "_environment", lambda: os.environ | {"PYTHONHOME": "/none"})

    with pytest.raises(CloudError, match="did not start; it said: "):
        await clouds("process").prepare(access())
    assert experiments_in(tmp_path / "local") == []


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        ({"isolation": "docker"}, "isolation must be one of 'auto', 'namespace', 'process'"),
        ({"internet": "yes"}, "internet must be True or False"),
        ({"faults": {"never_boots": True}}, "faults must be a Faults"),
    ],
)
def test_bad_arguments_are_refused(facts: dict[str, Any], match: str, tmp_path: Path) -> None:
    """What is no isolation, no bool or no Faults is refused at once."""
    with pytest.raises(InvalidArgument, match=match):
        LocalCloud(tmp_path, **facts)


@pytest.mark.parametrize(
    ("facts", "match"),
    [({"user_data": "#!/bin/sh"}, "cloud-init"), ({"options": {"KernelId": "x"}}, "'KernelId'")],
)
async def test_what_only_other_clouds_have_is_refused(
    clouds: Callable[..., LocalCloud], facts: dict[str, Any], match: str
) -> None:
    """User data and launch parameters are refused rather than ignored."""
    cloud = clouds()
    await cloud.prepare(access())

    with pytest.raises(InvalidArgument, match=match):
        await cloud.launch(request(**facts))


def test_it_is_a_cloud(tmp_path: Path) -> None:
    """It has what the protocol asks for."""
    assert isinstance(LocalCloud(tmp_path), Cloud)


async def test_before_prepare_it_says_so(tmp_path: Path) -> None:
    """A launch before `prepare` is an error, and closing then is none."""
    cloud = LocalCloud(tmp_path)

    with pytest.raises(CloudError, match="prepare"):
        await cloud.launch(request())
    await cloud.aclose()


@pytest.mark.root
@pytest.mark.sshd
async def test_the_warden_is_small(clouds: Callable[..., LocalCloud], tmp_path: Path) -> None:
    """With namespaces the warden loads neither an SSH nor a cryptography library."""
    await clouds("namespace").prepare(access())
    (record,) = left_behind(tmp_path / "local")

    maps = content(f"/proc/{record.pid}/maps") or b""

    assert b"python" in maps
    assert b"cryptography" not in maps
    assert b"sqlite" not in maps


def test_state_knows_its_log(tmp_path: Path) -> None:
    """The warden's log lies in the experiment's directory."""
    assert State(tmp_path, "hello").log == tmp_path / "hello" / "warden.log"
