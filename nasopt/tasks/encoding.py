"""Tokenises a column of texts (or two together) into flat arrays, once: the result lies in an Arrow cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, choices
from nasopt.host.files import checksum_file, checksum_matches, write_checksum
from nasopt.models import loading
from nasopt.models.checking import check_files, check_tokenizer
from nasopt.tasks.batches import EncodedSplit

TRUNCATION_WARNING_SHARE = 0.01

logger = logging.getLogger("nasopt")


@dataclass(frozen=True)
class Encoder:
    """A tokenizer with the settings by which it turns texts into tokens.

    Attributes:
        tokenizer: a fast one.
        identity: the tokenizer's identity, a string that tokenising does not change.
        limit: the largest number of tokens; longer texts are cut.
        padding: the inputs that a model reads (except the mask), with the value that pads each.
        prefix: the text that is put before every text.
        is_target: whether a model is to generate the texts, for tokenizers that tell both sides apart.
    """

    tokenizer: PreTrainedTokenizerBase
    identity: str
    limit: int
    padding: Mapping[str, int]
    prefix: str = ""
    is_target: bool = False

    def encode(self, split: Dataset, columns: Sequence[str], role: str, folder: Path, labels: Tensor) -> EncodedSplit:
        """Tokenises the texts of one column, or of two as pairs that a model reads together.

        Args:
            split: the texts.
            columns: one column, or two.
            role: the split's role, which names the cache; for `train` a warning says if more than 1 % of the texts are
                cut.
            folder: the folder of the cache.
            labels: the label of each example, shape (examples,).

        Returns:
            The tokens of all examples in flat arrays, shape (total_tokens,) each.

        Raises:
            DatasetError: a text has no tokens.
        """
        table = cached_table(
            split,
            lambda rows: self._tokenise([rows[column] for column in columns]),
            folder / f"{role}-{self._key(split, columns)}.arrow",
        )
        truncated = float(np.mean(table["truncated"]))
        if role == "train" and truncated > TRUNCATION_WARNING_SHARE:
            logger.warning(
                "task.max_length: %d tokens cut off the end of %.0f %% of the training texts",
                self.limit,
                100 * truncated,
            )
        flat = {name: flatten(table, name) for name in self.padding}
        columns_of = {name: values for name, (values, _) in flat.items()}
        encoded = EncodedSplit(columns_of, dict(self.padding), flat["input_ids"][1], labels)
        _refuse_empty((encoded.lengths == 0).nonzero().flatten().tolist(), columns, role)
        return encoded

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


def cached_table(
    split: Dataset,
    tokenise: Callable[[Mapping[str, Any]], dict[str, Any]],
    cache: Path,
    new_fingerprint: str | None = None,
) -> Dataset:
    """The tokens of each text, from the cache if its file is whole.

    Args:
        split: the texts.
        tokenise: makes rows of the table from some rows of the split.
        cache: the Arrow file.
        new_fingerprint: what `datasets` knows the table by; None for a hash of all that `tokenise` holds.
    """
    if cache.is_file() and not checksum_matches(cache):
        logger.warning("%s: damaged, or not of this version; the texts are tokenised again", cache)
        cache.unlink()
    table = split.map(
        tokenise,
        batched=True,
        remove_columns=split.column_names,
        cache_file_name=str(cache),
        keep_in_memory=False,
        new_fingerprint=new_fingerprint,
    )
    if not checksum_file(cache).is_file():
        write_checksum(cache)
    return table


def identity_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Everything that a tokenizer consists of, as a text. Call it before the first use, which leaves traces there."""
    return str(tokenizer.backend_tokenizer.to_str())


def open_tokenizer(config: TaskConfig, model_config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a task's model, after a check of the model's files.

    Raises:
        UnsupportedModelError: there is no tokenizer, it is not the model's or cannot be used, or there are no weights.
    """
    check_files(config.model, config.revision)
    tokenizer = loading.load_tokenizer(config.model, config.revision, config.trust_remote_code)
    check_tokenizer(config.model, tokenizer, model_config.vocab_size)
    return tokenizer


def check_texts(tokenizer: PreTrainedTokenizerBase, splits: Mapping[str, Dataset], columns: Sequence[str]) -> None:
    """Refuses empty texts if a tokenizer makes no tokens of them, because a model needs at least one.

    Args:
        tokenizer: a fast one.
        splits: the splits by role.
        columns: the columns of the texts that are read together.

    Raises:
        DatasetError: there are such texts; the message counts them and names the first.
    """
    if tokenizer.backend_tokenizer.encode("").ids:
        return
    for role, split in splits.items():
        rows = zip(*map(split.__getitem__, columns), strict=True)
        _refuse_empty([row for row, texts in enumerate(rows) if not "".join(map(str, texts)).strip()], columns, role)


def _refuse_empty(empty: Sequence[int], columns: Sequence[str], role: str) -> None:
    if empty:
        raise DatasetError(
            f"task.dataset.text: {len(empty)} texts of the {role} split have no tokens at all (column "
            f"{choices(columns)}; the first in row {empty[0]}, counted from 0); remove them, because this tokenizer "
            "adds no special tokens to an empty text"
        )


def flatten(table: Dataset, column: str) -> tuple[Tensor, Tensor]:
    """A column of lists as flat values (int32) and offsets."""
    lists = table.data.table.column(column).combine_chunks()
    lists = lists.chunk(0) if hasattr(lists, "chunk") else lists
    offsets = lists.offsets.to_numpy().astype(np.int64)
    values = lists.values.to_numpy()[offsets[0] : offsets[-1]].astype(np.int32)
    return torch.from_numpy(values), torch.from_numpy(offsets - offsets[0])
