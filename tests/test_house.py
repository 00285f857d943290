"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from nasopt.config.task import TaskType
from nasopt.tasks.opening import CLASSES

PACKAGE = Path(__file__).parents[1] / "nasopt"

KINDS = {*get_args(TaskType), "encodechka"}
"""Names of the types of tasks, and of the metric that is a benchmark with files of its own."""
TASK_CLASSES = {"Task", "LabelledTask", "EmbeddingTask", *(name for _, name in CLASSES.values())}


def questions_of_type(text: str) -> Iterator[str]:
    """Where a module compares with one of :data:`KINDS`, or asks for a task's class, with their lines."""
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
