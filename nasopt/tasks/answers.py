"""Reads questions with their contexts and right answers: SQuAD's column of answers, or a text and its place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from nasopt.config.task import DatasetConfig
from nasopt.errors import DatasetError
from nasopt.tasks.texts import is_missing, kind_of, refuse_rows

TEXT, START = "text", "answer_start"
ANSWERS = f"{{{TEXT}: [...], {START}: [...]}} for each question, with empty lists where there is no answer"

_WHOLE = re.compile(r"\d+")
_SHOWN = 40


@dataclass(frozen=True)
class Question:
    """A question with the text that it is about.

    Attributes:
        question: the question.
        context: the text of which an answer is a part.
        answers: the right answers; empty where the context has none.
        starts: the first character of each in the context.
    """

    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


def read_questions(
    data: Mapping[str, Dataset], config: DatasetConfig, start_column: str | None
) -> dict[str, list[Question]]:
    """The questions of every split.

    Args:
        data: the splits by role; their columns of texts were checked.
        config: the study file's `[task.dataset]`: `text` names the columns of questions and of contexts, `label` that
            of the answers.
        start_column: where `label` holds one text for each question, the column of its first character.

    Raises:
        DatasetError: answers are missing or unreadable, or are not where they are said to be.
    """
    return {role: _read(split, role, config, start_column) for role, split in data.items()}


def _read(split: Dataset, role: str, config: DatasetConfig, start_column: str | None) -> list[Question]:
    column = config.label
    texts = (map(str, split[name][:]) for name in config.text)
    if start_column is None:
        answers = _of_squad(split[column][:], role, column)
    else:
        answers = _of_columns(split[column][:], split[start_column][:], role, (column, start_column))
    rows = [Question(question, context, *its) for question, context, its in zip(*texts, answers, strict=True)]
    _refuse_misplaced(rows, role, column)
    return rows


def _of_squad(values: Sequence[Any], role: str, column: str) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Texts and places of each row's answers, from a dictionary of two lists or a list of dictionaries."""
    wanted = f"wanted is {ANSWERS}"
    refuse_rows("label", role, column, [is_missing(value) for value in values], "missing", wanted)
    odd = next((value for value in values if not isinstance(value, dict | list)), None)
    if odd is not None:
        raise DatasetError(
            f"task.dataset.label: the column `{column}` of the {role} split holds labels of the kind {kind_of(odd)}; "
            f"{wanted}, or texts, with their places in the column that task.answers.start names"
        )
    found = [_lists(value) for value in values]
    refuse_rows("label", role, column, [not _is_answers(*lists) for lists in found], "unreadable", wanted)
    return [(tuple(texts), tuple(starts)) for texts, starts in found]


def _lists(value: dict[str, Any] | list[Any]) -> tuple[Any, Any]:
    if isinstance(value, dict):
        return value.get(TEXT), value.get(START)
    if not all(isinstance(item, dict) for item in value):
        return None, None
    return [item.get(TEXT) for item in value], [item.get(START) for item in value]


def _is_answers(texts: Any, starts: Any) -> bool:
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return False
    return all(map(_is_text, texts)) and all(isinstance(start, int) and start >= 0 for start in starts)


def _is_text(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip())


def _of_columns(
    texts: Sequence[Any], starts: Sequence[Any], role: str, columns: tuple[str, str]
) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Texts and places from two columns; a blank or missing text says that there is no answer."""
    column, start_column = columns
    odd = [not is_missing(text) and not isinstance(text, str) for text in texts]
    refuse_rows("label", role, column, odd, "unreadable", "with task.answers.start, texts are wanted")
    given = [_is_text(text) for text in texts]
    places = [_place(start) if its else None for its, start in zip(given, starts, strict=True)]
    bad = [its and place is None for its, place in zip(given, places, strict=True)]
    if any(bad):
        raise DatasetError(
            f"task.answers.start: the {role} split has {sum(bad)} answers without a place in the column "
            f"`{start_column}` (the first in row {bad.index(True)}, counted from 0); wanted is the number of the "
            "answer's first character in the context, counted from 0"
        )
    return [((text,), (place,)) if place is not None else ((), ()) for text, place in zip(texts, places, strict=True)]


def _place(value: Any) -> int | None:
    """A whole number that is not negative, also as a csv file has it (a text) or beside empty cells (a fraction)."""
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and value >= 0 and float(value).is_integer() else None


def _refuse_misplaced(rows: Sequence[Question], role: str, column: str) -> None:
    wrong = [
        (row, answer, start)
        for row, its in enumerate(rows)
        for answer, start in zip(its.answers, its.starts, strict=True)
        if not its.context.startswith(answer, start)
    ]
    if wrong:
        row, answer, start = wrong[0]
        there = rows[row].context[start : start + len(answer)]
        raise DatasetError(
            f"task.dataset.label: {len(wrong)} answers of the {role} split are not where the column `{column}` says "
            f"(the first in row {row}, counted from 0: {_short(answer)} at character {start}, where the context has "
            f"{_short(there)}); correct or remove them"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
