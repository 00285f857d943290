"""Metrics of the passages that are nearest to queries, each query one value; all are to be maximised.

Both are those of trec_eval, which BEIR gives: NDCG's gains are the scores themselves, and the best order is that of all
relevant passages; Recall is the share of the relevant passages that are found. Passages with equal cosines stand in a
random order, the same one for every model, so that the order of the data decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nasopt.host.pausing import pause_for_measurements
from nasopt.numerics.resampling import FloatArray

NDCG_DEPTH, RECALL_DEPTH = 10, 100
BLOCK = 2**25
"""The number of cosines that are in memory at a time."""
SEED = 0


def nearest(
    queries: NDArray[np.float32], passages: NDArray[np.float32], left_out: NDArray[np.int64], depth: int = RECALL_DEPTH
) -> list[NDArray[np.int64]]:
    """The rows of the passages with the largest cosines for each query, in their order; shape (<= depth,) each.

    Args:
        queries: unit vectors, shape (queries, hidden).
        passages: unit vectors, shape (passages, hidden).
        left_out: the row of a passage that is not to be found, or -1, shape (queries,).
        depth: the number of passages that are found, where there are so many.
    """
    chance = np.random.default_rng(SEED).permutation(len(passages))
    found: list[NDArray[np.int64]] = []
    step = max(1, BLOCK // len(passages))
    for start in range(0, len(queries), step):
        pause_for_measurements()
        for cosines, out in zip(
            queries[start : start + step] @ passages.T, left_out[start : start + step].tolist(), strict=True
        ):
            found.append(_largest(cosines, chance, depth, out))
    return found


def query_scores(found: Sequence[NDArray[np.int64]], relevance: Sequence[Mapping[int, float]]) -> dict[str, FloatArray]:
    """Both metrics of each query by name, shape (queries,) each.

    Args:
        found: the passages that were found for each query, the nearest first, shape (<= 100,) each.
        relevance: for each query the relevant passages' rows with their scores, all above 0; at least one.
    """
    ndcg, recall = [], []
    for rows, its in zip(found, relevance, strict=True):
        gains = [its.get(row, 0.0) for row in rows.tolist()]
        ndcg.append(_discounted(gains) / _discounted(sorted(its.values(), reverse=True)))
        recall.append(np.count_nonzero(gains[:RECALL_DEPTH]) / len(its))
    return {f"ndcg@{NDCG_DEPTH}": np.array(ndcg), f"recall@{RECALL_DEPTH}": np.array(recall)}


def _discounted(gains: Sequence[float]) -> float:
    """The sum of the first gains, each divided by the logarithm of its place."""
    first = np.asarray(gains[:NDCG_DEPTH])
    return float((first / np.log2(np.arange(len(first)) + 2)).sum())


def _largest(cosines: NDArray[np.float32], chance: NDArray[np.int64], depth: int, left_out: int) -> NDArray[np.int64]:
    """The rows of the largest cosines, shape (<= depth,); of equal ones those come first that chance has first.

    Args:
        cosines: shape (passages,).
        chance: the place of each passage among equal ones, shape (passages,).
        depth: the number of rows.
        left_out: a row that is not to be found, or -1.
    """
    rows = np.arange(len(cosines))
    if left_out >= 0:
        rows = np.delete(rows, left_out)
    if len(rows) > depth:
        least = np.partition(cosines[rows], -depth)[-depth]
        above, equal = rows[cosines[rows] > least], rows[cosines[rows] == least]
        rows = np.concatenate([above, equal[np.argsort(chance[equal])][: depth - len(above)]])
    order: NDArray[np.int64] = rows[np.lexsort((chance[rows], -cosines[rows]))]
    return order
