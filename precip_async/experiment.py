"""The experiment: its verbs, and nothing but the verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from precip_async.clouds.base import Cloud, LaunchRequest
from precip_async.errors import ExperimentClosed, InvalidArgument
from precip_async.fleet import Tags, checked_tags, select
from precip_async.how import How
from precip_async.lasting import Lasting
from precip_async.results import RunResults
from precip_async.settings import Settings, Shared, checked_number
from precip_async.ssh.tasks import in_child_task

if TYPE_CHECKING:
    import builtins
    from collections.abc import Mapping
    from pathlib import Path

    from precip_async.fleet import Instance
    from precip_async.how import ArgsOf, Environment, OnOutput, PathOf, TextOf
    from precip_async.settings import AnyPath, Parallel

__all__ = ["Experiment"]

MOST_INSTANCES = 100_000  # more in one call is a mistake, not an experiment


class Experiment(Lasting):
    """Instances of one cloud, and what is done on them.

    ``async with`` opens and closes it; leaving it by any road ends its instances. The verbs may be
    awaited concurrently. ``tags`` select the instances that bear all of them, in provisioning
    order; a string is one tag, and ``[]``, ``()`` and ``None`` mean all.

    Args:
        cloud: Where instances come from.
        shared: See `precip_async.settings.Settings`.

    Raises:
        InvalidArgument: A keyword's value can't be.
    """

    def __init__(self, cloud: Cloud, **shared: Unpack[Shared]) -> None:
        if not isinstance(cloud, Cloud):
            raise InvalidArgument(f"cloud must have the methods of Cloud, and {cloud!r} has not")
        super().__init__(cloud, Settings(**shared))

    # -- instances ---------------------------------------------------------------------------

    async def provision(
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
        """Start instances; `wait` waits for them to boot.

        Args:
            image_id: What they boot from; can be left out where the cloud has a default.
            instance_type: The cloud's word for their size.
            count: How many.
            tags: What they bear beside ``"precip"``, their id and their public hostname.
            min_count: With fewer than this it fails; default: `count`.
            ebs_size: Gibibytes of the root volume.
            boot_timeout: Seconds after its launch in which an instance must be ready, or `wait`
                replaces it.
            boot_max_tries: Launches of an instance at most.
            user_data: For the image's cloud-init; `wait` waits until that is done with it.
            options: Launch parameters in the cloud's own spelling; and, of our own,
                ``{"WaitForCloudInit": False}``: commands may run before cloud-init is done.

        Raises:
            InvalidArgument: Nothing was started.
            CloudError: Nothing is left running.

        If cancelled, the cloud's answer is awaited, and what it started is the experiment's.
        """
        stage = self._stage
        image = image_id if image_id is not None else stage.cloud.traits.default_image
        if not isinstance(image, str) or not image:
            raise InvalidArgument(f"image_id must be the id of an image, not {image!r}")
        if not isinstance(instance_type, str) or not instance_type:
            raise InvalidArgument(f"instance_type must be a type's name, not {instance_type!r}")
        _checked_count("count", count, MOST_INSTANCES)
        least = count if min_count is None else min_count
        _checked_count("min_count", least, count)
        _checked_count("boot_max_tries", boot_max_tries, 100)
        if ebs_size is not None:
            _checked_count("ebs_size", ebs_size, 1 << 20)
        checked_number("boot_timeout", boot_timeout)
        if user_data is not None and not isinstance(user_data, str | bytes):
            raise InvalidArgument(f"user_data must be text or bytes, not {user_data!r}")
        parameters, cloud_init = self._settings.launch_options(options)
        request = LaunchRequest(
            token="",  # the launcher's to choose
            first=0,
            image_id=image,
            instance_type=instance_type,
            count=count,
            min_count=least,
            tags=checked_tags(tags),
            ebs_size=ebs_size,
            user_data=user_data,
            options=parameters,
        )

        async def launch() -> builtins.list[Instance]:
            return await stage.launcher.provision(
                request,
                boot_timeout=boot_timeout,
                boot_max_tries=boot_max_tries,
                cloud_init=cloud_init,
            )

        return await in_child_task(launch)

    async def wait(self, tags: Tags = (), timeout: float | None = 600) -> builtins.list[Instance]:
        """Wait until the selected instances are ready: commands run, and cloud-init is done.

        Cloud-init is waited for where the instance was launched with user data, the user's or what
        enables the login, and `provision` was not told otherwise. That it finished with errors is
        no failure of the instance, and observers are warned of it.

        Args:
            tags: Which.
            timeout: Seconds for the whole call; ``None``: for ever.

        Returns:
            Those of them that were not ended meanwhile.

        Raises:
            BootTimeout: Some are not ready in time; what is ready stays usable, and calling again
                resumes.
            BootError: Some have failed for good.
            RemoteError: One that is to end by itself would not; of several `FleetError`.

        If cancelled, instances go on booting and stay the experiment's.
        """
        stage = self._stage
        checked_number("timeout", timeout)
        chosen = self.instances(tags)

        async def boot() -> None:
            await stage.boot.wait(chosen, timeout)
            await stage.arm(chosen)

        await in_child_task(boot)
        if stage.launcher.closed:
            raise ExperimentClosed(f"experiment {self.name!r} was closed")
        return [instance for instance in chosen if instance.alive]

    async def deprovision(self, tags: Tags = ()) -> None:
        """End the selected instances and wait until the cloud confirms it.

        Raises:
            ExperimentException: Some may still be running; the message names them.

        If cancelled, or if some may still be running, calling again ends the rest, and so does
        closing the experiment.
        """
        stage = self._stage
        chosen = select(stage.launcher.instances, tags, ending=True)

        async def end() -> None:
            await stage.end_left(chosen)
            await stage.launcher.terminate(chosen)

        await in_child_task(end)

    def list(self, tags: Tags = ()) -> builtins.list[dict[str, Any]]:
        """What is known of the selected instances, one dictionary each. No I/O."""
        return [
            {
                "id": instance.id,
                "public_address": instance.public_address,
                "private_address": instance.private_address,
                "tags": [*instance.tags],
                "state": instance.state,
                "isolation": instance.isolation,
            }
            for instance in self.instances(tags)
        ]

    def instances(self, tags: Tags = ()) -> builtins.list[Instance]:
        """The selected instances that have not been ended, in provisioning order. No I/O."""
        return self._stage.selected(tags)

    def get_public_hostnames(self, tags: Tags = ()) -> builtins.list[str]:
        """Where the selected instances are reached from outside. No I/O."""
        return [one.public_address for one in self.instances(tags) if one.public_address]

    def get_private_hostnames(self, tags: Tags = ()) -> builtins.list[str]:
        """Where the selected instances reach each other. No I/O."""
        return [one.private_address for one in self.instances(tags) if one.private_address]

    # -- work --------------------------------------------------------------------------------

    async def put(
        self,
        tags: Tags,
        local_path: PathOf,
        remote_path: TextOf,
        user: str | None = None,
        *,
        parallel: Parallel | None = None,
        timeout: float | None = None,
    ) -> None:
        """Copy a local file or tree to the selected instances, as ``cp -a`` would.

        An existing directory, or a trailing slash, means into it; trees merge. A symlink named as
        `local_path` is followed, symlinks inside a tree stay links. Modes and times are kept, the
        owner is `user`. Each file is written under a temporary name, and renamed.

        Args:
            tags: Which.
            local_path: From; may be a callable of the instance.
            remote_path: To; relative to `user`'s home directory; may be a callable likewise.
            user: Who owns the copy; default: root, on hosts the login user.
            parallel: One after the other, or that many at once; default: the experiment's.
            timeout: Seconds for each instance.

        Raises:
            InvalidArgument: Nothing was copied.
            TransferError: And other `RemoteError`; what was there is as it was.
            FleetError: Some failed, of several at once.
        """
        how = How(user=user, timeout=timeout)
        ready = self._stage.ready(tags)
        async with self._stage.put_work(ready, how, local_path, remote_path) as work:
            await self._stage.do(work, parallel)

    async def get(
        self,
        tags: Tags,
        remote_path: TextOf,
        local_path: PathOf,
        user: str | None = None,
        *,
        parallel: Parallel | None = None,
        timeout: float | None = None,
    ) -> builtins.list[Path]:
        """Copy a file or tree from the selected instances; see `put`.

        With more than one instance, ``.<instance id>`` is added to the local name.

        Returns:
            Where the copies are, in provisioning order.

        Raises:
            InvalidArgument: Nothing was copied.
            TransferError: And other `RemoteError`; what was here is as it was.
            FleetError: Some failed, of several at once.
        """
        how = How(user=user, timeout=timeout)
        work = await self._stage.get_work(self._stage.ready(tags), how, remote_path, local_path)
        return await self._stage.do(work, parallel)

    async def run(
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
        """Run a command on the selected instances.

        It finds ``PRECIP_EXPERIMENT``, ``PRECIP_INSTANCE_ID``, ``PRECIP_INDEX`` and
        ``PRECIP_COUNT`` (its place in this selection) in its environment.

        Args:
            tags: Which.
            cmd: Read by the user's login shell; may be a callable of the instance.
            user: Who runs it; default: root, on hosts the login user.
            check_exit_code: Whether another exit code than 0 is an error.
            output_base_name: Write output to ``<this>.<instance id>.stdout`` and ``.stderr`` as it
                arrives, instead of keeping it.
            parallel: One after the other, or that many at once; default: the experiment's.
            timeout: Seconds for each instance, from the start of its command.
            stdin: Its input; default: none.
            env: Its environment beside that of a login; may be a callable of the instance.
            cwd: Where it runs; default: the home directory.
            on_output: Called with the instance, the stream and text as output arrives.

        Raises:
            InvalidArgument: Nothing was run.
            CommandFailed: Another exit code than 0, one after the other: the series ended there.
            CommandTimeout: Its time was up; nothing of it is left running.
            RemoteError: It could not be run, or nobody knows how it ended.
            FleetError: Some failed, of several at once; all were tried.

        If cancelled, what runs is ended on the instances before this returns.
        """
        how = How(
            user=user,
            check_exit_code=check_exit_code,
            output_base_name=output_base_name,
            timeout=timeout,
            stdin=stdin,
            env=env,
            cwd=cwd,
            on_output=on_output,
        )
        work = self._stage.command_work(self._stage.ready(tags), how, cmd)
        return RunResults(await self._stage.do(work, parallel, results=True))

    async def copy_and_run(
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
        """Copy a script to the selected instances, run it there, and remove it, however it ends.

        It runs from ``/tmp``, unless `cwd` says otherwise. `args` reach it as they are, whatever
        they contain; they may be a callable of the instance. The rest is as for `run`.
        """
        how = How(
            user=user,
            check_exit_code=check_exit_code,
            output_base_name=output_base_name,
            timeout=timeout,
            stdin=stdin,
            env=env,
            cwd=cwd,
            on_output=on_output,
        )
        ready = self._stage.ready(tags)
        async with self._stage.script_work(ready, how, local_script, args) as work:
            return RunResults(await self._stage.do(work, parallel, results=True))


def _checked_count(what: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise InvalidArgument(f"{what} must be a whole number from 1 to {most}, not {value!r}")
