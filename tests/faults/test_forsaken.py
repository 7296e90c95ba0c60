"""Experiments whose event loop was closed under them, and those that nobody closes."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from precip_async import LocalExperiment, forsaken, signals
from precip_async.clouds.local.remains import left_behind
from precip_async.lab.lab import Lab
from tests.on_clouds import IMAGES, REGION
from tests.polling import until
from tests.scripts import run_script, script

if TYPE_CHECKING:
    from pathlib import Path

PRELUDE = """
import asyncio, sys
from pathlib import Path
from types import SimpleNamespace
from tests.on_clouds import experiment_on

region, endpoint, key, secret, port, home, dialect, image = sys.argv[1:]
lab = SimpleNamespace(
    dialect=dialect, region=region, endpoint=endpoint, access_key=key, secret_key=secret,
    ssh_port=int(port), ca_file=None,
)
exp = experiment_on(lab, Path(home), name="left")

async def begin():
    await exp.open()
    await exp.provision(image, count=2)
    await exp.wait()
"""

WAYS = {
    # the loop is closed, and the script ends
    "exit": "asyncio.run(begin())",
    # it is closed on another one
    "another loop": "asyncio.run(begin()); asyncio.run(exp.aclose())",
    # the loop only stands still
    "idle loop": "loop = asyncio.new_event_loop(); loop.run_until_complete(begin())",
    # what ends the script is said, and comes first
    "error": "asyncio.run(begin()); raise LookupError('mine')",
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dialect", ["amazon", "nova-essex"])
async def test_nothing_outlives_an_event_loop(tmp_path: Path, dialect: str, way: str) -> None:
    """A fresh loop and client end what the journal knows, and give its addresses back."""
    (tmp_path / "lab").mkdir()
    async with Lab(dialect, directory=tmp_path / "lab", isolation="process", region=REGION) as lab:
        words = (REGION, lab.endpoint, lab.access_key, lab.secret_key, str(lab.ssh_port))
        code, _, errors = await anyio.to_thread.run_sync(
            run_script, PRELUDE + WAYS[way], *words, str(tmp_path / "h"), dialect, IMAGES[dialect]
        )

        assert len(await lab.instances()) == 2, errors
        assert [one.id for one in await lab.instances() if one.alive] == [], errors
        assert lab.addresses() == ()
    assert code == (1 if way == "error" else 0)
    assert ("experiment 'left' was left open" in errors) == (way != "another loop")
    if way == "error":
        assert "LookupError: mine" in errors


@pytest.mark.parametrize(
    ("before", "number", "code"),
    [
        ("", signal.SIGTERM, -signal.SIGINT),
        ("", signal.SIGHUP, -signal.SIGINT),
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)", signal.SIGTERM, 128 + signal.SIGTERM),
    ],
    ids=["SIGTERM", "SIGHUP", "SIGTERM in the background"],
)
async def test_a_script_that_is_told_to_end_ends_its_instances_first(
    tmp_path: Path, before: str, number: signal.Signals, code: int
) -> None:
    """As Ctrl-C does, also where nothing would hear of Ctrl-C."""
    program = (
        f"import signal\n{before}\n{PRELUDE}\n"
        "async def main():\n"
        "    async with exp:\n"
        "        await exp.provision(image, count=2)\n"
        "        print('provisioned')\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )

    def play(*words: str) -> tuple[int, str]:
        with script(program, *words) as running:
            running.wait_for("provisioned")
            running.signal(number)
            return running.end(), running.errors

    (tmp_path / "lab").mkdir()
    async with Lab("amazon", directory=tmp_path / "lab", isolation="process", region=REGION) as lab:
        words = (REGION, lab.endpoint, lab.access_key, lab.secret_key, str(lab.ssh_port))
        ended, errors = await anyio.to_thread.run_sync(
            play, *words, str(tmp_path / "h"), "amazon", IMAGES["amazon"]
        )

        assert len(await lab.instances()) == 2, errors
        assert [one.id for one in await lab.instances() if one.alive] == [], errors
    assert ended == code, errors


async def test_the_scripts_own_way_with_a_signal_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has taken it keeps it, and the system has it back when nothing is open any more."""
    monkeypatch.setattr(signals, "_takers", [])
    monkeypatch.setattr(forsaken, "_open", {})  # what other tests have left open
    monkeypatch.setattr(forsaken, "_closing", {})
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGTERM, theirs := lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        async with LocalExperiment(isolation="process", home=tmp_path / "home"):
            during = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
        after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGHUP, before[1])

    assert (during[0], after[0]) == (theirs, theirs)
    assert during[1] != signal.SIG_DFL
    assert after[1] == signal.SIG_DFL


def test_machines_of_this_computer_go_with_the_process(tmp_path: Path) -> None:
    """They are kept by a process that hears of our end; nothing is complained of."""
    code, lines, errors = run_script(
        """
        import asyncio, sys
        from precip_async import LocalExperiment

        exp = LocalExperiment(isolation="process", home=sys.argv[1], name="left")

        async def begin():
            await exp.open()
            await exp.provision(count=2)

        asyncio.run(begin())
        print("begun")
        """,
        str(tmp_path / "home"),
    )

    assert (code, lines) == (0, ["begun"])
    assert "experiment 'left' was left open" in errors
    assert "could not be closed" not in errors
    until(lambda: left_behind(tmp_path / "home" / "local") == [])


def test_ctrl_c_while_a_thread_starts_does_not_keep_the_interpreter(tmp_path: Path) -> None:
    """The interpreter ends though anyio never got to know a thread that it had started."""
    code, lines, errors = run_script(
        """
        import asyncio, sys, threading
        from precip_async import LocalExperiment

        start = threading.Thread.start

        def struck(thread):
            start(thread)
            if thread.name == "AnyIO worker thread":
                print("struck")
                raise KeyboardInterrupt

        threading.Thread.start = struck
        exp = LocalExperiment(isolation="process", home=sys.argv[1])
        asyncio.run(exp.open())
        """,
        str(tmp_path / "home"),
    )

    assert lines[0] == "struck"
    assert code == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
