"""The layout: what lies where, and who knows whom, beyond what import-linter can say."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

from nasopt.methods.base import Method
from nasopt.methods.registry import available

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nasopt"
LOOSE = {"__init__.py", "__main__.py", "errors.py", "version.py", "py.typed"}


def modules() -> dict[str, Path]:
    """Every file of the package by its dotted name; a package's own file by the package's."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    """The files of the package that a file imports, also inside of functions; not for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module in known:
            yield from (
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module
                for alias in node.names
            )
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        else:
            yield from imported(node, known)


def test_nothing_lies_loose() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} <= LOOSE


def test_no_circle_of_files() -> None:
    known = modules()
    graph = {name: set(imported(ast.parse(path.read_text()), known)) - {name} for name, path in known.items()}
    assert sum(map(len, graph.values())) > 500  # the walk finds what there is
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_long_files_and_functions() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and "nasopt/cli" not in path.as_posix():
                assert code_lines(node) <= 50, f"{path}: {node.name}"


def code_lines(function: ast.FunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
    return (function.end_lineno or 0) - first.lineno + 1


def test_the_base_class_of_methods_is_small_and_knows_none() -> None:
    members = {name for name in {**vars(Method), **Method.__annotations__} if not name.startswith("_")}
    assert len(members) <= 12, sorted(members)
    text = (PACKAGE / "methods" / "base.py").read_text().lower()
    assert not [name for name in available() if name in text]


def test_every_test_file_has_its_counterpart() -> None:
    beside = {"docs", "faults", "properties", "scripts", "testing", "examples", "stored"}
    for path in (ROOT / "tests").rglob("test_*.py"):
        place = path.relative_to(ROOT / "tests")
        if len(place.parts) == 1 or place.parts[0] in beside:
            continue
        assert (PACKAGE / place.parent).is_dir(), place
