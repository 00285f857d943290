"""Entities in the tags of words, found as seqeval finds them, and F1 of them on texts and on resamples of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from seqeval.metrics.sequence_labeling import get_entities

from nasopt.numerics.resampling import FloatArray, ratio

HITS, FOUND, ACTUAL = range(3)
"""The columns of counts: entities that were found and are there, that were found, and that are there."""


def entity_counts(
    actual: Sequence[Sequence[str]], found: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Counts the entities of each text by their kinds; one is right if its kind and both its ends are.

    Args:
        actual: the right tags of the words of each text.
        found: a model's tags, as many.

    Returns:
        The kinds, and the counts, shape (texts, kinds, 3): :data:`HITS`, :data:`FOUND`, :data:`ACTUAL`.
    """
    pairs = [
        (set(get_entities(list(its))), set(get_entities(list(mine)))) for its, mine in zip(actual, found, strict=True)
    ]
    kinds = tuple(sorted({entity[0] for pair in pairs for entities in pair for entity in entities}))
    index = {kind: position for position, kind in enumerate(kinds)}
    counts = np.zeros((len(pairs), len(kinds), 3), dtype=np.int64)
    for text, (its, mine) in enumerate(pairs):
        for column, entities in ((HITS, its & mine), (FOUND, mine), (ACTUAL, its)):
            for kind, _, _ in entities:
                counts[text, index[kind], column] += 1
    return kinds, counts


def micro_f1(weights: FloatArray, counts: NDArray[np.int64]) -> FloatArray:
    """F1 of all entities together, in each row of weights; 0 where there are none.

    Args:
        weights: how often each text was drawn, shape (rows, texts); see :mod:`nasopt.numerics.resampling`.
        counts: shape (texts, 3), see :func:`entity_counts`.

    Returns:
        Shape (rows,).
    """
    hits, found, actual = (weights @ counts.astype(np.float64)).T
    return ratio(2 * hits, found + actual)
