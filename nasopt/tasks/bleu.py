"""BLEU (Papineni et al. 2002) of a corpus and of resamples of its sentences, by sacrebleu (Post 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

ORDERS = 4


def bleu_replicates(
    translations: Sequence[str], references: Sequence[str], resamples: int, seed: int
) -> tuple[NDArray[np.float64], str]:
    """BLEU, then BLEU of resamples of the sentences, which are paired where the seed is the same (Koehn 2004).

    Args:
        translations: the translated sentences, detokenised.
        references: a reference for each of them.
        resamples: the number of resamples.
        seed: decides which sentences are drawn.

    Returns:
        The scores in percent, shape (1 + resamples,), and sacrebleu's signature.
    """
    metric = BLEU()
    counts = np.array([_counts(metric, mine, right) for mine, right in zip(translations, references, strict=True)])
    size = len(counts)
    drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=resamples)
    weights = np.concatenate([np.ones((1, size), dtype=np.int64), drawn])
    scores = [_score(row) for row in weights @ counts]
    return np.array(scores), str(metric.get_signature())


def _counts(metric: BLEU, translation: str, reference: str) -> list[int]:
    """The 2 * ORDERS + 2 counts that BLEU adds up over sentences: matching n-grams, all n-grams, both lengths."""
    found = metric.corpus_score([translation], [[reference]])
    return [*found.counts, *found.totals, found.sys_len, found.ref_len]


def _score(row: NDArray[np.int64]) -> float:
    correct, total, (own, right) = row[:ORDERS].tolist(), row[ORDERS : 2 * ORDERS].tolist(), row[2 * ORDERS :].tolist()
    return float(BLEU.compute_bleu(correct, total, own, right, smooth_method="exp").score)
