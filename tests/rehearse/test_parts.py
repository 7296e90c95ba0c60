"""What rehearsals are made of: casting, leading, telling."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async import (
    EC2Experiment,
    Experiment,
    InvalidArgument,
    OpenStackExperiment,
    detour,
)
from precip_async.clouds.base import Cloud
from precip_async.clouds.dialects import DIALECTS as SPOKEN
from precip_async.clouds.ec2 import EC2Cloud
from precip_async.clouds.ec2_endpoint import parse_endpoint
from precip_async.home.directory import Home
from precip_async.lab.dialects import DIALECTS as PLAYED
from precip_async.lab.scenario import Scenario
from precip_async.lab.service import LabCall
from precip_async.rehearsal.casting import FAMILIES, cast
from precip_async.rehearsal.classic import hint, provide_variables
from precip_async.rehearsal.guide import Guide
from precip_async.rehearsal.labs import Labs
from precip_async.rehearsal.record import Calls, Place, Record, Started, counted
from precip_async.rehearsal.report import as_text
from precip_async.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

LAB = {
    "number": 0,
    "region": "us-east-1",
    "endpoint": "http://127.0.0.1:1/",
    "access_key": "lab",
    "secret_key": "lab's",
    "ssh_port": 2222,
    "ca_file": None,
}


class FakeWire:
    """A line to a rehearsal that answers everything with `LAB`."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def ask(self, **facts: Any) -> dict[str, Any]:
        """Remember what was asked."""
        self.asked.append(facts)
        return LAB

    def tell(self, **facts: Any) -> None:
        """Nobody listens."""


def started(**facts: Any) -> Started:
    """An instance of a report."""
    usual: dict[str, Any] = {
        "id": "i-1",
        "experiment": "e",
        "image_id": "ami-1",
        "instance_type": "m1.small",
        "tags": (),
        "state": "running",
        "fault": "",
        "running": 1.0,
        "ready": 2.0,
        "end": "ended",
    }
    return Started(**{**usual, **facts})


def test_every_cloud_has_its_part() -> None:
    """Whatever the lab can play can be asked for, and whatever we speak is played by its kind."""
    assert {one for family in FAMILIES for one in family.played} == set(PLAYED)
    assert {one.name for family in FAMILIES for one in family.spoken} == set(SPOKEN)
    assert all(cast(name).dialect == name for name in PLAYED)


@pytest.mark.parametrize("dialect", PLAYED)
def test_what_stands_in_is_accepted(dialect: str) -> None:
    """A stranger's image and type become such as the cloud has; its own stay as they are."""
    role = cast(dialect)

    image, kind = role.image_for("no image at all"), role.kind_for("no type")
    assert (role.image_for(image), role.kind_for(kind)) == (image, kind)
    assert image == role.family.image


def test_nobody_is_led_in_production() -> None:
    """Where no rehearsal has set a detour, an experiment is made of what it was given."""
    cloud, settings = EC2Cloud(dialect=SPOKEN["amazon"]), Settings()

    assert detour.taken(cloud, settings) == (cloud, settings)
    assert detour._detours == []


def test_nothing_of_the_users_is_used(tmp_path: Path) -> None:
    """Home, jump host, agent, known hosts and SSH's configuration stay out of a rehearsal."""
    given = Settings(
        home="/home/of/the/user",
        bastion="me@gateway.example.org",
        bastion_key="/key",
        agent=True,
        known_hosts="/known",
        ssh_config="/config",
        name="mine",
    )
    guide = Guide(FakeWire(), home=tmp_path, cloud=None)  # type: ignore[arg-type] # a fake

    _, led = guide(EC2Cloud(dialect=SPOKEN["amazon"]), given)

    used = (led.bastion, led.bastion_key, led.agent, led.known_hosts, led.ssh_config)
    assert used == (None, None, False, None, None)
    assert (led.home, led.name) == (tmp_path, "mine")


def test_files_that_are_not_used_must_be_there(tmp_path: Path) -> None:
    """A rehearsal that passes them over would let a script meet its cloud without them."""
    given = Settings(known_hosts=tmp_path / "missing")
    guide = Guide(FakeWire(), home=tmp_path, cloud=None)  # type: ignore[arg-type] # a fake

    led, _ = guide(EC2Cloud(dialect=SPOKEN["amazon"]), given)

    assert not isinstance(led, Cloud)
    with pytest.raises(InvalidArgument, match="known_hosts: there is no file"):
        led(Home.open(tmp_path / "home"))


@pytest.mark.parametrize("cloud", [None, "ec2", "nimbus"])
@pytest.mark.parametrize("written_for", ["amazon", "openstack"])
def test_credentials_and_endpoint_are_the_labs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written_for: str, cloud: str | None
) -> None:
    """Whatever plays whatever, the script's keys are not in what speaks to the lab."""
    wire = FakeWire()
    monkeypatch.setattr(
        detour,
        "_detours",
        [Guide(wire, home=tmp_path, cloud=cloud)],  # type: ignore[arg-type] # likewise
    )
    experiment: Experiment = (
        EC2Experiment("us-west-2c", None, "AKIAUSER", "usersecret")
        if written_for == "amazon"
        else OpenStackExperiment("cloud.example.org", "AKIAUSER", "usersecret")
    )

    made: Any = experiment._cloud
    played = made(None)

    assert played._cloud._given == ("lab", "lab's", None, None)
    assert played.traits.endpoint.startswith("http://127.0.0.1:1/ ")
    assert "usersecret" not in repr(wire.asked)


def test_a_cloud_elsewhere_is_the_same_cloud() -> None:
    """Region and zone are kept, and nothing of the credentials."""
    cloud = EC2Cloud(
        dialect=SPOKEN["amazon"],
        region="us-west-2",
        zone="us-west-2c",
        access_key="a",
        secret_key="b",
        session_token="c",
        root_login=False,
        public=False,
    )
    there = cloud.elsewhere(
        endpoint=parse_endpoint("http://127.0.0.1:1/", SPOKEN["amazon"]),
        access_key="x",
        secret_key="y",
        verify=True,
        ssh_port=2222,
    )

    assert (there.region, there._zone, there._given) == (
        "us-west-2",
        "us-west-2c",
        ("x", "y", None, None),
    )
    assert (there._root_login, there._public) == (False, False)


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ('    print "a", b\n', 'print("a", b)'),
        ("print x  # why\n", "print(x)"),
        ("print 'a # b'\n", "print('a # b')"),
        ("except ExperimentException, e:\n", "except ExperimentException as e:"),
        ("x = = 1\n", ""),
        ("print (\n", ""),
    ],
)
def test_a_hint_is_python(line: str, advice: str) -> None:
    """A line of Python 2 is told as it should be; of any other mistake nothing is said."""
    error = SyntaxError("no", ("script.py", 7, 1, line))

    told = hint(error)

    assert told.endswith(advice)
    assert bool(told) == bool(advice)


@pytest.mark.parametrize(
    ("given", "spared"),
    [
        ({"HTTPS_PROXY": "http://proxy:1"}, "127.0.0.1"),
        ({"http_proxy": "http://proxy:1", "NO_PROXY": "inside"}, "inside,127.0.0.1"),
        ({"http_proxy": "http://proxy:1", "no_proxy": "*", "NO_PROXY": "x"}, "*"),
        ({}, None),
    ],
)
def test_labs_are_not_asked_through_a_proxy(given: dict[str, str], spared: str | None) -> None:
    """Where there is a proxy, this computer is left out; else the environment stays as it is."""
    environment = dict(given)
    provide_variables(environment)

    assert environment.get("no_proxy") == environment.get("NO_PROXY") == spared


def test_calls_are_counted_by_what_became_of_them() -> None:
    """Throttled, refused and never answered are told apart; the most frequent action is first."""
    calls = [
        LabCall(action="B"),
        LabCall(action="A"),
        LabCall(action="A", code="throttled"),
        LabCall(action="A", code="Unknown"),
        LabCall(action="A", answered=False),
    ]

    assert counted(calls) == (
        Calls(action="A", count=4, throttled=1, refused={"Unknown": 1}, lost=1),
        Calls(action="B", count=1),
    )


def test_a_report_shows_no_control_characters() -> None:
    """What a script names its tags and images can't move the cursor or colour the terminal."""
    place = Place(
        dialect="amazon",
        stands_for="Amazon EC2",
        instances=(started(tags=("\x1b[31mred",)), started(id="i-2", experiment="f")),
    )
    text = as_text(Record(script="s.py", exit_code=0, seconds=1.0, scenario="", places=(place,)))

    assert "\x1b" not in text
    assert "^[[31mred" in text


def test_a_fleet_does_not_fill_the_terminal() -> None:
    """Of a thousand instances some are shown, and it is said how many more there are."""
    many = tuple(started(id=f"i-{number}", end="left") for number in range(1000))
    place = Place(dialect="amazon", stands_for="Amazon EC2", instances=many)
    text = as_text(Record(script="s.py", exit_code=0, seconds=1.0, scenario="", places=(place,)))

    assert text.count("LEFT RUNNING") == 50 + 1
    assert "... and 950 more" in text
    assert "i-9 and 990 more. On a real cloud" in text


def test_instances_of_several_experiments_are_told_apart() -> None:
    """The experiment has a column where there is more than one of them, and else none."""
    one, other = started(experiment="first"), started(id="i-2", experiment="second")

    def text(*instances: Started) -> str:
        place = Place(dialect="amazon", stands_for="Amazon EC2", instances=instances)
        return as_text(
            Record(script="s.py", exit_code=0, seconds=1.0, scenario="", places=(place,))
        )

    assert "first" in text(one, other)
    assert "first" not in text(one, one)


async def test_what_could_not_be_played_is_kept(tmp_path: Path) -> None:
    """The script may catch the error that it is told, and then nobody else would know."""
    ours, theirs = socket.socketpair()
    ask = {"dialect": "none", "region": "r", "zone": None, "tls": False, "stands_for": "Cloud X"}
    labs = Labs(tmp_path, scenario=Scenario(), isolation="process")

    async with labs, anyio.create_task_group() as tasks:
        tasks.start_soon(labs.serve, ours)
        with theirs:
            theirs.sendall(json.dumps({"ask": ask, "id": 7}).encode() + b"\n")
            answer = json.loads(await anyio.to_thread.run_sync(theirs.recv, 4096))

    assert answer["id"] == 7
    assert labs.unplayed == [f"Cloud X: {answer['error']}"]


@pytest.mark.parametrize(("code", "verdict"), [(0, 1), (4, 4), (-9, 137)])
def test_a_rehearsal_that_could_not_play_a_cloud_has_failed(code: int, verdict: int) -> None:
    """Also where the script did well; else its own code comes first."""
    unplayed = ("Cloud X: machines can't be had here",)
    record = Record(
        script="s.py", exit_code=code, seconds=1.0, scenario="", places=(), unplayed=unplayed
    )

    assert record.verdict == verdict
    assert f"NOT REHEARSED, because it could not be played: {unplayed[0]}" in as_text(record)
    assert "No experiment" not in as_text(record)
