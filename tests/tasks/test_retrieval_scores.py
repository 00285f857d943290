"""The metrics of found passages, against values worked out by hand, and the search for the nearest ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nasopt.tasks.retrieval_scores import nearest, query_scores

NONE = np.array([-1])


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def on_a_line(cosines: list[float]) -> np.ndarray:
    """Unit vectors in the plane with these cosines to the first axis, float32, shape (passages, 2)."""
    return np.array([[value, math.sqrt(1 - value * value)] for value in cosines], dtype=np.float32)


QUERY = np.array([[1, 0]], dtype=np.float32)


def test_graded_relevance_by_hand() -> None:
    # Relevant: 7 (score 3), 8 (2), 9 (1). Found in the order 4, 8, 5, 7; 9 is not found.
    found = query_scores([rows(4, 8, 5, 7)], [{7: 3.0, 8: 2.0, 9: 1.0}])

    # DCG = 2 / log2(3) + 3 / log2(5) = 1.261860 + 1.292030; the best is 3 / 1 + 2 / log2(3) + 1 / log2(4) = 4.761860.
    assert found["ndcg@10"].tolist() == pytest.approx([2.553890 / 4.761860], abs=1e-6)
    assert found["recall@100"].tolist() == pytest.approx([2 / 3])


def test_every_query_has_its_own_value() -> None:
    found = query_scores([rows(0, 1), rows(1, 0), rows(2)], [{0: 1.0}, {0: 1.0}, {0: 5.0}])
    assert found["ndcg@10"].tolist() == pytest.approx([1, 1 / math.log2(3), 0])
    assert found["recall@100"].tolist() == [1, 1, 0]


def test_the_depths_are_10_and_100() -> None:
    order = np.arange(150)
    for place, in_ten, in_hundred in ((9, True, True), (10, False, True), (99, False, True), (100, False, False)):
        found = query_scores([order], [{place: 1.0}])
        assert found["ndcg@10"][0] == pytest.approx(1 / math.log2(place + 2) if in_ten else 0)
        assert found["recall@100"][0] == float(in_hundred)


def test_more_relevant_passages_than_places_do_not_lower_the_best_order() -> None:
    relevance = {row: 1.0 for row in range(20)}
    found = query_scores([np.arange(10)], [relevance])
    assert found["ndcg@10"][0] == pytest.approx(1)
    assert found["recall@100"][0] == 0.5


def test_the_nearest_passages_come_in_their_order() -> None:
    (found,) = nearest(QUERY, on_a_line([0.1, 0.9, -0.5, 0.4]), NONE)
    assert found.tolist() == [1, 3, 0, 2]
    (found,) = nearest(QUERY, on_a_line([0.1, 0.9, -0.5, 0.4]), NONE, depth=2)
    assert found.tolist() == [1, 3]


@pytest.mark.parametrize("depth", [2, 100])
def test_a_passage_can_be_left_out(depth: int) -> None:
    cosines = on_a_line([0.1, 0.9, -0.5, 0.4])
    found = nearest(np.repeat(QUERY, 2, axis=0), cosines, np.array([1, -1]), depth)
    assert [its.tolist()[:2] for its in found] == [[3, 0], [1, 3]]
    assert 1 not in found[0]


def test_many_queries_are_searched_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasopt.tasks.retrieval_scores.BLOCK", 500)  # two queries at a time
    rng = np.random.default_rng(0)
    queries, passages = (rng.normal(size=(size, 8)).astype(np.float32) for size in (7, 250))

    found = nearest(queries, passages, np.full(7, -1))

    expected = np.argsort(-(queries.astype(np.float64) @ passages.T.astype(np.float64)), axis=1)[:, :100]
    assert [its.tolist() for its in found] == expected.tolist()


def test_a_collapsed_model_finds_by_chance_and_always_the_same() -> None:
    queries, passages = np.repeat(QUERY, 2, axis=0), np.repeat(QUERY, 1000, axis=0)
    first, second = nearest(queries, passages, np.full(2, -1))
    assert first.tolist() == second.tolist() != list(range(100))
    assert len(set(first.tolist())) == 100
    assert 300 < first.mean() < 700  # not those that come first in the file


def test_of_passages_with_equal_cosines_as_many_are_taken_as_have_a_place() -> None:
    (found,) = nearest(QUERY, on_a_line([0.5, 0.9, 0.5, 0.5, -0.9]), NONE, depth=3)
    assert found[0] == 1
    assert set(found[1:].tolist()) < {0, 2, 3}
