"""The choice of counts under a budget, against brute force."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasopt.numerics.budget import BlockCosts, base_time, bisected, choose_counts, share_ladder, smallest_share


def brute_force(blocks: list[BlockCosts], fixed: float, limit: float) -> float:
    """The smallest sum of errors within a limit."""
    return min(
        sum(float(block.errors[count]) for block, count in zip(blocks, counts, strict=True))
        for counts in itertools.product(*(range(len(block.errors)) for block in blocks))
        if fixed + sum(float(block.times[count]) for block, count in zip(blocks, counts, strict=True)) <= limit
    )


def sums(blocks: list[BlockCosts], counts: list[int]) -> tuple[float, float]:
    pairs = list(zip(blocks, counts, strict=True))
    return sum(float(block.errors[k]) for block, k in pairs), sum(float(block.times[k]) for block, k in pairs)


@st.composite
def cases(draw: st.DrawFn, whole: bool) -> tuple[list[BlockCosts], float, float]:
    """(blocks, fixed time, share): errors and times neither linear nor monotone."""
    number = st.integers(0, 20).map(float) if whole else st.floats(0, 20)
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    blocks = [
        BlockCosts(
            draw(st.lists(number, min_size=size, max_size=size)), draw(st.lists(number, min_size=size, max_size=size))
        )
        for size in sizes
    ]
    fixed = draw(st.integers(0, 10)) + 0.5
    least = smallest_share(blocks, fixed)
    if least > 1:  # the whole model is slower than nothing, but not the fastest: only times that rise at its end
        blocks = [BlockCosts(block.errors, np.sort(block.times)) for block in blocks]
        least = smallest_share(blocks, fixed)
    return blocks, fixed, draw(st.floats(min(1.0, least * 1.001), 1.0))


@settings(max_examples=300, deadline=None)
@given(cases(whole=True))
def test_whole_times_in_bins_of_their_own_are_exact(case: tuple[list[BlockCosts], float, float]) -> None:
    blocks, fixed, share = case
    limit = share * base_time(blocks, fixed)
    slack = int(np.floor(limit - smallest_share(blocks, fixed) * base_time(blocks, fixed) + 1e-9))
    if slack == 0:
        return
    # A limit of whole times above the fastest choice, in as many bins.
    whole = fixed + sum(float(block.times.min()) for block in blocks) + slack
    counts = choose_counts(blocks, fixed, min(1.0, whole / base_time(blocks, fixed)), bins=slack)
    error, taken = sums(blocks, counts)
    assert fixed + taken <= whole * (1 + 1e-9)
    assert error == pytest.approx(brute_force(blocks, fixed, whole * (1 + 1e-9)))


@settings(max_examples=300, deadline=None)
@given(cases(whole=False), st.integers(1, 60))
def test_never_above_the_budget_and_as_good_as_a_slightly_smaller_one(
    case: tuple[list[BlockCosts], float, float], bins: int
) -> None:
    blocks, fixed, share = case
    base = base_time(blocks, fixed)
    counts = choose_counts(blocks, fixed, share, bins)
    error, taken = sums(blocks, counts)
    assert fixed + taken <= share * base * (1 + 1e-9)
    fastest = smallest_share(blocks, fixed) * base
    smaller = share * base - len(blocks) * (share * base - fastest) / bins
    if smaller > fastest * (1 + 1e-6):
        assert error <= brute_force(blocks, fixed, smaller) + 1e-9
    assert error >= brute_force(blocks, fixed, share * base * (1 + 1e-9)) - 1e-9


def test_the_whole_budget_keeps_all_and_the_smallest_the_fastest() -> None:
    errors, times = np.linspace(1, 0, 5), np.array([0.1, 0.3, 0.25, 0.7, 1.1])
    blocks = [BlockCosts(errors * weight, times) for weight in (1.0, 2.0, 5.0)]
    assert choose_counts(blocks, 0.2, 1.0) == [4, 4, 4]
    least = smallest_share(blocks, 0.2)
    assert least == pytest.approx(0.5 / 3.5)
    assert choose_counts(blocks, 0.2, least) == [0, 0, 0]
    # A count that is slower and worse than another is never taken, wherever the budget lies.
    taken = {count for share in np.linspace(least, 1, 40) for count in choose_counts(blocks, 0.2, float(share))}
    assert taken == {0, 2, 3, 4}


def test_of_equal_errors_the_fastest() -> None:
    assert choose_counts([BlockCosts([1.0, 0.0, 0.0], [0.0, 1.0, 2.0])], 1.0, 1.0) == [1]


def test_what_cannot_be() -> None:
    blocks = [BlockCosts([1.0, 0.0], [1.0, 3.0])]
    with pytest.raises(ValueError, match=r"a share of 0.3 of the time is 1.5, but the smallest sub-network takes 3"):
        choose_counts(blocks, 2.0, 0.3)
    for share in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            choose_counts(blocks, 2.0, share)
    with pytest.raises(ValueError, match="an error and a time for each count"):
        BlockCosts([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        BlockCosts([1.0], [float("inf")])
    with pytest.raises(ValueError, match="finite"):
        BlockCosts([1.0], [-1.0])


def test_a_ladder_is_even_in_the_logarithm() -> None:
    ladder = share_ladder(1.0, 0.125, 4)
    assert ladder == pytest.approx([1.0, 0.5, 0.25, 0.125])
    assert share_ladder(0.7, 0.7, 1) == pytest.approx([0.7])
    with pytest.raises(ValueError, match=r"from 0.2 to 0.5"):
        share_ladder(0.2, 0.5, 3)
    with pytest.raises(ValueError, match="at least 1 rung"):
        share_ladder(0.5, 0.2, 0)


def test_a_model_of_base_size_takes_a_moment() -> None:
    generator = np.random.default_rng(0)
    blocks = [
        BlockCosts(np.sort(generator.random(units + 1))[::-1], np.sort(generator.random(units + 1)))
        for _ in range(12)
        for units in (12, 48)
    ]
    started = time.perf_counter()
    choose_counts(blocks, 0.5, 0.5)
    assert time.perf_counter() - started < 1.0


def test_a_bisection_sees_the_whole_range_first() -> None:
    assert bisected(range(8)) == [4, 2, 6, 1, 3, 5, 7, 0]
    assert bisected("abc") == ["b", "a", "c"]
    assert bisected([]) == []
