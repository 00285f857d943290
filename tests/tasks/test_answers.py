"""Answers as people's files have them, and those that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset, Features, Sequence, Value

from nasopt.config.task import DatasetConfig
from nasopt.errors import DatasetError
from nasopt.tasks.answers import Question, read_questions

CONTEXT = "Paris is in France"
CONFIG = DatasetConfig(path="d", text=("question", "context"), label="answers")
EXPECTED = [Question("where", CONTEXT, ("France", "in France"), (12, 9)), Question("who", CONTEXT, (), ())]


def split(answers: list[Any], **columns: list[Any]) -> Dataset:
    questions = ["where", "who"][: len(answers)]
    return Dataset.from_dict(
        {"question": questions, "context": [CONTEXT] * len(answers), "answers": answers, **columns}
    )


def read(data: Dataset, start: str | None = None) -> list[Question]:
    return read_questions({"train": data}, CONFIG, start)["train"]


def test_squad_s_column_in_all_its_forms() -> None:
    lists = [{"text": ["France", "in France"], "answer_start": [12, 9]}, {"text": [], "answer_start": []}]
    assert read(split(lists)) == EXPECTED
    assert (
        read(split([[{"text": "France", "answer_start": 12}, {"text": "in France", "answer_start": 9}], []]))
        == EXPECTED
    )
    answers = Sequence({"text": Value("string"), "answer_start": Value("int32")})
    features = Features({"question": Value("string"), "context": Value("string"), "answers": answers})
    assert read(split(lists).cast(features)) == EXPECTED


@pytest.mark.parametrize("starts", [[12, None], ["12", ""], [12, -1], [12.0, float("nan")]])
def test_two_plain_columns(starts: list[Any]) -> None:
    for texts in (["France", None], ["France", ""]):
        found = read(split(texts, place=starts), "place")
        assert found == [Question("where", CONTEXT, ("France",), (12,)), EXPECTED[1]]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([None, {"text": [], "answer_start": []}], r"1 missing labels in the column `answers` \(the first in row 0"),
        (["France"], r"holds labels of the kind str; wanted is .*task.answers.start names"),
        ([{"text": ["France"], "answer_start": []}], "1 unreadable labels"),
        ([{"text": ["France"], "start": [12]}], "1 unreadable labels"),
        ([{"text": [" "], "answer_start": [5]}], "1 unreadable labels"),
        ([{"text": ["France"], "answer_start": [-1]}], "1 unreadable labels"),
        ([["France"]], "1 unreadable labels"),
        (
            [{"text": ["France", "Rome"], "answer_start": [12, 0]}, {"text": ["Rome"], "answer_start": [90]}],
            r"2 answers of the train split are not where the column `answers` says \(the first in row 0, counted from "
            r"0: 'Rome' at character 0, where the context has 'Pari'\); correct or remove them",
        ),
    ],
)
def test_unreadable_and_misplaced_ones_are_one_line(answers: list[Any], reason: str) -> None:
    with pytest.raises(DatasetError, match=reason) as found:
        read(split(answers))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("place", [None, "twelve", -1.0, 1.5, float("inf")])
def test_an_answer_needs_a_place(place: Any) -> None:
    with pytest.raises(DatasetError, match=r"task.answers.start: the train split has 1 answers without a place"):
        read(split(["France"], place=[place]), "place")


def test_plain_answers_are_texts() -> None:
    with pytest.raises(DatasetError, match=r"with task\.answers\.start, texts are wanted"):
        read(split([5], place=[0]), "place")
