"""Chooses how many units each block keeps under a time budget (METHODS.md, section 6).

Frantar and Alistarh 2022, "SPDY: accurate pruning with speedup guarantees", section 3.1: a dynamic programme over time,
exact up to the width of its bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
T = TypeVar("T")

BINS = 1000
"""Number of steps in which time is counted."""

LOWEST_SHARE = 0.05
"""Where a ladder of shares ends unless it is said."""

_ROUNDING = 1e-12
"""Sums of the same times in another order differ by less than this share."""


@dataclass(frozen=True)
class BlockCosts:
    """The cost of each number of kept units in one block.

    Args:
        errors: the error with 0, 1, ..., all units, shape (units + 1,); minimised.
        times: the times with as many units, shape (units + 1,), in any unit that all blocks share, 0 or more. They need
            neither be linear nor rise.

    Raises:
        ValueError: the two differ in length, are empty, or hold values that are not finite, or a negative time.
    """

    errors: Floats
    times: Floats

    def __init__(self, errors: ArrayLike, times: ArrayLike) -> None:
        object.__setattr__(self, "errors", np.asarray(errors, dtype=np.float64))
        object.__setattr__(self, "times", np.asarray(times, dtype=np.float64))
        if self.errors.ndim != 1 or self.errors.shape != self.times.shape or not len(self.errors):
            raise ValueError(
                f"a block needs an error and a time for each count, not the shapes {self.errors.shape} and "
                f"{self.times.shape}"
            )
        if not (np.isfinite(self.errors).all() and np.isfinite(self.times).all() and (self.times >= 0).all()):
            raise ValueError("the errors and times of a block must be finite, and no time may be below 0")


def base_time(blocks: Sequence[BlockCosts], fixed_time: float) -> float:
    """The time of the whole model: all units of all blocks."""
    return fixed_time + math.fsum(float(block.times[-1]) for block in blocks)


def smallest_share(blocks: Sequence[BlockCosts], fixed_time: float) -> float:
    """The share of the whole model's time that the fastest choice of counts takes; no smaller one can be reached."""
    fastest = fixed_time + math.fsum(float(block.times.min()) for block in blocks)
    return fastest / base_time(blocks, fixed_time)


def choose_counts(blocks: Sequence[BlockCosts], fixed_time: float, share: float, bins: int = BINS) -> list[int]:
    """The units each block keeps for the smallest sum of errors within a share of the whole model's time.

    Times above the block's fastest choice are rounded up to bins, so that the budget is never exceeded; the sum of
    errors is at most the best one of a budget that is smaller by one bin for each block. Time is O(counts x bins).

    Args:
        blocks: the costs of each block of all layers.
        fixed_time: the time that is spent in any case, in the unit of the blocks' times, 0 or more.
        share: the budget as a share of the whole model's time, in (0, 1].
        bins: the number of steps in which the time between the fastest choice and the budget is counted, 1 or more.

    Returns:
        One count for each block.

    Raises:
        ValueError: `share` is not in (0, 1], or even the fastest choice takes more.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of the time must be above 0 and at most 1, not {share:g}")
    whole = base_time(blocks, fixed_time)
    limit = share * whole * (1 + _ROUNDING)
    fastest = smallest_share(blocks, fixed_time) * whole
    if fastest > limit:
        raise ValueError(
            f"a share of {share:g} of the time is {share * whole:g}, but the smallest sub-network takes {fastest:g}: "
            f"a share of {fastest / whole:g}"
        )
    freest = [_best(block.errors, block.times) for block in blocks]
    times = (float(block.times[count]) for block, count in zip(blocks, freest, strict=True))
    if fixed_time + math.fsum(times) <= limit:
        return freest
    return _programme(blocks, (limit - fastest) / bins, bins)


def _best(errors: Floats, times: Floats) -> int:
    """The count with the smallest error; the fastest if there are several."""
    return int(np.lexsort((times, errors))[0])


def _programme(blocks: Sequence[BlockCosts], width: float, bins: int) -> list[int]:
    """Counts with the smallest sum of errors whose times above the fastest choice's take at most `bins` bins."""
    best = np.zeros(bins + 1)  # smallest sum of errors of the blocks so far, within that many bins
    chosen = np.zeros((len(blocks), bins + 1), dtype=np.int64)
    costs = []
    for index, block in enumerate(blocks):
        cost = _bins(block.times - block.times.min(), width, bins)
        costs.append(cost)
        sums = np.full((len(cost), bins + 1), np.inf)
        for count, used in enumerate(cost):
            if used <= bins:
                sums[count, used:] = block.errors[count] + best[: bins + 1 - used]
        chosen[index] = sums.argmin(axis=0)
        best = sums.min(axis=0)
    counts, left = [], bins
    for index in reversed(range(len(blocks))):
        counts.append(int(chosen[index, left]))
        left -= int(costs[index][counts[-1]])
    return counts[::-1]


def _bins(times: Floats, width: float, bins: int) -> NDArray[np.int64]:
    """Times in bins, rounded up; more than `bins` of them are `bins + 1`."""
    if width <= 0:
        return np.where(times > 0, bins + 1, 0).astype(np.int64)
    # NOTE: a time of whole bins must not take one more because of the rounding of the division.
    found: NDArray[np.int64] = np.minimum(np.ceil(times / width * (1 - _ROUNDING)), bins + 1).astype(np.int64)
    return found


def share_ladder(largest: float, smallest: float, rungs: int) -> list[float]:
    """Shares of the time from the largest to the smallest, evenly spaced in the logarithm.

    Raises:
        ValueError: the shares are not in (0, 1], `smallest` is above `largest`, or there are no rungs.
    """
    if not 0 < smallest <= largest <= 1:
        raise ValueError(f"a ladder goes down from at most 1 to above 0, not from {largest:g} to {smallest:g}")
    if rungs < 1:
        raise ValueError(f"a ladder has at least 1 rung, not {rungs}")
    return [float(share) for share in np.geomspace(largest, smallest, rungs)]


def bisected(items: Sequence[T]) -> list[T]:
    """The same items, the middle one first, then the middle ones of the halves, and so on.

    Whoever stops early has then seen all of the range, coarsely.
    """
    order, parts = [], [(0, len(items))]
    for start, end in parts:  # grows
        if start < end:
            middle = (start + end) // 2
            order.append(items[middle])
            parts += [(start, middle), (middle + 1, end)]
    return order
