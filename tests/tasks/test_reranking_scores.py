"""MRR and NDCG of each query, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from nasopt.tasks.reranking_scores import query_scores


def random_rankings(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, relevances and scores of texts in a random order; every query has a relevant text and 2 to 30 texts."""
    sizes = rng.integers(2, 31, size=20)
    queries = np.repeat(np.arange(20), sizes)
    relevance = rng.integers(0, 4, size=len(queries)).astype(float)
    relevance[np.cumsum(sizes) - 1] = 2.0
    order = rng.permutation(len(queries))
    return queries[order], relevance[order], rng.normal(size=len(queries)).astype(np.float32)


def test_ndcg_is_scikit_learn_s() -> None:
    queries, relevance, scores = random_rankings(np.random.default_rng(0))
    expected = [ndcg_score([relevance[queries == query]], [scores[queries == query]], k=10) for query in range(20)]
    np.testing.assert_allclose(query_scores(queries, relevance, scores, "ndcg@10"), expected)


def test_mrr_is_the_place_of_the_first_relevant_text() -> None:
    queries, relevance, scores = random_rankings(np.random.default_rng(1))
    expected = []
    for query in range(20):
        ordered = relevance[queries == query][np.argsort(-scores[queries == query])]
        place = int(np.flatnonzero(ordered > 0)[0])
        expected.append(1 / (place + 1) if place < 10 else 0.0)
    assert len(set(expected)) > 2
    np.testing.assert_allclose(query_scores(queries, relevance, scores, "mrr@10"), expected)


def test_a_text_beyond_the_tenth_place_counts_nothing() -> None:
    queries, scores = np.zeros(12, dtype=np.int64), -np.arange(12, dtype=np.float32)
    for place in (9, 10):
        relevance = np.zeros(12)
        relevance[place] = 1
        assert query_scores(queries, relevance, scores, "mrr@10")[0] == pytest.approx(0.1 if place < 10 else 0)
        assert bool(query_scores(queries, relevance, scores, "ndcg@10")[0] > 0) is (place < 10)


@pytest.mark.parametrize("metric", ["mrr@10", "ndcg@10"])
def test_a_model_that_says_nothing_is_as_good_as_chance(metric: str) -> None:
    queries = np.repeat(np.arange(400), 10)
    relevance = np.tile([1.0] + [0.0] * 9, 400)  # the relevant text always comes first
    found = query_scores(queries, relevance, np.zeros(4000, dtype=np.float32), metric)  # type: ignore[arg-type]
    places = np.arange(1, 11)
    expected = np.mean(1 / places if metric == "mrr@10" else 1 / np.log2(places + 1))
    assert found.mean() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("metric", ["mrr@10", "ndcg@10"])
def test_a_query_without_a_relevant_text_has_no_value(metric: str) -> None:
    queries, relevance = np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 0.0, 3.0])
    found = query_scores(queries, relevance, np.array([1, 2, 3, 4], dtype=np.float32), metric)  # type: ignore[arg-type]
    assert np.isnan(found[0])
    assert found[1] == 1
