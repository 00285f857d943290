"""TF-IDF and a linear model on raw texts."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from nasopt.config.task import TaskConfig
from nasopt.tasks.batches import EncodedSplit
from nasopt.tasks.classification import TextClassification
from nasopt.tasks.tfidf import fit_tfidf


def task_on(model: Path, folder: Path, text: list[str], **settings: object) -> TextClassification:
    dataset = {"path": str(folder), "text": text, "splits": {"train": "train", "validation": "validation"}}
    return TextClassification(TaskConfig.model_validate({"model": str(model), "dataset": dataset, **settings}))


def write(folder: Path, rows: Callable[[int], list[object]], columns: list[str]) -> None:
    for split, size in (("train", 200), ("validation", 100)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns, *(rows(index) for index in range(size))])


def test_one_word_decides(tiny_bert: Path, sentiment: Path, tmp_path: Path) -> None:
    task = task_on(tiny_bert, sentiment, ["text"], max_length=32)
    splits = task.encode(tmp_path)
    found = fit_tfidf(task, splits)
    assert found.outputs.shape == (60, 2)
    assert found.quality > 0.95
    assert found.quality == task.quality(found.outputs, splits["validation"].labels.numpy())
    assert found.seconds > 0


def test_texts_are_those_of_the_data(tiny_bert: Path, sentiment: Path) -> None:
    with (sentiment / "validation.csv").open() as file:
        expected = [row["text"] for row in csv.DictReader(file)]
    assert task_on(tiny_bert, sentiment, ["text"]).texts("validation") == expected


def test_both_texts_of_a_pair_are_read(tiny_bert: Path, tmp_path: Path) -> None:
    write(tmp_path, lambda index: ["a film", ["bad", "good"][index % 2], index % 2], ["first", "second", "label"])
    task = task_on(tiny_bert, tmp_path, ["first", "second"])
    assert task.texts("train")[:2] == ["a film bad", "a film good"]
    assert fit_tfidf(task, task.encode(tmp_path)).quality == 1.0


def test_numbers_are_fitted_by_ridge_regression(tiny_bert: Path, tmp_path: Path) -> None:
    words = ["bad", "poor", "fine", "good", "great"]
    write(tmp_path, lambda index: [f"the film was {words[index % 5]}", index % 5 + 0.5], ["text", "label"])
    task = task_on(tiny_bert, tmp_path, ["text"], metric="spearmanr")
    splits = task.encode(tmp_path)
    found = fit_tfidf(task, splits)
    assert found.outputs.shape == (100, 1)
    assert found.quality == pytest.approx(stats.spearmanr(found.outputs[:, 0], np.arange(100) % 5).statistic)
    assert found.quality > 0.95


def test_a_class_without_training_examples_is_never_predicted(tiny_bert: Path, sentiment: Path, tmp_path: Path) -> None:
    task = task_on(tiny_bert, sentiment, ["text"])
    splits = task.encode(tmp_path)
    one_class = EncodedSplit({}, {}, torch.arange(161), torch.zeros(160, dtype=torch.int64))
    with pytest.raises(ValueError, match="classes"):
        fit_tfidf(task, {**splits, "train": one_class})
