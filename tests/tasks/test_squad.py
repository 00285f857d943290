"""Exact match and F1 by a table of the official script's rules, made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nasopt.tasks.squad import answer_scores, best_threshold, exact_match, normalized, word_f1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Beatles", "beatles"),
        ("a U.S. state", "us state"),  # punctuation goes before articles, and joins what it parted
        ("an-a", "ana"),
        ("theatre of THE an\tabsurd", "theatre of absurd"),  # only whole words are articles
        ("the", ""),
        ("«да»", "«да»"),  # only ASCII's punctuation goes
        ("it's 1,000 $", "its 1000"),
    ],
)
def test_answers_are_normalised(answer: str, expected: str) -> None:
    assert normalized(answer) == expected


@pytest.mark.parametrize(
    ("found", "right", "match", "f1"),
    [
        ("the Eiffel Tower.", "Eiffel tower", 1, 1),
        ("Eiffel", "Eiffel tower", 0, 2 / 3),
        ("tower Eiffel", "Eiffel tower", 0, 1),  # F1 knows no order
        ("a b a b", "b b c", 0, 4 / 5),  # articles are gone: "b b" and "b b c"
        ("x x x", "x y", 0, 2 / 5),  # a word counts as often as both have it
        ("Paris", "London", 0, 0),
        ("", "", 1, 1),
        ("the", "", 1, 1),  # both are nothing, normalised
        ("", "London", 0, 0),
        ("London", "", 0, 0),
    ],
)
def test_scores_of_one_answer(found: str, right: str, match: float, f1: float) -> None:
    assert exact_match(found, right) == match
    assert word_f1(found, right) == pytest.approx(f1)


def test_the_best_right_answer_counts() -> None:
    scores = answer_scores(
        ["Eiffel tower", "Eiffel", "", "", "Paris", "tower"],
        [["tower", "the Eiffel tower"], ["Eiffel tower", "tower"], [], ["Rome"], [], ["the", "tower x"]],
    )
    assert scores["exact_match"].tolist() == [1, 0, 1, 0, 0, 0]
    assert scores["f1"].tolist() == pytest.approx([1, 2 / 3, 1, 0, 0, 2 / 3])
    # A right answer of nothing but an article is none.
    assert answer_scores([""], [["the"]])["f1"].tolist() == [1]
    assert answer_scores([""], [["the", "x"]])["f1"].tolist() == [0]


def threshold_by_trying(margins: list[float], scores: list[float], answerable: list[bool]) -> float:
    """The best mean score of all thresholds."""
    of_silence = [float(not its) for its in answerable]

    def mean(threshold: float) -> float:
        rows = zip(margins, scores, of_silence, answerable, strict=True)
        return float(
            np.mean([(score if its else 0.0) if margin <= threshold else none for margin, score, none, its in rows])
        )

    return max(map(mean, [-np.inf, *margins]))


def test_the_best_threshold_is_found() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        margins, scores, answerable = generator.normal(size=9), generator.random(9), generator.random(9) < 0.6
        margins[generator.random(9) < 0.2] = np.inf
        threshold, quality = best_threshold(margins, scores, answerable)
        given = margins <= threshold
        of_silence = (~answerable).astype(float)
        if quality > of_silence.mean():
            assert np.where(given, scores * answerable, of_silence).mean() == pytest.approx(quality)
        finite = np.where(np.isfinite(margins), margins, 1e9)
        expected = threshold_by_trying(finite.tolist(), np.where(finite < 1e9, scores, 0).tolist(), answerable.tolist())
        assert quality == pytest.approx(expected)


def test_silence_is_best_where_no_answer_is_right() -> None:
    assert best_threshold(np.array([-1.0, 2.0]), np.array([0.0, 0.0]), np.array([False, False])) == (0.0, 1.0)
