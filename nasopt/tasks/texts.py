"""Columns of texts and labels, checked before anything is made of them: the first bad row is named, and how many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset, Value

from nasopt.errors import DatasetError

ABSENT = "empty"
"""What a missing value is called."""


def check_texts(split: Dataset, role: str, columns: Sequence[str]) -> None:
    """Refuses rows whose text is missing, or is no text (a list of tokens, for example). Numbers count as texts.

    Raises:
        DatasetError: says how many, and where the first is.
    """
    for column in columns:
        if _is_whole(split, column):
            continue
        values = split[column][:]
        refuse_rows("text", role, column, [is_missing(value) for value in values], ABSENT)
        odd = [not isinstance(value, str | int | float) or isinstance(value, bool) for value in values]
        if any(odd):
            kind = kind_of(values[odd.index(True)])
            cure = "join the tokens of each to one text" if kind == "list" else "texts are wanted"
            refuse_rows("text", role, column, odd, f"{kind}-valued", cure)


def _is_whole(split: Dataset, column: str) -> bool:
    """Whether a column is declared to be text and misses none, which is known without looking at every row."""
    rows = split.select_columns(column).with_format("arrow")[:].column(column)
    return split.features[column] in (Value("string"), Value("large_string")) and rows.null_count == 0


def check_pairs(split: Dataset, role: str, columns: Sequence[str]) -> None:
    """Refuses pairs of which one half is blank.

    Raises:
        DatasetError: says how many, and where the first is.
    """
    for column in columns:
        blank = [not str(text).strip() for text in split[column][:]]
        refuse_rows("text", role, column, blank, ABSENT, "remove these pairs")


def refuse_rows(
    key: str, role: str, column: str, bad: Sequence[bool], adjective: str, cure: str = "remove these rows"
) -> None:
    """Refuses a column if it has bad rows.

    Args:
        key: `text` or `label`, the column's key in `[task.dataset]`.
        role: of the split.
        column: its name.
        bad: which rows are, shape (rows,).
        adjective: what they are.
        cure: what to do about it.

    Raises:
        DatasetError: says how many rows are bad, and where the first is.
    """
    if any(bad):
        raise DatasetError(
            f"task.dataset.{key}: the {role} split has {sum(bad)} {adjective} {key}s in the column `{column}` "
            f"(the first in row {bad.index(True)}, counted from 0); {cure}"
        )


def is_missing(value: Any) -> bool:
    """Whether a value says that there is none: null, or not a number."""
    return value is None or (isinstance(value, float) and value != value)


def kind_of(value: Any) -> str:
    """The type of a value in a word: `list`, `dictionary`, `date`."""
    return {"dict": "dictionary", "datetime": "date"}.get(type(value).__name__, type(value).__name__)
