"""What each cloud can do, and the parameters that each of its actions takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["AMAZON_ACTIONS", "Accepted"]

#: What every request may carry: what it asks for, and its signature.
ENVELOPE: Final = frozenset(
    (
        *("Action", "Version", "AWSAccessKeyId", "Signature", "SignatureMethod"),
        *("SignatureVersion", "Timestamp", "Expires", "SecurityToken"),
    )
)


class Accepted:
    """The parameters that an action takes.

    Args:
        names: Full names, each index written as ``N``; one that ends in ``.*`` stands for all
            below it.
    """

    def __init__(self, *names: str) -> None:
        said = " ".join(names).split()
        self._names = frozenset(name for name in said if not name.endswith(".*"))
        self._prefixes = tuple(name[:-1] for name in said if name.endswith(".*"))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def unknown(self, names: Iterable[str]) -> Iterator[str]:
        """Those of `names` that it doesn't take."""
        for name in names:
            known = name in ENVELOPE or name in self._names or name.startswith(self._prefixes)
            if not known and not name.startswith("X-Amz-"):
                yield name


_FILTER: Final = "Filter.N.Name Filter.N.Value.N"
_PAGE: Final = "MaxResults NextToken"
_TAGS: Final = (
    "TagSpecification.N.ResourceType TagSpecification.N.Tag.N.Key TagSpecification.N.Tag.N.Value"
)
_RULE: Final = """
    GroupId GroupName CidrIp FromPort IpProtocol ToPort
    SourceSecurityGroupName SourceSecurityGroupOwnerId IpPermissions.N.*
"""

#: §6, from the API description named BD there (2016-11-15).
AMAZON_ACTIONS: Final[Mapping[str, Accepted]] = {
    "RunInstances": Accepted(
        "DryRun",
        _TAGS,
        """
        AdditionalInfo BlockDeviceMapping.N.* CapacityReservationSpecification.* ClientToken
        CpuOptions.* CreditSpecification.* DisableApiStop DisableApiTermination EbsOptimized
        EnclaveOptions.* HibernationOptions.* IamInstanceProfile.Arn IamInstanceProfile.Name ImageId
        InstanceInitiatedShutdownBehavior InstanceMarketOptions.* InstanceType Ipv6AddressCount
        KernelId KeyName LaunchTemplate.* MaintenanceOptions.* MaxCount
        MetadataOptions.HttpEndpoint MetadataOptions.HttpProtocolIpv6
        MetadataOptions.HttpPutResponseHopLimit MetadataOptions.HttpTokens
        MetadataOptions.InstanceMetadataTags MinCount Monitoring.Enabled NetworkInterface.N.*
        Placement.Affinity Placement.AvailabilityZone Placement.GroupId Placement.GroupName
        Placement.HostId Placement.PartitionNumber Placement.Tenancy PrivateDnsNameOptions.*
        PrivateIpAddress RamdiskId SecurityGroup.N SecurityGroupId.N SubnetId UserData
        """,
    ),
    "DescribeInstances": Accepted("DryRun InstanceId.N", _FILTER, _PAGE),
    "TerminateInstances": Accepted("DryRun InstanceId.N Force SkipOsShutdown"),
    "GetConsoleOutput": Accepted("DryRun InstanceId Latest"),
    "DescribeKeyPairs": Accepted("DryRun KeyName.N KeyPairId.N IncludePublicKey", _FILTER),
    "ImportKeyPair": Accepted("DryRun KeyName PublicKeyMaterial", _TAGS),
    "DeleteKeyPair": Accepted("DryRun KeyName KeyPairId"),
    "CreateSecurityGroup": Accepted("DryRun GroupName GroupDescription VpcId", _TAGS),
    "DescribeSecurityGroups": Accepted("DryRun GroupId.N GroupName.N", _FILTER, _PAGE),
    "AuthorizeSecurityGroupIngress": Accepted("DryRun", _RULE, _TAGS),
    "RevokeSecurityGroupIngress": Accepted("DryRun SecurityGroupRuleId.N", _RULE),
    "DeleteSecurityGroup": Accepted("DryRun GroupId GroupName"),
    "DescribeImages": Accepted(
        "DryRun ImageId.N Owner.N ExecutableBy.N IncludeDeprecated IncludeDisabled", _FILTER, _PAGE
    ),
    "CreateTags": Accepted("DryRun ResourceId.N Tag.N.Key Tag.N.Value"),
    "DescribeTags": Accepted("DryRun", _FILTER, _PAGE),
    "AllocateAddress": Accepted("DryRun Domain", _TAGS),
    "AssociateAddress": Accepted("DryRun AllocationId PublicIp InstanceId AllowReassociation"),
    "DisassociateAddress": Accepted("DryRun AssociationId PublicIp"),
    "ReleaseAddress": Accepted("DryRun AllocationId PublicIp"),
    "DescribeAddresses": Accepted("DryRun AllocationId.N PublicIp.N", _FILTER),
    "DescribeVpcs": Accepted("DryRun VpcId.N", _FILTER, _PAGE),
    "DescribeSubnets": Accepted("DryRun SubnetId.N", _FILTER, _PAGE),
    "DescribeAvailabilityZones": Accepted(
        "DryRun ZoneName.N ZoneId.N AllAvailabilityZones", _FILTER
    ),
    "DescribeRegions": Accepted("DryRun RegionName.N AllRegions", _FILTER),
}
