"""Cases of one kind that are many and slow: one or two are always run, the others are marked `slow`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], always: Collection[Any]) -> list[Any]:
    """Parameters of a test; those that are not among `always` are slow."""
    return [value if value in always else pytest.param(value, marks=pytest.mark.slow) for value in values]


def crossed(*axes: Iterable[Any], usual: tuple[Any, ...]) -> list[Any]:
    """Every combination of the values of several parameters.

    Those that differ from `usual` in one place at most are always run: together they hold every value. The others are
    slow.
    """
    found = []
    for values in product(*axes):
        differences = sum(value != expected for value, expected in zip(values, usual, strict=True))
        found.append(pytest.param(*values, marks=pytest.mark.slow if differences > 1 else ()))
    return found
