"""The layout: the place of files, and their imports, beyond what import-linter can check."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from nasopt.config.task import TaskType
from nasopt.methods.base import Method
from nasopt.methods.registry import available
from nasopt.tasks.opening import CLASSES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nasopt"
LOOSE = {"__init__.py", "__main__.py", "errors.py", "version.py", "py.typed"}
OWN = {"self", "cls"}
NAMED_TUPLES = {"_asdict", "_replace", "_fields", "_make"}
"""Names that are public, for all their underscores."""


USER_ATTRIBUTES = {
    "user_attrs",
    "set_user_attr",
    "set_trial_user_attr",
    "set_study_user_attr",
    "get_trial_user_attrs",
    "get_study_user_attrs",
}
SYSTEM_ATTRIBUTES = {name.replace("user", "system") for name in USER_ATTRIBUTES}

KINDS = {*get_args(TaskType), "encodechka"}
"""Names of the types of tasks, and of the metric that is a benchmark with files of its own."""
TASK_CLASSES = {"Task", "LabelledTask", "EmbeddingTask", *(name for _, name in CLASSES.values())}


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
    for path in (ROOT / "tests").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path
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
    beside = {"benchmarks", "docs", "faults", "properties", "scripts", "testing", "examples", "stored"}
    for path in (ROOT / "tests").rglob("test_*.py"):
        place = path.relative_to(ROOT / "tests")
        if len(place.parts) == 1 or place.parts[0] in beside:
            continue
        assert (PACKAGE / place.parent).is_dir(), place


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLES


@cache
def private_names_of_optuna() -> frozenset[str]:
    """Every private name that Optuna or optuna-dashboard defines, and their private modules."""
    found: set[str] = set()
    for package in ("optuna", "optuna_dashboard"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for path in Path(spec.origin).parent.rglob("*.py"):
            found.add(path.stem if path.stem != "__init__" else path.parent.name)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    found.add(node.name)
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    found.add(node.attr)
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    found.add(node.id)
    return frozenset(filter(is_private, found))


def private_uses(text: str) -> Iterator[str]:
    """Private names of Optuna and optuna-dashboard that a module uses, with their lines."""
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id in OWN):
            names = [node.attr]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            names = [item.value for item in node.args if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optuna"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for item in node.names if item.name.startswith("optuna") for part in item.name.split(".")]
        yield from (f"line {node.lineno}: {name}" for name in names if name in private_names_of_optuna())


def test_private_names_of_optuna_are_in_one_place() -> None:
    """Elsewhere an upgrade of Optuna would break what no test watches."""
    allowed = [PACKAGE / "storage" / "internals.py", *(PACKAGE / "samplers").rglob("*.py")]
    found = {
        str(path.relative_to(PACKAGE)): uses
        for path in sorted(PACKAGE.rglob("*.py"))
        if path not in allowed and (uses := list(private_uses(path.read_text(encoding="utf-8"))))
    }
    assert not found, f"use them by functions of nasopt/storage/internals.py: {found}"


@pytest.mark.parametrize(
    "text",
    [
        "study._storage.get_all_studies()",
        "getattr(study, '_storage')",
        "from optuna_dashboard import _note",
        "from optuna.samplers._lazy_random_state import LazyRandomState",
        "import optuna.storages._rdb",
    ],
)
def test_private_names_are_seen(text: str) -> None:
    assert list(private_uses(text))


@pytest.mark.parametrize("text", ["self._storage = 1", "place._replace(a=1)", "torch._dynamo.reset()"])
def test_other_names_are_not(text: str) -> None:
    assert not list(private_uses(text))


def uses(path: Path, names: set[str]) -> Iterator[str]:
    """Places in which a file reads one of these attributes of any object, or calls it, as `file:line name`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in names:
            yield f"{path.relative_to(PACKAGE)}:{node.lineno} {node.attr}"


def outside(*rooms: str) -> list[Path]:
    """Every file of the package that lies in none of these folders or files."""
    allowed = [PACKAGE / room for room in rooms]
    return [path for path in PACKAGE.rglob("*.py") if not any(path.is_relative_to(room) for room in allowed)]


def test_only_records_touch_user_attributes() -> None:
    # `storage/internals.py` sets one in the trial of a process that is gone, as records tell it.
    found = [use for path in outside("records", "storage/internals.py") for use in uses(path, USER_ATTRIBUTES)]
    assert not found, found
    rooms = outside("records", "samplers", "storage/internals.py")
    found = [use for path in rooms for use in uses(path, SYSTEM_ATTRIBUTES)]
    assert not found, found


def questions_of_type(text: str) -> Iterator[str]:
    """Places in which a module compares with one of :data:`KINDS`, or asks for a task's class, with their lines."""
    for node in ast.walk(ast.parse(text)):
        asked: list[str] = []
        if isinstance(node, ast.Compare):
            asked = [
                item.value
                for operand in (node.left, *node.comparators)
                for item in ast.walk(operand)
                if isinstance(item, ast.Constant) and isinstance(item.value, str) and item.value in KINDS
            ]
        elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            asked = [str(node.value.value)] if node.value.value in KINDS else []
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id
            in (
                "isinstance",
                "issubclass",
            )
        ):
            names = (item.id for item in ast.walk(node.args[1]) if isinstance(item, ast.Name))
            asked = [name for name in names if name in TASK_CLASSES]
        yield from (f"line {node.lineno}: {name}" for name in asked)


def test_only_tasks_ask_for_the_type() -> None:
    """Whatever else depends on a task is declared by its class, or by `nasopt.config.task.TRAITS`."""
    allowed = [PACKAGE / "tasks", PACKAGE / "config"]
    found = {
        str(path.relative_to(PACKAGE)): uses
        for path in sorted(PACKAGE.rglob("*.py"))
        if not any(path.is_relative_to(room) for room in allowed)
        and (uses := list(questions_of_type(path.read_text(encoding="utf-8"))))
    }
    assert not found, f"let the task declare it: {found}"


@pytest.mark.parametrize(
    "text",
    [
        "task.type == 'translation'",
        "config.task.type in ('translation', 'sentence-similarity')",
        "metric != 'encodechka'",
        "isinstance(context.task, TextClassification)",
        "isinstance(task, Translation | SentenceSimilarity)",
        "match kind:\n    case 'translation':\n        pass",
    ],
)
def test_questions_of_type_are_seen(text: str) -> None:
    assert list(questions_of_type(text))


@pytest.mark.parametrize("text", ["config.task.type not in method.task_types", "kinds = ('translation',)"])
def test_declarations_are_not(text: str) -> None:
    assert not list(questions_of_type(text))
