"""Entities and their F1 against seqeval's own functions."""

from __future__ import annotations

import random

import numpy as np
import pytest
from seqeval import metrics

from nasopt.numerics.resampling import resample_weights
from nasopt.tasks.entities import ACTUAL, FOUND, HITS, entity_counts, micro_f1

TAGS = ["O", "O", "B-A", "I-A", "B-B", "I-B", "E-A", "S-B"]


def draw(generator: random.Random) -> list[list[str]]:
    return [generator.choices(TAGS, k=size) for size in (1, 4, 9, 30, 2)]


def test_counts_and_f1_are_those_of_seqeval() -> None:
    generator = random.Random(0)
    for _ in range(20):
        actual, found = draw(generator), draw(generator)
        kinds, counts = entity_counts(actual, found)
        hits, given, there = counts.sum(axis=(0, 1))
        assert hits / given == pytest.approx(metrics.precision_score(actual, found))
        assert hits / there == pytest.approx(metrics.recall_score(actual, found))
        weights = np.ones((1, len(actual)))
        assert micro_f1(weights, counts.sum(axis=1))[0] == pytest.approx(metrics.f1_score(actual, found))
        report = metrics.classification_report(actual, found, output_dict=True)
        of_kinds = [micro_f1(weights, counts[:, index])[0] for index in range(len(kinds))]
        assert of_kinds == pytest.approx([report[kind]["f1-score"] for kind in kinds])


def test_resamples_are_the_metric_on_the_texts_that_were_drawn() -> None:
    generator = random.Random(1)
    actual, found = draw(generator), draw(generator)
    weights = resample_weights(len(actual), 20, 0)
    counts = entity_counts(actual, found)[1].sum(axis=1)
    for row, score in zip(weights.astype(int), micro_f1(weights, counts), strict=True):
        drawn = [text for text, times in enumerate(row) for _ in range(times)]
        assert score == pytest.approx(metrics.f1_score([actual[i] for i in drawn], [found[i] for i in drawn]))


def test_an_entity_is_right_if_its_kind_and_both_ends_are() -> None:
    actual = [["B-A", "I-A", "O", "B-B"]]
    kinds, counts = entity_counts(actual, [["B-A", "O", "O", "B-A"]])
    assert kinds == ("A", "B")
    assert counts[0, :, HITS].tolist() == [0, 0]
    assert counts[0, :, FOUND].tolist() == [2, 0]
    assert counts[0, :, ACTUAL].tolist() == [1, 1]


def test_without_entities_f1_is_zero() -> None:
    counts = entity_counts([["O"]], [["O"]])[1].sum(axis=1)
    assert micro_f1(np.ones((1, 1)), counts).tolist() == [0.0]
