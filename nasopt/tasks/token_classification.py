"""Token classification: named entities, personal data, parts of speech (Hugging Face's `token-classification`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, choices
from nasopt.models import loading
from nasopt.numerics.resampling import ratio, resample_weights
from nasopt.tasks.base import Evaluation
from nasopt.tasks.batches import Batch, Examples, evaluation_batches, gather_positions
from nasopt.tasks.datasets import load_splits
from nasopt.tasks.encoding import identity_of, open_tokenizer
from nasopt.tasks.entities import ACTUAL, FOUND, HITS, entity_counts, micro_f1
from nasopt.tasks.headed import HeadedTask
from nasopt.tasks.labels import names_of_head
from nasopt.tasks.tags import OUTSIDE, read_tagged_texts
from nasopt.tasks.windows import IGNORED, TaggedSplit, WindowEncoder

RESAMPLES = 1000
SEED = 0
SHOWN_TAGS = 20
UNKNOWN = -1
"""The predicted tag of a word of which the tokenizer makes no token; it counts as :data:`OUTSIDE`."""

USAGE = """
from transformers import pipeline

tokenizer.model_max_length = {limit}  # longer texts are read in windows, which share some tokens
tag = pipeline(
    "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first", stride={overlap}
)
entities = tag("a text")  # kind, probability and characters of each
"""

ARRAY_USAGE = """
import json

names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
# The tag of a word is that of its first token; special tokens and padding have no characters.
tags = [
    [(text[start:stop], names[str(tag)]) for (start, stop), tag in zip(row.offsets, found) if start < stop]
    for text, row, found in zip(texts, encoded, outputs.argmax(axis=-1))
]
"""


class TokenClassification(HeadedTask):
    """Texts whose words have a tag each; quality is F1 of entities, or the accuracy of tags.

    Raises:
        DatasetError, UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """

    tags_tokens = True
    _head_suffix = loading.TOKEN_HEAD_SUFFIX

    def __init__(self, config: TaskConfig, folder: Path | None = None) -> None:
        super().__init__(config, folder)
        columns = (*config.dataset.text, config.dataset.label)
        self._data = load_splits(config.dataset, columns, are_texts=False)
        head = names_of_head(self._model_config) if self.has_head else None
        self._texts = read_tagged_texts(self._data, config, head)
        self._check_metric()
        self.tokenizer = open_tokenizer(config, self._model_config)
        self._tokenizer_identity = identity_of(self.tokenizer)
        self._check_windows()

    def _check_metric(self) -> None:
        names, texts = self._texts.names, self._texts.splits["validation"]
        if self.config.metric != "f1":
            return
        if not self._texts.has_entities:
            raise DatasetError(
                f"task.metric: f1 is that of entities, whose tags are {OUTSIDE}, B-kind and I-kind, but the tags are "
                f"{choices(names[:SHOWN_TAGS])}; choose the metric accuracy"
            )
        outside = names.index(OUTSIDE) if OUTSIDE in names else UNKNOWN
        if all((text.tags == outside).all() for text in texts):
            raise DatasetError(
                "task.dataset.splits: no text of the validation split has an entity, so that every quality would be 0; "
                "shuffle the rows before they are split"
            )

    def _check_windows(self) -> None:
        room = self._limit - self.tokenizer.num_special_tokens_to_add(pair=False)
        if self._overlap >= room:
            raise DatasetError(
                f"task.tokens.overlap: {self._overlap}, but a window of max_length = {self._limit} tokens has room for "
                f"{room}, special ones not counted; the overlap must be smaller"
            )

    @property
    def _overlap(self) -> int:
        overlap = self.config.tokens.overlap
        return self._limit // 4 if overlap is None else overlap

    @property
    def num_outputs(self) -> int:
        return len(self._texts.names)

    @property
    def probabilities(self) -> Literal["softmax"]:
        return "softmax"

    @property
    def quality_name(self) -> str:
        return "f1 of entities" if self.config.metric == "f1" else "accuracy of tags"

    @property
    def remarks(self) -> tuple[str, ...]:
        names, train = self._texts.names, self._texts.splits["train"]
        shown = choices([*names[:SHOWN_TAGS], "..."] if len(names) > SHOWN_TAGS else names)
        words = sum(len(text.tags) for text in train)
        said = f"words have one of {len(names)} tags: {shown}; {words} words in {len(train)} training texts"
        return (*self._texts.remarks, said, f"quality is {self.quality_name}")

    @property
    def usage(self) -> str:
        return USAGE.format(limit=self._limit, overlap=self._overlap)

    @property
    def array_usage(self) -> str:
        return ARRAY_USAGE

    def texts_read(self, role: str) -> list[str]:
        return [text.text for text in self._texts.splits[role]]

    def _head(self) -> loading.Head:
        return loading.Head(self._texts.names, suffix=self._head_suffix)

    def encode(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Mapping[str, TaggedSplit]:
        """Tokenises every split in windows; an example is a window, of at most `max_length` tokens."""
        encoder = self._window_encoder(tokenizer)
        return {role: encoder.encode(texts, role, folder) for role, texts in self._texts.splits.items()}

    def count(self, role: str) -> int:
        """How many windows a split has."""
        return self._window_encoder(None).count(self._texts.splits[role])

    def _window_encoder(self, tokenizer: PreTrainedTokenizerBase | None) -> WindowEncoder:
        used = tokenizer or self.tokenizer
        identity = identity_of(tokenizer) if tokenizer else self._tokenizer_identity
        return WindowEncoder(used, identity, self._limit, self._overlap, self._padding(used))

    def loss_of(self, outputs: Sequence[Any], batch: Batch) -> Tensor:
        """Cross-entropy, averaged over the words of the batch; a tensor of shape ().

        Logits are of shape (batch, tokens, outputs), labels of shape (batch, tokens).
        """
        logits = outputs[0].logits.float().flatten(0, 1)
        total = functional.cross_entropy(logits, batch.labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (batch.labels != IGNORED).sum().clamp_min(1)

    def loss_terms(self, examples: Examples) -> Tensor:
        """The number of words whose tags each window carries, shape (windows,)."""
        assert isinstance(examples, TaggedSplit)
        return examples.terms

    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        device: torch.device,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Evaluation:
        """The metric on a split and on resamples of its texts, shape (1 + resamples,)."""
        assert isinstance(examples, TaggedSplit)
        found, actual, ends = self.predict(model, examples, device), examples.tags.numpy(), examples.ends.numpy()
        weights = resample_weights(len(ends) - 1, RESAMPLES, SEED)
        if self.config.metric == "accuracy":
            counted = np.concatenate([[0], (self._known(found) == actual).cumsum()])
            scores = ratio(
                weights @ np.diff(counted[ends]).astype(np.float64), weights @ np.diff(ends).astype(np.float64)
            )
            return Evaluation(float(scores[0]), replicates=scores)
        kinds, counts = entity_counts(self._names_of(actual, ends), self._names_of(self._known(found), ends))
        scores = micro_f1(weights, counts.sum(axis=1))
        return Evaluation(float(scores[0]), replicates=scores, details=_details(kinds, counts.sum(axis=0)))

    @torch.inference_mode()
    def predict(self, model: nn.Module, examples: TaggedSplit, device: torch.device) -> NDArray[np.int64]:
        """The tag of each word of a split, shape (words,); :data:`UNKNOWN` for words without a token."""
        model.eval()
        found = torch.full((len(examples.tags),), UNKNOWN)
        for indices in evaluation_batches(examples.lengths):
            (output,) = self.run(model, examples.batch(indices).to(device))
            positions, mask = gather_positions(examples.windows.offsets, indices)
            words = examples.words[positions].masked_fill(~mask, -1)
            found[words[words >= 0]] = output.logits.argmax(dim=-1).cpu()[words >= 0]
        array: NDArray[np.int64] = found.numpy()
        return array

    def _known(self, tags: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tags with :data:`OUTSIDE` in place of :data:`UNKNOWN`, where there is such a tag."""
        names = self._texts.names
        return np.where(tags == UNKNOWN, names.index(OUTSIDE), tags) if OUTSIDE in names else tags

    def _names_of(self, tags: NDArray[np.int64], ends: NDArray[np.int64]) -> list[list[str]]:
        """The tags by name, for each text."""
        names = [OUTSIDE if tag == UNKNOWN else self._texts.names[tag] for tag in tags.tolist()]
        return [names[start:stop] for start, stop in pairwise(ends.tolist())]


def _details(kinds: Sequence[str], counts: NDArray[np.int64]) -> dict[str, float]:
    """Precision and recall of all entities, and F1 of each kind; counts are of shape (kinds, 3)."""
    hits, found, actual = counts.sum(axis=0).tolist()
    result = {"precision": hits / max(found, 1), "recall": hits / max(actual, 1)}
    for kind, row in zip(kinds, counts, strict=True):
        result[f"f1_{kind}"] = 2 * float(row[HITS]) / float(row[FOUND] + row[ACTUAL])
    return result
