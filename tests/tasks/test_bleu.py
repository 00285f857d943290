"""BLEU of resamples against sacrebleu on the resampled corpus itself."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu

from nasopt.tasks.bleu import bleu_replicates

TRANSLATIONS = ["the cat sat on the mat today", "a dog", "open the file in the menu", "close window now please"]
REFERENCES = ["the cat sat on a mat today", "the dog barks", "open the file from the menu", "close the window now"]


def test_the_first_replicate_is_the_corpus_s_bleu() -> None:
    scores, signature = bleu_replicates(TRANSLATIONS, REFERENCES, resamples=3, seed=0)
    assert scores.shape == (4,)
    assert scores[0] == pytest.approx(sacrebleu.corpus_bleu(TRANSLATIONS, [REFERENCES]).score)
    assert "smooth:exp" in signature


def test_a_resample_is_the_bleu_of_the_sentences_drawn() -> None:
    scores, _ = bleu_replicates(TRANSLATIONS, REFERENCES, resamples=5, seed=7)
    size = len(TRANSLATIONS)
    for counts, score in zip(
        np.random.default_rng(7).multinomial(size, np.full(size, 1 / size), size=5), scores[1:], strict=True
    ):
        drawn = np.repeat(np.arange(size), counts)
        expected = sacrebleu.corpus_bleu([TRANSLATIONS[i] for i in drawn], [[REFERENCES[i] for i in drawn]]).score
        assert score == pytest.approx(expected)


def test_two_models_are_resampled_alike() -> None:
    """Paired: a model compared with itself differs in no resample."""
    first, _ = bleu_replicates(TRANSLATIONS, REFERENCES, resamples=20, seed=0)
    second, _ = bleu_replicates(list(TRANSLATIONS), list(REFERENCES), resamples=20, seed=0)
    assert np.array_equal(first, second)
