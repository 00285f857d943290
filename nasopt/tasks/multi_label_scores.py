"""Metrics of several labels for each text, on the texts and on resamples of them; all are to be maximised.

Definitions are scikit-learn's (`f1_score` with `average`, `average_precision_score` with weights), computed for all
resamples at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nasopt.numerics.resampling import FloatArray, ratio

BLOCK = 100
"""The number of resamples whose weights are sorted at a time."""


def multi_label_scores(
    weights: FloatArray, targets: NDArray[np.generic], logits: NDArray[np.float32], metric: str
) -> FloatArray:
    """The metric in each row of weights; shape (rows,).

    A label is given where its probability is above one half, its logit above 0.

    Args:
        weights: how often each example was drawn, shape (rows, examples); see :mod:`nasopt.numerics.resampling`.
        targets: 1 where an example has a label, shape (examples, labels).
        logits: the model's outputs, shape (examples, labels).
        metric: `f1_macro`, the mean of the labels' F1; `f1_micro`, F1 of all decisions together; or
            `mean_average_precision`, the mean of the average precision of the labels that occur in the row.
    """
    if metric == "mean_average_precision":
        each = np.stack([average_precision(weights, targets[:, i], logits[:, i]) for i in range(targets.shape[1])])
        found = ~np.isnan(each)
        return ratio(np.where(found, each, 0.0).sum(axis=0), found.sum(axis=0).astype(np.float64))
    actual, given = targets.astype(np.float64), (logits > 0).astype(np.float64)
    hits, decided = weights @ (actual * given), weights @ (actual + given)  # (rows, labels)
    if metric == "f1_micro":
        return ratio(2 * hits.sum(axis=1), decided.sum(axis=1))
    if metric == "f1_macro":
        means: FloatArray = ratio(2 * hits, decided).mean(axis=1)
        return means
    raise ValueError(f"no metric of several labels: {metric}")


def average_precision(weights: FloatArray, positive: NDArray[np.generic], scores: NDArray[np.float32]) -> FloatArray:
    """Average precision in each row: precision at each threshold, weighted by the recall that it adds.

    Args:
        weights: shape (rows, examples).
        positive: 1 for the examples of the label, shape (examples,).
        scores: shape (examples,); equal ones share a threshold.

    Returns:
        Shape (rows,); NaN where no example is positive.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # the last example of each threshold
    is_positive = positive[order].astype(np.float64)
    parts = []
    for block in np.array_split(weights, range(BLOCK, len(weights), BLOCK)):
        sorted_weights = block[:, order]
        hits = (sorted_weights * is_positive).cumsum(axis=1)[:, ends]
        precision = ratio(hits, sorted_weights.cumsum(axis=1)[:, ends])
        gained = np.diff(hits, axis=1, prepend=0.0)
        positives = hits[:, -1]
        area = (precision * gained).sum(axis=1)
        parts.append(np.divide(area, positives, out=np.full_like(area, np.nan), where=positives > 0))
    return np.concatenate(parts)
