"""The house plan, read from the source: who may import whom, and who alone knows a vendor."""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys

import pytest

from tests.sources import PACKAGE, Source, package

# From the ground up. A module may import what lies in a lower storey, and its own room; the rooms
# of one storey are strangers to each other, but for the storeys named in OPEN.
STOREYS: dict[str, tuple[str, ...]] = {
    "ground": (
        "clock",
        "descriptors",
        "errors",
        "events",
        "fleet",
        "limits",
        "results",
        "shell",
        "signals",
        "steps",
    ),
    "edges": ("clouds", "home", "ssh"),
    "lab": ("lab",),
    "conduct": (
        *("attaching", "boot", "detached", "detour", "ending", "errand", "experiment", "fanout"),
        *("forsaken",),
        *("how", "jobs", "lasting", "launch", "ledger", "life", "lifetime", "plan", "probe"),
        *("reach", "reaping", "settings", "stage", "work"),
    ),
    "experiments": ("experiments",),
    "faces": ("cli", "console", "portal", "rehearsal", "sync", "testing"),
    "surface": ("", "__main__"),
}
OPEN = ("ground", "conduct", "faces")

# Everything else comes from the standard library; anyio is everybody's, but for the ground.
VENDORS: dict[str, tuple[str, ...]] = {
    "aioboto3": ("clouds.ec2*",),
    "aiobotocore": ("clouds.ec2*",),
    "aiohttp": ("clouds.ec2*", "lab.http"),
    "asyncssh": ("ssh.openssh*", "clouds.local.process*"),
    "botocore": ("clouds.ec2*",),
    "cryptography": ("home.keys", "clouds.local.*", "lab.keys"),
    "rich": ("console",),
}
COMMON = "anyio"

# What `import precip_async` must not pay for.
HEAVY = ("aioboto3", "asyncssh", "boto3", "botocore", "cryptography", "rich", "sqlite3")
# Of the work of `import asyncio, anyio`, and in addition to it: 0.04 s of CPU on an idle machine.
IMPORT_BUDGET = 0.65

modules = pytest.mark.parametrize("source", package(), ids=str)


def storey(source_room: str) -> int:
    """The storey of a room, from 0."""
    for number, rooms in enumerate(STOREYS.values()):
        if source_room in rooms:
            return number
    raise AssertionError(f"say in STOREYS where {source_room!r} belongs")


def allowed(importer: str, imported: str) -> bool:
    """Whether a room may import another one."""
    above, below = storey(importer), storey(imported)
    is_open = list(STOREYS)[above] in OPEN
    return below < above or importer == imported or (below == above and is_open)


@modules
def test_imports_point_downwards(source: Source) -> None:
    """A module imports from lower storeys and its own room only, for the type checker as well."""
    upwards = [
        f"{source.at(found.line)}: {source.room or PACKAGE} imports {found.module}"
        for found in source.imports()
        if found.module.split(".")[0] == PACKAGE
        and not allowed(source.room, found.module.removeprefix(PACKAGE).lstrip(".").split(".")[0])
    ]

    assert not upwards


@modules
def test_each_vendor_has_one_importer(source: Source) -> None:
    """A third party is imported by the modules that exist for it, and by no other."""
    inside = source.name.removeprefix(PACKAGE + ".")
    foreign = {
        found.module.split(".")[0]: found.line
        for found in source.imports()
        if not (found.typing_only and found.module == "_typeshed")  # the type checker's own
    }
    strangers = [
        f"{source.at(line)}: imports {vendor}"
        for vendor, line in foreign.items()
        if vendor not in sys.stdlib_module_names | {PACKAGE}
        and not (vendor == COMMON and source.room not in STOREYS["ground"])
        and not any(fnmatch.fnmatch(inside, home) for home in VENDORS.get(vendor, ()))
    ]

    assert not strangers


def test_no_module_needs_itself() -> None:
    """No chain of imports, the type checker's left out, leads back to where it began."""
    needs = {
        source.name: {found.module for found in source.imports() if not found.typing_only}
        for source in package()
    }
    done: set[str] = set()

    def visit(name: str, chain: tuple[str, ...]) -> None:
        assert name not in chain, f"a circle: {' -> '.join([*chain, name])}"
        if name in needs and name not in done:
            for needed in needs[name]:
                visit(needed, (*chain, name))
            done.add(name)

    for name in needs:
        visit(name, ())


@pytest.mark.parametrize("module", [PACKAGE, f"{PACKAGE}.sync"])
def test_importing_is_light(module: str) -> None:
    """Importing the library imports no vendor: each waits until it is needed."""
    program = f"import sys, json, {module}; sys.stdout.write(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(python(program)))

    assert module in loaded
    assert not loaded & set(HEAVY)


def test_importing_is_quick() -> None:
    """Importing the library adds little to what asyncio and anyio cost anyway.

    Calls are counted: seconds of CPU differ with the machine, and with what else it does.
    """

    def work(modules: str) -> int:
        return int(
            python(f"""
import sys

def count(*_):
    global calls
    calls += 1

calls = 0
sys.setprofile(count)
import {modules}
sys.setprofile(None)
sys.stdout.write(str(calls))
""")
        )

    work(f"asyncio, anyio, {PACKAGE}")  # from then on all is compiled
    anyway = work("asyncio, anyio")

    assert work(f"asyncio, anyio, {PACKAGE}") - anyway <= IMPORT_BUDGET * anyway


def python(program: str) -> str:
    """What a fresh interpreter writes that runs `program`, warnings being errors."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
