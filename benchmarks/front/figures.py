"""The figures that the tables show: hypervolumes of quality and latency, and intervals of paired differences."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasopt.numerics.pareto import hypervolume, pareto_mask

Bits: TypeAlias = NDArray[np.bool_]

RESAMPLES = 4000
LATENCY_REFERENCE = 1.0
"""The base model's latency, of which all latencies are ratios."""


class Point(NamedTuple):
    """A model that was found.

    Attributes:
        seconds: since the base model was ready.
        quality: maximised.
        ratio: latency as a ratio to the base model's, minimised.
    """

    seconds: float
    quality: float
    ratio: float


def volume(points: Iterable[Point], chance: float) -> float:
    """The area that points dominate up to a quality of `chance` and the base model's latency.

    At most (1 - chance) x 1. The base model itself adds nothing: it is no faster than the reference.
    """
    array = np.array([(-point.quality, point.ratio) for point in points]).reshape(-1, 2)
    return hypervolume(array, [-chance, LATENCY_REFERENCE])


def volume_after(points: Iterable[Point], seconds: float, chance: float) -> float:
    """The area of the points that were there after so many seconds."""
    return volume([point for point in points if point.seconds <= seconds], chance)


def time_to(points: Sequence[Point], target: float, chance: float) -> float | None:
    """Seconds after which the area is at least `target`; None if it never is."""
    for point in sorted(points):
        if volume_after(points, point.seconds, chance) >= target:
            return point.seconds
    return None


def front(points: Sequence[Point]) -> list[int]:
    """Positions of the points that no other one dominates."""
    array = np.array([(-point.quality, point.ratio) for point in points]).reshape(-1, 2)
    return np.flatnonzero(pareto_mask(array)).tolist()


def ideal_volume(points: Iterable[Point], chance: float) -> float:
    """The area of the ideal point: the best quality and the best latency of any of these points, in one."""
    known = list(points)
    best = Point(0.0, max(point.quality for point in known), min(point.ratio for point in known))
    return volume([best], chance)


def packed(correct: Bits) -> str:
    """Which examples a model gets right, (examples,), as text for a line of JSON."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpacked(text: str, examples: int) -> Bits:
    """The same again, (examples,)."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))
    return bits[:examples].astype(np.bool_)


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def in_points(self) -> str:
        """In percentage points."""
        mean, low, high = (100 * value for value in self)
        return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def paired_difference(pairs: Sequence[tuple[Bits, Bits]], resamples: int = RESAMPLES) -> Interval:
    """The difference in accuracy of two models on the same examples, pooled over seeds.

    An example's difference is its mean over the seeds, and examples are drawn with replacement: the interval is of
    other examples for the models of these seeds. What the seeds do to it is shown by their range, not by this interval.

    Args:
        pairs: for each seed which examples the two get right, shape (examples,) each.
        resamples: how often the examples are drawn.
    """
    each = np.mean([one.astype(float) - other.astype(float) for one, other in pairs], axis=0)  # (examples,)
    values, counts = np.unique(each, return_counts=True)
    # Only how often each value is drawn matters, so that drawing counts is exact and fast.
    drawn = np.random.default_rng(0).multinomial(len(each), counts / len(each), size=resamples)
    low, high = np.quantile(drawn @ values / len(each), [0.025, 0.975])
    return Interval(float(each.mean()), float(low), float(high))


def ratio_interval(above: Sequence[float], below: Sequence[float], resamples: int = RESAMPLES) -> Interval:
    """The ratio of two sums over the same items, and its interval over the items that might have been drawn."""
    tops, bottoms = np.array(above), np.array(below)
    drawn = np.random.default_rng(0).integers(len(tops), size=(resamples, len(tops)))
    low, high = np.quantile(tops[drawn].sum(axis=1) / bottoms[drawn].sum(axis=1), [0.025, 0.975])
    return Interval(float(tops.sum() / bottoms.sum()), float(low), float(high))


def markdown(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], form: str) -> str:
    """The mean and, of several, the range."""
    mean = sum(values) / len(values)
    return f"{mean:{form}}" + (f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else "")


def best_within(points: Iterable[Point], ratio: float) -> float | None:
    """The best quality at no more than that latency, as a ratio to the base model's; None if nothing is so fast."""
    return max((point.quality for point in points if point.ratio <= ratio), default=None)
