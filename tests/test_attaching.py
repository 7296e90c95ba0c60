"""A running experiment that another process has left is gone on with: the same, and at once."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import sqlite3
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest

import precip_async
from precip_async import (
    CloudError,
    Experiment,
    HostKeyMismatch,
    HostsExperiment,
    InvalidArgument,
    LocalExperiment,
    NameInUse,
    reap,
    sync,
)
from precip_async.attaching import as_before, host_keys_in
from precip_async.clouds.ec2_addresses import Addresses
from precip_async.clouds.local.hostkeys import make_host_key
from precip_async.clouds.local.state import State
from precip_async.ending import Books
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.settings import Settings
from tests.fakes import FakeCloud
from tests.left import alive, facts_of, killed, left_by, reaped
from tests.on_clouds import BRISK, IMAGES, rehearsed
from tests.servers import OpenSSHServer

if TYPE_CHECKING:
    from pathlib import Path


FAST = ("amazon",)
DIALECTS = [
    pytest.param(one, marks=() if one in FAST else pytest.mark.slow, id=one) for one in IMAGES
]
# Three in two launches, of which the first was ended and the last is not waited for.
STEPS = """
    await exp.provision(facts["image"], count=2, tags=["a"])
    await exp.wait()
    await exp.deprovision([exp.instances()[0].id])
    await exp.provision(facts["image"], count=1, tags=["b", "c"])
    for one in exp.instances():
        print(one.id, flush=True)
"""


async def attached(facts: dict[str, Any], **given: Any) -> Experiment:
    """Attach to what a script left that was made by `facts`."""
    keywords = {**facts["keywords"], "limits": BRISK} | given
    cls = getattr(precip_async, facts["class"])
    found: Experiment = await cls.attach(keywords.pop("name"), *facts["args"], **keywords)
    return found


def local(home: Path, **given: Any) -> dict[str, Any]:
    """How a local experiment is made, in the words of `facts_of`."""
    keywords = {"name": "kept", "home": str(home), "isolation": "process", **given}
    return {"class": "LocalExperiment", "args": [], "keywords": keywords, "image": "local"}


def key_in(home: Path) -> Path:
    """The private key that an experiment on Amazon has made in `home`."""
    (found,) = [path for path in home.glob("precip_*_ed25519") if path.is_file()]
    return found


def keeper_in(home: Path) -> int:
    """The process that keeps the local instances of the one experiment in `home`."""
    (record,) = home.rglob("warden.json")
    pid: int = json.loads(record.read_text())["pid"]
    return pid


# -- local instances -------------------------------------------------------------------------


async def test_what_a_killed_script_kept_is_gone_on_with(tmp_path: Path) -> None:
    """The same instances, tags, order and indexes; what was ready is ready, and works at once."""
    facts = local(tmp_path / "home", keep=True)
    await killed(facts, STEPS)

    facts["keywords"]["keep"] = False
    async with await attached(facts) as exp:
        first, second = exp.instances()
        before = [(one.index, one.user_tags, one.state == "ready") for one in (first, second)]
        said = await exp.run("a", "hostname")
        await exp.wait()
        both = await exp.run([], "hostname")
        (third,) = await exp.provision()

    assert before == [(1, ("a",), True), (2, ("b", "c"), False)]
    assert said[1] == ["kept-1\n"]
    assert both[1] == ["kept-1\n", "kept-2\n"]
    assert third.index == 3
    assert await reap(home=tmp_path / "home") == []


@pytest.mark.slow
async def test_attached_instances_can_be_kept_again(tmp_path: Path) -> None:
    """Leaving with ``keep`` leaves them running, for the next one to attach to."""
    facts = local(tmp_path / "home", keep=True)
    async with LocalExperiment(**facts["keywords"]) as exp:
        await exp.provision()
        (one,) = await exp.wait()

    async with await attached(facts) as exp:
        again = [instance.id for instance in exp.instances()]
    async with await attached(facts, keep=False) as exp:
        said = await exp.run([], "echo here")

    assert again == [one.id]
    assert said[1] == ["here\n"]
    assert await reap(home=tmp_path / "home") == []


async def test_the_end_of_attached_instances_can_be_put_off(tmp_path: Path) -> None:
    """By whoever says for how long: the lifetime that they were launched with is not known."""
    facts = local(tmp_path / "home", keep=True)
    async with LocalExperiment(**facts["keywords"], max_lifetime=3_600) as exp:
        (one,) = await exp.provision()
        before = one.expires_at
        await exp.wait()

    async with await attached(facts, keep=False) as exp:
        (again,) = exp.instances()
        assert again.expires_at == before
        assert before is not None
        with pytest.raises(InvalidArgument, match=r"extend\(3600\)"):
            await exp.extend()
        assert await exp.extend(7_200) == [again]
        assert again.expires_at is not None
        assert again.expires_at > before


@pytest.mark.slow
async def test_what_a_living_script_has_is_not_attached_to(tmp_path: Path) -> None:
    """The error names the process that has it; what it has goes on."""
    facts = local(tmp_path / "home", keep=True)
    async with left_by(facts, "await exp.provision(); await exp.wait()"):
        with pytest.raises(NameInUse, match=r"held by process \d+ on host"):
            await attached(facts)
        (one,) = await reap(home=tmp_path / "home")
    ended = await reap(home=tmp_path / "home", end=True)

    assert one.holder
    assert [one.ended for one in ended] == [True]


@pytest.mark.slow
async def test_a_keeper_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped, say: the error says which process that is, and attaching again works."""
    facts = local(tmp_path / "home", keep=True)
    async with LocalExperiment(**facts["keywords"]) as exp:
        await exp.provision()
        pid = keeper_in(tmp_path)
    monkeypatch.setattr("precip_async.clouds.local.cloud.START_TIMEOUT", 0.2)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(CloudError, match=rf"process {pid} .* does not answer.*kill -CONT"):
            await attached(facts)
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    async with await attached(facts, keep=False) as again:
        assert len(again.instances()) == 1


@pytest.mark.slow
async def test_the_keeper_serves_one_script_at_a_time(tmp_path: Path) -> None:
    """Also one of another home's name lock, as where only the directory of names was lost."""
    facts = local(tmp_path / "home", keep=True)
    async with LocalExperiment(**facts["keywords"]) as exp:
        await exp.provision()
        for path in (tmp_path / "home" / "names").iterdir():
            path.unlink()
        with pytest.raises(CloudError, match="another script has them"):
            await attached(facts)
        await exp.wait()
        said = await exp.run([], "echo here")
    await reap(home=tmp_path / "home", end=True)

    assert said[1] == ["here\n"]


@pytest.mark.slow
async def test_a_keeper_bears_with_whoever_calls(tmp_path: Path) -> None:
    """Nonsense on its socket is hung up on, and the machines go on."""
    facts = local(tmp_path / "home", keep=True)
    async with LocalExperiment(**facts["keywords"]) as exp:
        await exp.provision()
    state = State(tmp_path / "home" / "local", "kept")

    def call(text: bytes) -> bytes:
        line = state.call()
        assert line is not None
        with line:
            line.settimeout(10)
            line.sendall(text)
            return line.recv(100)

    for text in (b"\n", b"[]\n", b'{"script": 1}\n', b'{"script": ["x", "y"]}\n', b"\xff\n"):
        assert await anyio.to_thread.run_sync(call, text) == b""
    async with await attached(facts, keep=False) as again:
        assert len(await again.wait()) == 1


@pytest.mark.slow
async def test_a_home_with_a_long_name_is_no_obstacle(tmp_path: Path) -> None:
    """The name of a socket can't be longer than some hundred bytes, and that of a home can."""
    home = tmp_path / ("d" * 100) / ("e" * 100)
    home.parent.mkdir()
    facts = local(home, keep=True)
    async with LocalExperiment(**facts["keywords"]) as exp:
        await exp.provision()

    async with await attached(facts, keep=False) as exp:
        ready = await exp.wait()

    assert len(ready) == 1


async def test_a_taken_name_says_what_to_do(tmp_path: Path) -> None:
    """Instances that nobody answers for are attached to, reaped, or left under their name."""
    facts = local(tmp_path / "home", keep=True)
    async with LocalExperiment(**facts["keywords"]) as exp:
        await exp.provision()

    with pytest.raises(NameInUse, match=r"attach\('kept', ...\).*precip reap --yes --experiment"):
        await LocalExperiment(**facts["keywords"]).open()

    await reap(home=tmp_path / "home", end=True)


@pytest.mark.slow
def test_the_blocking_twin_attaches_too(tmp_path: Path) -> None:
    """With the same arguments; the experiment is open when it returns."""
    facts = local(tmp_path / "home", keep=True, quiet=True)["keywords"]
    exp = sync.LocalExperiment(**facts)
    exp.provision()
    exp.close()

    name = facts.pop("name")
    with sync.LocalExperiment.attach(name, **{**facts, "keep": False}) as again:
        again.wait()
        said = again.run([], "echo here")

    assert isinstance(again, sync.LocalExperiment)
    assert (again.name, said[1]) == ("kept", ["here\n"])


async def test_there_may_be_nothing_to_attach_to(tmp_path: Path) -> None:
    """It is said where was looked, and how to find what there is."""
    with pytest.raises(InvalidArgument, match="keep=True only"):
        await attached(local(tmp_path / "home"))
    with pytest.raises(InvalidArgument, match=r"nothing of an experiment 'x'.*precip reap"):
        await HostsExperiment.attach("x", ["127.0.0.1"], home=tmp_path / "home")
    with pytest.raises(InvalidArgument, match="can't be attached to"):
        await Experiment.attach("x", FakeCloud(), home=tmp_path / "home")


# -- clouds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_cloud_is_gone_on_with(tmp_path: Path, dialect: str) -> None:
    """After kill -9, from the journal; leaving then ends all of it, as the lab knows."""
    async with rehearsed(tmp_path, dialect) as one:
        facts = facts_of(one.lab, one.home, "trial")
        await killed(facts, STEPS)
        running = await alive(one.lab)

        async with await attached(facts, observer=one.heard.append) as exp:
            found = [(one.id, one.index, one.user_tags) for one in exp.instances()]
            states = [one.state for one in exp.instances()]
            said = await exp.run("a", "echo here")
            await exp.wait()
            both = await exp.run([], "echo here")

        assert [one for one, *_ in found] == running
        assert [rest for _, *rest in found] == [[1, ("a",)], [2, ("b", "c")]]
        assert states[0] == "ready"
        assert said[1] == ["here\n"]
        assert both[1] == ["here\n", "here\n"]
        assert "attached to 2 instance(s)" in one.said()
        await one.account()


async def test_marks_and_the_key_suffice_on_another_machine(tmp_path: Path) -> None:
    """Where tags say all: in the same order, also of one that was replaced."""
    async with rehearsed(tmp_path, name="trial", keep=True) as one:
        async with one.exp as exp:
            await exp.provision(one.image, count=3, tags=["a"])
            await exp.provision(one.image, count=1)
            await exp.wait()
            await exp._stage.launcher.replace(exp.instances()[1], "as a test wants it")
            order = [one.id for one in exp.instances()]
        facts = facts_of(one.lab, tmp_path / "other", "trial")

        with pytest.raises(InvalidArgument, match="give ssh_key="):
            await attached(facts)
        key = key_in(one.home)
        async with await attached(facts, ssh_key=key, observer=one.heard.append) as exp:
            found = [(one.id, one.index, one.user_tags) for one in exp.instances()]
            await exp.wait()
            said = await exp.run([], "echo $PRECIP_INDEX")

        assert [one for one, *_ in found] == order
        assert [rest for _, *rest in found] == [[0, ("a",)], [1, ("a",)], [2, ("a",)], [3, ()]]
        assert said[1] == ["0\n", "1\n", "2\n", "3\n"]
        assert "found by their marks" in one.said()
        assert await alive(one.lab) == []
        assert await reaped(one.lab, tmp_path / "other") == []


@pytest.mark.slow
async def test_a_mark_that_says_too_little_is_told(tmp_path: Path) -> None:
    """Essex has no tags: only the journal knows of which experiment an instance is."""
    async with rehearsed(tmp_path, "nova-essex", name="trial", keep=True) as one:
        async with one.exp as exp:
            await exp.provision(one.image)

        with pytest.raises(InvalidArgument, match="only the journal of the home that launched"):
            await attached(facts_of(one.lab, tmp_path / "other", "trial"))

        assert len(await alive(one.lab)) == 1
        await reaped(one.lab, one.home, end=True)


@pytest.mark.slow
async def test_a_failed_attachment_ends_nothing(tmp_path: Path) -> None:
    """What it had begun is undone, and the instances are as they were, addresses and keys too."""
    async with rehearsed(tmp_path, name="trial", keep=True) as one:
        async with one.exp as exp:
            await exp.provision(one.image)
        facts = facts_of(one.lab, one.home, "trial")
        facts["args"][2] = "not the secret"

        with pytest.raises(CloudError):
            await attached(facts)
        with contextlib.closing(sqlite3.connect(one.home / "journal.sqlite")) as db, db:
            db.execute("UPDATE launches SET endpoint = 'http://elsewhere/ us-east-1'")
        with pytest.raises(InvalidArgument, match="the journal has it at Amazon EC2 http://else"):
            await attached(facts_of(one.lab, one.home, "trial"))

        assert len(await alive(one.lab)) == 1


@pytest.mark.slow
async def test_an_attachment_that_fails_at_its_end_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses and key pairs are given back with what was attached to, and else are in use."""
    async with rehearsed(tmp_path, "nova-kilo", name="trial", keep=True) as one:
        async with one.exp as exp:
            await exp.provision(one.image)
            await exp.wait()
        held, before = one.lab.addresses(), len(one.lab.calls)
        adopt = Addresses.adopt

        async def fail(*given: Any) -> None:
            await adopt(*given)
            raise CloudError("no answer", cloud="OpenStack", operation="attach")

        with monkeypatch.context() as patch:
            patch.setattr(Addresses, "adopt", fail)
            with pytest.raises(CloudError, match="no answer"):
                await attached(facts_of(one.lab, one.home, "trial"))

        asked = {call.action for call in one.lab.calls[before:]}
        assert not {name for name in asked if name.startswith(("Delete", "Rel", "Dis"))}
        assert one.lab.addresses() == held != ()
        async with await attached(facts_of(one.lab, one.home, "trial")) as again:
            assert (await again.run([], "echo here"))[1] == ["here\n"]
        await one.account()


@pytest.mark.slow
async def test_host_keys_outlive_the_script(tmp_path: Path) -> None:
    """Those that were pinned are enforced; without them the console is asked, or it is told."""
    async with rehearsed(tmp_path, name="trial", keep=True) as one:
        async with one.exp as exp:
            await exp.provision(one.image)
            await exp.wait()
        facts = facts_of(one.lab, one.home, "trial")
        (there,) = [one for one in await one.lab.instances() if one.alive]
        pins = anyio.Path(one.home / "host_keys")
        before = len(one.calls("GetConsoleOutput"))

        async with await attached(facts, keep=True) as exp:
            await exp.run([], "echo here")
        asked = len(one.calls("GetConsoleOutput")) - before
        await pins.write_text(f"{there.id} {make_host_key()[1]}\n")
        async with await attached(facts, keep=True) as exp:
            with pytest.raises(HostKeyMismatch):
                await exp.run([], "echo an impostor")
        await pins.unlink()
        async with await attached(facts, observer=one.heard.append) as exp:
            shown = exp.instances()[0].host_keys
            said = await exp.run([], "echo here")

        assert asked == 0
        assert said[1] == ["here\n"]
        known = bool(shown) and there.host_keys[0].startswith(shown)
        assert known != ("are not known here" in one.said())


@pytest.mark.slow
async def test_looking_takes_and_makes_nothing(tmp_path: Path) -> None:
    """A dry run only describes: no address is taken for an instance that has none yet."""
    async with rehearsed(tmp_path, "nova-kilo", name="trial", keep=True) as one:
        async with one.exp as exp:
            await exp.provision(one.image)
        before = len(one.lab.calls)
        while (await one.lab.instances())[0].state != "running":  # noqa: ASYNC110 - the lab's
            await anyio.sleep(0.1)

        found = await reaped(one.lab, one.home)

        assert [one.state for one in found] == ["running"]
        actions = {call.action for call in one.lab.calls[before:]}
        assert actions == {one for one in actions if one.startswith("Describe")}
        assert one.lab.addresses() == ()
        await reaped(one.lab, one.home, end=True)


# -- hosts -----------------------------------------------------------------------------------


@pytest.mark.sshd
@pytest.mark.slow
async def test_hosts_are_taken_again(tmp_path: Path) -> None:
    """The same ones in the same order, though others were free; they are given back at the end."""
    with OpenSSHServer(tmp_path, address="0.0.0.0") as server:
        hosts = server.hosts(3)
        way: dict[str, Any] = {
            "home": str(tmp_path / "home"),
            "ssh_key": str(server.client_key_path),
            "ssh_port": server.port,
        }
        facts = {"class": "HostsExperiment", "args": [hosts], "keywords": {"name": "x", **way}}
        steps = "await exp.provision(count=2, tags='a'); await exp.wait(); "
        await killed(facts, steps + "await exp.deprovision([exp.instances()[0].id])")

        async with await attached(facts) as exp:
            found = [(one.id, one.index, one.state) for one in exp.instances("a")]
            said = await exp.run("a", "echo here")
            (new,) = await exp.provision()
        with pytest.raises(InvalidArgument, match="nothing of an experiment"):
            await attached(facts)

    assert found == [(hosts[1], 1, "ready")]
    assert said[1] == ["here\n"]
    assert new.id == hosts[0]


async def test_what_it_was_reached_by_is_remembered(tmp_path: Path) -> None:
    """User, port and address, wherever whoever attaches says nothing else."""
    journal = await anyio.to_thread.run_sync(lambda: Journal.open(Home.open(tmp_path / "home")))
    books, traits = Books(journal), FakeCloud().traits
    await books.write(
        Journal.intend,
        token="t1",
        experiment="x",
        cloud=traits.name,
        image_id="i",
        instance_type="t",
        count=1,
        first=0,
        login_user="ubuntu",
        ssh_port=2222,
        address="private",
    )

    silent = await as_before(books, "x", traits, Settings())
    said = await as_before(books, "x", traits, Settings(login_user="eve", ssh_port=23))
    other = await as_before(books, "y", traits, Settings())
    await anyio.to_thread.run_sync(journal.close)

    assert (silent.login_user, silent.ssh_port, silent.address) == ("ubuntu", 2222, "private")
    assert (said.login_user, said.ssh_port) == ("eve", 23)
    assert other == Settings()


# -- parts -----------------------------------------------------------------------------------


def test_host_keys_are_read_from_a_console() -> None:
    """Those of the last block, whatever each line begins with; nothing else that looks like one."""
    key = "ssh-ed25519 " + "A" * 68
    console = (
        f"ssh-ed25519 {'B' * 68}\n-----BEGIN SSH HOST KEY KEYS-----\nssh-rsa {'C' * 80} old\n"
        "-----END SSH HOST KEY KEYS-----\n[   12.3] ec2: -----BEGIN SSH HOST KEY KEYS-----\n"
        f"ci-info: {key} root@host\nssh-rsa short\n-----END SSH HOST KEY KEYS-----\nlogin:"
    )

    assert host_keys_in(console) == (key,)
    assert host_keys_in("") == ()


def test_every_class_attaches_alike() -> None:
    """The base, each cloud's class, and the twins of all have one `attach`."""
    for half in (precip_async, sync):
        for name in (one for one in half.__all__ if one.endswith("Experiment")):
            parameters = inspect.signature(getattr(half, name).attach).parameters
            assert [*parameters] == ["name", "args", "keywords"]
