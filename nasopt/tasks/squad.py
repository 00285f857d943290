"""Exact match and F1 of answers, as the official script of SQuAD 2.0 computes them (Rajpurkar et al. 2018).

Its rules are SQuAD 1.1's where every question has an answer of more than articles and punctuation.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nasopt.numerics.resampling import FloatArray

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """An answer in lower case, without (ASCII) punctuation, English articles and superfluous blanks."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(found: str, right: str) -> float:
    """1 if two answers are the same when normalised, else 0."""
    return float(normalized(found) == normalized(right))


def word_f1(found: str, right: str) -> float:
    """F1 of the words that two answers share when normalised; of no words it is whether there are none in both."""
    mine, its = normalized(found).split(), normalized(right).split()
    if not mine or not its:
        return float(mine == its)
    shared = (Counter(mine) & Counter(its)).total()
    return 2 * shared / (len(mine) + len(its))


def answer_scores(found: Sequence[str], right: Sequence[Sequence[str]]) -> dict[str, FloatArray]:
    """`exact_match` and `f1` of each answer: its best over the right ones; shape (questions,) each.

    Args:
        found: an answer to each question; empty for none.
        right: the right answers to each; empty where there is none.
    """
    # A right answer that normalises to nothing does not count, as in the official script.
    wanted = [[answer for answer in answers if normalized(answer)] or [""] for answers in right]
    pairs = list(zip(found, wanted, strict=True))
    return {
        name: np.array([max(score(answer, its) for its in answers) for answer, answers in pairs], dtype=np.float64)
        for name, score in (("exact_match", exact_match), ("f1", word_f1))
    }


def best_threshold(margins: FloatArray, scores: FloatArray, answerable: NDArray[np.bool_]) -> tuple[float, float]:
    """The threshold that gives the best mean score of all, and that score, as the official script finds them.

    Args:
        margins: how much higher no answer scores than the best one, shape (questions,); an answer is given where this
            is at most the threshold. Infinite where there is none to give.
        scores: the score of the best answer to each question, given or not, shape (questions,).
        answerable: whether each question has an answer, shape (questions,).
    """
    order = np.argsort(margins, kind="stable")
    order = order[np.isfinite(margins[order])]
    # An answer to a question that has none loses the 1 that silence would be worth.
    totals = (~answerable).sum() + np.where(answerable, scores, -1.0)[order].cumsum()
    best = int(totals.argmax()) if len(totals) else 0
    if not len(totals) or totals[best] <= (~answerable).sum():
        return 0.0, float((~answerable).mean())
    return float(margins[order[best]]), float(totals[best]) / len(margins)
