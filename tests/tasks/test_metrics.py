"""Metrics against values worked out by hand."""

import numpy as np
import pytest

from nasopt.tasks.metrics import METRICS, f1

LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 0])
PREDICTED = np.array([1, 1, 0, 1, 0, 0, 0, 0])  # 2 true positives, 1 false negative, 1 false positive, 4 true negatives
LOGITS = np.eye(2, dtype=np.float32)[PREDICTED]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 6 / 8),
        ("f1", 2 * 2 / (2 * 2 + 1 + 1)),
        ("f1_macro", (2 * 2 / (2 * 2 + 1 + 1) + 2 * 4 / (2 * 4 + 1 + 1)) / 2),
        ("f1_micro", 6 / 8),
        ("matthews_correlation", (2 * 4 - 1 * 1) / np.sqrt(3 * 3 * 5 * 5)),
    ],
)
def test_classification(name: str, expected: float) -> None:
    assert METRICS[name](LOGITS, LABELS) == pytest.approx(expected)


def test_f1_of_several_classes_is_the_mean_over_classes() -> None:
    labels = np.array([0, 1, 2, 2])
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]
    assert METRICS["f1"](logits, labels) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_f1_of_two_classes_is_that_of_the_positive_one() -> None:
    assert f1(LOGITS, LABELS, positive=0) == pytest.approx(2 * 4 / (2 * 4 + 1 + 1))


def test_correlations() -> None:
    outputs = np.array([[1.0], [2.0], [4.0]], dtype=np.float32)
    labels = np.array([10.0, 20.0, 30.0])
    assert METRICS["spearmanr"](outputs, labels) == pytest.approx(1.0)
    # Deviations (-4, -1, 5) / 3 and (-10, 0, 10): covariance 30, norms sqrt(42) / 3 and sqrt(200).
    assert METRICS["pearsonr"](outputs, labels) == pytest.approx(30 / (np.sqrt(42) / 3 * np.sqrt(200)))
