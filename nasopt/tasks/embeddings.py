"""Sentence and word vectors of an encoder, and the loss that pulls translations together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from nasopt.tasks.batches import Batch, EncodedSplit, evaluation_batches

Pooling = Literal["mean", "cls"]


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling, normalize: bool, dimension: int | None = None) -> Tensor:
    """One vector for each text, in float32, shape (batch, hidden), or (batch, dimension) if it is cut.

    Args:
        hidden: last hidden states, shape (batch, tokens, hidden).
        mask: 1 for real tokens, shape (batch, tokens); every text has one.
        pooling: the mean over the real tokens, or the first token.
        normalize: whether vectors, as cut, are scaled to length 1.
        dimension: the number of first entries that are kept; all if None.
    """
    states = hidden.float()
    if pooling == "cls":
        vectors = states[:, 0]
    else:
        weights = mask[:, :, None].to(states.dtype)
        vectors = (states * weights).sum(dim=1) / weights.sum(dim=1)
    kept = vectors[:, :dimension]
    return functional.normalize(kept, dim=-1) if normalize else kept


def translation_ranking(first: Tensor, second: Tensor, scale: float) -> Tensor:
    """The loss of translation ranking with in-batch negatives, averaged over both directions; a tensor of shape ().

    Each text has to find its translation among those of the batch: cross-entropy over the scaled cosines (METHODS.md
    section 4, loss i). After Guo et al. 2018 (arXiv 1807.11906) and, for both directions, Yang et al. 2019 (arXiv
    1902.08564), without their margin.

    Args:
        first: vectors of any length, shape (batch, hidden).
        second: the vectors of their translations, in the same order, shape (batch, hidden).
        scale: the factor that cosines are multiplied by.
    """
    cosines = functional.normalize(first.float(), dim=-1) @ functional.normalize(second.float(), dim=-1).T
    right = torch.arange(len(first), device=first.device)
    there, back = (functional.cross_entropy(scale * scores, right) for scores in (cosines, cosines.T))
    return (there + back) / 2


@dataclass(frozen=True)
class TextEncoder:
    """A model that turns texts into vectors, in its own precision and eval mode.

    Attributes:
        model: an encoder.
        tokenizer: the model's tokenizer.
        device: the device that the model is on.
        padding: the inputs that the model reads (except the mask), with the value that pads each.
        limit: the largest number of tokens of a sentence; longer ones are cut.
        word_limit: the same for a text whose words are wanted.
        pooling, normalize, dimension: see :func:`pool`; words' vectors are cut, too.
        prefix: the text that is put before every sentence.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    padding: Mapping[str, int]
    limit: int
    word_limit: int
    pooling: Pooling = "mean"
    normalize: bool = True
    prefix: str = ""
    dimension: int | None = None

    def sentences(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of some texts, shape (texts, hidden)."""
        encoded = self.tokenizer([self.prefix + text for text in texts], truncation=True, max_length=self.limit)
        return self.vectors(_flat(encoded, self.padding))

    def vectors(self, split: EncodedSplit) -> NDArray[np.float32]:
        """The vectors of texts that are tokenised already, prefix included; shape (texts, hidden)."""
        result: NDArray[np.float32] | None = None
        for indices, hidden, batch in self._passes(split):
            kept = pool(hidden, batch.attention_mask, self.pooling, self.normalize, self.dimension)
            pooled = kept.cpu().numpy()
            if result is None:
                result = np.empty((len(split), pooled.shape[1]), dtype=np.float32)
            result[indices.numpy()] = pooled
        return np.empty((0, 0), dtype=np.float32) if result is None else result

    def words(self, texts: Sequence[Sequence[str]]) -> list[NDArray[np.float32]]:
        """The words' vectors, (words, hidden) for each text: the mean over a word's tokens, zeros past the limit."""
        encoded = self.tokenizer(
            [list(words) for words in texts], is_split_into_words=True, truncation=True, max_length=self.word_limit
        )
        word_of = [
            np.array([-1 if word is None else word for word in encoded.word_ids(row)]) for row in range(len(texts))
        ]
        result: list[NDArray[np.float32]] = [np.empty((0, 0), dtype=np.float32)] * len(texts)
        for indices, hidden, _ in self._passes(_flat(encoded, self.padding)):
            states = hidden[..., : self.dimension].float().cpu().numpy()
            for row, index in enumerate(indices.tolist()):
                result[index] = _means(states[row], word_of[index], len(texts[index]))
        return result

    @torch.inference_mode()
    def _passes(self, split: EncodedSplit) -> Iterator[tuple[Tensor, Tensor, Batch]]:
        """Runs batches of texts of about equal length.

        Yields:
            The indices, shape (batch,), the last hidden states, shape (batch, tokens, hidden), and the batch.
        """
        self.model.eval()
        for indices in evaluation_batches(split.lengths):
            batch = split.batch(indices).to(self.device)
            yield indices, self.model(**batch.inputs).last_hidden_state, batch


def _flat(encoded: Mapping[str, list[list[int]]], padding: Mapping[str, int]) -> EncodedSplit:
    """A tokenizer's lists as flat arrays."""
    ends = list(accumulate(map(len, encoded["input_ids"]), initial=0))
    columns = {
        name: torch.from_numpy(np.concatenate([np.asarray(row, dtype=np.int32) for row in encoded[name]]))
        for name in padding
    }
    return EncodedSplit(columns, dict(padding), torch.tensor(ends), torch.zeros(len(ends) - 1))


def _means(states: NDArray[np.float32], word_of: NDArray[np.int64], words: int) -> NDArray[np.float32]:
    """The means over each word's rows of states (tokens, hidden), shape (words, hidden).

    `word_of`, shape (tokens,), is the word of each token, -1 for tokens of no word.
    """
    inside = word_of >= 0
    sums = np.zeros((words, states.shape[1]), dtype=np.float32)
    np.add.at(sums, word_of[inside], states[: len(word_of)][inside])
    sums /= np.maximum(np.bincount(word_of[inside], minlength=words), 1)[:, None]
    return sums
