"""Metrics of resampled examples: an example counts as often as it was drawn (the paired bootstrap).

Every function takes many resamples at once, as rows of whole numbers that say how often each example was drawn; a row
of ones is the examples themselves. Two models whose rows are the same are compared on the same resamples, so that the
difference of their scores has an interval of its own (Efron and Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray: TypeAlias = NDArray[np.float64]


def resample_weights(examples: int, resamples: int, seed: int | Sequence[int]) -> FloatArray:
    """The number of times each example is drawn; shape (1 + resamples, examples): ones, then draws with replacement."""
    drawn = np.random.default_rng(seed).integers(examples, size=(resamples, examples))
    drawn += examples * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * examples).reshape(resamples, examples)
    return np.concatenate([np.ones((1, examples)), counts.astype(np.float64)])


def roc_auc(weights: FloatArray, positive: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Area under the ROC curve in each row: the share of (positive, negative) pairs in the right order, ties half.

    Args:
        weights: shape (rows, examples).
        positive: true for the examples of the positive class, shape (examples,).
        scores: each example's score, shape (examples,); a higher one means more likely positive.

    Returns:
        Shape (rows,); NaN where a class does not occur.
    """
    is_positive = np.asarray(positive, dtype=bool)
    of_positive = weights * is_positive
    positives = of_positive.sum(axis=1)
    pairs = positives * (weights.sum(axis=1) - positives)
    ranks = np.einsum("ij,ij->i", of_positive, weighted_ranks(weights, np.asarray(scores, dtype=np.float64)))
    won = ranks - positives * (positives + 1) / 2
    area: FloatArray = np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0)
    return area


def class_scores(
    counts: FloatArray,
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: int,
    metric: str,
    positive: int = 1,
) -> FloatArray:
    """The metric of each row of counts, as :mod:`nasopt.tasks.metrics` defines it; shape (rows,).

    Args:
        counts: how many examples have the cell's label and prediction, shape (rows, cells).
        labels: each cell's label, shape (cells,).
        predicted: each cell's prediction, shape (cells,).
        classes: how many classes there are.
        metric: the name of a metric for classes.
        positive: the class whose F1 score `f1` is, where there are two.
    """
    total = counts.sum(axis=1)
    correct = counts @ (labels == predicted).astype(np.float64)
    if metric in ("accuracy", "f1_micro"):  # the same where each example has one class
        return ratio(correct, total)
    one_hot = np.eye(classes)
    actual, guessed = counts @ one_hot[labels], counts @ one_hot[predicted]  # (rows, classes)
    if metric in ("f1", "f1_macro"):
        hits = counts @ (one_hot[labels] * (labels == predicted)[:, None])
        each = ratio(2 * hits, actual + guessed)
        if metric == "f1" and classes == 2:
            return each[:, positive]
        return ratio(each.sum(axis=1), ((actual + guessed) > 0).sum(axis=1))
    if metric == "matthews_correlation":
        covariance = correct * total - (actual * guessed).sum(axis=1)
        spread = (total**2 - (actual**2).sum(axis=1)) * (total**2 - (guessed**2).sum(axis=1))
        return ratio(covariance, np.sqrt(spread))
    raise ValueError(f"`metric` must be accuracy, f1, f1_macro, f1_micro or matthews_correlation, but got {metric!r}.")


def pearson(weights: FloatArray, labels: FloatArray, models: Sequence[FloatArray]) -> FloatArray:
    """Pearson's correlation of each model with the labels, in each row of the weights.

    Args:
        weights: how often each example was drawn, shape (rows, examples).
        labels: the right numbers, shape (examples,).
        models: each model's predictions, shape (examples,).

    Returns:
        Shape (models, rows); NaN where one side is constant.
    """
    y = labels - labels.mean()
    total = weights.sum(axis=1)
    found = []
    for model in models:
        x = model - model.mean()
        sx, sy, sxx, syy, sxy = (weights @ np.stack([x, y, x * x, y * y, x * y], axis=1)).T
        spread = (total * sxx - sx * sx) * (total * syy - sy * sy)
        found.append(_correlation(total * sxy - sx * sy, spread))
    return np.stack(found)


def spearman(weights: FloatArray, labels: FloatArray, models: Sequence[FloatArray]) -> FloatArray:
    """Spearman's correlation of each model with the labels, shape (models, rows); arguments as in :func:`pearson`."""
    # Ranks have the mean (examples + 1) / 2 in every resample, whatever the ties.
    middle = (weights.shape[1] + 1) / 2
    weighted = weighted_ranks(weights, labels)
    weighted -= middle
    right = weighted.copy()
    weighted *= weights
    spread = np.einsum("ij,ij->i", weighted, right)
    found = []
    for model in models:
        ranks = weighted_ranks(weights, model)
        ranks -= middle
        found.append(
            _correlation(
                np.einsum("ij,ij->i", weighted, ranks), spread * np.einsum("ij,ij,ij->i", weights, ranks, ranks)
            )
        )
    return np.stack(found)


def weighted_ranks(weights: FloatArray, values: FloatArray) -> FloatArray:
    """Ranks (ties share their mean) that the examples have where each occurs `weights` times; shape (rows, examples).

    Args:
        weights: whole numbers, shape (rows, examples).
        values: shape (examples,).
    """
    distinct, group_of = np.unique(values, return_inverse=True)
    order = np.argsort(group_of, kind="stable")
    groups = weights[:, order]
    if len(distinct) < len(values):
        groups = np.add.reduceat(groups, np.searchsorted(group_of[order], np.arange(len(distinct))), axis=1)
    ranks = np.cumsum(groups, axis=1)
    groups -= 1
    groups /= 2
    ranks -= groups
    result: FloatArray = ranks[:, group_of]
    return result


def _correlation(covariance: FloatArray, spread: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation: FloatArray = covariance / np.sqrt(spread)
    return correlation


def ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """`above` / `below`, and 0 where `below` is 0, which is scikit-learn's default `zero_division`."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
