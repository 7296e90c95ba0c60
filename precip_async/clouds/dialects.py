"""What EC2-compatible clouds do differently, as data: one row a cloud.

Nothing here acts. The sections that comments name are those of the project's notes on these
clouds, ``clouds.md``, which say where each fact is from.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from precip_async.clouds.ec2_words import ERRORS, NOVA_STATES, STATES
from precip_async.errors import CapacityUnavailable, NotAuthorized, QuotaExceeded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from precip_async.clouds.base import MachineState
    from precip_async.errors import CloudError

__all__ = [
    "ACTIONS",
    "AMAZON",
    "DIALECTS",
    "EC2_API",
    "EUCALYPTUS",
    "EUCALYPTUS_3",
    "EUCALYPTUS_4",
    "NIMBUS",
    "NOVA_2012",
    "NOVA_2014",
    "OPENSTACK",
    "Dialect",
]

KIB: Final = 1024
KeyType = Literal["ed25519", "rsa"]


_LAUNCH: Final = (
    "ImageId MinCount MaxCount KeyName UserData InstanceType Placement KernelId RamdiskId "
    "BlockDeviceMappings ClientToken"
)
_ADDRESSES: Final = {
    "AllocateAddress": "",
    "AssociateAddress": "InstanceId PublicIp",
    "DescribeAddresses": "",
    "DisassociateAddress": "PublicIp",
    "ReleaseAddress": "PublicIp",
}


def _accepts(**operations: str) -> Mapping[str, frozenset[str]]:
    """The allow-list: by operation, the parameters that we may send, in botocore's names."""
    always = {
        "DescribeInstances": "InstanceIds",
        "DescribeKeyPairs": "",
        "DeleteKeyPair": "KeyName",
        "ImportKeyPair": "KeyName PublicKeyMaterial",
        "TerminateInstances": "InstanceIds",
    }
    return MappingProxyType(
        {name: frozenset(words.split()) for name, words in {**always, **operations}.items()}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One cloud's way of speaking the EC2 query API.

    Attributes:
        name: Ours, for tables and tests.
        title: What its users call it, for messages.
        signature: Of requests: ``"v2"`` or ``"v4"``.
        scheme: Of an endpoint that is given without one.
        port: Likewise; ``None``: the scheme's own.
        path: Likewise, sent literally, because it is signed.
        region: What requests are signed for where a region means nothing.
        probe: A harmless call that the next older one of its kind refuses; ``None``: needs none.
        accepts: By operation what may be sent; the same thing is heeded, ignored or an error
            elsewhere. An operation that is not there can't be asked for.
        mark: How a launch can be told from others afterwards: by tags in the launch call, by a key
            pair of its own, or only by asking again with its token.
        tags_after: Whether instances can be tagged once they exist.
        repeats: Whether a launch asked for again with its token starts nothing anew.
        literal: Whether values arrive as they were sent; else ``"1"`` or ``"none"`` are mangled.
        exact_count: Whether only ``MinCount`` counts.
        batch: Most instances of one launch call.
        launches: Launch calls at once.
        key_types: Of key pairs, the best first.
        key_overwrites: Whether importing a key pair under a taken name replaces the other one.
        key_prints: Whether the fingerprint of a key pair tells whose it is.
        groups: How security groups are named and filled: by id, by name, by name with rules in
            the flat parameters of old, or not at all.
        any_protocol: Whether one rule can be for all protocols.
        elastic: Whether an instance has a public address only once one was allocated for it.
        late_public: Whether the private address is shown as the public one until there is one.
        dns: Whether public host names resolve.
        pages: Whether long answers come in pages.
        filters: Whether ``DescribeInstances`` heeds filters for tags.
        listable: Whether describing all instances of the account is a fair question.
        keeps_ended: Whether terminated instances are still described for a while.
        states: Their words to ours; any other means "not yet".
        grace: Seconds after its launch in which an instance that was never seen may be invisible.
        errors: Their codes to our classes; any other is a plain `CloudError`.
        quota_code: A code that means a quota when its message says so.
        old_tls: Whether its TLS may be older than what is considered safe.
        user_data: Bytes of user data that a launch may carry.
        cloud_init: Whether images read our user data: theirs refuse root unless it says otherwise.
        ends_off: Whether an instance that powers itself off is ended, when its launch says so, and
            not only stopped.
        published_pace: Whether Amazon's published request limits hold.
        read_timeout: Seconds without an answer after which a call is given up.
    """

    name: str
    title: str
    signature: Literal["v2", "v4"]
    scheme: Literal["http", "https"] = "http"
    port: int | None
    path: str
    region: str
    probe: tuple[str, Mapping[str, Any]] | None = None
    accepts: Mapping[str, frozenset[str]]
    mark: Literal["tags", "key", "token"]
    tags_after: bool = False
    repeats: bool = True
    literal: bool = True
    exact_count: bool = False
    batch: int = 100
    launches: int = 5
    key_types: tuple[KeyType, ...] = ("rsa",)
    key_overwrites: bool = False
    key_prints: bool = True
    groups: Literal["ids", "names", "flat", "none"]
    any_protocol: bool = False
    elastic: bool = False
    late_public: bool = False
    dns: bool = False
    pages: bool = False
    filters: bool = False
    listable: bool = True
    keeps_ended: bool = False
    states: Mapping[str, MachineState] = field(default_factory=lambda: STATES)
    grace: float = 30.0
    errors: Mapping[str, type[CloudError]] = field(default_factory=lambda: ERRORS)
    quota_code: str = ""
    old_tls: bool = False
    user_data: int = 16 * KIB
    cloud_init: bool = True
    ends_off: bool = False
    published_pace: bool = False
    read_timeout: float = 60.0

    def can(self, operation: str) -> bool:
        """Whether `operation` can be asked for."""
        return operation in self.accepts

    def allowed(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What of `parameters` may be sent with `operation`."""
        allowed = self.accepts[operation]
        return {name: value for name, value in parameters.items() if name in allowed}


AMAZON: Final = Dialect(  # section 6; section 0, column AWS
    name="amazon",
    title="Amazon EC2",
    signature="v4",
    scheme="https",
    port=None,
    path="/",
    region="us-east-1",
    accepts=_accepts(
        RunInstances=f"{_LAUNCH} SecurityGroupIds SecurityGroups SubnetId TagSpecifications "
        "InstanceInitiatedShutdownBehavior MetadataOptions InstanceMarketOptions "
        "NetworkInterfaces IamInstanceProfile Monitoring EbsOptimized CpuOptions "
        "CreditSpecification CapacityReservationSpecification DisableApiTermination "
        "DisableApiStop HibernationOptions LicenseSpecifications EnclaveOptions "
        "PrivateDnsNameOptions MaintenanceOptions LaunchTemplate Ipv6AddressCount Ipv6Addresses "
        "PrivateIpAddress EnablePrimaryIpv6 NetworkPerformanceOptions AdditionalInfo Operator",
        DescribeInstances="InstanceIds Filters MaxResults NextToken",
        DescribeKeyPairs="IncludePublicKey",
        CreateTags="Resources Tags",
        DescribeSecurityGroups="GroupNames Filters",
        CreateSecurityGroup="GroupName Description VpcId",
        AuthorizeSecurityGroupIngress="GroupId IpPermissions",
        DescribeSubnets="SubnetIds",
        DescribeImages="ImageIds",
        GetConsoleOutput="InstanceId Latest",
    ),
    mark="tags",
    tags_after=True,
    key_types=("ed25519", "rsa"),
    groups="ids",
    any_protocol=True,
    dns=True,
    pages=True,
    filters=True,
    listable=False,  # section 6: unfiltered calls are "susceptible to throttling and timeouts"
    keeps_ended=True,
    grace=300.0,  # section 6, "eventual consistency": up to 5 min
    ends_off=True,
    published_pace=True,
)

# Section 2. Its first column is taken for what its oldest releases do: Essex to Grizzly ignore the
# client token, and CreateTags came with Havana.
NOVA_2012: Final = Dialect(
    name="nova-2012",
    title="OpenStack",
    # "Auth": before Juno SigV4 is answered with 400; later, and by ec2-api, both are taken, but
    # some faults then "degrade to a bare HTML 400", for want of a parameter that V2 sends.
    signature="v2",
    port=8773,
    path="/services/Cloud",
    region="RegionOne",
    accepts=_accepts(
        RunInstances=f"{_LAUNCH} SecurityGroups InstanceInitiatedShutdownBehavior",
        DescribeSecurityGroups="",
        CreateSecurityGroup="GroupName Description",  # anything else is a TypeError, a 500
        AuthorizeSecurityGroupIngress="GroupName IpPermissions",
        DescribeImages="ImageIds",
        GetConsoleOutput="InstanceId",
        **_ADDRESSES,
    ),
    mark="key",
    repeats=False,
    literal=False,  # "Parameter coercion"
    batch=1_000_000,
    groups="names",  # ids are ignored, and the group is then `default`
    elastic=True,  # "Floating IP flow"
    states=NOVA_STATES,
    errors={
        **ERRORS,
        "Forbidden": NotAuthorized,
        "NoMoreFixedIps": CapacityUnavailable,
        "NoValidHost": CapacityUnavailable,
    },
    user_data=16 * KIB,  # it takes more, but the image's cloud-init need not
    ends_off=True,  # "RunInstances": it uses the parameter; nova looks every ten minutes
)

NOVA_2014: Final = replace(  # section 2, Juno and Kilo
    NOVA_2012,
    name="nova-2014",  # Kilo's path is `/`: its endpoint is given as `host:8773/`
    probe=("DescribeTags", {}),  # "Actions": "CreateTags/DeleteTags/DescribeTags (Havana+)"
    accepts=MappingProxyType(
        {
            **NOVA_2012.accepts,
            "CreateTags": frozenset(("Resources", "Tags")),  # of instances only
            "DescribeTags": frozenset(),
        }
    ),
    tags_after=True,
    repeats=True,
)

EC2_API: Final = replace(  # section 3
    NOVA_2014,
    name="ec2-api",
    port=8788,
    path="/",
    probe=("DescribeVpcs", {}),  # nova has none: section 2, "Actions"
    accepts=_accepts(  # "RunInstances accepted list is closed"; anything else is a TypeError, a 500
        RunInstances="ImageId MinCount MaxCount KeyName SecurityGroupIds SecurityGroups UserData "
        "InstanceType Placement BlockDeviceMappings Monitoring SubnetId DisableApiTermination "
        "InstanceInitiatedShutdownBehavior PrivateIpAddress ClientToken NetworkInterfaces "
        "IamInstanceProfile EbsOptimized",
        CreateTags="Resources Tags",
        DescribeSecurityGroups="",
        CreateSecurityGroup="GroupName Description VpcId",
        AuthorizeSecurityGroupIngress="GroupId IpPermissions",  # "takes only IpPermissions"
        DescribeSubnets="SubnetIds",
        DescribeVpcs="",
        DescribeImages="ImageIds",
        GetConsoleOutput="InstanceId",
        AllocateAddress="Domain",
        AssociateAddress="InstanceId PublicIp AllocationId",
        DescribeAddresses="",
        DisassociateAddress="PublicIp AssociationId",
        ReleaseAddress="PublicIp AllocationId",
    ),
    batch=20,  # "servers are created one at a time in the request"
    launches=3,
    errors={**ERRORS, "NoMoreFixedIps": CapacityUnavailable, "OverQuota": QuotaExceeded},
    quota_code="Forbidden",  # "nova 403 quota → `Forbidden` 403"
    ends_off=False,  # "InstanceInitiatedShutdownBehavior (ignored)"
    read_timeout=110.0,
)

EUCALYPTUS_3: Final = Dialect(  # section 4, 3.2
    name="eucalyptus-3",
    title="Eucalyptus",
    signature="v2",  # "Auth": SigV4 is answered with 403
    port=8773,
    path="/services/Eucalyptus",
    region="eucalyptus",
    accepts=_accepts(  # "Strict binding": anything else is a 400
        RunInstances=f"{_LAUNCH} SecurityGroups AdditionalInfo SubnetId PrivateIpAddress",
        DescribeSecurityGroups="",
        CreateSecurityGroup="GroupName Description",
        AuthorizeSecurityGroupIngress="GroupName IpProtocol FromPort ToPort CidrIp "
        "SourceSecurityGroupName SourceSecurityGroupOwnerId",
        DescribeImages="ImageIds",
        GetConsoleOutput="InstanceId",
    ),
    mark="key",
    repeats=False,  # ClientToken: "field exists, never used"
    batch=1_000_000,
    groups="flat",
    late_public=True,  # "Addresses"
    keeps_ended=True,
    errors={**ERRORS, "403 Forbidden": NotAuthorized},
    old_tls=True,  # section 1.14
)

EUCALYPTUS_4: Final = Dialect(  # section 4, 4.x and 5.x
    name="eucalyptus-4",
    title="Eucalyptus",
    signature="v2",  # both are taken since 3.3; with V2 either age can be asked which it is
    port=8773,
    path="/services/Eucalyptus",  # `/services/compute` is its newer name
    region="eucalyptus",
    # section 4: 3.2 rejects "Filter.N.*"
    probe=(
        "DescribeInstances",
        {"Filters": [{"Name": "tag:precip:token", "Values": ["none"]}]},
    ),
    accepts=_accepts(  # "Still rejects MetadataOptions, InstanceMarketOptions, DryRun"
        RunInstances=f"{_LAUNCH} SecurityGroups SecurityGroupIds AdditionalInfo SubnetId "
        "PrivateIpAddress Monitoring DisableApiTermination InstanceInitiatedShutdownBehavior "
        "NetworkInterfaces IamInstanceProfile EbsOptimized TagSpecifications",
        DescribeInstances="InstanceIds Filters MaxResults NextToken",
        CreateTags="Resources Tags",
        DescribeSecurityGroups="",
        CreateSecurityGroup="GroupName Description VpcId",
        AuthorizeSecurityGroupIngress="GroupId IpPermissions",
        DescribeSubnets="SubnetIds",
        DescribeImages="ImageIds",
        GetConsoleOutput="InstanceId",
    ),
    mark="tags",
    tags_after=True,
    groups="ids",
    late_public=True,
    filters=True,
    keeps_ended=True,
    errors={**ERRORS, "403 Forbidden": NotAuthorized},
    old_tls=True,
    ends_off=True,
)

NIMBUS: Final = Dialect(  # section 5
    name="nimbus",
    title="Nimbus",
    signature="v2",
    scheme="https",
    port=8444,
    path="/",
    region="nimbus",
    accepts=_accepts(  # "RunInstances: reads only"; groups, tags, addresses, console: InvalidAction
        RunInstances="ImageId MinCount MaxCount KeyName UserData InstanceType Placement "
        "ClientToken KernelId",
        DescribeImages="ImageIds",
    ),
    mark="token",
    exact_count=True,  # "Only MinCount is honoured"
    key_overwrites=True,  # "same name overwritten", and the fingerprint is always the same one
    key_prints=False,
    groups="none",
    states={**STATES, "unset": "failed"},  # section 7, rule 4
    old_tls=True,
    cloud_init=False,  # the key goes to root's authorized_keys: "login is root"
)

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        row.name: row
        for row in (AMAZON, NOVA_2012, NOVA_2014, EC2_API, EUCALYPTUS_3, EUCALYPTUS_4, NIMBUS)
    }
)
# What a class of the manual may meet, the newest first; the last is what its scripts meant.
OPENSTACK: Final = (EC2_API, NOVA_2014, NOVA_2012)
EUCALYPTUS: Final = (EUCALYPTUS_4, EUCALYPTUS_3)
ACTIONS: Final = frozenset(action for row in DIALECTS.values() for action in row.accepts)
