"""Tokenises texts whose words have tags: long ones in windows that overlap, so that no word is left out.

A word's first token carries its tag, all others :data:`IGNORED`. A word that lies in several windows has its tag in
that one where it is farthest from an edge; so each word is learnt, and predicted, once and with its best context.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from nasopt.tasks.batches import Batch, EncodedSplit, gather_positions
from nasopt.tasks.encoding import cached_table, flatten
from nasopt.tasks.tags import TaggedText

IGNORED = -100
"""The label that torch's cross-entropy leaves out."""

logger = logging.getLogger("nasopt")


@dataclass(frozen=True)
class WindowedSplit:
    """The tokenised windows of one split's texts; an example is a window.

    Attributes:
        windows: the tokens of each window.
    """

    windows: EncodedSplit

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def total_tokens(self) -> int:
        return self.windows.total_tokens

    @property
    def lengths(self) -> Tensor:
        """The number of tokens of each window, shape (windows,)."""
        return self.windows.lengths

    @property
    def labels(self) -> Tensor:
        """Zeros, shape (windows,): a window has no label of its own."""
        return self.windows.labels

    @property
    def sides(self) -> tuple[EncodedSplit, ...]:
        return (self.windows,)


@dataclass(frozen=True)
class TaggedSplit(WindowedSplit):
    """Windows whose tokens carry the tags of words.

    Attributes:
        words: the word, counted over all texts, whose tag a token carries, int64, shape (total_tokens,); -1 for none.
        tags: the id of each word's tag, int64, shape (words,).
        ends: the texts' bounds, shape (texts + 1,): text i has the words ends[i] to ends[i + 1].
    """

    words: Tensor
    tags: Tensor
    ends: Tensor

    @cached_property
    def token_labels(self) -> Tensor:
        """The tag that each token carries, or :data:`IGNORED`; int64, shape (total_tokens,)."""
        return torch.where(self.words >= 0, self.tags[self.words.clamp_min(0)], IGNORED)

    @cached_property
    def terms(self) -> Tensor:
        """The number of words whose tags each window carries, int64, shape (windows,)."""
        counted = torch.cat([torch.zeros(1, dtype=torch.int64), (self.words >= 0).cumsum(0)])
        return counted[self.windows.offsets].diff()

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.windows.fingerprint.encode())
        for tensor in (self.words, self.tags, self.ends):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def batch(self, indices: Tensor) -> Batch:
        """The windows at `indices`, shape (batch,), with labels of shape (batch, tokens)."""
        positions, mask = gather_positions(self.windows.offsets, indices)
        labels = self.token_labels[positions].masked_fill(~mask, IGNORED)
        return Batch(self.windows.batch(indices).inputs, labels, indices)


@dataclass(frozen=True)
class Windows:
    """A tokenizer with the settings by which it turns texts, or the second ones of pairs, into windows of tokens.

    Attributes:
        tokenizer: a fast one.
        identity: the tokenizer's identity, see :func:`nasopt.tasks.encoding.identity_of`.
        limit: the largest number of tokens of a window, special ones included.
        overlap: the tokens that two windows of a text share.
        padding: the inputs that a model reads (except the mask), with the value that pads each.
    """

    tokenizer: PreTrainedTokenizerBase
    identity: str
    limit: int
    overlap: int
    padding: Mapping[str, int]

    def tokens(self, *columns: Sequence[str]) -> BatchEncoding:
        """The tokens of some texts, or pairs, with the characters that they are of; windows in the texts' order."""
        return self.tokenizer(
            *columns,
            truncation="only_second" if len(columns) == 2 else True,
            max_length=self.limit,
            stride=self.overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def log_share(self, role: str, texts: str, windows_of_text: Tensor) -> None:
        """Says how many of the training `texts` are read in windows, by the number of each one's windows."""
        long = float((windows_of_text > 1).double().mean()) if len(windows_of_text) else 0.0
        if role == "train" and long:
            logger.info(
                "task.max_length: %.0f %% of the training %s have more than %d tokens, and are read in windows that "
                "share %d tokens",
                100 * long,
                texts,
                self.limit,
                self.overlap,
            )


@dataclass(frozen=True)
class WindowEncoder(Windows):
    """Tokenises texts whose words have tags."""

    def encode(self, texts: Sequence[TaggedText], role: str, folder: Path) -> TaggedSplit:
        """Tokenises texts, or reads what an earlier call left in `folder`.

        Args:
            texts: the texts of a split, each with at least one word.
            role: the split's role, which names the cache.
            folder: the folder of the cache.
        """
        key = self._key(texts)
        table = cached_table(
            Dataset.from_dict({"row": list(range(len(texts)))}),
            lambda rows: self._tokenise(rows["row"], [texts[row] for row in rows["row"]]),
            folder / f"{role}-{key}.arrow",
            new_fingerprint=key,
        )
        flat = {name: flatten(table, name) for name in (*self.padding, "word")}
        offsets = flat["input_ids"][1]
        text_of_window = torch.tensor(table["row"][:])
        ends = torch.tensor([0, *(len(text.tags) for text in texts)]).cumsum(0)
        in_text = flat["word"][0].to(torch.int64)
        first_word = ends[text_of_window].repeat_interleave(offsets.diff())
        columns = {name: flat[name][0] for name in self.padding}
        windows = EncodedSplit(columns, dict(self.padding), offsets, torch.zeros(len(offsets) - 1))
        tags = torch.from_numpy(np.concatenate([text.tags for text in texts]))
        self.log_share(role, "texts", torch.bincount(text_of_window, minlength=len(texts)))
        return TaggedSplit(windows, torch.where(in_text >= 0, in_text + first_word, -1), tags, ends)

    def count(self, texts: Sequence[TaggedText]) -> int:
        """The number of windows of some texts."""
        return sum(len(self.tokens([text.text])["input_ids"]) for text in texts)

    def _tokenise(self, rows: Sequence[int], texts: Sequence[TaggedText]) -> dict[str, Any]:
        encoded = self.tokens([text.text for text in texts])
        of_text: list[int] = encoded["overflow_to_sample_mapping"]
        words: list[NDArray[np.int64]] = []
        for text, windows in groupby(range(len(of_text)), key=of_text.__getitem__):
            offsets = [np.array(encoded["offset_mapping"][window]).reshape(-1, 2) for window in windows]
            words += tagged_words(texts[text], offsets)
        inputs = {name: encoded[name] for name in self.padding}
        return {**inputs, "word": [found.tolist() for found in words], "row": [rows[text] for text in of_text]}

    def _key(self, texts: Sequence[TaggedText]) -> str:
        digest = hashlib.sha256(f"{self.identity} {self.limit} windows {self.overlap}".encode())
        for text in texts:
            digest.update(text.text.encode() + b"\0" + text.words.tobytes())
        return digest.hexdigest()[:16]


def tagged_words(text: TaggedText, windows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """The word whose tag each token of a text's windows carries, counted within the text; -1 for none.

    Args:
        text: the text.
        windows: the first character of each token and one past its last, (tokens, 2) for each window; equal ones for
            special tokens.

    Returns:
        Shape (tokens,) for each window. A word has no token where the tokenizer makes none of it, or one together with
        the word before.
    """
    marks = _next_marks(text.text)
    pieces = [_Pieces.of(text, offsets, marks) for offsets in windows]
    begin, end = min(item.begin for item in pieces), max(item.end for item in pieces)
    first = np.full(len(text.words), np.iinfo(np.int64).max)  # where the first token of each word begins
    for item in pieces:
        inside = item.words >= 0
        np.minimum.at(first, item.words[inside], item.starts[inside])
    best = np.full(len(text.words), -1.0)
    chosen = np.full(len(text.words), -1)
    places = []
    for number, item in enumerate(pieces):
        at = item.first_pieces(first)
        words, context = item.words[at], item.context(at, begin, end)
        better = context > best[words]
        best[words[better]], chosen[words[better]] = context[better], number
        places.append(at)
    result = []
    for number, (item, at) in enumerate(zip(pieces, places, strict=True)):
        mine = at[chosen[item.words[at]] == number]
        carried = np.full(len(item.words), -1)
        carried[mine] = item.words[mine]
        result.append(carried)
    return result


def _next_marks(text: str) -> NDArray[np.int64]:
    """The place of the next character that is no blank, for each character of a text and its end; (characters + 1,)."""
    blank = np.array([character.isspace() for character in text] + [False])
    places = np.where(blank, len(text), np.arange(len(blank)))
    found: NDArray[np.int64] = np.minimum.accumulate(places[::-1])[::-1]
    return found


@dataclass(frozen=True)
class _Pieces:
    """The tokens of a window: where each begins in the text, blanks left out, and the word that it is of, or -1."""

    starts: NDArray[np.int64]
    words: NDArray[np.int64]
    begin: int
    end: int
    first: int
    last: int

    @classmethod
    def of(cls, text: TaggedText, offsets: NDArray[np.int64], marks: NDArray[np.int64]) -> _Pieces:
        starts, stops = marks[offsets[:, 0]], offsets[:, 1]
        index = np.searchsorted(text.words[:, 1], starts, side="right")
        known = index < len(text.words)
        begins = text.words[np.where(known, index, 0), 0]
        words = np.where((starts < stops) & known & (begins < stops), index, -1)
        real = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
        first, last = (int(real[0]), int(real[-1])) if len(real) else (0, len(offsets) - 1)
        return cls(starts, words, int(offsets[first, 0]), int(offsets[last, 1]), first, last)

    def first_pieces(self, first: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions of tokens that are the first of their words, which begin at `first`, shape (words,)."""
        before = np.concatenate([[-1], self.words[:-1]])
        of_word = np.flatnonzero((self.words >= 0) & (self.words != before))
        found: NDArray[np.int64] = of_word[self.starts[of_word] == first[self.words[of_word]]]
        return found

    def context(self, at: NDArray[np.int64], begin: int, end: int) -> NDArray[np.float64]:
        """Tokens from each position to the nearest edge that is not one of the text, which spans `begin` to `end`."""
        left = np.inf if self.begin == begin else at - self.first
        right = np.inf if self.end == end else self.last - at
        context: NDArray[np.float64] = np.minimum(left, right) + np.zeros(len(at))
        return context
