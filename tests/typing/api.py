"""The public names as a typed program uses them. Nobody runs this: mypy reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

from precip_async import (
    BootDiagnosis,
    BootError,
    Chunk,
    CommandFailed,
    CommandResult,
    CommandTimeout,
    DetachedRun,
    Experiment,
    ExperimentException,
    Faults,
    FleetError,
    HostsExperiment,
    Instance,
    InvalidArgument,
    Job,
    Leftover,
    Limits,
    LocalExperiment,
    RemoteError,
    RunResults,
    reap,
)
from precip_async.clouds.base import Access, Cloud, LaunchRequest, Machine, Traits
from precip_async.events import Event, InstanceReady, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


async def experiments() -> None:
    """Made, opened and closed."""
    async with LocalExperiment(name="x", isolation="process", faults=Faults()) as local:
        assert_type(local, LocalExperiment)
    async with HostsExperiment(["a", "user@b:22"], ssh_key="~/.ssh/id") as hosts:
        assert_type(hosts, HostsExperiment)
    HostsExperiment({"a": ["x", "y"], "b": "z", "c": None}, keep=True, limits=Limits(max_hosts=5))
    async with await LocalExperiment.attach("x", isolation="process") as again:
        assert_type(again, LocalExperiment)
    found = await reap(experiment="x", older_than=3600, end=True)
    assert_type(found, list[Leftover])
    assert_type(found[0].age, float | None)
    await reap(cloud=5)  # type: ignore[arg-type] # a cloud has a name
    LocalExperiment(name=5)  # type: ignore[arg-type] # a name is a string
    LocalExperiment(isolation="jail")  # type: ignore[arg-type] # one of three
    LocalExperiment(nmae="x")  # type: ignore[call-arg] # misspelt keywords are found


async def verbs(exp: Experiment) -> None:
    """What they take and give."""
    assert_type(await exp.provision("ami-1", "m1.small", 3, ["a"]), list[Instance])
    assert_type(await exp.provision(count=3, tags="a", min_count=2, ebs_size=8), list[Instance])
    assert_type(await exp.wait(["a"], timeout=None), list[Instance])
    assert_type(exp.list(), list[dict[str, Any]])
    assert_type(exp.instances("a"), list[Instance])
    assert_type(exp.get_public_hostnames(), list[str])
    assert_type(await exp.get("a", "/tmp/x", Path("x")), list[Path])
    await exp.put(["a"], Path("x"), "/tmp/x", "bob", parallel=4, timeout=60)
    await exp.put([], lambda one: f"x.{one.index}", lambda one: f"/tmp/{one.id}")
    results = await exp.run((), "true", "root", False, parallel=True, env={"A": "b"}, stdin=b"x")
    assert_type(results, RunResults)
    await exp.run(None, lambda one: f"echo {one.id}", env=lambda one: {"A": one.id})
    await exp.copy_and_run("a", "script.sh", ["x"], on_output=listen, output_base_name=Path("o"))
    await exp.copy_and_run("a", Path("script.sh"), lambda one: [one.id])
    await exp.deprovision("a")
    await exp.run([], 5)  # type: ignore[arg-type] # a command is text
    await exp.run([], "x", parallel="all")  # type: ignore[arg-type] # a yes, a no, or a number


async def lasting(exp: Experiment) -> None:
    """What goes on without us."""
    assert_type(await exp.extend(), list[Instance])
    assert_type(await exp.extend(60, "a"), list[Instance])
    run = await exp.start("a", lambda one: f"echo {one.id}", "bob", name="x", parallel=True)
    assert_type(run, DetachedRun)
    assert_type(run[0], Job)
    assert_type(run[1:], DetachedRun)
    assert_type(run[0].exit_code, int | None)
    assert_type(await exp.started(["a"], name="x"), list[DetachedRun])
    assert_type(await run.wait(timeout=5, on_output=listen), RunResults)
    async for chunk in run.follow({"i-1": (0, 0)}):
        assert_type(chunk, Chunk)
        assert_type(chunk.offsets, tuple[int, int])
    run.follow(5)  # type: ignore[arg-type] # two numbers, one for each stream


def listen(instance: Instance, stream: Stream, text: str) -> None:
    """What ``on_output`` calls."""


def watch(event: Event) -> None:
    """An observer."""
    if isinstance(event, InstanceReady):
        assert_type(event.seconds, float)


def values(results: RunResults, instance: Instance) -> None:
    """What results and instances hold."""
    codes, outs, errs = results
    assert_type(codes, list[Any])
    assert_type(results[1][0], Any)
    assert_type(results.by_instance, tuple[CommandResult, ...])
    assert_type(results.by_instance[0].stdout, str)
    assert_type(results.by_instance[0].exit_code, int | None)
    assert_type(instance.public_address, str | None)
    assert_type(instance.tags, tuple[str, ...])
    assert_type(instance.diagnosis, BootDiagnosis | None)
    del outs, errs


async def errors(exp: Experiment) -> None:
    """What is caught, and what it tells."""
    try:
        await exp.wait()
    except BootError as error:
        assert_type(error.diagnoses, dict[str, BootDiagnosis])
    try:
        await exp.run([], "x")
    except CommandTimeout as error:
        assert_type(error.leftover, str)
    except CommandFailed as error:
        assert_type(error.result, CommandResult)
    except FleetError as error:
        assert_type(error.failed, tuple[RemoteError, ...])
    except InvalidArgument as error:
        as_value_error: ValueError = error
        del as_value_error
    except ExperimentException as error:
        assert_type(error.results, RunResults | None)


class OwnCloud:
    """A cloud from outside: whatever has the methods is one."""

    @property
    def traits(self) -> Traits:
        """What kind it is."""
        return Traits(name="own")

    async def prepare(self, access: Access) -> None:
        """Nothing."""

    async def launch(self, request: LaunchRequest) -> list[Machine]:
        """Nothing."""
        return []

    async def describe(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """Nothing."""
        return {}

    async def terminate(self, ids: Sequence[str]) -> Mapping[str, Machine]:
        """Nothing."""
        return {}

    async def find(self, token: str) -> list[Machine]:
        """Nothing."""
        return []

    async def console(self, instance_id: str) -> str:
        """Nothing."""
        return ""

    async def aclose(self) -> None:
        """Nothing."""


cloud: Cloud = OwnCloud()
Experiment(cloud, observer=watch)
Experiment(OwnCloud(), observer=[watch, print])
Experiment("us-west-2")  # type: ignore[arg-type] # a region is no cloud
