"""House rules that no linter knows, read from the source of the package and of its tests."""

from __future__ import annotations

import ast
import re
import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.sources import ROOT, Source, package, suite

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINES = 400

modules = pytest.mark.parametrize("source", package(), ids=str)
everywhere = pytest.mark.parametrize("source", [*package(), *suite()], ids=str)
suites = pytest.mark.parametrize(
    "source", [source for source in suite() if source.path.name.startswith("test_")], ids=str
)


@modules
def test_a_module_is_no_longer_than_can_be_read(source: Source) -> None:
    """What outgrows its room becomes a folder of the same name."""
    assert len(source.text.splitlines()) <= MAX_LINES


@modules
def test_a_public_module_names_what_it_exports(source: Source) -> None:
    """A module that defines public names says in `__all__` which of them are for others."""
    public = {name for name in source.defined() if not name.startswith("_")}
    exported = source.exported()

    assert exported is not None or not public, f"{source} has no __all__"


@modules
def test_what_is_exported_is_there(source: Source) -> None:
    """Every name in `__all__` is defined or imported by its module."""
    imported = {
        alias.asname or alias.name
        for node in source.tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }

    if "__getattr__" not in source.defined():  # names made on demand: tests/test_exports.py
        assert set(source.exported() or ()) <= source.defined() | imported


@everywhere
def test_nobody_prints_or_sleeps(source: Source) -> None:
    """No `print`, which is the user's stdout, and no `time.sleep`, which blocks the loop."""
    calls = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
    wrong = [
        source.at(call.lineno)
        for call in calls
        if ast.unparse(call.func) in ("print", "time.sleep")
    ]
    wrong += [
        source.at(node.lineno)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom)
        and node.module == "time"
        and any(alias.name == "sleep" for alias in node.names)
    ]

    assert not wrong


@everywhere
def test_nobody_swallows_everything(source: Source) -> None:
    """No bare `except`, and no handler or `suppress` of all exceptions that does nothing."""
    assert not list(swallowers(source))


def swallowers(source: Source) -> Iterator[str]:
    """Where all exceptions are caught and nothing is done about it."""
    broad = {"Exception", "BaseException"}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            idle = all(
                isinstance(step, ast.Pass | ast.Continue)
                or (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))
                for step in node.body
            )
            if node.type is None or (idle and ast.unparse(node.type) in broad):
                yield source.at(node.lineno)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("suppress")
            and broad & {ast.unparse(argument) for argument in node.args}
        ):
            yield source.at(node.lineno)


@everywhere
def test_every_exemption_has_its_reason(source: Source) -> None:
    """A `noqa` or a `type: ignore` names its rule and says why the rule is wrong there."""
    reasoned = re.compile(
        r"# noqa: [A-Z]+[0-9]+(, ?[A-Z]+[0-9]+)*\W+\w.+|# type: ignore\[[a-z, -]+\]\W+\w.+"
    )
    bare = [
        f"{source.at(line)}: {comment}"
        for line, comment in source.comments()
        if re.match(r"# ?(noqa|type: ?ignore)", comment) and not reasoned.match(comment)
    ]

    assert not bare


@suites
def test_every_test_says_what_it_shows(source: Source) -> None:
    """A test has a docstring: the behaviour that it shows, as a sentence."""
    silent = [
        f"{source.at(node.lineno)}: {node.name}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not (ast.get_docstring(node) or "").endswith(".")
    ]

    assert not silent


@everywhere
def test_no_text_names_a_machine_of_ours(source: Source) -> None:
    """No path of a developer's machine is in the source."""
    own = ("/wo" + "rk/", "/ro" + "ot/.pyenv")
    assert not [path for path in own if path in source.text]


def test_every_dependency_has_both_bounds_or_a_reason() -> None:
    """A dependency says from which version on it does, and up to which it was thought of."""
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]
    loose = [one for one in wanted if ">=" not in one]
    unbounded = [one for one in wanted if "<" not in one.split(";")[0]]

    assert not loose
    # No upper bound is right only where the line says why.
    assert not [one for one in unbounded if not re.search(rf'"{re.escape(one)}",  # \w', text)]


@pytest.mark.parametrize("name", ["LICENSE", "CHANGELOG.md", "README.md", "Makefile", ".ci/run"])
def test_the_house_has_its_papers(name: str) -> None:
    """What a visitor looks for first is there, and not empty."""
    assert (ROOT / name).stat().st_size > 100


def test_the_readme_shows_the_two_commands() -> None:
    """The README shows the two commands that the Makefile then has."""
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert f"\n{target}: " in makefile


def test_continuous_integration_runs_the_readmes_tests() -> None:
    """CI can be started, requires everything, and runs the README's `make test`."""
    run = ROOT / ".ci" / "run"

    assert run.stat().st_mode & 0o111
    assert "PRECIP_REQUIRE_ALL=1" in run.read_text()
    assert "\nmake test\n" in run.read_text()
