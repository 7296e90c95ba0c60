"""What every test stands on: a clean environment, honest skips, and nothing left behind."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

from precip_async.limits import Limits
from tests import processes
from tests.polling import until
from tests.servers import sudo_rights, temporary_user
from tests.sources import PACKAGE, ROOT

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tests.servers import TemporaryUser

REQUIRE_ALL = os.environ.get("PRECIP_REQUIRE_ALL") == "1"
SETTLE = 5.0  # seconds that what a test started may take to end after the test has
MARK = "PRECIP_TEST_MARK"  # in the environment of every process that a test starts

# sshd, ip and useradd live where an ordinary user's PATH may not look.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

# Over worker processes: experiments whose tests say nothing about it have two of them.
if os.environ.get("PRECIP_TEST_SSH") == "workers":
    defaults = Limits.__init__.__kwdefaults__
    assert defaults is not None
    defaults["ssh_workers"] = 2

# A machine that is busy with other tests is no reason for an example to fail.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The only backend: asyncssh is asyncio's."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """Fail what calls blocking functions on an event loop from within the package."""
    # The facades block on purpose, also within a running loop (Jupyter's); the warden of local
    # machines has a process and a loop of its own, where a look at a file keeps nobody waiting.
    local = ROOT / PACKAGE / "clouds" / "local"
    warden = [path.stem for path in local.glob("*.py") if not path.stem.startswith(("_", "cloud"))]
    apart = ["portal", "sync", *(f"clouds.local.{name}" for name in warden)]
    library, *excluded = (
        importlib.util.module_from_spec(spec)
        for name in (PACKAGE, *(f"{PACKAGE}.{name}" for name in apart))
        if (spec := importlib.util.find_spec(name))
    )
    with blockbuster_ctx([library], excluded_modules=excluded) as guard:
        guard.functions["os.getcwd"].deactivate()  # does no I/O
        for function in guard.functions.values():  # an import is paid once, when first needed
            function.can_block_in("<frozen importlib._bootstrap>", "_find_and_load")
        yield


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A fresh HOME that nothing of the user's shines into; its path."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("AWS_", "EC2_", "PRECIP_", "SSH_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PRECIP_HOME", str(home / ".precip"))
    return home


@pytest.fixture(autouse=True)
def nothing_left_running(
    request: pytest.FixtureRequest,
    clean_environment: Path,  # noqa: ARG001 - the mark has to outlive its cleaning
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Fail a test whose processes outlive it, orphans in sessions of their own included."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    before = {(p.pid, p.started) for p in processes.everything().values()}
    watch_tasks(request.node)
    yield
    if before:  # no /proc, no look

        def left() -> list[processes.Process]:
            now = processes.everything().values()
            new = [p for p in now if (p.pid, p.started) not in before]
            return [p for p in new if p.parent == os.getpid() or bears(p.pid, mark)]

        try:
            until(lambda: not left(), within=SETTLE)
        except AssertionError:
            pytest.fail(f"left running by the test: {left()}")


@pytest.fixture(scope="session")
def second_user() -> Iterator[TemporaryUser]:
    """An ordinary user beside root, who logs in like root; for tests marked `root`."""
    with temporary_user() as user:
        yield user


@pytest.fixture(scope="session")
def sudoer() -> Iterator[TemporaryUser]:
    """Another one, who may do everything through sudo without a password."""
    if not shutil.which("sudo"):
        pytest.skip("there is no sudo here")
    with temporary_user() as user, sudo_rights(user.name):
        yield user


def bears(pid: int, mark: str) -> bool:
    """Whether the living process `pid` was started by the test that `mark` stands for."""
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, or another user's
        return False


def watch_tasks(item: pytest.Item) -> None:
    """Make an async test fail that leaves tasks running on the loop."""
    test = getattr(item, "obj", None)
    if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(test):
        return

    @functools.wraps(test)
    async def watched(*args: Any, **kwargs: Any) -> None:
        before = asyncio.all_tasks()
        await test(*args, **kwargs)
        if left := asyncio.all_tasks() - before:
            _, running = await asyncio.wait(left, timeout=SETTLE)
            assert not running, f"tasks left running: {running}"

    item.obj = watched


@functools.cache
def obstacle(need: str) -> str:
    """Why tests marked `need` cannot run here; empty where they can."""
    if need == "sshd":
        return "" if shutil.which("sshd") else "there is no OpenSSH server here"
    if need == "cloud_init":
        return "" if shutil.which("cloud-init") else "there is no cloud-init here"
    if os.geteuid() != 0:
        return "this needs root"
    if missing := [tool for tool in ("ip", "nsenter", "unshare") if not shutil.which(tool)]:
        return f"this needs {', '.join(missing)}"
    probe = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "true"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=30)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, and say why."""
    for need in ("sshd", "cloud_init", "root"):
        if item.get_closest_marker(need) and (why := obstacle(need)):
            pytest.skip(why)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is required, a skip is a failure."""
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and PRECIP_REQUIRE_ALL=1: {report.longrepr}"
    return report
