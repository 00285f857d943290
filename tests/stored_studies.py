"""Brings back the studies that an earlier version made (see tests/stored/README.md)."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

STORED = Path(__file__).parent / "stored" / "v1"
SQL = "studies.sql"
EXPECTED = "expected.json"
PLACEHOLDER = "@FOLDER@"
"""The text that stands in the stored texts for the folder of the studies."""
DATABASE = "nasopt.db"
ARTIFACTS = f"{DATABASE}.artifacts"


def restore(folder: Path) -> str:
    """Copies the stored studies into an existing folder, from which they can be resumed and exported.

    Returns:
        The URL of their database.
    """
    folder = folder.resolve()
    for source in STORED.iterdir():
        target = folder / (ARTIFACTS if source.name == "artifacts" else source.name)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.name not in (SQL, EXPECTED):
            shutil.copy(source, target)
    # Every path is part of a JSON string within an SQL string.
    script = (STORED / SQL).read_text(encoding="utf-8").replace(PLACEHOLDER, _as_json(folder).replace("'", "''"))
    with closing(sqlite3.connect(folder / DATABASE)) as connection:
        connection.executescript(script)
    return f"sqlite:///{folder / DATABASE}"


def expected(folder: Path) -> dict[str, dict[str, Any]]:
    """The `-f json` output of the version that made them, by study and then by command: `show`, `trials`, `pareto`.

    Args:
        folder: the folder in which they were restored.
    """
    text = (STORED / EXPECTED).read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text.replace(PLACEHOLDER, _as_json(folder.resolve())))
    return found


def _as_json(folder: Path) -> str:
    return json.dumps(str(folder))[1:-1]


def as_before(printed: str) -> Any:
    """The output of a command, without the keys that only later versions print."""
    shown = json.loads(printed)
    for record in shown if isinstance(shown, list) else (shown,):
        for name in ("against_base", "knee", "outside", "provisional"):
            record.pop(name, None)
        record.get("not_trained", {}).pop("screened", None)
    return shown
