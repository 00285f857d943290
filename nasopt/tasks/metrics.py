"""Quality metrics by name, as Hugging Face's `evaluate` and GLUE define them. All are to be maximised."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

Metric = Callable[[NDArray[np.float32], NDArray[np.generic]], float]
"""(logits of shape (examples, outputs), labels of shape (examples,)) -> score."""


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.generic]) -> float:
    """The share of examples whose largest logit is that of their class.

    Args:
        logits: the model's outputs, shape (examples, classes).
        labels: the right classes, shape (examples,).
    """
    return float(metrics.accuracy_score(labels, logits.argmax(axis=1)))


def f1(logits: NDArray[np.float32], labels: NDArray[np.generic], positive: int = 1) -> float:
    """F1 of the class `positive` of two, the mean over the classes of more.

    Args:
        logits: the model's outputs, shape (examples, classes).
        labels: the right classes, shape (examples,).
        positive: the class that F1 is computed for where there are two.
    """
    if logits.shape[1] != 2:
        return f1_macro(logits, labels)
    predicted = logits.argmax(axis=1)
    return float(metrics.f1_score(labels, predicted, average="binary", pos_label=positive, zero_division=0.0))


def f1_macro(logits: NDArray[np.float32], labels: NDArray[np.generic]) -> float:
    """The mean of the classes' F1, each with the same weight.

    Args:
        logits: the model's outputs, shape (examples, classes).
        labels: the right classes, shape (examples,).
    """
    return float(metrics.f1_score(labels, logits.argmax(axis=1), average="macro", zero_division=0.0))


def f1_micro(logits: NDArray[np.float32], labels: NDArray[np.generic]) -> float:
    """F1 of all decisions together, which is the accuracy where each example has one class.

    Args:
        logits: the model's outputs, shape (examples, classes).
        labels: the right classes, shape (examples,).
    """
    return float(metrics.f1_score(labels, logits.argmax(axis=1), average="micro", zero_division=0.0))


def matthews_correlation(logits: NDArray[np.float32], labels: NDArray[np.generic]) -> float:
    """Matthews correlation of predicted and right classes.

    Args:
        logits: the model's outputs, shape (examples, classes).
        labels: the right classes, shape (examples,).
    """
    return float(metrics.matthews_corrcoef(labels, logits.argmax(axis=1)))


def pearsonr(logits: NDArray[np.float32], labels: NDArray[np.generic]) -> float:
    """Pearson correlation of the only output with the labels; NaN where one is constant.

    Args:
        logits: the model's outputs, shape (examples, 1).
        labels: the right numbers, shape (examples,).
    """
    return float(stats.pearsonr(logits[:, 0], labels).statistic)


def spearmanr(logits: NDArray[np.float32], labels: NDArray[np.generic]) -> float:
    """Spearman rank correlation of the only output with the labels; NaN where one is constant.

    Args:
        logits: the model's outputs, shape (examples, 1).
        labels: the right numbers, shape (examples,).
    """
    return float(stats.spearmanr(logits[:, 0], labels).statistic)


METRICS: Mapping[str, Metric] = {
    function.__name__: function
    for function in (accuracy, f1, f1_macro, f1_micro, matthews_correlation, pearsonr, spearmanr)
}
