"""Non-dominated sorting, crowding distance and hypervolume.

Every function takes `points`, an array of shape `(n_points, n_objectives)`, **all minimised**: flip the sign of what is
maximised first. NaN raises `ValueError`. Infinities are ordered like any other number, except in :func:`hypervolume`.

`violations`, of shape `(n_points,)`, is each point's total constraint violation; 0 or less means feasible, and None
means that all points are. Domination is then constrained domination (Deb et al. 2002, section VI): a feasible point
dominates an infeasible one, and of two infeasible points the one with the smaller violation dominates.

References:
    K. Deb, A. Pratap, S. Agarwal, T. Meyarivan (2002): A fast and elitist multiobjective genetic algorithm: NSGA-II.
    Sorting and volumes by moocore (https://multi-objective.github.io/moocore): about 5 ms at 10,000 points x 3.
"""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def pareto_mask(points: ArrayLike, violations: ArrayLike | None = None) -> NDArray[np.bool_]:
    """True for the points that no other point dominates; shape `(n_points,)`. Equal points are all kept."""
    array = _checked(points)
    if len(array) == 0:
        return np.zeros(0, dtype=np.bool_)
    penalty = _penalty(violations, len(array))
    best: NDArray[np.bool_] = penalty == penalty.min()
    if penalty.min() > 0:
        return best
    mask = np.zeros(len(array), dtype=np.bool_)
    mask[best] = moocore.is_nondominated(_ordinal(array[best]), keep_weakly=True)
    return mask


def non_domination_ranks(points: ArrayLike, violations: ArrayLike | None = None) -> IntArray:
    """The front each point lies in, 0 for the Pareto front; shape `(n_points,)`.

    The fronts of feasible points come first; infeasible points follow, one rank for each amount of violation.
    """
    array = _checked(points)
    ranks = np.zeros(len(array), dtype=np.int64)
    if len(array) == 0:
        return ranks
    penalty = _penalty(violations, len(array))
    feasible = penalty == 0
    fronts = 0
    if feasible.any():
        ranks[feasible] = moocore.pareto_rank(_ordinal(array[feasible]))
        fronts = int(ranks.max()) + 1
    if not feasible.all():
        ranks[~feasible] = fronts + np.unique(penalty[~feasible], return_inverse=True)[1]
    return ranks


def crowding_distance(points: ArrayLike, ranks: ArrayLike | None = None) -> FloatArray:
    """The distance between each point's neighbours in its own front, summed over the objectives; shape `(n_points,)`.

    In each objective it is the gap between the next smaller and the next larger value, divided by the front's width.
    The two extremes get infinity; an objective in which the whole front is equal adds 0 (section III-B of the paper).

    Args:
        points: `(n_points, n_objectives)`, all minimised.
        ranks: `(n_points,)`, the front of each point; None if they all form one front.
    """
    array = _checked(points)
    fronts = np.zeros(len(array), dtype=np.int64) if ranks is None else np.asarray(ranks, dtype=np.int64)
    distance = np.zeros(len(array))
    for column in array.T:
        order = np.lexsort((column, fronts))
        distance[order] += _gaps(column[order], fronts[order])
    return distance


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the points dominate up to `reference`, shape `(n_objectives,)`, in the product of their units.

    Points that are not strictly better than the reference in every objective add nothing.

    Raises:
        ValueError: there is a NaN or a value of minus infinity, or the reference has another width than the points.
    """
    array = _checked(points)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (array.shape[1],):
        raise ValueError(f"`reference` must have shape ({array.shape[1]},), but got {corner.shape}.")
    if not np.isfinite(corner).all() or np.isneginf(array).any():
        raise ValueError("the hypervolume of minus infinity, or up to a reference that is not finite, is not defined.")
    inside = array[(array < corner).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=corner)) if len(inside) else 0.0


def knee_distances(points: ArrayLike) -> FloatArray:
    """How far each point lies below the plane through the extremes; shape `(n_points,)`. The farthest one is the knee.

    Objectives are normalised to the range of the points first. An extreme is the best point of an objective, the one
    with the smallest sum among equals (Das 1999, "On characterizing the 'knee' of the Pareto curve"). Where one point
    is the best of several objectives, and the extremes leave several planes, it is the one whose normal is shortest.

    Args:
        points: `(n_points, n_objectives)`, all minimised, none of which another dominates.

    Raises:
        ValueError: there is a NaN, or a value that is not finite.
    """
    array = _checked(points)
    if not np.isfinite(array).all():
        raise ValueError("the knee of values that are not finite is not defined.")
    if len(array) == 0:
        return np.zeros(0)
    width = np.ptp(array, axis=0)
    scaled = (array - array.min(axis=0)) / np.where(width > 0, width, 1.0)
    sums = scaled.sum(axis=1)
    extremes = scaled[[int(np.lexsort((sums, column))[0]) for column in scaled.T]]
    normal = np.linalg.lstsq(extremes, np.ones(len(extremes)), rcond=None)[0]
    length = float(np.linalg.norm(normal))
    distances: FloatArray = (1.0 - scaled @ normal) / (length or 1.0)
    return distances


def _gaps(values: FloatArray, fronts: IntArray) -> FloatArray:
    """Crowding in one objective; both arguments are sorted by front and, within it, by value."""
    if len(values) == 0:
        return np.zeros(0)
    first = np.r_[True, fronts[1:] != fronts[:-1]]
    last = np.r_[first[1:], True]
    segment = np.cumsum(first) - 1
    lowest, highest = values[first][segment], values[last][segment]
    below = np.where(first, -np.inf, np.r_[-np.inf, values[:-1]])
    above = np.where(last, np.inf, np.r_[values[1:], np.inf])
    # NOTE: two equal infinities lie 0 apart, and a front that reaches to infinity has no width to divide by.
    with np.errstate(invalid="ignore"):
        gap = np.where(below == above, 0.0, above - below)
        width = highest - lowest
    width = np.where(np.isfinite(width) & (width > 0), width, 1.0)
    return np.where(lowest == highest, 0.0, gap / width)


def _ordinal(points: FloatArray) -> FloatArray:
    """The points; where some are infinite, other points of the same order.

    NOTE: moocore 0.3.2 gives wrong fronts for infinities and can crash the process on minus infinity. Domination
    depends on the order of values only, so their positions serve as well.
    """
    if np.isfinite(points).all():
        return points
    columns = [np.unique(column, return_inverse=True)[1] for column in points.T]
    return np.stack(columns, axis=1).astype(np.float64)


def _checked(points: ArrayLike) -> FloatArray:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"`points` must have shape (n_points, n_objectives), but got {array.shape}.")
    if np.isnan(array).any():
        raise ValueError("`points` must not contain NaN.")
    return array


def _penalty(violations: ArrayLike | None, size: int) -> FloatArray:
    if violations is None:
        return np.zeros(size)
    penalty = np.asarray(violations, dtype=np.float64)
    if penalty.shape != (size,):
        raise ValueError(f"`violations` must have shape ({size},), but got {penalty.shape}.")
    if np.isnan(penalty).any():
        raise ValueError("`violations` must not contain NaN.")
    return np.maximum(penalty, 0.0)
