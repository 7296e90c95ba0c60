"""Experiments that can't be opened: why, in an error that says so in time, on every cloud.

What is refused is so by the lab, in the words of each cloud; what does not answer is a socket that
the test holds. Nothing leaves the loopback.
"""

from __future__ import annotations

import re
import socket
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from precip_async import (
    CloudError,
    EC2Experiment,
    EndpointUnreachable,
    EucalyptusExperiment,
    InvalidArgument,
    NimbusExperiment,
    NotAuthorized,
    OpenStackExperiment,
)
from precip_async.clouds import ec2_pace
from precip_async.lab.lab import Lab
from precip_async.lab.scenario import Scenario
from tests.clouds.ec2_peer import Reply, peer
from tests.on_clouds import IMAGES, REGION, experiment_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from precip_async import Experiment

IN_TIME = 20.0  # seconds in which it is to be known why an experiment can't be opened
KEYS = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")


@pytest.fixture(autouse=True)
def hasty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again after a tenth of the usual time, but for where it is about that time."""
    if request.node.get_closest_marker("slow") is None:
        for name in ("FIRST_BACKOFF", "LONGEST_BACKOFF"):
            monkeypatch.setattr(ec2_pace, name, getattr(ec2_pace, name) / 10)


everywhere = pytest.mark.parametrize("dialect", IMAGES)


async def refusal(exp: Experiment) -> CloudError:
    """Why `exp` can't be opened, which is told in time."""
    with anyio.fail_after(IN_TIME), pytest.raises(CloudError) as caught:
        await exp.open()
    return caught.value


@asynccontextmanager
async def lab_in(directory: Path, dialect: str = "amazon", **given: Any) -> AsyncIterator[Lab]:
    """A lab, and a `home` for experiments beside it."""
    await anyio.Path(directory / "lab").mkdir()
    async with Lab(
        dialect, directory=directory / "lab", isolation="process", region=REGION, **given
    ) as lab:
        yield lab


def at(kind: str, url: str, home: Path) -> Experiment:
    """An experiment of one of the four classes, at an endpoint."""
    if kind == "amazon":
        return EC2Experiment(REGION, url, *KEYS, home=home)
    classes = {
        "openstack": OpenStackExperiment,
        "eucalyptus": EucalyptusExperiment,
        "nimbus": NimbusExperiment,
    }
    return classes[kind](url, *KEYS, home=home)


@contextmanager
def port(*, listening: bool) -> Iterator[str]:
    """A port at which nobody listens, or where connections are taken and nobody ever speaks."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if listening:
            held.listen(50)
        yield f"127.0.0.1:{held.getsockname()[1]}"


kinds = pytest.mark.parametrize("kind", ["amazon", "openstack", "eucalyptus", "nimbus"])


# -- credentials ---------------------------------------------------------------------------------


@everywhere
async def test_a_wrong_secret_is_told(tmp_path: Path, dialect: str) -> None:
    """Each cloud says so in its own words, and we say what to check."""
    async with lab_in(tmp_path, dialect) as lab:
        keys = (lab.access_key, "wrong")
        error = await refusal(experiment_on(lab, tmp_path / "home", keys=keys))

    assert isinstance(error, NotAuthorized)
    assert "the secret key" in error.hint
    assert "wrong" not in str(error)


@everywhere
async def test_an_unknown_access_key_is_told(tmp_path: Path, dialect: str) -> None:
    """Likewise, and neither key is repeated."""
    async with lab_in(tmp_path, dialect) as lab:
        keys = ("AKIAUNKNOWN", lab.secret_key)
        error = await refusal(experiment_on(lab, tmp_path / "home", keys=keys))

    assert isinstance(error, NotAuthorized)
    assert "check the access key" in error.hint
    assert lab.secret_key not in str(error)


@everywhere
async def test_a_clock_that_is_wrong_is_told_before_the_credentials(
    tmp_path: Path, dialect: str
) -> None:
    """Signatures bear the time, and clouds refuse them in many words; the clock comes first."""
    async with lab_in(tmp_path, dialect, scenario=Scenario(clock_skew=3600.0)) as lab:
        error = await refusal(experiment_on(lab, tmp_path / "home"))

    assert isinstance(error, NotAuthorized)
    assert re.match(r"this computer's clock is 3\d{3} s off the cloud's: set it", error.hint)


async def test_a_session_token_that_has_expired_is_told(tmp_path: Path) -> None:
    """The clocks agree: it is the token."""
    scenario = Scenario(expired_token=True)
    async with lab_in(tmp_path, session_token="once", scenario=scenario) as lab:
        error = await refusal(experiment_on(lab, tmp_path / "home", session_token="once"))

    assert isinstance(error, NotAuthorized)
    assert error.hint.startswith("the session token has expired: renew")
    assert "`precip reap`" in error.hint  # what runs goes on without us


@pytest.mark.parametrize("given", [{}, {"session_token": "another"}])
async def test_a_session_token_that_is_missing_or_wrong_is_told(
    tmp_path: Path, given: dict[str, str]
) -> None:
    """Amazon does not say that it is the token; we name it among what is to be checked."""
    async with lab_in(tmp_path, session_token="once") as lab:
        error = await refusal(experiment_on(lab, tmp_path / "home", **given))

    assert isinstance(error, NotAuthorized)
    assert "the session token if there is one" in error.hint


# -- region --------------------------------------------------------------------------------------


async def test_a_region_that_is_not_the_endpoints_is_told(tmp_path: Path) -> None:
    """Amazon refuses what is signed for another region; the credentials are not blamed."""
    async with lab_in(tmp_path) as lab:
        error = await refusal(experiment_on(lab, tmp_path / "home", region="eu-west-1"))

    assert isinstance(error, NotAuthorized)
    assert "not 'eu-west-1'" in error.message
    assert error.hint == f"the credentials may be good: give the region that {lab.endpoint} is in"


def test_an_endpoint_that_names_another_region_is_refused_at_once() -> None:
    """Where the endpoint says which region it is of, nothing has to be asked."""
    with pytest.raises(InvalidArgument, match="the region is us-east-1, and the endpoint"):
        EC2Experiment("us-east-1", "ec2.eu-west-1.amazonaws.com", *KEYS)


# -- endpoint ------------------------------------------------------------------------------------


@kinds
async def test_a_port_where_nobody_listens_is_told(tmp_path: Path, kind: str) -> None:
    """The host is there, the service is not."""
    with port(listening=False) as place:
        error = await refusal(at(kind, f"http://{place}/", tmp_path / "home"))

    assert isinstance(error, EndpointUnreachable)
    assert f"{place}/: nobody listens there (connection refused)" in error.message


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", ["amazon", "openstack"])
async def test_a_port_that_never_speaks_is_told(tmp_path: Path, kind: str, scheme: str) -> None:
    """It takes the connection and says nothing, before or after the request."""
    with port(listening=True) as place:
        error = await refusal(at(kind, f"{scheme}://{place}/", tmp_path / "home"))

    assert isinstance(error, EndpointUnreachable)
    assert place in error.message
    assert "check the endpoint" in error.hint


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(status=404, body="<html><body>Not here</body></html>"), "there is no EC2 API at"),
        (Reply(body="<html><body><br>It works!</body></html>"), "does not speak EC2: It works!"),
    ],
    ids=["404", "200"],
)
@kinds
async def test_a_web_server_that_is_no_ec2_api_is_told(
    tmp_path: Path, kind: str, reply: Reply, said: str
) -> None:
    """Whether it has a page there or not."""
    async with peer(dict.fromkeys(FIRST.values(), reply)) as server:
        error = await refusal(at(kind, server.url, tmp_path / "home"))

    assert isinstance(error, EndpointUnreachable)
    assert said in error.message
    assert "check the endpoint's" in error.hint


# What each of the classes asks first.
FIRST = {"openstack": "DescribeVpcs", "eucalyptus": "DescribeInstances", "": "DescribeKeyPairs"}


async def test_a_server_of_another_protocol_is_told(tmp_path: Path) -> None:
    """The port of an SSH server, say."""

    async def greet(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"SSH-2.0-OpenSSH_9.2p1\r\n")
            with anyio.move_on_after(IN_TIME):
                await stream.receive()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, greet)
        url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
        error = await refusal(at("openstack", url, tmp_path / "home"))
        tasks.cancel_scope.cancel()

    assert isinstance(error, EndpointUnreachable)
    assert "does not speak HTTP" in error.message
    assert "SSH-2.0" in error.message


@kinds
async def test_a_host_that_nobody_has_is_told(tmp_path: Path, kind: str) -> None:
    """A name under `.invalid`, which is nobody's."""
    error = await refusal(at(kind, "http://cloud.invalid:8773/", tmp_path / "home"))

    assert isinstance(error, EndpointUnreachable)
    assert "http://cloud.invalid:8773/: there is no host of this name" in error.message


@pytest.mark.root
async def test_a_network_without_a_route_is_told(tmp_path: Path) -> None:
    """In a namespace that has no network at all: the system's words, and what to check."""
    script = (
        "import asyncio, sys\n"
        "from precip_async import OpenStackExperiment\n"
        f"exp = OpenStackExperiment('http://192.0.2.1:8773/', *{KEYS!r}, home=sys.argv[1])\n"
        "asyncio.run(asyncio.wait_for(exp.open(), 20))\n"
    )
    command = ["unshare", "--net", sys.executable, "-c", script, str(tmp_path / "home")]
    ran = await anyio.run_process(command, check=False)
    last = ran.stderr.decode().strip().splitlines()[-1]

    assert "EndpointUnreachable: OpenStack: " in last
    assert "http://192.0.2.1:8773/: it can't be reached: " in last
    assert "unreachable" in last.split("it can't be reached")[1]
    assert last.endswith("check the endpoint, and the network")


# -- TLS -----------------------------------------------------------------------------------------


async def test_tls_where_there_is_none_is_told(tmp_path: Path) -> None:
    """Https is written, and http is spoken."""
    async with lab_in(tmp_path) as lab:
        url = lab.endpoint.replace("http:", "https:")
        error = await refusal(experiment_on(lab, tmp_path / "home", endpoint=url))

    assert "does not speak TLS" in error.message
    assert error.hint == "give the endpoint as http://…"


@pytest.mark.parametrize("dialect", ["amazon", "nimbus"])
async def test_no_tls_where_there_is_some_is_told(tmp_path: Path, dialect: str) -> None:
    """Http is written, and https is spoken: such a server only hangs up."""
    async with lab_in(tmp_path, dialect, tls=True) as lab:
        url = lab.endpoint.replace("https:", "http:")
        error = await refusal(experiment_on(lab, tmp_path / "home", endpoint=url))

    assert isinstance(error, EndpointUnreachable)
    assert "whether it is https:// or http://" in error.hint


@pytest.mark.parametrize("dialect", ["amazon", "eucalyptus-4", "nimbus"])
async def test_a_certificate_of_an_unknown_authority_is_told(tmp_path: Path, dialect: str) -> None:
    """Private clouds make their own: the file to give is named."""
    async with lab_in(tmp_path, dialect, tls=True) as lab:
        error = await refusal(experiment_on(lab, tmp_path / "home", verify=True))

    assert "its certificate can't be believed: self-signed certificate" in error.message
    assert "give verify=<its file>" in error.hint


@pytest.mark.parametrize("dialect", ["amazon", "nova-kilo", "nimbus"])
async def test_a_certificate_of_another_host_is_told(tmp_path: Path, dialect: str) -> None:
    """The authority is the right one, and that is not enough."""
    scenario = Scenario(wrong_host=True)
    async with lab_in(tmp_path, dialect, tls=True, scenario=scenario) as lab:
        error = await refusal(experiment_on(lab, tmp_path / "home"))

    assert "certificate is not valid for '127.0.0.1'" in error.message
    assert "check the endpoint's host" in error.hint
