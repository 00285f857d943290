"""Matryoshka: what vectors are worth that are cut to their first entries, from the encoding of the whole ones.

After Kusupati et al. 2022 (arXiv 2205.13147), whose models are trained so that their first entries say the most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasopt.errors import UnsupportedModelError, choices
from nasopt.tasks.encodechka import Embed, EmbedWords
from nasopt.tasks.similarity_scores import unit


def check_dimensions(dimensions: Sequence[int], width: int) -> None:
    """Refuses dimensions that cut nothing off.

    Args:
        dimensions: numbers of first entries.
        width: the number of entries of a whole vector.

    Raises:
        UnsupportedModelError: one is as large as the vectors.
    """
    large = [str(each) for each in dimensions if each >= width]
    if large:
        raise UnsupportedModelError(
            f"task.similarity.dimensions: {choices(large)} cut nothing off the model's vectors of {width} entries; "
            "name smaller numbers"
        )


def qualities(dimensions: Sequence[int], width: int, quality: Callable[[int], float]) -> dict[int, float]:
    """The qualities of cut vectors by the number of their entries, the largest first.

    Args:
        dimensions: numbers of first entries. Those that vectors do not have, of a model from outside, are left out.
        width: the number of entries of a whole vector.
        quality: the quality of vectors of so many entries; one that is not finite is left out.
    """
    found = {each: float(quality(each)) for each in sorted(dimensions, reverse=True) if each < width}
    return {each: value for each, value in found.items() if math.isfinite(value)}


class Encoded:
    """Vectors of a benchmark's texts that are encoded once, and can be had cut.

    Args:
        sentences: gives the vectors of texts, shape (texts, hidden).
        words: gives the vectors of each text's words, shape (words, hidden) for each text.
        normalize: whether the vectors of texts are scaled to length 1.
    """

    def __init__(self, sentences: Embed, words: EmbedWords, normalize: bool) -> None:
        self._sentences, self._words, self._normalize = _once(sentences), _once(words), normalize

    def sentences(self, texts: Sequence[str], dimension: int | None = None) -> NDArray[np.float32]:
        """The vectors of texts, shape (texts, hidden), or (texts, dimension) if they are cut."""
        vectors: NDArray[np.float32] = self._sentences(texts)
        if dimension is None:
            return vectors
        return unit(vectors[:, :dimension]) if self._normalize else vectors[:, :dimension]

    def words(self, texts: Sequence[Sequence[str]], dimension: int | None = None) -> list[NDArray[np.float32]]:
        """The vectors of words, shape (words, hidden) for each text, or (words, dimension) if they are cut."""
        return [vectors[:, :dimension] for vectors in self._words(texts)]


def _once(encode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function, which remembers what it has said."""
    known: dict[str, Any] = {}

    def ask(texts: Any) -> Any:
        key = repr(texts)
        if key not in known:
            known[key] = encode(texts)
        return known[key]

    return ask
