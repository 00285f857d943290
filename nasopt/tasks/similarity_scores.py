"""Scores of sentence vectors, on a split and on resamples of it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nasopt.numerics.resampling import FloatArray, spearman
from nasopt.tasks.batches import EncodedSplit

SIMILARITY_BLOCK = 1024
"""The number of texts whose cosines with all others are in memory at a time."""


def pair_correlation(
    weights: FloatArray, first: NDArray[np.float32], second: NDArray[np.float32], scores: FloatArray
) -> FloatArray:
    """Spearman correlation of the cosines of pairs with their scores, for each row of weights; shape (rows,).

    Args:
        weights: shape (rows, pairs), see :mod:`nasopt.numerics.resampling`.
        first: unit vectors, shape (pairs, hidden).
        second: unit vectors of the other texts, shape (pairs, hidden).
        scores: the pairs' scores, shape (pairs,).
    """
    cosines = np.einsum("ij,ij->i", first, second).astype(np.float64)
    found: FloatArray = spearman(weights, scores, [cosines])[0]
    return found


def retrieval_accuracy(
    weights: FloatArray,
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    first_ids: NDArray[np.int64],
    second_ids: NDArray[np.int64],
) -> FloatArray:
    """The share of texts whose nearest text of the other side is the right one, mean of both directions, for each row.

    Resamples draw the questions; the texts to choose from stay the same.

    Args:
        weights: shape (rows, pairs), see :mod:`nasopt.numerics.resampling`.
        first: unit vectors, shape (pairs, hidden).
        second: unit vectors of the other texts, shape (pairs, hidden).
        first_ids: numbers of the first texts, equal for equal ones, which count as right for one another; shape
            (pairs,).
        second_ids: the same for the other texts, shape (pairs,).

    Returns:
        Shape (rows,).
    """
    there = second_ids[_nearest(first, second)] == second_ids
    back = first_ids[_nearest(second, first)] == first_ids
    accuracy: FloatArray = weights @ ((there.astype(np.float64) + back) / 2) / weights.sum(axis=1)
    return accuracy


def distinct_texts(split: EncodedSplit) -> NDArray[np.int64]:
    """A number for each text of a split, the same for texts with the same tokens; shape (texts,)."""
    tokens, ends = split.columns["input_ids"].numpy(), split.offsets.tolist()
    numbers: dict[bytes, int] = {}
    texts = (tokens[start:stop].tobytes() for start, stop in pairwise(ends))
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)


def _nearest(questions: NDArray[np.float32], answers: NDArray[np.float32]) -> NDArray[np.int64]:
    """The first answer with the largest cosine for each question, shape (questions,); unit vectors (texts, hidden)."""
    blocks = range(0, len(questions), SIMILARITY_BLOCK)
    found: NDArray[np.int64] = np.concatenate(
        [(questions[start : start + SIMILARITY_BLOCK] @ answers.T).argmax(axis=1) for start in blocks]
    )
    return found


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
