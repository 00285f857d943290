"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "nasopt"

USER_ATTRIBUTES = {
    "user_attrs",
    "set_user_attr",
    "set_trial_user_attr",
    "set_study_user_attr",
    "get_trial_user_attrs",
    "get_study_user_attrs",
}
SYSTEM_ATTRIBUTES = {name.replace("user", "system") for name in USER_ATTRIBUTES}


def uses(path: Path, names: set[str]) -> Iterator[str]:
    """Where a file reads one of these attributes of any object, or calls it, as `file:line name`."""
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
