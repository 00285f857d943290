"""The results of the benchmark: finished pieces of work, one JSON object a line, so that a second run does the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]


class Results:
    """A file of finished pieces.

    Args:
        path: a JSON-lines file, which need not exist. A last line that a kill cut short counts as not written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, **row: Any) -> None:
        """Appends a finished piece."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = self._path.read_text() if self._path.is_file() else ""
        line = ("\n" if text and not text.endswith("\n") else "") + json.dumps(row) + "\n"
        # One unbuffered write, so that the lines of several processes do not mix.
        with self._path.open("ab", buffering=0) as file:
            file.write(line.encode())

    def rows(self, **wanted: Any) -> list[Row]:
        """The pieces that have these values, in the order in which they were finished."""
        return [row for row in self._read() if all(row.get(key) == value for key, value in wanted.items())]

    def has(self, **wanted: Any) -> bool:
        """Whether a piece with these values is finished."""
        return bool(self.rows(**wanted))

    def _read(self) -> Iterator[Row]:
        if not self._path.is_file():
            return
        for line in self._path.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue  # a kill cut it short: the piece is done again
