"""What each cloud does, as the lab does it: one row a cloud, all of it from what is known of them.

``§`` names a section of the collection of facts about EC2 dialects (clouds.md) that a value is
taken from, a tie in words that follows it being a quotation; ``[K]`` marks what that collection has
no source for. A line without either continues the one before. The client has a table of its own,
and neither is made from the other: a mistake would have to be made twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

from precip_async.lab import accepted, answers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from precip_async.lab.accepted import Accepted
    from precip_async.lab.answers import Answer

__all__ = ["DIALECTS", "Dialect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One cloud's ways. The defaults are Amazon's.

    Attributes:
        name: What the lab is told to be.
        shape: How it describes instances: a name in `shapes`.
        paths: Where it answers; the first is what it is advertised as.
        tls_only: Whether it speaks https alone.
        versions: What the ``Version`` of a request has to look like; empty: anything, or nothing.
        namespace: The version that all replies are said to be of; empty: the request's.
        signatures: The versions of signatures that it reads.
        scoped: Whether a version 4 signature must be for its region.
        oldest: Seconds that a signature is valid.
        newest: Seconds that it may be ahead; ``None``: any.
        timely: The versions of signatures whose time it looks at.
        actions: What it can do, and the parameters that each action takes.
        unknown: What it does with other parameters: refuse the request, ignore them, or break.
        breaks_on: Actions that break on them although others ignore them.
        coerces: See `parameters.Parameters`.
        answers: What it calls a situation that Amazon calls otherwise.
        one_status: The HTTP status of refusals that have none of their own; ``None``: Amazon's.
        named_by_message: Whether the code of a refusal is the name of the action's message.
        escapes: Whether what it writes is always XML.
        request_ids: What ids of requests begin with; ``None``: there are none.
        ids: How ids are made: 17 or 8 hexadecimal digits drawn at random (``"long"``,
            ``"short"``), in upper case, or counted.
        base36: Whether ids of reservations are made of all letters and digits.
        image: What ids of images look like: a regular expression.
        types: What types there are, likewise.
        root_device: What its images call their root volume; empty: some one thing, some another.
        missing: What describing an instance does that isn't there: the call fails, or leaves it
            out.
        ending: What ending one does that isn't there: nothing is ended (``"all or none"``), those
            before it are (``"one by one"``), or it is left out (``"omitted"``).
        eventually: Whether an instance may be unknown for a moment after its launch.
        keeps_dead: Whether terminated instances are shown, for an hour.
        buries: Whether terminating a terminated instance removes it.
        deleting_state: What an instance is said to be while it is being ended.
        token: What a launch's client token does: ``"checked"`` (idempotent, and another request
            with it is refused), ``"honoured"`` (idempotent), ``"ignored"``.
        token_ends: Whether a token is free again once its instances are terminated.
        pages: ``"full"``: by ``MaxResults``; ``"ignored"``: everything at once.
        clamps: Whether a page of more than can be is one of as many as can be.
        filters: Which filters work: ``"all"``, ``"tags"`` (others are ignored), ``"none"``.
        tagged: What can be tagged: everything, or instances only.
        tag_value: Characters of a tag's value.
        launch_groups: What a launch knows groups by: ``"both"``, ``"names"``, or there are none.
        group_ids: Whether groups have ids.
        group_names: What names and descriptions of groups look like.
        protocols: What protocols a rule may have.
        one_source: Whether only the first source of a permission counts.
        group_opens_all: Whether a rule for a group without a protocol opens everything to it.
        duplicate_rule: ``"refused"``, or answered with ``"false"``.
        key_types: The keys that can be imported; empty: whatever it is.
        rsa_bits: The sizes of RSA keys that can be; empty: any.
        key_checked: Whether anybody looks at what is imported; if not, the name is overwritten.
        missing_key: What describing a key that isn't there does: ``"refused"``, ``"omitted"``.
        delete_missing_key: What deleting it answers.
        addresses: ``"auto"``: instances have public addresses; ``"elastic"``: they are associated.
        domain: What kind elastic addresses are of by default: ``"vpc"``, ``"standard"``, or, where
            nothing is said of it, ``""``.
        max_addresses: How many elastic addresses there are to be had.
        addressed: When an instance is said to have addresses: once ``"running"``, or from its
            ``"launch"``.
        failed_boot: What an instance is whose boot failed: ``"terminated"`` or ``"error"``.
        counts: How many are launched: as many as possible up to ``MaxCount`` (``"most"``), or
            ``MinCount``, all or none (``"least"``).
        capacity: What a full cloud does: ``"refuses"`` the launch or ``"fails"`` the instances.
        user_data: Bytes of user data, decoded.
        vpc: Whether an account can have a network of its own by default.
        shutdown: What a launch's word on what becomes of an instance that powers itself off is:
            ``"heeded"`` or ``"ignored"``: it is then stopped.
        root_image: Whether images let root in by themselves.
        buckets: Whether calls are counted against token buckets.
    """

    name: str
    shape: Literal["amazon", "essex", "nova", "ec2-api", "eucalyptus", "nimbus"] = "amazon"
    paths: tuple[str, ...] = ("/",)
    tls_only: bool = False
    versions: str = ""
    namespace: str = ""
    signatures: tuple[int, ...] = (4,)  # §0: version 2 with Amazon is [K] "avoid"
    scoped: bool = True
    oldest: float = 900.0  # [K]: Amazon's 15 minutes, either way
    newest: float | None = 900.0
    timely: tuple[int, ...] = (2, 4)
    actions: Mapping[str, Accepted] = field(default_factory=lambda: accepted.AMAZON)
    unknown: Literal["refuse", "ignore", "break"] = "refuse"  # §0 "unknown request parameter"
    breaks_on: tuple[str, ...] = ()
    coerces: bool = False
    answers: Mapping[str, Answer] = field(default_factory=lambda: answers.AMAZON)
    one_status: int | None = None
    named_by_message: bool = False
    escapes: bool = True
    request_ids: str | None = ""
    ids: Literal["long", "short", "upper", "counter"] = "long"  # [K]: 17 digits since 2016
    base36: bool = False
    image: str = r"ami-[0-9a-f]{8}([0-9a-f]{9})?"
    types: str = r"[a-z][a-z0-9-]*\.[a-z0-9-]+"  # [K]
    root_device: str = ""  # §6 "root volume"
    missing: Literal["refused", "omitted"] = "refused"  # §6 "DescribeInstances": "fails the call"
    ending: Literal["all or none", "one by one", "omitted"] = "all or none"  # §6 "terminate"
    eventually: bool = False
    keeps_dead: bool = True  # §6 "terminate": "visible ~1 h"
    buries: bool = False
    deleting_state: Literal["shutting-down", "running"] = "shutting-down"
    token: Literal["checked", "honoured", "ignored"] = "checked"  # noqa: S105 - no secret; §6 "ClientToken"
    token_ends: bool = False
    pages: Literal["full", "ignored"] = "full"  # §0 "MaxResults/NextToken"
    clamps: bool = False
    filters: Literal["all", "tags", "none"] = "all"  # §0 "Filters"
    tagged: Literal["all", "instances"] = "all"  # §0 "CreateTags"
    tag_value: int = 256  # §6 "tags"
    launch_groups: Literal["both", "names", "none"] = "both"  # §0 "Security groups"
    group_ids: bool = True
    group_names: str = r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{1,255}"
    protocols: str = r"tcp|udp|icmp|icmpv6|-1|[0-9]{1,3}"  # [K], and the names of groups as well
    one_source: bool = False
    group_opens_all: bool = False
    duplicate_rule: Literal["refused", "false"] = "refused"  # §6 "security groups"
    key_types: tuple[str, ...] = ("ssh-rsa", "ssh-ed25519")  # §6 "key pairs"
    rsa_bits: tuple[int, ...] = ()
    key_checked: bool = True
    missing_key: Literal["refused", "omitted"] = "refused"  # [K]
    delete_missing_key: bool = True  # [K]
    addresses: Literal["auto", "elastic"] = "auto"  # §0 "elastic IP needed"
    domain: Literal["vpc", "standard", ""] = "vpc"
    max_addresses: int = 5  # [K]: Amazon's, for who has not asked for more
    addressed: Literal["running", "launch"] = "running"
    failed_boot: Literal["terminated", "error"] = "terminated"
    counts: Literal["most", "least"] = "most"  # §6 "RunInstances size"
    capacity: Literal["refuses", "fails"] = "refuses"  # §6 "capacity/limits"
    user_data: int = 16_384  # §6 "user data"; §4 "Ids"
    vpc: bool = True  # §6 "no default VPC"
    shutdown: Literal["heeded", "ignored"] = "heeded"
    root_image: bool = False
    buckets: bool = False


_AMAZON: Final = Dialect(
    name="amazon",
    eventually=True,  # §6 "eventual consistency"
    buckets=True,  # §6 "request buckets", "resource buckets"
)

# What a launch by nova can be, in all releases.
_HAVANA: Final = Dialect(
    name="nova-havana",
    shape="nova",
    paths=("/services/Cloud",),  # §2 "Endpoint"
    signatures=(2,),  # §2 "Auth"
    scoped=False,
    oldest=300.0,  # §2 "Auth": ±300 s
    newest=300.0,
    actions=accepted.HAVANA,
    unknown="ignore",  # §0
    breaks_on=("CreateSecurityGroup",),  # §2 "Other actions"
    coerces=True,  # §2 "Parameter coercion"
    answers=answers.HAVANA,
    request_ids="req-",  # §2 "Version/namespace"
    ids="counter",  # §2 "Ids"
    base36=True,  # "r- + 8 [a-z0-9]"
    image=r"[^\s/]{1,255}",  # §2 "Ids": "may also be an image name"
    types=r"m1\.(tiny|small|medium|large|xlarge)",  # [K]: what nova came with
    root_device="/dev/sda1",  # §2 "Addresses", at the end
    keeps_dead=False,  # §0 "terminated instance"
    deleting_state="running",  # §2 "States": "Task state is not shown"
    token="honoured",  # noqa: S106 - no secret; §2 "RunInstances": "mismatch is not detected"
    token_ends=True,  # "removed at terminate"
    pages="ignored",  # §0 "MaxResults/NextToken"
    filters="tags",  # §0 "Filters"
    tagged="instances",  # §0 "CreateTags"
    tag_value=255,  # [K]: as §3 and §4 have it
    launch_groups="names",  # §2 "RunInstances": "SecurityGroupId.N is silently ignored"
    group_ids=False,  # §2: "no groupId"
    group_names=r"[a-zA-Z0-9_\- ]+",  # §2 "Other actions"
    protocols=r"tcp|udp|icmp|6|17|1",  # §2 "Authorize"
    group_opens_all=True,  # §2 "Authorize": "Group rule with no protocol opens all three"
    key_types=(),  # §0 "ImportKeyPair types"
    addresses="elastic",  # §0 "elastic IP needed"
    domain="",  # §2 "Floating IP flow"
    max_addresses=50,  # [K]: as many as an experiment of these tests takes
    failed_boot="error",  # §2 "States"
    capacity="fails",  # §2 "States": "Scheduling failure is asynchronous"
    user_data=49_149,  # §2 "RunInstances": 65 535 encoded
    vpc=False,  # §2 "Actions": "No … Subnets, Vpcs"
)

_ROWS: Final = (
    _AMAZON,
    replace(
        _HAVANA,
        name="nova-essex",
        shape="essex",
        actions=accepted.ESSEX,
        answers=answers.ESSEX,
        one_status=400,  # §2 "Errors"
        missing="omitted",  # §2 "Errors": "Describe omits it"
        ending="one by one",  # §2 "States", at the end
        token="ignored",  # noqa: S106 - no secret; §0 "ClientToken idempotent"
        token_ends=False,  # there is none
        filters="none",  # §0 "Filters"
    ),
    _HAVANA,
    replace(
        _HAVANA,
        name="nova-kilo",
        paths=("/", "/services/Cloud"),  # §2 "Endpoint": Juno's is the second
        signatures=(2, 4),  # §2 "Auth"
        answers=answers.KILO,  # the rest is as in Havana: §2 has no further column
    ),
    Dialect(
        name="ec2-api",
        shape="ec2-api",
        versions=r".+",  # §3: "Version mandatory"
        signatures=(2, 4),  # §3 "Auth as Kilo, V2 and V4"
        scoped=False,
        oldest=300.0,  # §3 "±300 s"
        newest=300.0,
        timely=(2,),  # §3: "Only params Timestamp/Expires are time-checked"
        actions=accepted.EC2_API,
        unknown="break",  # §3 "Errors": TypeError 500
        coerces=True,  # §2 "Parameter coercion (also ec2-api)"
        answers=answers.EC2_API,
        request_ids="req-",  # [K]: as nova's
        ids="short",  # §3, at the end
        base36=True,
        types=r"m1\.(tiny|small|medium|large|xlarge)",  # [K]: nova's
        root_device="/dev/sda1",  # [K]: nova's
        keeps_dead=False,  # §0; seen on a real one as well
        deleting_state="running",  # §3 "States": "may still say running"
        token="honoured",  # noqa: S106 - no secret; §3 "RunInstances": "no mismatch check"
        token_ends=True,  # "the first existing reservation"
        clamps=True,  # §3 "Describe": ">1000 clamped"
        tag_value=255,  # §3 "Tags"
        launch_groups="names",  # §3 "Groups": "classic mode"
        protocols=r"tcp|udp|icmp|-1|[0-9]{1,3}",  # [K]
        one_source=True,  # §3 "Security groups": "only the first group or first CIDR"
        key_types=(),  # §3 "Key pairs": passed to nova
        addresses="elastic",  # §0
        domain="standard",  # §3 "Addresses"
        max_addresses=50,  # [K]
        failed_boot="error",  # §3 "States"
        capacity="fails",  # §2 "States": nova behind it schedules
        user_data=49_149,  # §2 "RunInstances": nova behind it
        vpc=False,  # seen on a real one: "No default VPC"
        shutdown="ignored",  # §3 "RunInstances"
    ),
    Dialect(
        name="eucalyptus-3",
        shape="eucalyptus",
        paths=("/services/Eucalyptus",),  # §4 "Endpoint"
        namespace="2011-01-01",  # §4 "Version"
        signatures=(2,),  # §4 "Auth"
        scoped=False,
        newest=20.0,  # §4 "Auth": "15 min, ≤20 s in the future"
        actions=accepted.EUCALYPTUS_3,
        answers=answers.EUCALYPTUS_3,
        one_status=406,  # §4 "Errors"
        named_by_message=True,
        escapes=False,  # §4 "Errors": "only < and >"
        ids="upper",  # §4 "Ids"
        image=r"[Ee][MmKkRr][Ii]-[0-9A-Fa-f]{8}",  # §4 "Ids": "Compare ids case-insensitively"
        root_device="/dev/sda1",  # [K]
        missing="omitted",  # §4 "Describe/Terminate"
        ending="omitted",
        buries=True,  # "deletes its record"
        token="ignored",  # noqa: S106 - no secret; §0: "field exists, never used"
        pages="ignored",  # §0, for want of the parameters
        filters="none",
        launch_groups="names",  # §0 "Security groups"
        group_ids=False,
        protocols=r"tcp|udp|icmp|[0-9]{1,3}",  # [K]
        group_opens_all=True,  # [K]: its rules are as flat as nova's
        duplicate_rule="false",  # §4 "Errors", at the end
        key_types=("ssh-rsa",),  # §4 "Keys"
        rsa_bits=(1024, 2048, 4096),
        missing_key="omitted",  # "3.2 empty list"
        delete_missing_key=False,  # "Delete missing"
        domain="",  # §4 "Addresses": "returns publicIp only"
        max_addresses=50,  # [K]
        vpc=False,  # §4 "Addresses": "AllocateAddress: 3.2 no params"
    ),
    Dialect(
        name="eucalyptus-4",
        shape="eucalyptus",
        paths=("/services/compute", "/services/Eucalyptus", "/"),  # §4 "Endpoint"
        signatures=(2, 4),  # §4 "Auth"
        scoped=False,
        newest=20.0,  # "≤20 s in the future"
        actions=accepted.EUCALYPTUS_4,
        answers=answers.EUCALYPTUS_4,
        ids="short",  # §4 "Ids"
        image=r"[Ee][MmKkRr][Ii]-[0-9A-Fa-f]{8}([0-9A-Fa-f]{9})?",  # "8 (or 17) hex"
        root_device="/dev/sda1",  # [K]
        buries=True,  # §4 "Describe/Terminate"
        token="honoured",  # noqa: S106 - no secret; §0
        pages="ignored",  # §4 "Describe/Terminate": "MaxResults declared, never applied"
        tag_value=255,  # §4 "Ids"
        duplicate_rule="false",  # §4 "Errors", at the end
        key_types=("ssh-rsa",),  # §4 "Keys"
        rsa_bits=(1024, 2048, 4096),
        delete_missing_key=False,
        domain="standard",  # §4 "Addresses": "default vpc iff default VPC"
        max_addresses=50,  # [K]
        vpc=False,  # [K]: an installation in classic mode
    ),
    Dialect(
        name="nimbus",
        shape="nimbus",
        tls_only=True,  # §5 "Transport"
        versions=r"\d{4}-\d{2}-\d{2}",  # §5 "Version"
        signatures=(2,),  # §5 "Auth"
        scoped=False,
        oldest=300.0,  # §5 "Auth": "timestamp + 300 s"
        newest=None,  # "future not checked"
        actions=accepted.NIMBUS,
        unknown="ignore",  # §0
        answers=answers.NIMBUS,
        one_status=400,  # §5 "Errors"
        escapes=False,
        request_ids=None,  # §5 "Version"
        ids="short",  # §5 "Describe"
        image=r"\S{1,255}",  # §5 "RunInstances": a file name, or cumulus://...
        types=r"m1\.(small|large|xlarge|private)",  # §5 "RunInstances"
        root_device="/dev/sda1",  # [K]: it is never shown
        missing="omitted",  # §5 "Describe"
        ending="omitted",  # §5 "States"
        keeps_dead=False,  # §5 "States": "drop out of the listing"
        pages="ignored",  # §5 "Describe"
        filters="none",
        launch_groups="none",  # §0 "Security groups"
        group_ids=False,
        key_types=(),  # §0 "ImportKeyPair types"
        key_checked=False,  # §5 "Keys"
        missing_key="omitted",
        delete_missing_key=False,  # "Delete"
        addressed="launch",  # §5 "Addresses"
        counts="least",  # §5 "RunInstances"
        vpc=False,  # §5 "Actions"
        shutdown="ignored",  # §5 "RunInstances: reads only"
        root_image=True,  # §5 "RunInstances": "login is root"
    ),
)

#: All clouds that the lab can be, by name.
DIALECTS: Final[Mapping[str, Dialect]] = {row.name: row for row in _ROWS}
