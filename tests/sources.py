"""The project's own source as data, for the tests that read it."""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PACKAGE", "ROOT", "Import", "Source", "package", "suite"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "precip_async"


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module: its full name, where, and whether it is for the type checker only."""

    module: str
    line: int
    typing_only: bool
    in_function: bool


@dataclass(frozen=True)
class Source:
    """One module's text; `name` is its full dotted name."""

    name: str
    path: Path
    text: str

    def __str__(self) -> str:
        return self.name

    @functools.cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text, str(self.path))

    @property
    def room(self) -> str:
        """Its first name inside the package: ``ssh`` for ``precip_async.ssh.pool``."""
        return self.name.removeprefix(PACKAGE).lstrip(".").split(".")[0]

    def at(self, line: int) -> str:
        """A place in it, as editors understand it."""
        return f"{self.path.relative_to(ROOT)}:{line}"

    def imports(self) -> Iterator[Import]:
        """All that it imports; names taken from a package that are modules count as those."""
        yield from self._imports(self.tree, typing_only=False, in_function=False)

    def _imports(self, node: ast.AST, *, typing_only: bool, in_function: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for module in self._modules(child):
                    yield Import(module, child.lineno, typing_only, in_function)
            # An `else` of TYPE_CHECKING would be read as typing only; nobody writes one.
            guarded = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from self._imports(
                child, typing_only=typing_only or guarded, in_function=in_function or function
            )

    def _modules(self, node: ast.Import | ast.ImportFrom) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        base = self._absolute(node)
        parts = [f"{base}.{alias.name}" for alias in node.names]
        found = [part for part in parts if part in names()]
        return found if len(found) == len(parts) else [*found, base]

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parents = self.name.split(".")
        if self.path.name != "__init__.py":
            parents = parents[:-1]
        parents = parents[: len(parents) - (node.level - 1)]
        return ".".join([*parents, *([node.module] if node.module else [])])

    def comments(self) -> Iterator[tuple[int, str]]:
        """Line and text of each comment."""
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string

    def exported(self) -> list[str] | None:
        """Its ``__all__``; ``None`` where it has none."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return [str(name) for name in ast.literal_eval(node.value)]
        return None

    def defined(self) -> set[str]:
        """The names that its top level defines, imports left out."""
        found: set[str] = set()
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Assign):
                found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
        return found


@functools.cache
def names() -> frozenset[str]:
    """The full names of the package's modules and sub-packages."""
    return frozenset(name for name, _ in _modules(ROOT / PACKAGE))


@functools.cache
def package() -> tuple[Source, ...]:
    """All modules of the package."""
    return tuple(Source(name, path, path.read_text()) for name, path in _modules(ROOT / PACKAGE))


@functools.cache
def suite() -> tuple[Source, ...]:
    """All modules beneath tests/."""
    return tuple(Source(name, path, path.read_text()) for name, path in _modules(ROOT / "tests"))


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path
