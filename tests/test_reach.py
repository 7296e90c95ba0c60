"""How instances are reached: at which address, as whom, and which host keys are believed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest

from precip_async.clouds.base import Machine, Traits
from precip_async.errors import HostKeyMismatch, InvalidArgument
from precip_async.fleet import Instance
from precip_async.home.directory import Home
from precip_async.home.hostkeys import HostKeys
from precip_async.reach import Reach
from precip_async.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

CLOUD = Traits(name="cloud")
HOSTS = Traits(name="hosts", login_user=None, ends_machines=False, pins_hosts=True)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPxeF5M8IKvYnPYkIKrYEUVQhB4kgyAcGTvYLgKmMmhZ"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAtBQVpDGRhMhmTiMOnmUWTZUGdU4Lpu1l0ar7vcJOGB"


@pytest.fixture(autouse=True)
def ann(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current user is ann, whoever runs the tests."""
    monkeypatch.setattr("precip_async.reach.getpass.getuser", lambda: "ann")


def reached(
    traits: Traits = CLOUD, machine: dict[str, Any] | None = None, **settings: Any
) -> tuple[Reach, Instance]:
    """A way, and an instance that the cloud has spoken of."""
    reach = Reach(Settings(**settings), traits)
    instance = Instance(
        id="i-1", index=0, image_id="a", instance_type="m", launched_at=datetime.now(UTC)
    )
    said: dict[str, Any] = {"public_address": "127.9.9.1", "private_address": "127.9.0.1"}
    said |= machine or {}
    instance.public_address = said["public_address"]
    instance.private_address = said["private_address"]
    reach.told(instance, Machine(id="i-1", state="running", **said))
    return reach, instance


@pytest.mark.parametrize(
    ("traits", "settings", "host_user", "user", "login", "sudo", "shown"),
    [
        (CLOUD, {}, None, None, "root", None, "root"),
        (CLOUD, {}, None, "bob", "bob", None, "bob"),
        (CLOUD, {}, None, "root", "root", None, "root"),
        (CLOUD, {"login_user": "ubuntu"}, None, None, "ubuntu", "root", "root"),
        (CLOUD, {"login_user": "ubuntu"}, None, "ubuntu", "ubuntu", None, "ubuntu"),
        (CLOUD, {"login_user": "ubuntu"}, None, "bob", "ubuntu", "bob", "bob"),
        (HOSTS, {}, None, None, "ann", None, "ann"),
        (HOSTS, {}, None, "root", "ann", "root", "root"),
        (HOSTS, {}, "carl", None, "carl", None, "carl"),
        (HOSTS, {}, "root", "bob", "bob", None, "bob"),
        (HOSTS, {"login_user": "eve"}, None, None, "eve", None, "eve"),
        (HOSTS, {"login_user": "eve"}, "carl", None, "carl", None, "carl"),
        (HOSTS, {"login_user": "eve"}, "carl", "bob", "carl", "bob", "bob"),
    ],
)
def test_who_logs_in_and_who_is_become(
    traits: Traits,
    settings: dict[str, Any],
    host_user: str | None,
    user: str | None,
    login: str,
    sudo: str | None,
    shown: str,
) -> None:
    """Root logs in as anybody; everybody else becomes another one by sudo."""
    reach, instance = reached(traits, {"login_user": host_user}, **settings)

    target, sudo_user = reach.target(instance, user)

    assert (target.user, sudo_user) == (login, sudo)
    assert reach.shown_user(instance, user) == shown


@pytest.mark.parametrize("user", ["", "a b", "-x", "a;b", 5])
def test_what_is_no_user_is_refused(user: Any) -> None:
    """A name that ssh or sudo could take for an option gets nowhere near them."""
    reach, instance = reached()

    with pytest.raises(InvalidArgument, match="user must be the name of a user"):
        reach.target(instance, user)


def test_the_address_is_the_one_that_is_wanted() -> None:
    """Public, unless the private one is asked for."""
    reach, instance = reached()
    assert reach.target(instance)[0].host == reach.address(instance) == "127.9.9.1"

    reach, instance = reached(address="private")
    assert reach.target(instance)[0].host == reach.address(instance) == "127.9.0.1"


def test_without_the_wanted_address_there_is_no_way() -> None:
    """The other one is not tried."""
    reach, instance = reached(machine={"public_address": None})

    assert reach.address(instance) is None
    with pytest.raises(InvalidArgument, match="i-1 has no address yet"):
        reach.target(instance)


@pytest.mark.parametrize(
    ("settings", "said", "port"),
    [({}, None, 22), ({"ssh_port": 2222}, None, 2222), ({"ssh_port": 2222}, 22, 22)],
)
def test_the_port_is_the_machines_else_the_experiments(
    settings: dict[str, Any], said: int | None, port: int
) -> None:
    """What the cloud says of one machine goes before what holds for all."""
    reach, instance = reached(machine={"ssh_port": said}, **settings)

    assert reach.target(instance)[0].port == instance.ssh_port == port


@pytest.mark.parametrize(
    ("settings", "machine", "user", "port"),
    [
        ({}, {}, None, None),
        ({"login_user": "eve"}, {}, "eve", None),
        ({}, {"login_user": "carl"}, "carl", None),
        ({"ssh_port": 2222}, {}, None, 2222),
        ({}, {"ssh_port": 22}, None, 22),
    ],
)
def test_with_an_ssh_config_only_what_was_said_is_given(
    settings: dict[str, Any], machine: dict[str, Any], user: str | None, port: int | None
) -> None:
    """The rest is the configuration's to say."""
    reach, instance = reached(HOSTS, machine, ssh_config="config", **settings)

    target, _ = reach.target(instance)

    assert (target.user, target.port) == (user, port)


def test_the_alias_is_what_a_host_key_belongs_to() -> None:
    """A machine of ours is known by its id; a host, which outlives the experiment, by address."""
    assert reached()[0].target(reached()[1])[0].alias == "i-1"
    reach, instance = reached(HOSTS, {"ssh_port": 2222})
    assert reach.target(instance)[0].alias == "127.9.9.1:2222"


async def opened(path: Path, traits: Traits = HOSTS, **settings: Any) -> tuple[Reach, Instance]:
    """A way whose home is at `path`."""
    reach, instance = reached(traits, **settings)
    _, remote = await reach.open(await anyio.to_thread.run_sync(Home.open, path))
    await remote.aclose()
    return reach, instance


async def test_keys_that_the_cloud_knows_are_the_only_ones(tmp_path: Path) -> None:
    """Known before the first connection, they are no first meeting, and never written down."""
    reach, instance = await opened(tmp_path / "home", CLOUD)
    reach.told(instance, Machine(id="i-1", state="running", host_keys=(KEY,)))
    await reach.pin()

    assert reach.known(reach.target(instance)[0]) == (KEY,)
    assert not (tmp_path / "home" / "host_keys").exists()


async def test_a_first_key_is_believed_kept_and_remembered(tmp_path: Path) -> None:
    """Until it is forgotten, for hosts beyond the experiment."""
    reach, instance = await opened(tmp_path / "home")
    target, _ = reach.target(instance)
    assert reach.known(target) == ()

    assert reach.learned(target, KEY)
    await reach.pin()
    await reach.forget(["i-1", target.alias])  # a host's id may be its alias

    assert reach.known(target) == (KEY,)
    later, instance = await opened(tmp_path / "home")
    await later.recall([instance])
    assert later.known(target) == (KEY,)


async def test_the_key_of_a_machine_that_has_ended_is_forgotten(tmp_path: Path) -> None:
    """Its id never comes back."""
    reach, instance = await opened(tmp_path / "home", CLOUD)
    target, _ = reach.target(instance)
    reach.learned(target, KEY)
    await reach.pin()
    assert "i-1 " in (tmp_path / "home" / "host_keys").read_text()

    await reach.forget(["i-1"])

    assert (tmp_path / "home" / "host_keys").read_text() == ""
    assert reach.known(target) == ()


async def test_with_known_hosts_there_is_no_first_meeting(tmp_path: Path) -> None:
    """Only what the file says is believed, whatever was pinned before."""
    known = tmp_path / "known_hosts"
    known.write_text(f"127.9.9.1 {KEY}\n")
    reach, instance = await opened(tmp_path / "home", known_hosts=known)
    target, _ = reach.target(instance)

    assert reach.known(target) == (KEY,)
    assert not reach.learned(target, OTHER)
    assert str(known) in reach.mending


async def test_another_process_that_met_another_key_is_told_of(tmp_path: Path) -> None:
    """One of the two has met an impostor; the rest of what was learned is kept."""
    reach, instance = await opened(tmp_path / "home")
    target, _ = reach.target(instance)
    home = await anyio.to_thread.run_sync(Home.open, tmp_path / "home")
    await anyio.to_thread.run_sync(HostKeys(home).pin, target.alias, [OTHER])
    second = Instance(
        id="i-2", index=1, image_id="a", instance_type="m", launched_at=datetime.now(UTC)
    )
    second.public_address = "127.9.9.2"
    reach.told(second, Machine(id="i-2", state="running"))
    reach.learned(target, KEY)
    reach.learned(reach.target(second)[0], KEY)

    with pytest.raises(HostKeyMismatch, match=r"127\.9\.9\.1:22: another process"):
        await reach.pin()

    assert reach.known(target) == (OTHER,)
    assert f"127.9.9.2:22 {KEY}" in (tmp_path / "home" / "host_keys").read_text()


def test_an_unknown_current_user_is_taken_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container without an entry for its user there is nobody else to be."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("precip_async.reach.getpass.getuser", unknown)
    reach, instance = reached(HOSTS)

    assert reach.target(instance)[0].user == "root"
