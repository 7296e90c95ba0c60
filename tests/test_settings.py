"""The keywords of every experiment: what can't be is refused at once, with a sentence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from precip_async import (
    EC2Experiment,
    HostsExperiment,
    InvalidArgument,
    LocalExperiment,
    OpenStackExperiment,
)
from precip_async.settings import Settings, checked_number, checked_parallel

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.events import Event


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("max_lifetime", 0),
        ("max_lifetime", -1),
        ("max_lifetime", math.nan),
        ("max_lifetime", True),
        ("max_lifetime", math.inf),
        ("max_lifetime", "60"),
        ("parallel", 0),
        ("parallel", -1),
        ("parallel", 1.5),
        ("parallel", "all"),
        ("parallel", None),
        ("ssh_port", 0),
        ("ssh_port", 65536),
        ("ssh_port", "22"),
        ("ssh_port", 22.0),
        ("ssh_port", True),
        ("address", "elastic"),
        ("limits", {"max_hosts": 1}),
        ("login_user", ""),
        ("login_user", "-oProxyCommand=x"),
        ("login_user", "a b"),
        ("login_user", 5),
        ("key_passphrase", 5),
        ("keep", "no"),
        ("agent", 1),
        ("bastion", "a b"),
        ("bastion", "host:0"),
        ("bastion", 5),
        ("ssh_key", 5),
        ("verify", 1),
        ("ssh_cidr", "everybody"),
        ("ssh_cidr", "10.0.0.1/8"),
        ("ssh_cidr", 5),
        ("options", "KeyName"),
        ("options", {5: "x"}),
        ("observer", 5),
        ("observer", [5]),
        ("observer", [print, "x"]),
    ],
)
def test_what_can_not_be_is_refused_by_name(keyword: str, value: Any) -> None:
    """The sentence begins with the keyword, so that the line to mend is found."""
    with pytest.raises(InvalidArgument, match=rf"\b{keyword}\b"):
        Settings(**{keyword: value})


@pytest.mark.parametrize(
    "keyword", ["ssh_key", "ssh_config", "known_hosts", "bastion_key", "verify"]
)
@pytest.mark.parametrize("path", ["/nowhere", "/"])
async def test_a_file_that_is_not_there_is_refused_before_anything_is_done(
    tmp_path: Path, keyword: str, path: str
) -> None:
    """A directory is no file. It is opening that looks, where looking holds up nobody."""
    given: dict[str, Any] = {keyword: path}
    exp = HostsExperiment(["a"], home=tmp_path / "home", **given)

    with pytest.raises(InvalidArgument, match=f"{keyword}: there is no file {path}"):
        await exp.open()

    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["", "a b", "-x", "a/b", "x" * 65, 5])
def test_a_name_that_can_not_be_is_refused(name: Any) -> None:
    """A name is a word of at most 64 characters: it names files, locks and machines."""
    with pytest.raises(InvalidArgument, match="a name must be"):
        LocalExperiment(name=name)


def test_bad_keywords_are_refused_by_the_constructors() -> None:
    """Nothing has to be opened to hear of them."""
    with pytest.raises(InvalidArgument, match="isolation"):
        LocalExperiment(isolation="jail")  # type: ignore[arg-type] # what the test is about
    with pytest.raises(InvalidArgument, match="ssh_port"):
        HostsExperiment(["a"], ssh_port=0)
    with pytest.raises(TypeError, match="nmae"):
        LocalExperiment(nmae="x")  # type: ignore[call-arg] # what the test is about


def test_a_passphrase_is_not_shown() -> None:
    """Settings end up in logs and tracebacks; secrets do not."""
    assert "s3cret" not in repr(Settings(key_passphrase="s3cret"))


def test_a_tilde_is_the_users_home(clean_environment: Path) -> None:
    """Paths are taken as a shell would take them."""
    (clean_environment / "key").write_text("x")

    assert Settings(ssh_key="~/key").path("ssh_key") == clean_environment / "key"


def test_observers_may_be_one_or_many_and_are_read_once() -> None:
    """A generator of observers is as good as a list: it is not used up by looking."""
    some: list[Event] = []
    others: list[Event] = []

    assert Settings(observer=some.append).observers == (some.append,)
    settings = Settings(observer=(seen.append for seen in (some, others)))
    assert settings.observers == settings.observers == (some.append, others.append)
    assert Settings().observers == ()


@pytest.mark.parametrize("value", [None, 0.001, 1, 10**9, math.inf])
def test_a_number_of_seconds_is_taken(value: float | None) -> None:
    """None is no limit, and so is infinity."""
    checked_number("timeout", value)


@pytest.mark.parametrize("value", [0, -1, math.nan, -math.inf, True, "1", [1]])
def test_what_is_no_number_of_seconds_is_refused(value: Any) -> None:
    """NaN compares with nothing, and would never be over."""
    with pytest.raises(InvalidArgument, match="timeout must be a number of seconds above 0"):
        checked_number("timeout", value)


@pytest.mark.parametrize("value", [True, False, 1, 1000])
def test_parallel_is_a_yes_or_a_number(value: bool | int) -> None:
    """How many at once, or whether at all."""
    checked_parallel(value)


@pytest.mark.parametrize(
    "made",
    [
        LocalExperiment,
        lambda **shared: HostsExperiment(["a"], **shared),
        lambda **shared: EC2Experiment("us-west-2", **shared),
        lambda **shared: OpenStackExperiment("http://cloud:8773/", "key", "secret", **shared),
    ],
    ids=["local", "hosts", "ec2", "openstack"],
)
def test_observers_that_can_be_asked_for_once_are_kept(made: Any) -> None:
    """An iterator that was read twice would leave an experiment without its observers."""

    def observe(event: Event) -> None:
        """Never called."""

    assert made(observer=iter([observe]))._settings.observers == (observe,)
