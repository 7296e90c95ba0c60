"""The vendor's library as we use it: TLS, credentials, silence, and what never gets past it."""

from __future__ import annotations

import datetime as dt
import inspect
import ipaddress
import logging
import socket
import ssl
import subprocess
import sys
import time
import traceback
import warnings
from typing import TYPE_CHECKING, Any

import botocore.exceptions
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from precip_async.clouds.dialects import AMAZON, EUCALYPTUS_4, NOVA_2012
from precip_async.clouds.ec2 import EC2Cloud
from precip_async.clouds.ec2_errors import Interpreter
from precip_async.clouds.ec2_trouble import explained
from precip_async.errors import (
    CloudError,
    EndpointUnreachable,
    ExperimentException,
    InvalidArgument,
    NotAuthorized,
)
from tests.clouds.ec2_peer import (
    ACCESS_KEY,
    SECRET_KEY,
    Peer,
    Reply,
    access,
    cloud_at,
    document,
    fault,
    peer,
)

if TYPE_CHECKING:
    from pathlib import Path

    from precip_async.clouds.dialects import Dialect

SESSION_TOKEN = "FwoGZXIvYXdzEXAMPLE/session+token=="


# -- TLS -----------------------------------------------------------------------------------------


class Authority:
    """Certificates of a test's own making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority of ours")])
        self.certificate = self._builder(name, name, self.key.public_key(), is_ca=True).sign(
            self.key, hashes.SHA256()
        )
        self.file = folder / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, host: str) -> ssl.SSLContext:
        """What a server for `host` serves with."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A server")])
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            alternative = x509.DNSName(host)
        builder = self._builder(name, self.certificate.subject, key.public_key(), is_ca=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        pem = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        path = self.folder / f"{host}.pem"
        path.write_bytes(pem + key.private_bytes(*form, serialization.NoEncryption()))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
        return context

    def _builder(
        self, name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, is_ca: bool
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that nobody knows."""
    return Authority(tmp_path)


async def test_an_authority_can_be_given(authority: Authority) -> None:
    """With its file, its certificates are believed."""
    async with (
        peer(tls=authority.server("127.0.0.1")) as server,
        cloud_at(server.url, verify=str(authority.file)) as cloud,
    ):
        assert cloud.traits.endpoint.startswith("https://127.0.0.1:")


async def test_a_certificate_for_another_host_is_refused(authority: Authority) -> None:
    """Also where the authority is believed, which the vendor's library alone would let pass."""
    async with peer(tls=authority.server("elsewhere.example.org")) as server:
        with pytest.raises(EndpointUnreachable, match=r"mismatch.*give verify="):
            async with cloud_at(server.url, verify=str(authority.file)):
                pytest.fail("it was believed")

        assert not server.requests


async def test_an_unknown_authority_is_refused(authority: Authority) -> None:
    """And no request reaches whoever that is."""
    async with peer(tls=authority.server("127.0.0.1")) as server:
        with pytest.raises(EndpointUnreachable, match="its certificate can't be believed"):
            async with cloud_at(server.url):
                pytest.fail("it was believed")

        assert not server.requests


async def test_checking_can_be_turned_off_and_that_is_said(authority: Authority) -> None:
    """Once, naming the endpoint."""
    async with peer(tls=authority.server("elsewhere.example.org")) as server:
        with pytest.warns(UserWarning, match=r"https://127.0.0.1:\d+/ .* is not checked") as said:
            async with cloud_at(server.url, verify=False) as cloud:
                await cloud.describe([])

    assert len(said) == 1


async def test_old_clouds_are_checked_as_well(authority: Authority) -> None:
    """What their TLS may lack in age it does not lack in names."""
    async with peer(tls=authority.server("elsewhere.example.org")) as server:
        with pytest.raises(EndpointUnreachable, match="mismatch"):
            async with cloud_at(server.url, EUCALYPTUS_4, verify=str(authority.file)):
                pytest.fail("it was believed")


async def test_the_environments_authority_is_believed(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with all of AWS's tools."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
    async with peer(tls=authority.server("127.0.0.1")) as server, cloud_at(server.url):
        assert server.requests


async def test_what_is_no_file_of_certificates_is_refused(tmp_path: Path) -> None:
    """With the name of the argument."""
    (tmp_path / "empty").touch()
    async with peer() as server:
        with pytest.raises(InvalidArgument, match=r"verify: .*empty is no file of certificates"):
            async with cloud_at(server.url, verify=str(tmp_path / "empty")):
                pytest.fail("it was taken")


async def test_a_server_without_tls_is_told() -> None:
    """Where https is written and http is spoken."""
    async with peer() as server:
        with pytest.raises(EndpointUnreachable, match="does not speak TLS; give the endpoint as h"):
            async with cloud_at(server.url.replace("http:", "https:")):
                pytest.fail("it was taken")


# -- silence -------------------------------------------------------------------------------------


async def refusal(url: str, **given: Any) -> tuple[ExperimentException, float]:
    """What opening a cloud at `url` ends with, and the seconds that it takes."""
    began = time.monotonic()
    with pytest.raises(ExperimentException) as caught:
        async with cloud_at(url, **given):
            pytest.fail("it was taken")
    return caught.value, time.monotonic() - began


async def test_nobody_listening_is_told_quickly() -> None:
    """A closed port, which is held so that nobody else comes to listen there meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        error, seconds = await refusal(f"http://127.0.0.1:{held.getsockname()[1]}/")

    assert isinstance(error, EndpointUnreachable)
    assert "nobody listens there" in str(error)
    assert seconds < 10


async def test_a_host_that_is_not_there_is_told_quickly() -> None:
    """A name that nobody has."""
    error, seconds = await refusal("http://cloud.invalid:8773/")

    assert isinstance(error, EndpointUnreachable)
    assert "there is no host of this name" in str(error)
    assert seconds < 10


@pytest.mark.slow
async def test_an_endpoint_that_never_answers_is_told_in_time() -> None:
    """It accepts the connection, and says nothing, for ever."""
    async with peer({"DescribeKeyPairs": Reply(never=True)}) as server:
        error, seconds = await refusal(server.url)

    assert isinstance(error, EndpointUnreachable)
    assert "no answer" in str(error)
    assert seconds < 20


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(status=404, body="<html><body>Not here</body></html>"), EndpointUnreachable, "path"),
        (Reply(body="<html><body>It works!</body></html>"), EndpointUnreachable, "not speak EC2"),
        (Reply(body="It works!"), EndpointUnreachable, "does not speak EC2: It works!"),
        (Reply(status=403, body="<html>no</html>"), NotAuthorized, "clock"),
        (fault("AuthFailure", "not able to validate", 401), NotAuthorized, "secret key"),
        (fault("SignatureDoesNotMatch", "no", 403), NotAuthorized, "or the region is wrong"),
        (fault("RequestExpired", "Request has expired."), NotAuthorized, "token has expired"),
        (fault("ExpiredToken", "The token has expired"), NotAuthorized, "renew the session token"),
    ],
)
async def test_what_is_wrong_with_an_endpoint_is_told(
    reply: Reply, kind: type[CloudError], said: str
) -> None:
    """Wrong path, no API at all, wrong credentials, expired ones: each is its own error."""
    async with peer({"DescribeKeyPairs": reply}) as server:
        error, seconds = await refusal(server.url)

    assert isinstance(error, kind)
    assert said in str(error)
    assert seconds < 20


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_credentials_follow_no_redirect(status: int) -> None:
    """Requests are signed for one place, and go to no other."""
    async with peer() as elsewhere:
        away = Reply(status=status, headers={"Location": elsewhere.url})
        async with peer({"DescribeKeyPairs": away}) as server:
            error, _ = await refusal(server.url, session_token=SESSION_TOKEN)

        assert f"it points to {elsewhere.url}" in str(error)
        assert not elsewhere.requests
        assert [one.action for one in server.requests].count("DescribeKeyPairs") == 1


async def test_amazon_knows_where_its_regions_are() -> None:
    """Without an endpoint; nothing is asked yet."""
    from precip_async.clouds.ec2_client import Client
    from precip_async.clouds.ec2_credentials import Credentials

    credentials = Credentials(ACCESS_KEY, SECRET_KEY, None, None)
    client = Client(
        dialect=AMAZON, url=None, region="us-west-2", credentials=credentials, verify=True
    )
    await client.open()

    assert client.url == "https://ec2.us-west-2.amazonaws.com"
    await client.aclose()


async def test_the_clouds_clock_is_compared() -> None:
    """Where it is far from ours, an error about the signature says so."""
    reply = fault("SignatureDoesNotMatch", "no", 403)
    past = Reply(status=403, body=reply.body, headers={"Date": "Wed, 21 Oct 2015 07:28:00 GMT"})
    async with peer({"DescribeKeyPairs": past}) as server:
        error, _ = await refusal(server.url)

    assert "s off the cloud's" in str(error)


def test_a_region_that_is_not_the_endpoints_is_refused() -> None:
    """Before anything is asked."""
    from precip_async.clouds.ec2_endpoint import parse_endpoint

    with pytest.raises(InvalidArgument, match="the region is eu-west-1, and the endpoint ec2"):
        EC2Cloud(
            dialect=AMAZON,
            endpoint=parse_endpoint("ec2.us-west-2.amazonaws.com", AMAZON),
            region="eu-west-1",
        )


# -- credentials ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"access_key": "a"}, "secret_key is missing"),
        ({"secret_key": "b"}, "access_key is missing"),
        ({"access_key": "", "secret_key": "b"}, "access_key must be a string"),
        ({"session_token": "c"}, "goes with access_key"),
        ({"access_key": "a", "secret_key": "b", "profile": "p"}, "either profile"),
    ],
)
def test_half_of_the_credentials_is_refused(given: dict[str, str], said: str) -> None:
    """Before anything is asked."""
    with pytest.raises(InvalidArgument, match=said):
        EC2Cloud(dialect=AMAZON, **given)  # type: ignore[arg-type] # strings only


def test_clouds_that_are_not_amazon_want_credentials() -> None:
    """Amazon's must not be sent to others."""
    from precip_async.clouds.ec2_endpoint import parse_endpoint

    with pytest.raises(InvalidArgument, match="must be given for this cloud"):
        EC2Cloud(dialect=NOVA_2012, endpoint=parse_endpoint("host", NOVA_2012))


async def test_the_environments_credentials_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As all of AWS's tools find them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "from the environment")
    async with (
        peer() as server,
        cloud_at(server.url, access_key=None, secret_key=None, region="eu-west-1"),
    ):
        assert "AKIAENVIRONMENT" in server.requests[0].headers["authorization"]
        assert "/eu-west-1/ec2/" in server.requests[0].headers["authorization"]


async def test_a_profiles_credentials_are_found(
    clean_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the files of AWS's tools, by name."""
    file = clean_environment / "credentials"
    file.write_text("[mine]\naws_access_key_id=AKIAPROFILE\naws_secret_access_key=x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    given: dict[str, Any] = {"access_key": None, "secret_key": None, "profile": "mine"}
    async with peer() as server, cloud_at(server.url, **given):
        assert "AKIAPROFILE" in server.requests[0].headers["authorization"]


async def test_an_unknown_profile_of_the_environment_spoils_no_given_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keys that are given need nothing of it, whatever another project has left there."""
    monkeypatch.setenv("AWS_PROFILE", "another-project")
    async with peer() as server, cloud_at(server.url):
        assert ACCESS_KEY in server.requests[0].headers["authorization"]


async def test_credentials_that_expire_are_renewed(
    clean_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a cloud is open, in a thread: what renews them may take its time."""
    helper, config = clean_environment / "helper.py", clean_environment / "config"
    helper.write_text(
        "import json, pathlib, datetime as dt\n"
        f"count = pathlib.Path({str(clean_environment)!r}, 'count')\n"
        "n = len(count.read_text()) if count.exists() else 0\n"
        "count.write_text('x' * (n + 1))\n"
        "soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=20)\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'AKIAHELPER{n}', 'SecretAccessKey': 'x',\n"
        "    'SessionToken': 't', 'Expiration': soon.isoformat()}))\n"
    )
    config.write_text(f"[default]\ncredential_process = {sys.executable} {helper}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    async with peer() as server, cloud_at(server.url, access_key=None, secret_key=None):
        used = [one.headers["authorization"].split("/")[0] for one in server.requests]

    assert len({*used}) == len(used) > 1  # so close to their end they are renewed each time


@pytest.mark.parametrize("profile", [None, "nobody"])
async def test_no_credentials_are_told(
    profile: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With where they are looked for."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    given = {"access_key": None, "secret_key": None, "profile": profile}
    async with peer() as server:
        error, _ = await refusal(server.url, **given)

    assert isinstance(error, NotAuthorized)
    assert "give access_key= and secret_key=, or profile=" in str(error)


async def test_no_credential_is_ever_said(caplog: pytest.LogCaptureFixture) -> None:
    """Neither in a log, however much is logged, nor in an error, its traceback or a repr."""
    quoting = fault("Weird", f"you said {SECRET_KEY} and {SESSION_TOKEN} as {ACCESS_KEY}")
    texts: list[str] = []
    with caplog.at_level(logging.DEBUG):
        async with peer({"TerminateInstances": quoting}) as server:
            for dialect in (AMAZON, EUCALYPTUS_4):
                await _everything_said(texts, server.url, dialect)
    texts += [record.getMessage() for record in caplog.records]
    texts += [str(record.exc_info) for record in caplog.records]

    assert any("Sending http request" in text for text in texts)  # it was logged, that is
    for secret in (SECRET_KEY, SESSION_TOKEN, ACCESS_KEY, "wJalrXUtnFEMI", "FwoGZXIvYXdz"):
        assert not [text[:300] for text in texts if secret in text]


async def _everything_said(texts: list[str], url: str, dialect: Any) -> None:
    """Add to `texts` what a cloud and its errors say."""
    async with cloud_at(url, dialect, session_token=SESSION_TOKEN, prepared=False) as cloud:
        await cloud.prepare(access(rsa=cloud.key_type == "rsa"))
        with pytest.raises(CloudError) as caught:
            await cloud.terminate(["i-1"])
        texts += [repr(cloud), repr(cloud.traits), repr(caught.value), str(vars(caught.value))]
        texts += traceback.format_exception(caught.value)


async def test_what_others_log_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Only the vendor's loggers are watched, and only while a cloud is open."""
    logger = logging.getLogger("botocore.hooks")
    with caplog.at_level(logging.DEBUG):
        async with peer() as server, cloud_at(server.url):
            assert logger.filters
            logging.getLogger("mine").debug("mine: %s", SECRET_KEY)

    assert not logger.filters
    assert f"mine: {SECRET_KEY}" in caplog.messages


# -- the vendor's exceptions ---------------------------------------------------------------------


def vendors() -> list[type[Exception]]:
    """Every class of error that botocore has."""
    classes = vars(botocore.exceptions).values()
    kinds = [one for one in classes if inspect.isclass(one) and issubclass(one, Exception)]
    return sorted(
        {one for one in kinds if issubclass(one, botocore.exceptions.BotoCoreError)}, key=repr
    )


@pytest.mark.parametrize("kind", vendors(), ids=lambda kind: kind.__name__)
def test_every_class_of_the_vendors_errors_is_one_of_ours(kind: type[Exception]) -> None:
    """What it can raise stops at our edge, whatever it is."""
    tell = Interpreter(AMAZON, "http://host/", str)

    class Anything(dict[str, str]):
        """The facts of an error, whichever it asks for."""

        def __missing__(self, key: str) -> str:
            return "this"

    error = kind.__new__(kind)
    error.args = ("it broke",)
    error.kwargs = Anything()  # type: ignore[attr-defined] # as BotoCoreError has
    translated = explained(tell, "RunInstances", error, 1.0)

    assert isinstance(translated, CloudError)
    unconnected = (botocore.exceptions.HTTPClientError, botocore.exceptions.ConnectionError)
    assert isinstance(translated, EndpointUnreachable) == issubclass(kind, unconnected)


async def test_parameters_that_the_vendor_refuses_are_told() -> None:
    """A launch parameter of the wrong type, which nobody but botocore knows of."""
    from tests.clouds.ec2_peer import request

    options = {"InstanceMarketOptions": {"MarketKind": "spot"}}
    async with peer() as server, cloud_at(server.url) as cloud:
        with pytest.raises(CloudError, match=r'Unknown parameter.*"MarketKind".*see options='):
            await cloud.launch(request(options=options))

        assert not server.asked("RunInstances")


def test_importing_the_cloud_imports_no_vendor() -> None:
    """The vendor's library is imported when a cloud is opened, in a thread."""
    program = (
        "import sys, precip_async.clouds.ec2;"
        "assert not {'aioboto3', 'botocore', 'aiohttp'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


async def test_a_closed_cloud_says_so() -> None:
    """Before it is opened, and after."""
    async with peer() as server:
        async with cloud_at(server.url, prepared=False) as cloud:
            with pytest.raises(CloudError, match="it is not open"):
                await cloud.describe(["i-1"])
            await cloud.prepare(access())
        with pytest.raises(CloudError, match="it is not open"):
            await cloud.describe(["i-1"])


async def test_closing_leaves_no_warning_behind() -> None:
    """No connection is left to the garbage collector, also after a preparation that failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with peer({"DescribeSecurityGroups": fault("Weird", "no")}) as server:
            with pytest.raises(CloudError):
                async with cloud_at(server.url):
                    pytest.fail("it was taken")


async def test_requests_of_the_older_signature_bear_it_in_their_body() -> None:
    """As clouds want it that know no other."""
    keys = document("DescribeKeyPairs", "<keySet/>")
    async with (
        peer({"DescribeKeyPairs": keys}) as server,
        cloud_at(server.url, EUCALYPTUS_4),
    ):
        sent = server.requests[0]

    assert "authorization" not in sent.headers
    assert sent.parameters["SignatureVersion"] == "2"
    assert sent.parameters["AWSAccessKeyId"] == ACCESS_KEY


@pytest.mark.parametrize(("dialect", "lonely"), [(NOVA_2012, True), (AMAZON, False)])
async def test_what_may_not_be_sent_twice_has_a_connection_of_its_own(
    dialect: Dialect, lonely: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that its server has just closed loses a request, which those can't be asked again."""
    connections = 0
    serve = Peer.serve

    async def counted(self: Peer, *streams: Any) -> None:
        nonlocal connections
        connections += 1
        await serve(self, *streams)

    monkeypatch.setattr(Peer, "serve", counted)
    answers = {"TerminateInstances": document("TerminateInstances", "<instancesSet/>")}
    async with peer(answers) as server, cloud_at(server.url, dialect) as cloud:
        for _ in range(3):
            await cloud.terminate(["i-1"])

        assert (connections == len(server.requests)) == lonely
