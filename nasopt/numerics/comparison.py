"""The difference in quality of two models on the same examples, with a confidence interval: the paired bootstrap.

Examples are drawn with replacement, both models' predictions with them, and the metric is computed anew: the 2.5 % and
97.5 % quantiles of the difference over the resamples are the interval (Efron and Tibshirani 1993, chapter 13: the
percentile interval).

Nothing but counts matters to a metric, so no example is ever drawn one by one. For classes, the numbers of examples
with a given (label, prediction of a, prediction of b) in a resample are multinomial: drawing them is exact, and takes
as long for a million examples as for a thousand. For numbers, how often each example is drawn serves as its weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from nasopt.numerics.resampling import FloatArray, class_scores, pearson, spearman

Verdict: TypeAlias = Literal["better", "worse", "no difference shown"]

RESAMPLES = 4_000
"""Resamples for classes; the ends of the interval then vary by about 1 % of its width from seed to seed."""
NUMBER_RESAMPLES = 2_000
"""Resamples for numbers, where each costs time in proportion to the examples."""
CONFIDENCE = 0.95
SEED = 0
_BLOCK_CELLS = 100_000


@dataclass(frozen=True)
class Difference:
    """The metric of a minus the metric of b, and its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """Whether a is shown to be better: all of the interval lies on one side of 0."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference shown"


def class_difference(
    labels: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    *,
    classes: int,
    metric: str,
    positive: int = 1,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Difference:
    """The difference between two classifiers.

    Args:
        labels: the right class of each example, shape (examples,), below `classes`.
        a: one model's predicted classes, shape (examples,), below `classes`.
        b: the other model's, of the same shape.
        classes: how many classes there are.
        metric: `accuracy`, `f1`, `f1_macro`, `f1_micro` or `matthews_correlation`.
        positive: the class whose F1 score `f1` is, where there are two.
        confidence: of the interval.
        resamples: how often the examples are drawn.
        seed: decides the draws.
    """
    columns = [np.asarray(column, dtype=np.int64) for column in (labels, a, b)]
    if metric in (
        "accuracy",
        "f1_micro",
    ):  # nothing but right or wrong matters: four cells, however many classes there are
        columns = [np.ones_like(columns[0]), *((column == columns[0]).astype(np.int64) for column in columns[1:])]
        classes = 2
    joint = np.ravel_multi_index(columns, (classes,) * 3)
    found, counts = np.unique(joint, return_counts=True)
    right, of_a, of_b = np.unravel_index(found, (classes,) * 3)

    def score(drawn: FloatArray) -> FloatArray:
        mine, theirs = (class_scores(drawn, right, column, classes, metric, positive) for column in (of_a, of_b))
        return mine - theirs

    rng = np.random.default_rng(seed)
    size = int(counts.sum())
    blocks = [
        score(rng.multinomial(size, counts / size, size=block).astype(np.float64))
        for block in _blocks(resamples, len(found))
    ]
    return _interval(score(counts[None].astype(np.float64)), np.concatenate(blocks), confidence)


def class_score(labels: ArrayLike, predicted: ArrayLike, *, classes: int, metric: str, positive: int = 1) -> float:
    """The metric of one classifier; arguments as for :func:`class_difference`, predictions of shape (examples,)."""
    joint = np.ravel_multi_index([np.asarray(column, dtype=np.int64) for column in (labels, predicted)], (classes,) * 2)
    found, counts = np.unique(joint, return_counts=True)
    right, guessed = np.unravel_index(found, (classes,) * 2)
    return float(class_scores(counts[None].astype(np.float64), right, guessed, classes, metric, positive)[0])


def number_scores(
    labels: ArrayLike,
    models: Sequence[ArrayLike],
    *,
    metric: str,
    resamples: int = NUMBER_RESAMPLES,
    seed: int = SEED,
) -> FloatArray:
    """The metric of regressions, shape (models, 1 + resamples): on the examples, then on resamples, the same for all.

    Args:
        labels: the right number of each example, shape (examples,).
        models: the predicted numbers of each model, each of shape (examples,).
        metric: `pearsonr` or `spearmanr`; NaN where one side is constant.
    """
    correlations = {"pearsonr": pearson, "spearmanr": spearman}
    if metric not in correlations:
        raise ValueError(f"`metric` must be pearsonr or spearmanr, but got {metric!r}.")
    right = np.asarray(labels, dtype=np.float64)
    predicted = [np.asarray(column, dtype=np.float64) for column in models]
    rng, size = np.random.default_rng(seed), len(right)
    blocks = [correlations[metric](np.ones((1, size)), right, predicted)]
    for block in _blocks(resamples, size):
        drawn = rng.integers(size, size=(block, size)) + size * np.arange(block)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=block * size).reshape(block, size)
        blocks.append(correlations[metric](weights.astype(np.float64), right, predicted))
    return np.concatenate(blocks, axis=1)


def score_difference(a: FloatArray, b: FloatArray, confidence: float = CONFIDENCE) -> Difference:
    """The difference between two rows of :func:`number_scores`, each of shape (1 + resamples,)."""
    return _interval((a - b)[:1], (a - b)[1:], confidence)


def _interval(observed: FloatArray, resampled: FloatArray, confidence: float) -> Difference:
    """The difference with its interval; resamples in which the metric is not defined do not count."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return Difference(float(observed[0]), float(low), float(high))


def _blocks(rows: int, columns: int) -> Iterator[int]:
    """Numbers of rows that add up to `rows`, so that a block stays small in memory."""
    size = max(1, _BLOCK_CELLS // max(1, columns))
    while rows > 0:
        yield min(size, rows)
        rows -= size
