"""Checks of columns of texts and labels; the errors count the bad rows and name the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset, Value

from nasopt.errors import DatasetError

ABSENT = "empty"
"""The adjective for missing values in error messages."""


def check_texts(split: Dataset, role: str, columns: Sequence[str]) -> None:
    """Refuses rows whose text is missing, or is no text (a list of tokens, for example). Numbers count as texts.

    Raises:
        DatasetError: there are such rows; the message counts them and names the first.
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
    """Whether a column is declared to be text and has no null, which is known without a look at every row."""
    rows = split.select_columns(column).with_format("arrow")[:].column(column)
    return split.features[column] in (Value("string"), Value("large_string")) and rows.null_count == 0


def check_pairs(split: Dataset, role: str, columns: Sequence[str]) -> None:
    """Refuses pairs with a blank text.

    Raises:
        DatasetError: there are such pairs; the message counts them and names the first.
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
        role: the split's role.
        column: the column's name.
        bad: true for each bad row, shape (rows,).
        adjective: the word that says what is wrong with them.
        cure: the advice that ends the message.

    Raises:
        DatasetError: there are bad rows; the message counts them and names the first.
    """
    if any(bad):
        raise DatasetError(
            f"task.dataset.{key}: the {role} split has {sum(bad)} {adjective} {key}s in the column `{column}` "
            f"(the first in row {bad.index(True)}, counted from 0); {cure}"
        )


def is_missing(value: Any) -> bool:
    """Whether a value is null or NaN."""
    return value is None or (isinstance(value, float) and value != value)


def kind_of(value: Any) -> str:
    """The type of a value in a word: `list`, `dictionary`, `date`."""
    return {"dict": "dictionary", "datetime": "date"}.get(type(value).__name__, type(value).__name__)
