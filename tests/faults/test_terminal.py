"""Ctrl-C in a terminal, while many instances boot."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import pytest

from precip_async.lab.lab import Lab
from precip_async.lab.scenario import Scenario
from tests.on_clouds import IMAGES, REGION
from tests.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FIFTY: Final = 50
CTRL_C: Final = b"\x03"
GONE: Final = 10.0  # seconds in which all of them are gone

BLOCKING = """
import sys
from precip_async.sync import EC2Experiment
region, endpoint, key, secret, port, home, image, count = sys.argv[1:]
exp = EC2Experiment(region, endpoint, key, secret, ssh_port=int(port), home=home, name="many")
exp.provision(image, count=int(count))
exp.wait()
"""
ASYNC = """
import asyncio, sys
from precip_async import EC2Experiment
region, endpoint, key, secret, port, home, image, count = sys.argv[1:]

async def main():
    given = {"ssh_port": int(port), "home": home}
    async with EC2Experiment(region, endpoint, key, secret, **given) as exp:
        await exp.provision(image, count=int(count))
        await exp.wait()

asyncio.run(main())
"""


class Terminal:
    """A script in a terminal of its own.

    Attributes:
        shown: All that it has shown.
        code: The exit code, once it has ended; below 0: the signal that it died of.
    """

    def __init__(self, script: str, *words: str) -> None:
        self.shown = ""
        self.code: int | None = None
        self._pid, self._descriptor = pty.fork()
        if not self._pid:
            os.execv(sys.executable, [sys.executable, "-c", script, *words])
        self._reading = asyncio.create_task(anyio.to_thread.run_sync(self._read))

    def _read(self) -> None:
        try:
            while data := os.read(self._descriptor, 1 << 16):
                self.shown += data.decode(errors="replace")
        except OSError:
            return  # how a terminal says that nobody is there any more
        finally:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self._descriptor, key)

    async def aclose(self) -> None:
        """End what may still run."""
        if self.code is None:
            os.kill(self._pid, signal.SIGKILL)
        await self._reading
        os.close(self._descriptor)


@asynccontextmanager
async def terminal(lab: Lab, script: str, home: Path, count: int) -> AsyncIterator[Terminal]:
    """A script that waits for `count` instances of `lab`, in a terminal."""
    words = (REGION, lab.endpoint, lab.access_key, lab.secret_key, str(lab.ssh_port), str(home))
    running = Terminal(script, *words, IMAGES[lab.dialect], str(count))
    try:
        yield running
    finally:
        with anyio.move_on_after(GONE, shield=True):
            await running.aclose()


def asked(lab: Lab, action: str) -> int:
    """How often `action` was asked for."""
    return sum(call.action == action for call in lab.calls)


@pytest.mark.slow
@pytest.mark.parametrize("script", [BLOCKING, ASYNC], ids=["blocking", "async"])
async def test_ctrl_c_while_fifty_boot_ends_them(tmp_path: Path, script: str) -> None:
    """Within ten seconds the cloud has none of them; shells call the exit code 130."""
    (tmp_path / "lab").mkdir()
    never = Scenario(never_boots=True)
    async with Lab("amazon", directory=tmp_path / "lab", region=REGION, scenario=never) as lab:
        async with terminal(lab, script, tmp_path / "home", FIFTY) as there:
            await eventually(lambda: asked(lab, "DescribeInstances") > 1, within=40)
            assert sum(one.alive for one in await lab.instances()) == FIFTY
            there.press(CTRL_C)
            with anyio.fail_after(GONE):
                while any(one.alive for one in await lab.instances()):  # noqa: ASYNC110 - only asking
                    await anyio.sleep(0.1)
            await eventually(lambda: there.code is not None, within=20)

        assert there.code == -signal.SIGINT
        if script is BLOCKING:
            summary = "Experiment 'many' closed: 50 instances ended"
            assert there.shown.count(summary) == 1
            assert there.shown.rstrip().endswith(summary)
            assert there.shown.count("Traceback") == 1  # the script's own, up to its own line
            assert "asyncio" not in there.shown


@pytest.mark.slow
async def test_a_second_ctrl_c_leaves_and_says_how_to_reap(tmp_path: Path) -> None:
    """The cloud takes its time for each answer, and the person has none."""
    (tmp_path / "lab").mkdir()
    slow = Scenario(never_boots=True, slow=range(14, 1000), slow_by=6.0)
    async with Lab("amazon", directory=tmp_path / "lab", region=REGION, scenario=slow) as lab:
        async with terminal(lab, BLOCKING, tmp_path / "home", 2) as there:
            await eventually(lambda: len(lab.calls) > 14, within=40)
            there.press(CTRL_C)
            await eventually(lambda: "are ended as the interpreter exits" in there.shown, within=20)
            await eventually(lambda: asked(lab, "TerminateInstances"), within=20)
            there.press(CTRL_C)
            await eventually(lambda: there.code is not None, within=20)

        assert "instances may still be running: `precip reap` ends them" in there.shown
