"""The blocking twin of `precip_async.Experiment`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack

from precip_async import experiment as asynchronous
from precip_async import portal
from precip_async.console import Console
from precip_async.errors import ExperimentClosed
from precip_async.sync.detached import DetachedRun

if TYPE_CHECKING:
    import builtins
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from precip_async.clouds.base import Cloud
    from precip_async.fleet import Instance, Tags
    from precip_async.how import ArgsOf, Environment, OnOutput, PathOf, TextOf
    from precip_async.limits import Limits
    from precip_async.results import RunResults
    from precip_async.settings import AnyPath, Parallel, Shared

__all__ = ["Experiment", "watching"]

P = ParamSpec("P")
T = TypeVar("T")


class Experiment:
    """The blocking twin of `precip_async.Experiment`, open as soon as it is made.

    Its verbs may be called from several threads at once, and inside a running event loop; not by
    observers and ``on_output``, which run on the experiments' own loop.

    Args:
        cloud: Where instances come from.
        quiet: Write nothing to stderr.
        shared: See `precip_async.settings.Settings`.
    """

    _attaching = False

    def __init__(self, cloud: Cloud, *, quiet: bool = False, **shared: Unpack[Shared]) -> None:
        console = watching(shared, quiet=quiet)
        self._open(asynchronous.Experiment(cloud, **shared), console)

    @classmethod
    def attach(cls, name: str, *args: Any, **keywords: Any) -> Self:
        """Go on with the running experiment called `name`, which another process has left."""
        experiment = cls.__new__(cls)
        vars(experiment)["_attaching"] = True  # heard of by `_open`, which the constructor calls
        experiment.__init__(*args, **{**keywords, "name": name})  # type: ignore[misc] # of this very class
        return experiment

    def _open(self, experiment: asynchronous.Experiment, console: Console) -> None:
        experiment._attaching = self._attaching  # noqa: SLF001 - its twin
        self._experiment, self._console = experiment, console
        self._process = os.getpid()
        portal.hold(experiment)
        try:
            self._call(experiment.open)
        except BaseException:  # opening undoes itself, but an interrupt may come right after it
            self.close()
            raise

    def close(self) -> None:
        """End the instances, unless ``keep``, and let go of everything. A second time: nothing.

        In a process forked from the one that opened it nothing is done: it is that one's.
        """
        if self._process != os.getpid():
            return
        try:
            self._call(self._experiment.aclose)
        except ExperimentClosed:
            if not portal.exiting():  # else it is closed anyway: by the exit, or before
                raise
        finally:
            portal.release(self._experiment)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"and while the experiment was closed: {failure}")  # it comes first

    def __repr__(self) -> str:
        return repr(self._experiment)

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._experiment.name

    @property
    def limits(self) -> Limits:
        """Its limits."""
        return self._experiment.limits

    @property
    def keep(self) -> bool:
        """Whether its instances go on running when it is closed."""
        return self._experiment.keep

    @property
    def closed(self) -> bool:
        """Whether it was closed; it can't be opened again."""
        return self._experiment.closed

    def provision(
        self,
        image_id: str | None = None,
        instance_type: str = "m1.small",
        count: int = 1,
        tags: Tags = None,
        *,
        min_count: int | None = None,
        ebs_size: int | None = None,
        boot_timeout: float | None = None,
        boot_max_tries: int = 3,
        user_data: str | bytes | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> builtins.list[Instance]:
        """Start instances; `wait` waits for them to boot."""
        return self._call(
            self._experiment.provision,
            image_id,
            instance_type,
            count,
            tags,
            min_count=min_count,
            ebs_size=ebs_size,
            boot_timeout=boot_timeout,
            boot_max_tries=boot_max_tries,
            user_data=user_data,
            options=options,
        )

    def wait(self, tags: Tags = (), timeout: float | None = 600) -> builtins.list[Instance]:
        """Wait until the selected instances are ready: commands run on them."""
        return self._call(self._experiment.wait, tags, timeout)

    def deprovision(self, tags: Tags = ()) -> None:
        """End the selected instances and wait until the cloud confirms it."""
        self._call(self._experiment.deprovision, tags)

    def extend(self, seconds: float | None = None, tags: Tags = ()) -> builtins.list[Instance]:
        """Put off the end of the selected instances, which end by themselves."""
        return self._call(self._experiment.extend, seconds, tags)

    def start(
        self,
        tags: Tags,
        cmd: TextOf,
        user: str | None = None,
        *,
        name: str = "",
        env: Environment | None = None,
        cwd: str | None = None,
        parallel: Parallel | None = None,
    ) -> DetachedRun:
        """Start a command on the selected instances that goes on without us."""
        run = self._call(
            self._experiment.start,
            tags,
            cmd,
            user,
            name=name,
            env=env,
            cwd=cwd,
            parallel=parallel,
        )
        return DetachedRun(run, self._call)

    def started(
        self,
        tags: Tags = (),
        user: str | None = None,
        *,
        name: str | None = None,
        parallel: Parallel | None = True,
    ) -> builtins.list[DetachedRun]:
        """What `start` has started on the selected instances, whichever process of ours it was."""
        runs = self._call(self._experiment.started, tags, user, name=name, parallel=parallel)
        return [DetachedRun(run, self._call) for run in runs]

    def list(self, tags: Tags = ()) -> builtins.list[dict[str, Any]]:
        """What is known of the selected instances, one dictionary each. No I/O."""
        return self._experiment.list(tags)

    def instances(self, tags: Tags = ()) -> builtins.list[Instance]:
        """The selected instances that have not been ended, in provisioning order. No I/O."""
        return self._experiment.instances(tags)

    def get_public_hostnames(self, tags: Tags = ()) -> builtins.list[str]:
        """Where the selected instances are reached from outside. No I/O."""
        return self._experiment.get_public_hostnames(tags)

    def get_private_hostnames(self, tags: Tags = ()) -> builtins.list[str]:
        """Where the selected instances reach each other. No I/O."""
        return self._experiment.get_private_hostnames(tags)

    def put(
        self,
        tags: Tags,
        local_path: PathOf,
        remote_path: TextOf,
        user: str | None = None,
        *,
        parallel: Parallel | None = None,
        timeout: float | None = None,
    ) -> None:
        """Copy a local file or tree to the selected instances, as ``cp -a`` would."""
        self._call(
            self._experiment.put,
            tags,
            local_path,
            remote_path,
            user,
            parallel=parallel,
            timeout=timeout,
        )

    def get(
        self,
        tags: Tags,
        remote_path: TextOf,
        local_path: PathOf,
        user: str | None = None,
        *,
        parallel: Parallel | None = None,
        timeout: float | None = None,
    ) -> builtins.list[Path]:
        """Copy a file or tree from the selected instances; see `put`."""
        return self._call(
            self._experiment.get,
            tags,
            remote_path,
            local_path,
            user,
            parallel=parallel,
            timeout=timeout,
        )

    def run(
        self,
        tags: Tags,
        cmd: TextOf,
        user: str | None = None,
        check_exit_code: bool = True,
        *,
        output_base_name: AnyPath | None = None,
        parallel: Parallel | None = None,
        timeout: float | None = None,
        stdin: str | bytes | None = None,
        env: Environment | None = None,
        cwd: str | None = None,
        on_output: OnOutput | None = None,
    ) -> RunResults:
        """Run a command on the selected instances."""
        return self._call(
            self._experiment.run,
            tags,
            cmd,
            user,
            check_exit_code,
            output_base_name=output_base_name,
            parallel=parallel,
            timeout=timeout,
            stdin=stdin,
            env=env,
            cwd=cwd,
            on_output=on_output,
        )

    def copy_and_run(
        self,
        tags: Tags,
        local_script: AnyPath,
        args: ArgsOf = (),
        user: str | None = None,
        check_exit_code: bool = True,
        *,
        output_base_name: AnyPath | None = None,
        parallel: Parallel | None = None,
        timeout: float | None = None,
        stdin: str | bytes | None = None,
        env: Environment | None = None,
        cwd: str | None = None,
        on_output: OnOutput | None = None,
    ) -> RunResults:
        """Copy a script to the selected instances, run it there, and remove it, however it ends."""
        return self._call(
            self._experiment.copy_and_run,
            tags,
            local_script,
            args,
            user,
            check_exit_code,
            output_base_name=output_base_name,
            parallel=parallel,
            timeout=timeout,
            stdin=stdin,
            env=env,
            cwd=cwd,
            on_output=on_output,
        )

    def _call(self, verb: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await a verb on the portal's loop; an interrupt ends what it does, and then goes on."""
        if self._process != os.getpid():
            raise ExperimentClosed(
                f"experiment {self.name!r} belongs to process {self._process}, which this one was "
                "forked from: open another one here"
            )
        try:
            return portal.call_within(portal.unwind_time(self.limits), verb, *args, **kwargs)
        finally:
            self._console.rest()


def watching(shared: Shared, *, quiet: bool) -> Console:
    """A console, added to the observers in `shared` unless it is to be quiet."""
    console = Console(quiet=quiet)
    if not quiet:
        given = shared.get("observer")
        others = given if isinstance(given, Iterable) else () if given is None else (given,)
        shared["observer"] = (console, *others)
    return console
