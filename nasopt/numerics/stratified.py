"""A sample of examples that holds every class in its share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def stratified_sample(labels: ArrayLike, size: int, seed: int) -> NDArray[np.int64]:
    """Positions of a random sample, ascending, shape (size,): each label as often as its share, rounded either way.

    What is left after rounding down goes to the labels with the largest fractions (Hamilton's method).

    Args:
        labels: the label of each example, shape (examples,); all the same for a plain sample.
        size: number of examples that are drawn, at most all.
        seed: decides the draw.
    """
    _, group_of, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    exact = counts * (size / counts.sum())
    wanted = np.floor(exact).astype(np.int64)
    most = np.argsort(wanted - exact, kind="stable")[: size - wanted.sum()]
    wanted[most] += 1
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(group_of == group))[:count] for group, count in enumerate(wanted)]
    positions: NDArray[np.int64] = np.sort(np.concatenate(drawn))
    return positions
