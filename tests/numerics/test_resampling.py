"""Weights and weighted scores against examples that are really repeated."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from nasopt.numerics.resampling import resample_weights, roc_auc


def test_weights_are_ones_and_then_draws_with_replacement() -> None:
    weights = resample_weights(50, 400, (0, 7))

    assert weights.shape == (401, 50)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 50).all()
    assert abs(weights[1:].var() - 49 / 50) < 0.05  # of a binomial of 50 draws with chance 1 / 50
    np.testing.assert_array_equal(weights, resample_weights(50, 400, (0, 7)))
    assert (weights != resample_weights(50, 400, (0, 8))).any()


def test_roc_auc_is_that_of_repeated_examples_ties_included() -> None:
    rng = np.random.default_rng(0)
    positive, scores = rng.random(40) < 0.4, rng.integers(10, size=40) / 10
    weights = resample_weights(40, 20, 0)

    areas = roc_auc(weights, positive, scores)

    for area, row in zip(areas, weights.astype(int), strict=True):
        expected = roc_auc_score(np.repeat(positive, row), np.repeat(scores, row))
        assert abs(area - expected) < 1e-12


def test_roc_auc_of_one_class_is_not_a_number() -> None:
    weights = np.array([[1.0, 1.0], [2.0, 0.0]])

    areas = roc_auc(weights, [True, False], [0.9, 0.1])

    assert areas[0] == 1
    assert np.isnan(areas[1])
