"""Tokenising a column of texts (or two together) into flat arrays, once: the result lies in an Arrow cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nasopt.tasks.batches import EncodedSplit

TRUNCATION_WARNING_SHARE = 0.01

logger = logging.getLogger("nasopt")


@dataclass(frozen=True)
class Encoder:
    """How texts become tokens.

    Attributes:
        tokenizer: a fast one.
        identity: what it is, in one string that tokenising does not change.
        limit: tokens; what is longer is cut.
        padding: the inputs that a model reads (but the mask), with the value that pads each.
        prefix: put before every text.
        is_target: whether texts are what a model is to generate, for tokenizers that tell both sides apart.
    """

    tokenizer: PreTrainedTokenizerBase
    identity: str
    limit: int
    padding: Mapping[str, int]
    prefix: str = ""
    is_target: bool = False

    def encode(self, split: Dataset, columns: Sequence[str], role: str, folder: Path, labels: Tensor) -> EncodedSplit:
        """The texts of one column, or of two as pairs that a model reads together.

        Args:
            split: the texts.
            columns: one, or two.
            role: of the split; names the cache, and of `train` it is said when more than 1 % of the texts are cut.
            folder: of the cache.
            labels: shape (examples,).
        """
        cache = folder / f"{role}-{self._key(split, columns)}.arrow"
        table = split.map(
            lambda rows: self._tokenise([rows[column] for column in columns]),
            batched=True,
            remove_columns=split.column_names,
            cache_file_name=str(cache),
            keep_in_memory=False,
        )
        truncated = float(np.mean(table["truncated"]))
        if role == "train" and truncated > TRUNCATION_WARNING_SHARE:
            logger.warning(
                "task.max_length: %d tokens cut off the end of %.0f %% of the training texts",
                self.limit,
                100 * truncated,
            )
        flat = {name: _flatten(table, name) for name in self.padding}
        columns_of = {name: values for name, (values, _) in flat.items()}
        return EncodedSplit(columns_of, dict(self.padding), flat["input_ids"][1], labels)

    def _tokenise(self, columns: Sequence[Sequence[Any]]) -> dict[str, Any]:
        texts = [[self.prefix + str(text) for text in column] for column in columns]
        options: dict[str, Any] = {"truncation": True, "max_length": self.limit}
        encoded = (
            self.tokenizer(text_target=texts[0], **options) if self.is_target else self.tokenizer(*texts, **options)
        )
        return {**encoded, "truncated": [bool(item.overflowing) for item in encoded.encodings]}

    def _key(self, split: Dataset, columns: Sequence[str]) -> str:
        identity = hashlib.sha256(f"{self.identity} {self.limit} {self.prefix}{' target' * self.is_target}".encode())
        for column in columns:
            identity.update("\0".join(map(str, split[column])).encode())
        return identity.hexdigest()[:16]


def identity_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """All that a tokenizer consists of, as a text. Ask before it is used: tokenising leaves traces in it."""
    return str(tokenizer.backend_tokenizer.to_str())


def _flatten(table: Dataset, column: str) -> tuple[Tensor, Tensor]:
    """A column of lists as flat values (int32) and offsets."""
    lists = table.data.table.column(column).combine_chunks()
    lists = lists.chunk(0) if hasattr(lists, "chunk") else lists
    offsets = lists.offsets.to_numpy().astype(np.int64)
    values = lists.values.to_numpy()[offsets[0] : offsets[-1]].astype(np.int32)
    return torch.from_numpy(values), torch.from_numpy(offsets - offsets[0])
