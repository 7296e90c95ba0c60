"""Experiments on the clouds that the lab plays, and the lab's own account of what they did."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread

import precip_async
from precip_async import sync
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.lab.lab import Lab
from precip_async.limits import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from precip_async import Experiment
    from precip_async.clouds.local.cloud import Isolation
    from precip_async.events import Event
    from precip_async.lab.scenario import Scenario
    from precip_async.lab.service import LabCall
    from precip_async.settings import Shared

__all__ = [
    "BRISK",
    "DEAF",
    "IMAGES",
    "REGION",
    "Rehearsal",
    "attached_on",
    "experiment_on",
    "rehearsed",
    "twin_on",
]

#: Every dialect of the lab, and an image that it has.
IMAGES: Final = {
    "amazon": "ami-0abcdef1234567890",
    "nova-essex": "ami-0000004c",
    "nova-havana": "ami-0000004c",
    "nova-kilo": "ami-0000004c",
    "ec2-api": "ami-0000004c",
    "eucalyptus-3": "emi-77373D4C",
    "eucalyptus-4": "emi-77373d4c",
    "nimbus": "centos-5.7-x64.gz",
}
#: Those that ignore a launch's token, so that a launch can't be asked for again.
DEAF: Final = ("nova-essex", "eucalyptus-3")

REGION: Final = "us-east-1"
# Rounds follow each other faster than with a cloud, whose machines take longer.
BRISK: Final = Limits(poll_interval=0.1, poll_interval_idle=0.5)


def experiment_on(lab: Lab, home: Path, **given: Any) -> Experiment:
    """An experiment on the cloud that `lab` plays, as a user of that cloud would make it.

    What is given goes to its constructor, and may stand in for what it would have been given:
    ``endpoint=``, ``keys=``, and for Amazon ``region=``.
    """
    kind, words, facts = _asked(lab, home, precip_async, given)
    made: Experiment = kind(*words, **facts)
    return made


def twin_on(lab: Lab, home: Path, **given: Any) -> sync.Experiment:
    """Likewise, the blocking one, which is open."""
    kind, words, facts = _asked(lab, home, sync, given)
    made: sync.Experiment = kind(*words, **facts)
    return made


async def attached_on(lab: Lab, home: Path, name: str, **given: Any) -> Experiment:
    """The running experiment of that name, as that user would go on with it."""
    kind, words, facts = _asked(lab, home, precip_async, given)
    found: Experiment = await kind.attach(name, *words, **facts)
    return found


def _asked(
    lab: Lab, home: Path, face: Any, given: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The class, its arguments and its keywords."""
    region = given.pop("region", lab.region)
    endpoint = given.pop("endpoint", lab.endpoint)
    keys = given.pop("keys", (lab.access_key, lab.secret_key))
    shared: Shared = {"home": home, "ssh_port": lab.ssh_port}
    if lab.ca_file is not None:
        shared["verify"] = lab.ca_file
    facts: dict[str, Any] = {**shared, **given}
    if lab.dialect == "amazon":
        return face.EC2Experiment, (region, endpoint, *keys), facts
    if lab.dialect == "nimbus":
        return face.NimbusExperiment, (endpoint, *keys), facts
    if lab.dialect.startswith("eucalyptus"):
        return face.EucalyptusExperiment, (endpoint, *keys), facts
    # A bare host means the path that OpenStack had longest; these two have none.
    bare = lab.dialect in ("nova-kilo", "ec2-api")
    return face.OpenStackExperiment, (endpoint.rstrip("/") + "/" * bare, *keys), facts


@dataclass(slots=True, kw_only=True)
class Rehearsal:
    """A lab, an experiment on it that is not open yet, and what was heard of that."""

    lab: Lab
    exp: Experiment
    home: Path
    heard: list[Event] = field(default_factory=list)

    @property
    def image(self) -> str:
        """One that the cloud has."""
        return IMAGES[self.lab.dialect]

    def calls(self, action: str) -> list[LabCall]:
        """The calls of one kind, in order."""
        return [call for call in self.lab.calls if call.action == action]

    def said(self) -> str:
        """All that was heard, a line each."""
        return "\n".join(map(str, self.heard))

    async def account(self) -> None:
        """See that of the closed experiment nothing is left, and that the books agree.

        Nothing is alive, no address is held and no key pair of a launch is left. No token has
        started more than it was to, and none that the cloud ignores was used twice. Every machine
        that there ever was is in the journal, or was ended before it got there; and of none does
        the journal believe that it could still run.
        """
        seen = await self.lab.instances()
        assert [one.id for one in seen if one.alive] == []
        assert self.lab.addresses() == ()
        assert self._launch_keys() == []

        wanted = {call.parameters["ClientToken"]: call for call in self._launches()}
        for token, count in Counter(one.token for one in seen).items():
            if token:
                assert count <= int(wanted[token].parameters["MaxCount"])
        if self.lab.dialect in DEAF:
            used = Counter(call.parameters["ClientToken"] for call in self._launches())
            assert set(used.values()) <= {1}

        recorded, alive = await anyio.to_thread.run_sync(self._in_the_journal)
        ended = {
            value.lower()
            for call in self.calls("TerminateInstances")
            for name, value in call.parameters.items()
            if name.startswith("InstanceId.")
        }
        there = {one.id.lower() for one in seen}
        assert recorded <= there
        assert there - recorded - ended == set()
        assert alive == []

    def _launches(self) -> list[LabCall]:
        """The launch calls that were carried out, whether or not the answer arrived."""
        return [call for call in self.calls("RunInstances") if call.status == 200 and not call.code]

    def _launch_keys(self) -> list[str]:
        """The key pairs that were made for one launch and are there still."""
        made = set[str]()
        for call in self.lab.calls:
            name = call.parameters.get("KeyName", "")
            if call.status == 200 and not call.code and name.count("-") >= 4:
                if call.action == "ImportKeyPair":
                    made.add(name)
                elif call.action == "DeleteKeyPair":
                    made.discard(name)
        return sorted(made)

    def _in_the_journal(self) -> tuple[set[str], list[str]]:
        """All ids that the journal has ever heard of, and what it believes to be alive."""
        journal = Journal.open(Home.open(self.home))
        try:
            alive = [row.instance_id or row.token for row in journal.alive()]
            with closing(sqlite3.connect(journal.path)) as db:
                ids = {one.lower() for (one,) in db.execute("SELECT id FROM instances")}
        finally:
            journal.close()
        return ids, alive


@asynccontextmanager
async def rehearsed(
    directory: Path,
    dialect: str = "amazon",
    scenario: Scenario | None = None,
    *,
    fleet: bool = False,
    isolation: Isolation = "process",
    **given: Any,
) -> AsyncIterator[Rehearsal]:
    """A rehearsal in `directory`; what is given goes to the experiment's constructor."""
    machines, home = directory / "lab", directory / "home"
    await anyio.Path(machines).mkdir()
    heard: list[Event] = []
    async with Lab(
        dialect,
        directory=machines,
        isolation=isolation,
        region=REGION,
        scenario=scenario,
        fleet=fleet,
    ) as lab:
        facts = {"observer": heard.append, "limits": BRISK} | given
        exp = experiment_on(lab, home, **facts)
        yield Rehearsal(lab=lab, exp=exp, home=home, heard=heard)
