"""What each cloud can do, and the parameters that each of its actions takes.

A section (§) is one of the collection of facts about EC2 dialects; see `dialects`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "AMAZON",
    "EC2_API",
    "ENVELOPE",
    "ESSEX",
    "EUCALYPTUS_3",
    "EUCALYPTUS_4",
    "HAVANA",
    "NIMBUS",
    "Accepted",
]

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

    def takes(self, name: str) -> bool:
        """Whether it takes a parameter, the envelope's included."""
        return (
            name in self._names or name in ENVELOPE or name.startswith(("X-Amz-", *self._prefixes))
        )

    def unknown(self, names: Iterable[str]) -> Iterator[str]:
        """Those of `names` that it doesn't take."""
        return (name for name in names if not self.takes(name))


_FILTER: Final = "Filter.N.Name Filter.N.Value.N"
_PAGE: Final = "MaxResults NextToken"
_TAG: Final = "Tag.N.Key Tag.N.Value"
_TAGS: Final = """
    TagSpecification.N.ResourceType TagSpecification.N.Tag.N.Key TagSpecification.N.Tag.N.Value
"""
_GROUP: Final = "GroupId GroupName"
_FLAT: Final = """
    GroupName CidrIp FromPort IpProtocol ToPort SourceSecurityGroupName
    SourceSecurityGroupOwnerId
"""
_NESTED: Final = "IpPermissions.N.*"

#: §6, from the API description that is called BD there (2016-11-15).
AMAZON: Final[Mapping[str, Accepted]] = {
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
    "AuthorizeSecurityGroupIngress": Accepted("DryRun GroupId", _FLAT, _NESTED, _TAGS),
    "RevokeSecurityGroupIngress": Accepted("DryRun GroupId SecurityGroupRuleId.N", _FLAT, _NESTED),
    "DeleteSecurityGroup": Accepted("DryRun", _GROUP),
    "DescribeImages": Accepted(
        "DryRun ImageId.N Owner.N ExecutableBy.N IncludeDeprecated IncludeDisabled", _FILTER, _PAGE
    ),
    "CreateTags": Accepted("DryRun ResourceId.N", _TAG),
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

_NOVA_RUN: Final = """
    MinCount MaxCount KernelId RamdiskId BlockDeviceMapping.N.* ImageId
    InstanceInitiatedShutdownBehavior InstanceType KeyName UserData SecurityGroup.N
    Placement.AvailabilityZone
"""

#: §2 "Actions" and "RunInstances"; what is not here is ignored.
ESSEX: Final[Mapping[str, Accepted]] = {
    "RunInstances": Accepted(_NOVA_RUN),
    "DescribeInstances": Accepted("InstanceId.N"),
    "TerminateInstances": Accepted("InstanceId.N"),
    "GetConsoleOutput": Accepted("InstanceId InstanceId.N"),
    "DescribeKeyPairs": Accepted("KeyName.N"),
    "ImportKeyPair": Accepted("KeyName PublicKeyMaterial"),
    "DeleteKeyPair": Accepted("KeyName"),
    "CreateSecurityGroup": Accepted("GroupName GroupDescription"),
    "DescribeSecurityGroups": Accepted("GroupName.N"),
    "AuthorizeSecurityGroupIngress": Accepted(_FLAT, _NESTED),
    "RevokeSecurityGroupIngress": Accepted(_FLAT, _NESTED),
    "DeleteSecurityGroup": Accepted("GroupName"),
    "DescribeImages": Accepted("ImageId.N"),
    "AllocateAddress": Accepted(),
    "AssociateAddress": Accepted("InstanceId PublicIp"),
    "DisassociateAddress": Accepted("PublicIp"),
    "ReleaseAddress": Accepted("PublicIp"),
    "DescribeAddresses": Accepted("PublicIp.N"),
    "DescribeAvailabilityZones": Accepted("ZoneName.N"),
    "DescribeRegions": Accepted("RegionName.N"),
}

#: §0: from Havana on tags, filters by them, and tokens.
HAVANA: Final[Mapping[str, Accepted]] = {
    **ESSEX,
    "RunInstances": Accepted(_NOVA_RUN, "ClientToken"),
    "DescribeInstances": Accepted("InstanceId.N", _FILTER),
    "CreateTags": Accepted("ResourceId.N", _TAG),
    "DescribeTags": Accepted(_FILTER),
}

#: §3 "RunInstances" is a closed list, and so are the others (the names are those of its methods).
EC2_API: Final[Mapping[str, Accepted]] = {
    "RunInstances": Accepted(
        """
        ImageId MinCount MaxCount KeyName SecurityGroupId.N SecurityGroup.N UserData InstanceType
        Placement.* KernelId RamdiskId BlockDeviceMapping.N.* Monitoring.* SubnetId
        DisableApiTermination InstanceInitiatedShutdownBehavior PrivateIpAddress ClientToken
        NetworkInterface.N.* IamInstanceProfile.* EbsOptimized
        """
    ),
    "DescribeInstances": Accepted("InstanceId.N", _FILTER, _PAGE),
    "TerminateInstances": Accepted("InstanceId.N"),
    "GetConsoleOutput": Accepted("InstanceId"),
    "DescribeKeyPairs": Accepted("KeyName.N", _FILTER),
    "ImportKeyPair": Accepted("KeyName PublicKeyMaterial"),
    "DeleteKeyPair": Accepted("KeyName"),
    "CreateSecurityGroup": Accepted("GroupName GroupDescription VpcId"),
    "DescribeSecurityGroups": Accepted("GroupId.N GroupName.N", _FILTER, _PAGE),
    "AuthorizeSecurityGroupIngress": Accepted(_GROUP, _NESTED),
    "RevokeSecurityGroupIngress": Accepted(_GROUP, _NESTED),
    "DeleteSecurityGroup": Accepted(_GROUP),
    "DescribeImages": Accepted("ExecutableBy.N ImageId.N Owner.N", _FILTER, _PAGE),
    "CreateTags": Accepted("ResourceId.N", _TAG),
    "DescribeTags": Accepted(_FILTER, _PAGE),
    "AllocateAddress": Accepted("Domain"),
    "AssociateAddress": Accepted(
        "PublicIp InstanceId AllocationId NetworkInterfaceId PrivateIpAddress AllowReassociation"
    ),
    "DisassociateAddress": Accepted("PublicIp AssociationId"),
    "ReleaseAddress": Accepted("PublicIp AllocationId"),
    "DescribeAddresses": Accepted("PublicIp.N AllocationId.N", _FILTER),
    "DescribeVpcs": Accepted("VpcId.N", _FILTER),
    "DescribeSubnets": Accepted("SubnetId.N", _FILTER),
    "DescribeAvailabilityZones": Accepted("ZoneName.N", _FILTER),
    "DescribeRegions": Accepted("RegionName.N", _FILTER),
}

#: §4 "Strict binding": 3.2 takes this much and refuses the rest.
EUCALYPTUS_3: Final[Mapping[str, Accepted]] = {
    "RunInstances": Accepted(
        """
        ImageId MinCount MaxCount KeyName SecurityGroup.N AdditionalInfo UserData AddressingType
        InstanceType KernelId RamdiskId Placement.AvailabilityZone Placement.GroupName
        BlockDeviceMapping.N.* Monitoring SubnetId PrivateIpAddress ClientToken
        """
    ),
    "DescribeInstances": Accepted("InstanceId.N"),
    "TerminateInstances": Accepted("InstanceId.N"),
    "GetConsoleOutput": Accepted("InstanceId InstanceId.N"),
    "DescribeKeyPairs": Accepted("KeyName.N"),
    "ImportKeyPair": Accepted("KeyName PublicKeyMaterial"),
    "DeleteKeyPair": Accepted("KeyName"),
    "CreateSecurityGroup": Accepted("GroupName GroupDescription"),
    "DescribeSecurityGroups": Accepted("GroupName.N"),
    "AuthorizeSecurityGroupIngress": Accepted(_FLAT),
    "RevokeSecurityGroupIngress": Accepted(_FLAT),
    "DeleteSecurityGroup": Accepted("GroupName"),
    "DescribeImages": Accepted("ExecutableBy.N ImageId.N Owner.N"),
    "AllocateAddress": Accepted(),
    "AssociateAddress": Accepted("PublicIp InstanceId"),
    "DisassociateAddress": Accepted("PublicIp"),
    "ReleaseAddress": Accepted("PublicIp"),
    "DescribeAddresses": Accepted("PublicIp.N"),
    "DescribeAvailabilityZones": Accepted("ZoneName.N"),
    "DescribeRegions": Accepted("RegionName.N"),
}

#: §4 "Strict binding": what 4.4 and 5 add; `MetadataOptions` and `DryRun` are not of it.
EUCALYPTUS_4: Final[Mapping[str, Accepted]] = {
    "RunInstances": Accepted(
        """
        ImageId MinCount MaxCount KeyName SecurityGroup.N SecurityGroupId.N AdditionalInfo UserData
        AddressingType InstanceType KernelId RamdiskId Placement.* BlockDeviceMapping.N.*
        Monitoring.Enabled SubnetId PrivateIpAddress ClientToken DisableApiTermination
        InstanceInitiatedShutdownBehavior NetworkInterface.N.* IamInstanceProfile.* EbsOptimized
        """,
        _TAGS,
    ),
    "DescribeInstances": Accepted("InstanceId.N", _FILTER, _PAGE),
    "TerminateInstances": Accepted("InstanceId.N"),
    "GetConsoleOutput": Accepted("InstanceId"),
    "DescribeKeyPairs": Accepted("KeyName.N", _FILTER),
    "ImportKeyPair": Accepted("KeyName PublicKeyMaterial"),
    "DeleteKeyPair": Accepted("KeyName"),
    "CreateSecurityGroup": Accepted("GroupName GroupDescription VpcId"),
    "DescribeSecurityGroups": Accepted("GroupId.N GroupName.N", _FILTER),
    "AuthorizeSecurityGroupIngress": Accepted("GroupId", _FLAT, _NESTED),
    "RevokeSecurityGroupIngress": Accepted("GroupId", _FLAT, _NESTED),
    "DeleteSecurityGroup": Accepted(_GROUP),
    "DescribeImages": Accepted("ExecutableBy.N ImageId.N Owner.N", _FILTER),
    "CreateTags": Accepted("ResourceId.N", _TAG),
    "DescribeTags": Accepted(_FILTER, _PAGE),
    "AllocateAddress": Accepted("Domain"),
    "AssociateAddress": Accepted("PublicIp InstanceId AllocationId AllowReassociation"),
    "DisassociateAddress": Accepted("PublicIp AssociationId"),
    "ReleaseAddress": Accepted("PublicIp AllocationId"),
    "DescribeAddresses": Accepted("PublicIp.N AllocationId.N", _FILTER),
    "DescribeVpcs": Accepted("VpcId.N", _FILTER),
    "DescribeSubnets": Accepted("SubnetId.N", _FILTER),
    "DescribeAvailabilityZones": Accepted("ZoneName.N", _FILTER),
    "DescribeRegions": Accepted("RegionName.N", _FILTER),
}

#: §5 "Actions" and "RunInstances"; what is not here is ignored.
NIMBUS: Final[Mapping[str, Accepted]] = {
    "RunInstances": Accepted(
        """
        ImageId MinCount MaxCount KeyName UserData InstanceType Placement.GroupName
        Placement.AvailabilityZone ClientToken KernelId
        """
    ),
    "DescribeInstances": Accepted("InstanceId.N"),
    "TerminateInstances": Accepted("InstanceId.N"),
    "DescribeKeyPairs": Accepted("KeyName.N"),
    "ImportKeyPair": Accepted("KeyName PublicKeyMaterial"),
    "DeleteKeyPair": Accepted("KeyName"),
    "DescribeSecurityGroups": Accepted(),
    "DescribeImages": Accepted("ImageId.N"),
    "DescribeAvailabilityZones": Accepted("ZoneName.N"),
    "DescribeRegions": Accepted("RegionName.N"),
}
