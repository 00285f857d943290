"""Pooling, the ranking loss and vectors of sentences and words, against NumPy and the model called text by text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from nasopt.tasks.embeddings import TextEncoder, pool, translation_ranking

CPU = torch.device("cpu")
TEXTS = ["the film was good", "a sad story", "it", "very very lovely plot of the film"]


@pytest.fixture(scope="module")
def encoder(tiny_bert: Path) -> TextEncoder:
    model = AutoModel.from_pretrained(tiny_bert, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    return TextEncoder(model, tokenizer, CPU, {"input_ids": 0}, limit=6, word_limit=6, prefix="the ")


def test_mean_pooling_leaves_padding_out() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [99.0, 99.0]], [[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])

    torch.testing.assert_close(pool(hidden, mask, "mean", False), torch.tensor([[2.0, 4.0], [3.0, 4.0]]))
    torch.testing.assert_close(pool(hidden, mask, "cls", False), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    torch.testing.assert_close(pool(hidden, mask, "mean", True)[1], torch.tensor([0.6, 0.8]))


def test_vectors_are_float32_whatever_the_model_computes_in() -> None:
    hidden, mask = torch.ones(1, 2, 4, dtype=torch.bfloat16), torch.ones(1, 2, dtype=torch.int64)

    assert pool(hidden, mask, "mean", True).dtype == torch.float32


def test_translation_ranking_is_cross_entropy_in_both_directions() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    cosines = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in second] for a in first])
    odds = np.exp(7.0 * cosines)
    there = -np.mean([np.log(odds[i, i] / odds[i].sum()) for i in range(5)])
    back = -np.mean([np.log(odds[i, i] / odds[:, i].sum()) for i in range(5)])

    loss = translation_ranking(torch.tensor(first), torch.tensor(second), 7.0)

    assert loss.item() == pytest.approx((there + back) / 2, rel=1e-5)


def test_translation_ranking_of_vectors_that_are_all_alike_is_that_of_guessing() -> None:
    alike = torch.ones(8, 4)

    assert translation_ranking(alike, alike, 20.0).item() == pytest.approx(np.log(8), rel=1e-5)


def hidden_of(encoder: TextEncoder, ids: list[int]) -> Tensor:
    with torch.no_grad():
        output = encoder.model(input_ids=torch.tensor([ids]))
    return output.last_hidden_state[0]


def test_sentences_are_embedded_as_one_by_one_with_prefix_and_limit(encoder: TextEncoder) -> None:
    found = encoder.sentences(TEXTS)

    assert found.shape == (4, 64)
    assert found.dtype == np.float32
    for row, text in enumerate(TEXTS):
        words = ["the", *text.split()][:4]  # six tokens with those that begin and end a text
        ids = encoder.tokenizer.convert_tokens_to_ids(["[CLS]", *words, "[SEP]"])
        mean = hidden_of(encoder, ids).mean(dim=0).numpy()
        np.testing.assert_allclose(found[row], mean / np.linalg.norm(mean), atol=1e-5)


def test_words_are_means_of_their_tokens_without_a_prefix(encoder: TextEncoder) -> None:
    found = encoder.words([["the film", "good"], ["a", "sad", "story", "of", "it", "was"], []])

    states = hidden_of(encoder, encoder.tokenizer.convert_tokens_to_ids(["[CLS]", "the", "film", "good", "[SEP]"]))
    np.testing.assert_allclose(found[0][0], ((states[1] + states[2]) / 2).numpy(), atol=1e-5)
    np.testing.assert_allclose(found[0][1], states[3].numpy(), atol=1e-5)
    assert found[1].shape == (6, 64)
    assert np.abs(found[1][:4]).min(axis=0).max() > 0
    assert (found[1][4:] == 0).all()  # past the limit of six tokens
    assert found[2].shape == (0, 64)
