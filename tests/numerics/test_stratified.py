"""A sample holds every class in its share."""

from __future__ import annotations

import numpy as np
import pytest

from nasopt.numerics.stratified import stratified_sample

LABELS = np.repeat([0, 1, 2], [70, 25, 5])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (20, [14, 5, 1]),
        (10, [7, 3, 0]),  # 7, 2.5 and 0.5: the first of the equal fractions gets the one that is left
        (33, [23, 8, 2]),  # 23.1, 8.25 and 1.65
        (100, [70, 25, 5]),
    ],
)
def test_every_class_has_its_share(size: int, expected: list[int]) -> None:
    found = stratified_sample(np.random.default_rng(0).permutation(LABELS), size, seed=0)
    assert len(np.unique(found)) == size
    assert (np.diff(found) > 0).all()
    shuffled = np.random.default_rng(0).permutation(LABELS)
    assert np.bincount(shuffled[found], minlength=3).tolist() == expected


def test_the_seed_decides() -> None:
    first, again, other = (stratified_sample(LABELS, 50, seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
