"""The verbs for what goes on without us: commands, and instances that end by themselves."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from precip_async import clock
from precip_async.detached import DetachedRun
from precip_async.errors import InvalidArgument
from precip_async.how import How
from precip_async.life import Life
from precip_async.settings import checked_number
from precip_async.ssh.tasks import in_child_task

if TYPE_CHECKING:
    import builtins

    from precip_async.fleet import Instance, Tags
    from precip_async.how import Environment, TextOf
    from precip_async.settings import Parallel

__all__ = ["Lasting"]


class Lasting(Life):
    """What an experiment begins, and is not there for."""

    async def extend(
        self, seconds: float | None = None, tags: Tags = ()
    ) -> builtins.list[Instance]:
        """Put off the end of the selected instances, which end by themselves.

        Nothing else does: an experiment that is at work ends when its time is up, as one does
        whose script has died. An instance that is to end later than that already is left alone.

        Args:
            seconds: How long they may live from now on; default: ``max_lifetime`` once more.
            tags: Which.

        Returns:
            Those whose end was put off; ``expires_at`` says until when.

        Raises:
            InvalidArgument: They are not ready, their time was up, or they have no end.
            CloudError: The cloud did not take note; nothing was put off.
            RemoteError: One ends when it was to end before; `FleetError` for several.

        If cancelled, some may live longer, and none shorter.
        """
        stage, lifetime = self._stage, self._settings.max_lifetime
        chosen = stage.ready(tags)
        if lifetime is None and not any(one.expires_at for one in chosen):
            raise InvalidArgument(
                "instances of this experiment do not end by themselves: it has no max_lifetime="
            )
        given = lifetime if seconds is None else seconds
        if given is None:  # attached to, and whoever launched them has not told us
            raise InvalidArgument("say for how many seconds: extend(3600)")
        checked_number("seconds", given)
        expires = clock.now() + timedelta(seconds=given)
        chosen = [one for one in chosen if one.expires_at is not None and one.expires_at < expires]
        if chosen:
            await in_child_task(lambda: stage.extend(chosen, expires))
        return chosen

    async def start(
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
        """Start a command on the selected instances that goes on without us.

        It has no input, and outlives our connection, this process and this computer. Its output and
        its exit code are kept on the instance, in a directory of its user's, until `DetachedRun`
        removes them. It is started once, however often the connection is lost meanwhile. The
        environment is that of `run`.

        Args:
            tags: Which.
            cmd: Read by the user's login shell; may be a callable of the instance.
            user: Who runs it; default: root, on hosts the login user.
            name: What to call it, for `started`; several may be called the same.
            env: Its environment beside that of a login; may be a callable of the instance.
            cwd: Where it runs; default: the home directory.
            parallel: One after the other, or that many at once; default: the experiment's.

        Returns:
            What it is followed, waited for and ended by.

        Raises:
            InvalidArgument: Nothing was started.
            RemoteError: It could not be started, or nobody knows whether it was.
            FleetError: Likewise on some, of several at once.

        If it raises or is cancelled, what was started goes on, and `started` finds it.
        """
        how = How(user=user, env=env, cwd=cwd)
        if not isinstance(name, str) or not name.isprintable():
            raise InvalidArgument(f"name must be a word or two, not {name!r}")
        stage = self._stage
        jobs = stage.start_jobs(stage.ready(tags), how, cmd, name)
        return DetachedRun(await stage.each(jobs, parallel))

    async def started(
        self,
        tags: Tags = (),
        user: str | None = None,
        *,
        name: str | None = None,
        parallel: Parallel | None = True,
    ) -> builtins.list[DetachedRun]:
        """What `start` has started on the selected instances, whichever process of ours it was.

        Args:
            tags: Which.
            user: Whose; default: root, on hosts the login user.
            name: Only what was called so.
            parallel: One after the other, or that many at once.

        Returns:
            The oldest first; those that have ended are among them until they are removed.

        Raises:
            RemoteError: One could not be asked; of several `FleetError`.
        """
        how, stage = How(user=user), self._stage
        found = await stage.each(stage.list_jobs(stage.ready(tags), how), parallel)
        return [
            run
            for run in DetachedRun.grouped(job for jobs in found for job in jobs)
            if name is None or run.name == name
        ]
