"""Columns of texts: a value that is no text is named with its place."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from nasopt.errors import DatasetError
from nasopt.tasks.texts import check_pairs, check_texts


@pytest.mark.parametrize("values", [["a", ""], [1, 2], [0.5, 1.0]])
def test_numbers_are_texts_and_so_is_nothing_written(values: list[Any]) -> None:
    check_texts(Dataset.from_dict({"text": values}), "train", ["text"])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["a", None, "b", None], r"text: the train split has 2 empty texts in the column `text` .*row 1"),
        ([0.5, float("nan")], r"1 empty texts .*row 1"),
        ([["a", "b"], ["c"]], r"2 list-valued texts .*row 0.*join the tokens"),
        ([{"en": "a"}], r"1 dictionary-valued texts"),
        ([True, False], r"2 bool-valued texts"),
    ],
)
def test_what_is_no_text_is_told_where_it_is(values: list[Any], reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        check_texts(Dataset.from_dict({"text": values}), "train", ["text"])


def test_a_pair_needs_both_halves() -> None:
    split = Dataset.from_dict({"a": ["x", "y"], "b": ["z", " "]})
    check_texts(split, "test", ["a", "b"])
    with pytest.raises(DatasetError, match=r"the test split has 1 empty texts in the column `b` .*row 1.*these pairs"):
        check_pairs(split, "test", ["a", "b"])
