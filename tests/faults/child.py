"""What a trial's child does: an ordinary script, and the fault that befalls it from within."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio

from precip_async import ExperimentException, Limits, clock
from precip_async.steps import watched
from tests.faults.breaking import broken
from tests.faults.counting import CountingLoop
from tests.faults.trials import Trial
from tests.on_clouds import IMAGES, attached_on, experiment_on, twin_on

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FAILED", "INSTANCES", "LIMITS", "WRONG", "exit_now", "play"]

LIMITS = Limits(
    poll_interval=0.1,
    launch_timeout=8.0,
    terminate_timeout=10.0,
    connect_timeout=6.0,
    probe_timeout=2.0,
    keepalive=1.0,
    keepalive_count=2,
    kill_grace=0.5,
    close_grace=2.0,
)
INSTANCES = 2  # that the script asks for
PATIENCE = 20.0  # seconds for the instances to be ready

FAILED, WRONG = 1, 70  # exit codes: an error of ours, and one that should never reach a user
DAY = 86400.0


def play(given: dict[str, Any]) -> int:
    """Play the script, in a process of its own; its exit code."""
    trial = Trial.from_json(given["trial"])
    where = SimpleNamespace(**given["where"])
    where.ca_file = Path(where.ca_file) if where.ca_file else None
    home = Path(given["home"])
    facts: dict[str, Any] = {"name": given["name"], "limits": LIMITS}
    try:
        with ExitStack() as armed:
            armed.enter_context(broken(trial.broken))
            armed.enter_context(watched(_watcher(trial, home, armed)))
            if trial.blocking:
                _blocking_script(where, home, facts)
            else:
                _async_script(where, home, facts, trial)
    except ExperimentException as error:
        traceback.print_exception(error, limit=0)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:  # noqa: BLE001 - is reported by its exit code
        traceback.print_exc()
        return WRONG
    return 0


def _watcher(trial: Trial, home: Path, armed: ExitStack) -> Callable[[str], None]:
    """What happens at steps."""
    left = trial.time
    what, _, step = trial.point.partition(" at ") if trial.kind == "home" else ("", "", "")

    def passed(reached: str) -> None:
        nonlocal left, step
        if trial.kind == "kill" and reached == trial.point:
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        elif reached == step:
            step = ""
            if what == "removed":
                shutil.rmtree(home, ignore_errors=True)
            elif what == "full":
                fill(home)
            else:
                armed.enter_context(clock.set_by(-DAY))

    return passed


def fill(home: Path) -> None:
    """Fill the disk that `home` is on, which is a small one."""
    assert home.parent.is_mount()
    with (home.parent / "full").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return  # it is full


def _async_script(where: Any, home: Path, facts: dict[str, Any], trial: Trial) -> None:
    async def script() -> None:
        attaches = trial.kind == "attach"
        if attaches:
            made = await attached_on(where, home, **facts)
        else:
            made = experiment_on(where, home, **facts)
        async with made as exp:
            if not attaches:
                await exp.provision(IMAGES[where.dialect], count=INSTANCES, tags=["worker"])
            await exp.wait(timeout=PATIENCE)
            await exp.run(["worker"], "sleep 600 & echo there > said", parallel=True)
            await exp.get([], "said", home.parent / "got", parallel=True)
            await exp.deprovision(exp.instances()[0].id)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            if trial.kind == "cancel":
                loop = asyncio.get_running_loop()
                assert isinstance(loop, CountingLoop)
                loop.strike(scope.cancel, [trial.time])
            await script()

    factory = CountingLoop if trial.kind == "cancel" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def _blocking_script(where: Any, home: Path, facts: dict[str, Any]) -> None:
    with twin_on(where, home, quiet=True, **facts) as exp:
        exp.provision(IMAGES[where.dialect], count=INSTANCES, tags=["worker"])
        exp.wait(timeout=PATIENCE)
        exp.run(["worker"], "sleep 600 & echo there > said", parallel=True)
        exp.get([], "said", home.parent / "got", parallel=True)
        exp.deprovision(exp.instances()[0].id)


def exit_now(code: int) -> None:
    """End this fork as an interpreter would end, but for what its parent has registered."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
