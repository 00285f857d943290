"""Metrics of orders of texts for queries, each query one value; all are to be maximised.

NDCG is scikit-learn's (gains are the relevances themselves), MRR counts every relevance above 0. Texts with equal
scores stand in a random order, the same one for every model, so that the order of the data decides nothing.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasopt.numerics.resampling import FloatArray

RankingMetric: TypeAlias = Literal["mrr@10", "ndcg@10"]
DEPTH = 10
"""The number of texts that a user sees."""
SEED = 0


def query_scores(
    queries: NDArray[np.int64], relevance: FloatArray, scores: NDArray[np.float32], metric: RankingMetric
) -> FloatArray:
    """The metric of each query, shape (queries,); NaN for queries without a relevant text, which have no order.

    Args:
        queries: the number of each text's query, shape (texts,); from 0, without gaps.
        relevance: not negative, 0 for texts that are not relevant, shape (texts,).
        scores: a model's, the higher the more relevant, shape (texts,).
        metric: see the module.
    """
    chance = np.random.default_rng(SEED).permutation(len(queries))
    ranks = _ranks(queries, -scores.astype(np.float64), chance)
    relevant = np.bincount(queries, relevance > 0) > 0
    if metric == "mrr@10":
        gains = np.where((relevance > 0) & (ranks < DEPTH), 1 / (ranks + 1), 0.0)
        found: FloatArray = np.zeros(len(relevant))
        np.maximum.at(found, queries, gains)
        found[~relevant] = np.nan
        return found
    ideal = _ranks(queries, -relevance, chance)
    gained, possible = (np.bincount(queries, relevance * _discounts(order)) for order in (ranks, ideal))
    scored: FloatArray = np.divide(gained, possible, out=np.full(len(relevant), np.nan), where=relevant)
    return scored


def _ranks(queries: NDArray[np.int64], values: FloatArray, chance: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each text among those of its query, by ascending values, from 0; shape (texts,)."""
    order = np.lexsort((chance, values, queries))
    sizes = np.bincount(queries)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    ranks = np.empty(len(queries), dtype=np.int64)
    ranks[order] = np.arange(len(queries)) - starts
    return ranks


def _discounts(ranks: NDArray[np.int64]) -> FloatArray:
    discounts: FloatArray = np.where(ranks < DEPTH, 1 / np.log2(ranks + 2.0), 0.0)
    return discounts
