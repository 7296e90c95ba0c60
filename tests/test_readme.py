"""The README and the pages in docs/: what they show runs, and what they list is what there is."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import json
import re
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

import precip_async
from precip_async import Experiment, ExperimentException, Limits
from precip_async.life import Life
from precip_async.settings import Settings
from tests.sources import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
PATIENCE = 50.0  # seconds for a snippet, which takes about one
PYTHON = (sys.executable, "-W", "error")
VERBS = {
    name: inspect.signature(member)
    for cls in Experiment.__mro__[: Experiment.__mro__.index(Life)]
    for name, member in vars(cls).items()
    if inspect.isfunction(member) and not name.startswith("_")
}
END_OF_CELL = "-- the end of a cell\n"

# Runs the cells that it reads, in one event loop, as Jupyter does: `await` is allowed in them.
NOTEBOOK = f"""
import ast, asyncio, inspect, json, sys

async def notebook(cells):
    names = {{}}
    for cell in cells:
        code = compile(cell, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if inspect.iscoroutine(result := eval(code, names)):
            await result
        print(end={END_OF_CELL!r})

asyncio.run(notebook(json.load(sys.stdin)))
"""
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pages = pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
# They wait for instances that never boot, boot late, or take their time.
SLOW = {"local", "rehearsal", "user-data"}
notebooks = pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] * (page.stem in SLOW))
        for page in PAGES
    ],
)


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of a page that are of `kind`."""
    return [text for language, text in FENCED.findall(page.read_text()) if language == kind]


def table(heading: str) -> list[list[str]]:
    """The cells of the README's table whose first heading is `heading`."""
    _, _, rest = README.read_text().partition(f"\n| {heading} |")
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        (0, r"(i-[0-9a-f]{17} 0 \S+\n\n){3}"),
        (1, r"stdout: Hello world from an experiment instance\n"),
    ],
    ids=["async", "classic"],
)
def test_the_readmes_scripts_run_as_they_stand(block: int, shown: str, tmp_path: Path) -> None:
    """A script copied from the README runs as it is and shows what it is said to show."""
    ran = subprocess.run(
        [*PYTHON, "-c", blocks(README, "python")[block]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert re.search(shown, ran.stdout + ran.stderr)


def test_the_readme_has_no_other_script() -> None:
    """Every Python block of the README is run by the test above."""
    assert len(blocks(README, "python")) == 2


@notebooks
def test_a_page_runs_as_a_notebook(page: Path, tmp_path: Path) -> None:
    """Its Python blocks run in order, sharing their names; a text block is what one prints."""
    cells = list(cells_of(page))
    ran = subprocess.run(
        [*PYTHON, "-c", NOTEBOOK],
        cwd=tmp_path,
        input=json.dumps([code for code, _ in cells]),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    checker = doctest.OutputChecker()
    for (code, wanted), said in zip(cells, ran.stdout.split(END_OF_CELL), strict=False):
        printed = said.rstrip() + "\n"
        shows = wanted is None or checker.check_output(wanted, printed, doctest.ELLIPSIS)
        assert shows, f"{code}\nprints\n{said}"


def cells_of(page: Path) -> Iterator[tuple[str, str | None]]:
    """Each Python block of a page, with the text block that follows it."""
    found = [*FENCED.findall(page.read_text()), ("", "")]
    for (language, code), (next_language, text) in pairwise(found):
        if language == "python":
            yield code, text if next_language == "text" else None


def test_the_table_of_verbs_has_their_signatures() -> None:
    """The table lists every verb with its positional parameters and their defaults."""
    shown = {row[0].strip("`") for row in table("verb")}
    verbs = {name for name in VERBS if name not in ("open", "aclose")}
    actual = {f"{name}({positional(VERBS[name])})" for name in verbs}

    assert shown == actual


def positional(signature: inspect.Signature) -> str:
    """The positional parameters of a verb, as a script would write their defaults."""
    return ", ".join(
        one.name
        if one.default is inspect.Parameter.empty
        else f"{one.name}={one.default!r}".replace("'", '"')
        for one in signature.parameters.values()
        if one.kind is one.POSITIONAL_OR_KEYWORD and one.name != "self"
    )


def test_the_table_of_keywords_is_complete() -> None:
    """The table names every keyword-only parameter, and the verbs that take it."""
    shown = {
        (keyword, verb)
        for keywords, verbs, _ in table("keyword")
        for keyword in re.findall(r"`(\w+)`", keywords)
        for verb in re.findall(r"`(\w+)`", verbs)
    }
    actual = {
        (one.name, name)
        for name, signature in VERBS.items()
        for one in signature.parameters.values()
        if one.kind is one.KEYWORD_ONLY
    }

    assert shown == actual


def test_the_readme_names_every_keyword_of_the_constructors() -> None:
    """Whatever an experiment can be told is found in the README."""
    text = README.read_text()
    names = [field.name for field in dataclasses.fields(Settings)]

    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_limits_that_pages_name_are_the_defaults() -> None:
    """Where a page says what a limit is, that is its default."""
    units = {"s": 1, "MiB": 1 << 20, "GiB": 1 << 30}
    text = "".join(page.read_text() for page in (README, *PAGES))
    named = re.findall(r"`limits\.(\w+)`[ \w]*\((\d+) (\w+)\)", text)

    assert len(named) >= 4
    for name, number, unit in named:
        assert getattr(Limits(), name) == int(number) * units[unit], name


def test_the_tree_of_errors_is_the_tree_there_is() -> None:
    """Each error stands below its base, and none is missing."""
    [tree] = [text for text in blocks(README, "text") if text.startswith("ExperimentException\n")]
    shown: dict[str, str] = {}
    above = ["ExperimentException"]
    for branch, name in re.findall(r"^([│ ]*[├└]── )(\w+)", tree, re.MULTILINE):
        depth = len(branch) // 4
        del above[depth:]
        shown[name] = above[-1]
        above.append(name)
    actual = {
        name: error.__bases__[0].__name__
        for name in precip_async.__all__
        if isinstance(error := getattr(precip_async, name), type)
        and issubclass(error, ExperimentException)
        and error is not ExperimentException
    }

    assert shown == actual


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    """A relative link names a file that is there, and a heading of it."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
