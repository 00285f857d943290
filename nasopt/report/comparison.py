"""The difference in quality of two models on the same examples, with a confidence interval: the paired bootstrap.

Examples are drawn with replacement, both models' predictions with them, and the metric is computed anew: the 2.5 % and
97.5 % quantiles of the difference over the resamples are the interval (Efron and Tibshirani 1993, chapter 13: the
percentile interval).

Nothing but counts matters to a metric, so no example is ever drawn one by one. For classes, the numbers of examples
with a given (label, prediction of a, prediction of b) in a resample are multinomial: drawing them is exact, and takes
as long for a million examples as for a thousand. For numbers, how often each example is drawn serves as its weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray: TypeAlias = NDArray[np.float64]
Verdict: TypeAlias = Literal["better", "worse", "no difference shown"]

RESAMPLES = 10_000
"""For classes; the ends of the interval then vary by about 2 % of its width from seed to seed."""
NUMBER_RESAMPLES = 2_000
"""For numbers, where a resample costs time in proportion to the examples."""
CONFIDENCE = 0.95
SEED = 0
_BLOCK_CELLS = 2_000_000


@dataclass(frozen=True)
class Difference:
    """Metric of a minus metric of b, and its confidence interval."""

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
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Difference:
    """Of two classifiers.

    Args:
        labels: the right class of each example, shape (examples,), below `classes`.
        a: the predicted class, likewise.
        b: the other model's.
        classes: how many there are.
        metric: `accuracy`, `f1` or `matthews_correlation`.
    """
    joint = np.stack([np.asarray(column, dtype=np.int64) for column in (labels, a, b)], axis=1)
    cells, counts = np.unique(joint, axis=0, return_counts=True)

    def score(drawn: FloatArray) -> FloatArray:
        of_a, of_b = (class_scores(drawn, cells[:, 0], cells[:, column], classes, metric) for column in (1, 2))
        return of_a - of_b

    rng = np.random.default_rng(seed)
    size = int(counts.sum())
    blocks = [
        score(rng.multinomial(size, counts / size, size=block).astype(np.float64))
        for block in _blocks(resamples, len(cells))
    ]
    return _interval(score(counts[None].astype(np.float64)), np.concatenate(blocks))


def number_difference(
    labels: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    *,
    metric: str,
    resamples: int = NUMBER_RESAMPLES,
    seed: int = SEED,
) -> Difference:
    """Of two regressions.

    Args:
        labels: the right number of each example, shape (examples,).
        a: the predicted number, likewise.
        b: the other model's.
        metric: `pearsonr` or `spearmanr`.
    """
    right, of_a, of_b = (np.asarray(column, dtype=np.float64) for column in (labels, a, b))

    def score(weights: FloatArray) -> FloatArray:
        if metric == "spearmanr":
            x, y, z = (weighted_ranks(weights, column) for column in (of_a, of_b, right))
        elif metric == "pearsonr":
            x, y, z = (np.broadcast_to(column, weights.shape) for column in (of_a, of_b, right))
        else:
            raise ValueError(f"`metric` must be pearsonr or spearmanr, but got {metric!r}.")
        return weighted_correlation(weights, x, z) - weighted_correlation(weights, y, z)

    rng = np.random.default_rng(seed)
    size = len(right)
    blocks = []
    for block in _blocks(resamples, size):
        drawn = rng.integers(size, size=(block, size)) + size * np.arange(block)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=block * size).reshape(block, size)
        blocks.append(score(weights.astype(np.float64)))
    return _interval(score(np.ones((1, size))), np.concatenate(blocks))


def class_scores(
    counts: FloatArray, labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, metric: str
) -> FloatArray:
    """The metric of each row of counts, as :mod:`nasopt.tasks.metrics` defines it; shape (rows,).

    Args:
        counts: shape (rows, cells): how many examples have the cell's label and prediction.
        labels: shape (cells,).
        predicted: shape (cells,).
    """
    total = counts.sum(axis=1)
    correct = counts @ (labels == predicted).astype(np.float64)
    if metric == "accuracy":
        return _ratio(correct, total)
    one_hot = np.eye(classes)
    actual, guessed = counts @ one_hot[labels], counts @ one_hot[predicted]  # (rows, classes)
    if metric == "f1":
        hits = counts @ (one_hot[labels] * (labels == predicted)[:, None])
        each = _ratio(2 * hits, actual + guessed)
        if classes == 2:
            return each[:, 1]
        return _ratio(each.sum(axis=1), ((actual + guessed) > 0).sum(axis=1))
    if metric == "matthews_correlation":
        covariance = correct * total - (actual * guessed).sum(axis=1)
        spread = (total**2 - (actual**2).sum(axis=1)) * (total**2 - (guessed**2).sum(axis=1))
        return _ratio(covariance, np.sqrt(spread))
    raise ValueError(f"`metric` must be accuracy, f1 or matthews_correlation, but got {metric!r}.")


def weighted_correlation(weights: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Pearson correlation of each row, shape (rows,); NaN where one side is constant. All of shape (rows, examples)."""
    total = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    weighted = weights * x
    spread = (weighted * x).sum(axis=1) * (weights * y * y).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation: FloatArray = (weighted * y).sum(axis=1) / np.sqrt(spread)
    return correlation


def weighted_ranks(weights: FloatArray, values: FloatArray) -> FloatArray:
    """Ranks (ties share their mean) that the examples have where each occurs `weights` times; shape (rows, examples).

    Args:
        weights: whole numbers, shape (rows, examples).
        values: shape (examples,).
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    groups = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(groups, axis=1) - (groups - 1) / 2
    group_of = np.empty(len(values), dtype=np.int64)
    group_of[order] = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(values)]))
    result: FloatArray = ranks[:, group_of]
    return result


def _interval(observed: FloatArray, resampled: FloatArray) -> Difference:
    """Resamples in which the metric is not defined do not count."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return Difference(float(observed[0]), float(low), float(high))


def _blocks(rows: int, columns: int) -> Iterator[int]:
    """Numbers of rows that add up to `rows`, so that a block stays small in memory."""
    size = max(1, _BLOCK_CELLS // max(1, columns))
    while rows > 0:
        yield min(size, rows)
        rows -= size


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Where nothing is below, 0: as scikit-learn's `zero_division` has it."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
