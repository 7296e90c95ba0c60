"""The table of dialects, endpoints and regions."""

from __future__ import annotations

import botocore.session
import pytest

from precip_async.clouds.dialects import (
    AMAZON,
    DIALECTS,
    EC2_API,
    EUCALYPTUS,
    EUCALYPTUS_3,
    NIMBUS,
    NOVA_2012,
    OPENSTACK,
    Dialect,
)
from precip_async.clouds.ec2_endpoint import Endpoint, parse_endpoint, parse_region
from precip_async.errors import InvalidArgument

every = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


def test_the_matrix_has_seven_columns() -> None:
    """Every column of the matrix of clouds has its row."""
    assert list(DIALECTS) == [
        *("amazon", "nova-2012", "nova-2014", "ec2-api", "eucalyptus-3", "eucalyptus-4", "nimbus")
    ]


@pytest.fixture(scope="module")
def model() -> dict[str, set[str]]:
    """By operation, the parameters that botocore knows."""
    service = botocore.session.Session().get_service_model("ec2")
    shapes = ((name, service.operation_model(name).input_shape) for name in service.operation_names)
    return {name: set(shape.members) if shape else set() for name, shape in shapes}


@every
def test_what_may_be_sent_can_be_said(dialect: Dialect, model: dict[str, set[str]]) -> None:
    """Every operation and parameter of an allow-list is one that botocore can spell."""
    wrong = {name: words - model.get(name, set()) for name, words in dialect.accepts.items()}

    assert not {name: words for name, words in wrong.items() if words}
    assert dialect.accepts.keys() <= model.keys()


@every
def test_dry_run_is_never_sent(dialect: Dialect) -> None:
    """No call is a dry run: some clouds ignore that, and do it."""
    assert not [name for name, words in dialect.accepts.items() if "DryRun" in words]


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("eucalyptus-3", "InstanceInitiatedShutdownBehavior SecurityGroupIds TagSpecifications"),
        ("eucalyptus-3", "MetadataOptions Monitoring"),
        ("eucalyptus-4", "MetadataOptions InstanceMarketOptions"),
        ("ec2-api", "MetadataOptions InstanceMarketOptions TagSpecifications KernelId RamdiskId"),
        ("nova-2012", "SecurityGroupIds"),
        ("nimbus", "SecurityGroups BlockDeviceMappings InstanceInitiatedShutdownBehavior"),
    ],
)
def test_a_launch_bears_nothing_that_its_cloud_refuses_or_misunderstands(
    name: str, refused: str
) -> None:
    """Parameters of a launch that are an error there, or are silently ignored, are left out."""
    assert not DIALECTS[name].accepts["RunInstances"] & set(refused.split())


@every
def test_a_launch_that_may_be_repeated_can_be_recognised(dialect: Dialect) -> None:
    """Where tokens are ignored there is another mark, and a launch is not repeated blindly."""
    assert "ClientToken" in dialect.accepts["RunInstances"]
    assert dialect.repeats or dialect.mark == "key"
    assert dialect.mark != "tags" or "TagSpecifications" in dialect.accepts["RunInstances"]


@every
def test_only_amazon_takes_the_newer_signature_and_key(dialect: Dialect) -> None:
    """What works everywhere else is V2 and RSA."""
    assert (dialect.signature == "v4") == (dialect is AMAZON)
    assert (dialect.key_types[0] == "ed25519") == (dialect is AMAZON)


@pytest.mark.parametrize(
    ("text", "dialects", "url"),
    [
        ("ec2.us-west-2.amazonaws.com", (AMAZON,), "https://ec2.us-west-2.amazonaws.com/"),
        ("http://cloud.example.org:8773/services/Cloud", OPENSTACK, None),
        ("http://cloud.example.org:8773/services/Cloud/", OPENSTACK, None),
        ("https://cloud.example.org/ec2", OPENSTACK, None),
        ("cloud.example.org", OPENSTACK, "http://cloud.example.org:8773/services/Cloud"),
        ("cloud.example.org:8773", OPENSTACK, "http://cloud.example.org:8773/services/Cloud"),
        ("cloud.example.org:8773/", OPENSTACK, "http://cloud.example.org:8773/"),
        ("cloud.example.org:8788", OPENSTACK, "http://cloud.example.org:8788/"),
        ("cloud.example.org:443", OPENSTACK, "https://cloud.example.org:443/services/Cloud"),
        ("cloud.example.org/other", OPENSTACK, "http://cloud.example.org:8773/other"),
        ("10.1.2.3", EUCALYPTUS, "http://10.1.2.3:8773/services/Eucalyptus"),
        ("nimbus.example.org", (NIMBUS,), "https://nimbus.example.org:8444/"),
        ("nimbus.example.org:8444", (NIMBUS,), "https://nimbus.example.org:8444/"),
        ("HTTPS://Cloud.Example.ORG", (NIMBUS,), "https://cloud.example.org/"),
        ("http://[::1]:8773", (NOVA_2012,), "http://[::1]:8773/services/Cloud"),
        ("[fe80::1]", (EUCALYPTUS_3,), "http://[fe80::1]:8773/services/Eucalyptus"),
        ("  cloud  ", (EC2_API,), "http://cloud:8788/"),
    ],
)
def test_an_endpoint_is_completed_as_its_dialect_has_it(
    text: str, dialects: tuple[Dialect, ...], url: str | None
) -> None:
    """What is left out is the dialect's; what is given is kept to the letter."""
    assert parse_endpoint(text, *dialects).url == (url or text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "  ", "ftp://host/", "http://", "http:///path", "host:0", "host:99999", "host:x"),
        *("ho st", "http://host/pa th", "host?query", "host#fragment", "-host", "[::1", "[host]"),
        "http://host/<script>",
    ],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    """A text that names no place is refused at once."""
    with pytest.raises(InvalidArgument, match=r"endpoint|[Ii]nvalid|host"):
        parse_endpoint(text, AMAZON)


def test_credentials_in_an_endpoint_are_refused_and_not_repeated() -> None:
    """A password in the URL is an error whose text does not hold it."""
    with pytest.raises(InvalidArgument, match="must not hold credentials") as caught:
        parse_endpoint("https://me:hunter2@host/", AMAZON)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("ec2.us-west-2.amazonaws.com", "us-west-2"),
        ("us-west-2.ec2.amazonaws.com", "us-west-2"),
        ("ec2.amazonaws.com", "us-east-1"),
        ("ec2-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("ec2.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("ec2.eu-west-1.api.aws", "eu-west-1"),
        ("vpce-1-x.ec2.eu-west-1.vpce.amazonaws.com", None),
        ("cloud.example.org", None),
    ],
)
def test_an_endpoint_of_amazons_names_its_region(host: str, region: str | None) -> None:
    """What the host says of the region is known."""
    assert parse_endpoint(host, AMAZON) == Endpoint(
        url=f"https://{host}/", host=host, region=region
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("us-west-2", ("us-west-2", None)),
        ("us-west-2c", ("us-west-2", "us-west-2c")),
        ("us-gov-west-1a", ("us-gov-west-1", "us-gov-west-1a")),
        ("us-west-2-lax-1a", ("us-west-2", "us-west-2-lax-1a")),
        ("us-east-1-wl1-bos-wlz-1", ("us-east-1", "us-east-1-wl1-bos-wlz-1")),
        ("ap-southeast-10b", ("ap-southeast-10", "ap-southeast-10b")),
    ],
)
def test_a_zone_is_told_from_its_region(text: str, expected: tuple[str, str | None]) -> None:
    """Requests are signed for the region, and instances are placed in the zone."""
    assert parse_region(text) == expected


@pytest.mark.parametrize("text", ["", "us", "us-west", "US-WEST-2", "us-west-2cc", "us west 2", 7])
def test_what_is_no_region_is_refused(text: str) -> None:
    """A text that has the form of neither is refused at once."""
    with pytest.raises(InvalidArgument, match="region must be"):
        parse_region(text)
