"""The paired bootstrap against brute force, known standard errors and known truths."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from nasopt.numerics.comparison import Difference, class_difference, class_score, number_scores, score_difference
from nasopt.numerics.resampling import class_scores, weighted_ranks
from nasopt.tasks.metrics import METRICS, f1


def predictions(
    rng: np.random.Generator, size: int, classes: int, accuracies: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the predictions of two classifiers that err independently."""
    labels = rng.integers(classes, size=size)
    wrong = [(labels + rng.integers(1, classes, size=size)) % classes for _ in accuracies]
    a, b = (np.where(rng.random(size) < share, labels, other) for share, other in zip(accuracies, wrong, strict=True))
    return labels, a, b


def brute_force(score: Callable[[np.ndarray], float], size: int, resamples: int) -> np.ndarray:
    """Quantiles of a score over resamples of indices."""
    rng = np.random.default_rng(1)
    values = [score(rng.integers(size, size=size)) for _ in range(resamples)]
    return np.quantile(values, [0.025, 0.975])


@pytest.mark.parametrize("metric", ["accuracy", "f1", "f1_macro", "f1_micro", "matthews_correlation"])
@pytest.mark.parametrize("classes", [2, 4])
def test_scores_of_counts_are_the_tasks_metrics(metric: str, classes: int) -> None:
    rng = np.random.default_rng(0)
    labels, predicted, _ = predictions(rng, 50, classes, (0.7, 0.5))
    predicted[:3] = 0  # another class may be predicted only, or never
    counts = rng.integers(0, 4, size=(5, 50)).astype(float)
    for row, score in zip(counts, class_scores(counts, labels, predicted, classes, metric), strict=True):
        drawn = np.repeat(np.arange(50), row.astype(int))
        assert score == pytest.approx(METRICS[metric](np.eye(classes)[predicted[drawn]], labels[drawn]))


def test_f1_of_two_classes_is_that_of_the_positive_one() -> None:
    labels, a, b = predictions(np.random.default_rng(5), 200, 2, (0.8, 0.6))
    found = class_difference(labels, a, b, classes=2, metric="f1", positive=0)
    of_a, of_b = (f1(np.eye(2)[column], labels, positive=0) for column in (a, b))
    assert found.value == pytest.approx(of_a - of_b)
    assert found != class_difference(labels, a, b, classes=2, metric="f1")


@pytest.mark.parametrize("metric", ["accuracy", "f1", "f1_macro", "f1_micro", "matthews_correlation"])
def test_degenerate_counts_score_as_scikit_learn_says(metric: str) -> None:
    labels, predicted = np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64)
    score = class_scores(np.array([[4.0, 0, 0, 0]]), labels, predicted, 2, metric)
    assert score.item() == METRICS[metric](np.eye(2)[predicted], labels)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "f1_macro", "f1_micro", "matthews_correlation"])
def test_the_interval_is_that_of_resampled_examples(metric: str) -> None:
    labels, a, b = predictions(np.random.default_rng(2), 300, 3, (0.85, 0.75))
    found = class_difference(labels, a, b, classes=3, metric=metric)

    def score(drawn: np.ndarray) -> float:
        of_a, of_b = (METRICS[metric](np.eye(3)[column[drawn]], labels[drawn]) for column in (a, b))
        return of_a - of_b

    assert found.value == pytest.approx(score(np.arange(300)))
    assert [found.low, found.high] == pytest.approx(brute_force(score, 300, 600), abs=0.012)


def test_the_interval_of_accuracies_has_the_analytic_width() -> None:
    """d = mean(x) with x = [a right] - [b right], so its standard error is sd(x) / sqrt(n)."""
    labels, a, b = predictions(np.random.default_rng(3), 2000, 2, (0.9, 0.88))
    paired = (a == labels).astype(float) - (b == labels)
    error = paired.std() / np.sqrt(2000)
    found = class_difference(labels, a, b, classes=2, metric="accuracy")
    assert found.value == pytest.approx(paired.mean())
    assert found.low == pytest.approx(paired.mean() - 1.96 * error, abs=0.06 * error)
    assert found.high == pytest.approx(paired.mean() + 1.96 * error, abs=0.06 * error)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(400):
        labels, a, b = predictions(rng, 400, 2, (0.85, 0.80))
        found = class_difference(labels, a, b, classes=2, metric="accuracy", resamples=1000)
        covered += found.low <= 0.05 <= found.high
    assert 0.92 <= covered / 400 <= 0.98  # two standard errors of 0.95 are 0.022


@pytest.mark.parametrize("metric", ["pearsonr", "spearmanr"])
def test_the_interval_of_correlations_is_that_of_resampled_examples(metric: str) -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 11, size=150) / 2.0  # ties, as in human ratings
    a, b = labels + rng.normal(size=150), labels + 2 * rng.normal(size=150)
    found = score_difference(*number_scores(labels, [a, b], metric=metric))

    def score(drawn: np.ndarray) -> float:
        of_a, of_b = (METRICS[metric](column[drawn][:, None], labels[drawn]) for column in (a, b))
        return of_a - of_b

    assert found.value == pytest.approx(score(np.arange(150)))
    assert [found.low, found.high] == pytest.approx(brute_force(score, 150, 800), abs=0.02)
    scipys = stats.bootstrap(
        (np.arange(150),), lambda drawn: score(drawn), n_resamples=800, vectorized=False, method="percentile", rng=0
    ).confidence_interval
    assert [found.low, found.high] == pytest.approx(list(scipys), abs=0.02)


def test_ranks_under_weights_are_ranks_of_the_repeated_examples() -> None:
    values = np.array([3.0, 1.0, 3.0, 2.0])
    weights = np.array([[1.0, 2.0, 1.0, 0.0], [0.0, 0.0, 3.0, 1.0]])
    for row, ranks in zip(weights.astype(int), weighted_ranks(weights, values), strict=True):
        repeated = np.repeat(np.arange(4), row)
        assert ranks[repeated] == pytest.approx(stats.rankdata(values[repeated]))


def test_a_constant_has_no_correlation_and_does_not_spoil_the_interval() -> None:
    labels = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 3.0])  # many resamples hold one label only
    scores = number_scores(labels, [labels, np.arange(7.0)], metric="pearsonr")
    assert np.isnan(scores).any()
    found = score_difference(*scores)
    assert 0 <= found.low <= found.high


def test_a_model_does_not_differ_from_itself() -> None:
    labels, a, _ = predictions(np.random.default_rng(7), 100, 2, (0.8, 0.8))
    assert class_difference(labels, a, a, classes=2, metric="f1") == Difference(0.0, 0.0, 0.0)
    assert Difference(0.0, 0.0, 0.0).verdict == "no difference shown"


def test_the_interval_is_the_same_every_time() -> None:
    labels, a, b = predictions(np.random.default_rng(8), 100, 2, (0.8, 0.7))
    first, second = (class_difference(labels, a, b, classes=2, metric="accuracy") for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.02, "better"), (-0.02, -0.01, "worse"), (-0.01, 0.01, "no difference shown")],
)
def test_verdicts(low: float, high: float, verdict: str) -> None:
    assert Difference((low + high) / 2, low, high).verdict == verdict


def test_a_metric_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="spearmanr"):
        class_difference([0, 1], [0, 1], [1, 1], classes=2, metric="spearmanr")
    with pytest.raises(ValueError, match="accuracy"):
        number_scores([0, 1], [[0, 1], [1, 1]], metric="accuracy")


def test_a_wider_confidence_gives_a_wider_interval() -> None:
    labels, a, b = predictions(np.random.default_rng(9), 400, 2, (0.8, 0.7))
    usual, wide = (
        class_difference(labels, a, b, classes=2, metric="accuracy", confidence=confidence)
        for confidence in (0.95, 0.99)
    )
    assert usual.value == wide.value
    spread = np.std((a == labels).astype(float) - (b == labels)) / 20
    assert [wide.low, wide.high] == pytest.approx([wide.value - 2.576 * spread, wide.value + 2.576 * spread], abs=0.006)
    assert wide.low < usual.low < usual.high < wide.high


@pytest.mark.parametrize("metric", ["accuracy", "f1", "f1_macro", "matthews_correlation"])
def test_the_score_of_one_classifier(metric: str) -> None:
    labels, a, _ = predictions(np.random.default_rng(10), 120, 3, (0.7, 0.7))
    found = class_score(labels, a, classes=3, metric=metric)
    assert found == pytest.approx(METRICS[metric](np.eye(3)[a], labels))
