"""Plays trials on the lab, reaps after them, and asks the lab what is left."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import sys
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from precip_async import clock
from precip_async.errors import EndpointUnreachable
from precip_async.home.directory import Home
from precip_async.home.journal import Journal
from precip_async.lab.lab import Lab
from precip_async.lab.scenario import Scenario
from tests import processes
from tests.faults.child import FAILED, INSTANCES, WRONG
from tests.faults.proxy import Line, bad_line
from tests.faults.reaper import reaped
from tests.on_clouds import REGION
from tests.polling import eventually
from tests.ssh.trees import small_disk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from tests.faults.trials import Trial

__all__ = ["Outcome", "Stage", "Warm", "play_all"]

LONGEST: Final = 90.0  # seconds that a child may take, whatever befalls it
REAP: Final = 120.0  # seconds that reaping may take
HOUR: Final = 3600.0
SETTLE: Final = 10.0  # seconds in which what was ended has gone
DISK: Final = "4m"
SECOND: Final = 0.2  # seconds after the first signal


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a trial.

    Attributes:
        trial: Which.
        code: The child's exit code; below 0: the signal that it died of.
        before: What was left at the cloud when it had ended: instances and addresses.
        after: What was left of that after reaping.
        violations: What must not be; empty: all is well.
        said: The end of what the child wrote.
    """

    trial: Trial
    code: int = 0
    before: int = 0
    after: int = 0
    violations: list[str] = field(default_factory=list)
    said: str = ""


class Warm:
    """A warm parent in a process of its own; see `zygote`.

    Here it is an hour later than there: what was asked for then and not answered has settled.
    """

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process
        self._reader: asyncio.Task[None]
        self._waiting: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self._later = ExitStack()

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-W", "ignore::ResourceWarning", "-m", "tests.faults.zygote"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        await asyncio.wait_for(self._process.stdout.readline(), LONGEST)
        self._reader = asyncio.create_task(self._read(self._process.stdout))
        self._later.enter_context(clock.set_by(HOUR))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._later.close()
        with anyio.move_on_after(SETTLE, shield=True):
            await self._process.wait()
            await self._reader

    async def _read(self, pipe: asyncio.StreamReader) -> None:
        while line := await pipe.readline():
            told = json.loads(line)
            self._waiting[told["number"]].put_nowait(told)

    async def play(self, given: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Have a child play `given`: its pid, and then its exit code."""
        queue = self._waiting[given["number"]] = asyncio.Queue()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(given).encode() + b"\n")
        try:
            while "code" not in (told := await queue.get()):
                yield told
            yield told
        finally:
            del self._waiting[given["number"]]


class Stage:
    """Where trials are played, one after the other: labs, each opened once.

    Args:
        warm: Forks the children.
        directory: Where everything is kept.
    """

    def __init__(self, warm: Warm, directory: Path) -> None:
        self._warm, self._directory = warm, directory
        self._labs: dict[tuple[str, str], Lab] = {}
        self._open = AsyncExitStack()
        self._count = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._open.aclose()

    async def _lab(self, trial: Trial) -> Lab:
        if trial.stage not in self._labs:
            self._count += 1
            directory = self._directory / f"lab{self._count}"
            directory.mkdir()
            lab = Lab(
                trial.dialect,
                directory=directory,
                isolation="process",
                region=REGION,
                tls=trial.kind == "api",  # where what was garbled is noticed
                scenario=Scenario(lost_launches=True if trial.kind == "lost" else 0.0),
            )
            self._labs[trial.stage] = await self._open.enter_async_context(lab)
        return self._labs[trial.stage]

    async def play(self, trial: Trial) -> Outcome:
        """Play `trial`; what is left afterwards is a violation, and gone all the same."""
        lab = await self._lab(trial)
        place = self._directory / f"trial{trial.number}"
        place.mkdir()
        outcome = Outcome(trial=trial)
        home = place / "home"
        books = _Books(trial, lab, home, {one.id for one in await lab.instances()})
        async with _disk(trial, place), AsyncExitStack() as stack:
            endpoint, ssh_port, lines = lab.endpoint, lab.ssh_port, list[Line]()
            if trial.kind == "api":
                real = urlsplit(endpoint)
                there = str(real.hostname), int(real.port or 0)
                line = bad_line(trial.fault, trial.time, lambda _: there)
                lines.append(await stack.enter_async_context(line))
                endpoint = real._replace(netloc=f"{there[0]}:{lines[0].port}").geturl()
            elif trial.kind == "ssh":
                line = bad_line(trial.fault, trial.time, lambda host: (host, lab.ssh_port))
                lines.append(await stack.enter_async_context(line))
                ssh_port = lines[0].port
            where = _where(lab, endpoint, ssh_port)
            if trial.first is not None:
                await self._child(trial.first, where, home)
            outcome.code = await self._child(trial, where, home)
            for one in lines:
                one.heal()
            outcome.said = await anyio.Path(place / "said").read_text(errors="replace")
            (place / "full").unlink(missing_ok=True)
            outcome.before = await _left(lab)
            await books.check_the_ended(outcome)
            outcome.violations += await _reaped(lab, endpoint, home)
            outcome.after = await _left(lab)
            await books.check(outcome)
        if outcome.after:
            del self._labs[trial.stage]  # the next one begins afresh
        if not outcome.violations:
            await anyio.to_thread.run_sync(shutil.rmtree, place)
        return outcome

    async def _child(self, trial: Trial, where: dict[str, Any], home: Path) -> int:
        """Have the script played; its exit code."""
        given = {
            "number": trial.number,
            "trial": trial.to_json(),
            "where": where,
            "home": str(home),
            "name": _name(trial),
            "said": str(home.parent / "said"),
            "environment": {"HOME": str(home.parent), "PRECIP_HOME": str(home)},
        }
        code = 0
        with ExitStack() as blows:
            async for told in self._warm.play(given):
                if "pid" in told:
                    for after, number in _signals(trial):
                        blows.callback(_later(after, told["pid"], number).cancel)
                else:
                    code = told["code"]
        return code


async def _reaped(lab: Lab, endpoint: str, home: Path) -> list[str]:
    """Reap, again where the lab does not answer in time; what went wrong."""
    try:
        with anyio.fail_after(REAP):
            while True:
                try:
                    return await reaped(lab, endpoint, home)
                except EndpointUnreachable:
                    continue  # this computer is busy, and the lab is a part of it
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
        return [f"reap: {error!r}"]


def _where(lab: Lab, endpoint: str, ssh_port: int) -> dict[str, Any]:
    """What a script has to know of `lab`."""
    return {
        "dialect": lab.dialect,
        "region": lab.region,
        "endpoint": endpoint,
        "access_key": lab.access_key,
        "secret_key": lab.secret_key,
        "ssh_port": ssh_port,
        "ca_file": str(lab.ca_file) if lab.ca_file else None,
    }


def _signals(trial: Trial) -> Iterator[tuple[float, int]]:
    """What is sent to the script, and after how many seconds."""
    yield LONGEST, signal.SIGKILL
    if trial.kind in ("moment", "attach"):
        yield trial.after, signal.SIGKILL
    elif trial.kind == "signal":
        for place, name in enumerate(trial.point.split(", ")):
            yield trial.after + SECOND * place, signal.Signals[f"SIG{name}"]


def _later(seconds: float, pid: int, number: int) -> asyncio.TimerHandle:
    def send() -> None:
        with suppress(ProcessLookupError):  # it has ended, and we have not heard of it yet
            os.kill(pid, number)

    return asyncio.get_running_loop().call_later(seconds, send)


def _name(trial: Trial) -> str:
    return f"trial-{trial.number}"


@asynccontextmanager
async def _disk(trial: Trial, place: Path) -> AsyncIterator[None]:
    """A small disk, where it is to be filled."""
    if trial.needs_root:
        with small_disk(place, DISK):
            yield
    else:
        yield


async def _left(lab: Lab) -> int:
    return sum(one.alive for one in await lab.instances()) + len(lab.addresses())


class _Books:
    """What the lab, the journal and the files say of one trial."""

    def __init__(self, trial: Trial, lab: Lab, home: Path, known: set[str]) -> None:
        self._trial, self._lab, self._home = trial, lab, home
        self._known = known

    async def check_the_ended(self, outcome: Outcome) -> None:
        """What holds as soon as the script has ended."""
        trial = self._trial
        # A second Ctrl-C strikes wherever the loop is, in asyncio and anyio as well.
        if outcome.code == WRONG and trial.point != "INT, INT":
            outcome.violations.append("an error reached the user that is none of ours")
        if outcome.code == FAILED and trial.kind == "attach":
            outcome.violations.append("it could not be attached to, or not gone on with")
        if outcome.code == -signal.SIGKILL and not trial.dies:
            outcome.violations.append("it had not ended after 90 s")
        # an instance may be ready before the first look at the cloud is over
        sure = trial.kind == "kill" and trial.point != "boot.seen"
        if sure and not outcome.code:
            outcome.violations.append("it was not killed: it never came to that step")
        if outcome.before and not trial.dies and not outcome.said.strip():
            outcome.violations.append("it left something, and said nothing")
        if outcome.before and trial.kind == "none":
            outcome.violations.append("nothing befell it, and it left something")
        if trial.kind != "home":  # where there may be no journal any more
            seen = [one for one in await self._lab.instances() if one.id not in self._known]
            tokens = {one.token for one in seen if one.token}
            unheard = await anyio.to_thread.run_sync(self._unheard, tokens)
            if unheard:
                outcome.violations.append(f"launched unknown to the journal: {unheard}")

    async def check(self, outcome: Outcome) -> None:
        """What holds after reaping."""
        wrong = outcome.violations
        if outcome.after:
            alive = [one for one in await self._lab.instances() if one.alive]
            wrong.append(f"left after reaping: {alive}, {self._lab.addresses()}")
        seen = [one for one in await self._lab.instances() if one.id not in self._known]
        if len(seen) > INSTANCES:
            wrong.append(f"launched twice: {len(seen)} where {INSTANCES} were asked for")
        mark = f"PRECIP_EXPERIMENT={_name(self._trial)}"
        try:
            await eventually(lambda: not processes.marked(mark), within=SETTLE)
        except AssertionError:
            wrong.append(f"processes are left: {processes.marked(mark)}")
        wrong += await anyio.to_thread.run_sync(self._files, {one.id for one in seen})

    def _unheard(self, tokens: set[str]) -> set[str]:
        """The launches among `tokens` that the journal has never heard of; blocks."""
        if not tokens:
            return tokens
        with closing(sqlite3.connect(self._home / "journal.sqlite")) as db:
            return tokens - {one for (one,) in db.execute("SELECT token FROM launches")}

    def _files(self, seen: set[str]) -> list[str]:
        """What is wrong with the files; blocks."""
        wrong = []
        try:
            journal = Journal.open(Home.open(self._home))
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
            return [f"the journal can't be opened: {error}"]
        with closing(journal), closing(sqlite3.connect(journal.path)) as db:
            if alive := journal.alive():
                wrong.append(f"the journal believes in {alive}")
            ids = {one.lower() for (one,) in db.execute("SELECT id FROM instances")}
            if made_up := ids - {one.lower() for one in seen}:
                wrong.append(f"the journal has made up {made_up}")
        for path in self._home.parent.rglob("*"):
            if not path.is_file():
                continue
            content = path.read_bytes()
            if self._lab.secret_key.encode() in content:
                wrong.append(f"the secret key is in {path}")
            key = path.name.startswith("precip_") and path.parent == self._home
            if b"PRIVATE KEY" in content and not key and not path.name.startswith(".new-"):
                wrong.append(f"a private key is in {path}")
            if path.name.startswith("got.") and content != b"there\n":
                wrong.append(f"half a file was copied: {path}")
            if path.name.startswith(".new-") and not self._trial.dies:
                wrong.append(f"a draft is left: {path}")
        return wrong


async def play_all(
    trials: Iterable[Trial],
    place: Path,
    *,
    jobs: int,
    told: Callable[[Outcome], object] = lambda _: None,
) -> list[Outcome]:
    """Play `trials` in the directory `place`, `jobs` at once; what came of them, in their order."""
    outcomes: list[Outcome] = []
    rest = iter(trials)

    async def work(directory: Path) -> None:
        await anyio.Path(directory).mkdir()
        async with Stage(warm, directory) as stage:
            for trial in rest:  # one iterator for all: each takes the next
                outcomes.append(await stage.play(trial))
                told(outcomes[-1])

    async with Warm() as warm, anyio.create_task_group() as tasks:
        for number in range(jobs):
            tasks.start_soon(work, place / f"stage{number}")
    return sorted(outcomes, key=lambda outcome: outcome.trial.number)
