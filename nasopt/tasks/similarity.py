"""Sentence similarity: encoders that put translations, or texts of like meaning, close together.

Any pairs train, by translation ranking; quality is one of

* ``spearmanr``: rank correlation of the cosines of pairs with their scores, the label column of the validation split;
* ``retrieval``: how often the second text of a validation pair is the nearest one to the first, and the reverse;
* ``encodechka``: the mean over tasks of that benchmark (METHODS.md section 4).
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.outside import OutsideModel
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, UnsupportedModelError, choices
from nasopt.models import loading
from nasopt.models.families import encoder_family_of, encoder_shape, max_positions
from nasopt.models.sentence_modules import sentence_modules
from nasopt.numerics.resampling import FloatArray, resample_weights, spearman
from nasopt.tasks.base import EmbeddingTask, Evaluation
from nasopt.tasks.batches import EncodedSplit, Examples, PairBatch, PairedSplit
from nasopt.tasks.datasets import load_splits
from nasopt.tasks.embeddings import Pooling, TextEncoder, pool, translation_ranking
from nasopt.tasks.encodechka import Encodechka, mean_scores
from nasopt.tasks.encoding import Encoder, identity_of, open_tokenizer
from nasopt.tasks.texts import check_pairs

RESAMPLES = 1000
SEED = 0
SIMILARITY_BLOCK = 1024
"""The number of texts whose cosines with all others are in memory at a time."""


VECTORS = """
texts = tokenizer(["{prefix}a text"], padding=True, return_tensors="pt")
hidden = model(**texts).last_hidden_state  # (texts, tokens, hidden size)
{pooling}
"""

POOLINGS = {
    "mean": """mask = texts["attention_mask"][..., None]
vectors = (hidden * mask).sum(dim=1) / mask.sum(dim=1)""",
    "cls": "vectors = hidden[:, 0]",
}

ARRAY_POOLINGS: dict[Pooling, str] = {
    "mean": """mask = inputs["attention_mask"][..., None]
vectors = (outputs * mask).sum(axis=1) / mask.sum(axis=1)
""",
    "cls": "vectors = outputs[:, 0]\n",
}

logger = logging.getLogger("nasopt")


class SentenceSimilarity(EmbeddingTask):
    """Pairs of texts of like meaning; quality says how well a model's vectors recognise such pairs.

    Raises:
        DatasetError, UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """

    _is_outside = False
    """Whether the model was made elsewhere, so that it need not be of a family that can be cut."""

    def __init__(self, config: TaskConfig, folder: Path | None = None) -> None:
        super().__init__(config, folder)
        self._data = load_splits(config.dataset, config.dataset.text)
        for role, split in self._data.items():
            check_pairs(split, role, config.dataset.text)
        self._scores = {role: self._scores_of(split, role) for role, split in self._data.items()}
        self._model_config = loading.load_config(config.model, config.revision, config.trust_remote_code)
        encoder_family_of(self._model_config)
        self.tokenizer = open_tokenizer(config, self._model_config)
        self._pooling = _pooling_of(config)
        self._tokenizer_identity = identity_of(self.tokenizer)
        if self._has_benchmark:
            _ = self.benchmark  # so that missing files are an error now, not after a training

    @cached_property
    def benchmark(self) -> Encodechka:
        """The chosen tasks of encodechka.

        Raises:
            DatasetError: there is no folder of its files, or one of them is missing.
        """
        settings = self.config.similarity
        if settings.encodechka is None:
            raise DatasetError("task.similarity.encodechka: not set; it is the folder with the benchmark's files")
        return Encodechka(settings.encodechka, settings.encodechka_tasks)

    def _scores_of(self, split: Dataset, role: str) -> Tensor:
        """The label column where the metric reads it, else zeros; shape (pairs,)."""
        column = self.config.dataset.label
        if self.config.metric != "spearmanr" or role == "train":
            return torch.zeros(len(split))
        if column not in split.column_names:
            raise DatasetError(
                f"task.dataset.label: the {role} split has no column `{column}`, the scores that spearmanr needs"
            )
        return _checked_scores(split[column], role, column)

    @property
    def has_head(self) -> bool:
        return True  # any encoder gives vectors

    @property
    def evaluates_test(self) -> bool:
        # The benchmark has files of its own, and the search has seen them.
        return super().evaluates_test and not self._has_benchmark

    @property
    def judged_on(self) -> str:
        return "the files of the benchmark" if self._has_benchmark else super().judged_on

    @property
    def usage(self) -> str:
        settings = self.config.similarity
        code = VECTORS.format(prefix=settings.prefix, pooling=POOLINGS[self.pooling])
        return code + ("vectors = vectors / vectors.norm(dim=-1, keepdim=True)\n" if settings.normalize else "")

    @property
    def array_usage(self) -> str:
        code = ARRAY_POOLINGS[self.pooling]
        normal = "vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)\n"
        return code + (normal if self.config.similarity.normalize else "")

    @property
    def pooling(self) -> Pooling:
        return self._pooling

    @property
    def _has_benchmark(self) -> bool:
        return self.config.metric == "encodechka"

    @property
    def shape(self) -> EncoderShape:
        return encoder_shape(self._model_config)

    @property
    def max_positions(self) -> int:
        return max_positions(self._model_config)

    def for_model(self, model: OutsideModel) -> Self:
        """See :meth:`nasopt.tasks.base.Task.for_model`. Its vectors are pooled as its own files say, else as the
        study's are."""
        task = copy.copy(self)
        config = self._config_for(model)
        own = sentence_modules(config.model, config.revision).pooling
        settings = config.similarity.model_copy(update={"pooling": None if own else self.pooling})
        task.config, task._is_outside = config.model_copy(update={"similarity": settings}), True
        task._model_config = loading.outside_config(config.model, config.revision)
        task.tokenizer = open_tokenizer(task.config, task._model_config)
        task._pooling = _pooling_of(task.config)
        task._tokenizer_identity = identity_of(task.tokenizer)
        return task

    def load_model(self) -> PreTrainedModel:
        return _without_pooler(
            loading.load_headless(
                self.config.model,
                revision=self.config.revision,
                trust_remote_code=self.config.trust_remote_code,
                any_type=self._is_outside,
            )
        )

    def blank_model(self) -> PreTrainedModel:
        return _without_pooler(
            loading.blank_headless(self.config.model, self.config.revision, self.config.trust_remote_code)
        )

    def encode(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Mapping[str, PairedSplit]:
        used = tokenizer or self.tokenizer
        encoder = Encoder(
            used,
            identity_of(tokenizer) if tokenizer else self._tokenizer_identity,
            self._limit,
            self._padding(used),
            self.config.similarity.prefix,
        )
        encoded = {}
        for role, split in self._data.items():
            first, second = (
                encoder.encode(split, [column], role, folder, self._scores[role]) for column in self.config.dataset.text
            )
            encoded[role] = PairedSplit(first, second)
        return encoded

    @property
    def _limit(self) -> int:
        return min(self.config.max_length, self.max_positions)

    def _padding(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        """The value that pads each input; segments are left out, because a text alone has one, the models' default."""
        return {"input_ids": int(tokenizer.pad_token_id)}

    def text_encoder(
        self, model: nn.Module, device: torch.device, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> TextEncoder:
        """An encoder that gives vectors of shape (texts, hidden), by a model that is on `device`.

        `tokenizer` is as in :meth:`encode`.
        """
        used, settings = tokenizer or self.tokenizer, self.config.similarity
        return TextEncoder(
            model,
            used,
            device,
            self._padding(used),
            self._limit,
            self.max_positions,
            self.pooling,
            settings.normalize,
            settings.prefix,
        )

    def vectors(self, outputs: Sequence[Any], batch: PairBatch) -> list[Tensor]:
        """Pools hidden states of shape (batch, tokens, hidden) to the vectors of both texts, (batch, hidden) each."""
        settings = self.config.similarity
        return [
            pool(output.last_hidden_state, side.attention_mask, self.pooling, settings.normalize)
            for output, side in zip(outputs, batch.sides, strict=True)
        ]

    def loss_of(self, outputs: Sequence[Any], batch: PairBatch) -> Tensor:
        """The translation-ranking loss of hidden states of shape (batch, tokens, hidden); a tensor of shape ()."""
        first, second = self.vectors(outputs, batch)
        return translation_ranking(first, second, self.config.similarity.scale)

    @torch.inference_mode()
    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        device: torch.device,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Evaluation:
        """Runs the model over a split; see :meth:`nasopt.tasks.base.Task.evaluate`.

        Replicates are of shape (1 + resamples,). With `encodechka`, `details` has the score of each of its tasks.
        """
        assert isinstance(examples, PairedSplit)
        encoder = self.text_encoder(model, device, tokenizer)
        if self._has_benchmark:
            scores = self.benchmark.evaluate(encoder.sentences, encoder.words)
            details = {name: float(values[0]) for name, values in scores.items()}
            replicates = mean_scores(scores)
            return Evaluation(float(replicates[0]), replicates=replicates, details=details)
        first, second = (_unit(encoder.vectors(side)) for side in examples.sides)
        weights = resample_weights(len(examples), RESAMPLES, SEED)
        if self.config.metric == "spearmanr":
            scored = examples.labels.numpy().astype(np.float64)
            replicates = pair_correlation(weights, first, second, scored)
        else:
            replicates = retrieval_accuracy(weights, first, second, *map(distinct_texts, examples.sides))
        return Evaluation(float(replicates[0]), replicates=replicates)


def pair_correlation(
    weights: FloatArray, first: NDArray[np.float32], second: NDArray[np.float32], scores: FloatArray
) -> FloatArray:
    """Spearman correlation of the cosines of pairs with their scores, for each row of weights; shape (rows,).

    Args:
        weights: shape (rows, pairs), see :mod:`nasopt.numerics.resampling`.
        first: unit vectors, shape (pairs, hidden).
        second: unit vectors of the other texts, shape (pairs, hidden).
        scores: the pairs' scores, shape (pairs,).
    """
    cosines = np.einsum("ij,ij->i", first, second).astype(np.float64)
    found: FloatArray = spearman(weights, scores, [cosines])[0]
    return found


def retrieval_accuracy(
    weights: FloatArray,
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    first_ids: NDArray[np.int64],
    second_ids: NDArray[np.int64],
) -> FloatArray:
    """The share of texts whose nearest text of the other side is the right one, mean of both directions, for each row.

    Resamples draw the questions; the texts to choose from stay the same.

    Args:
        weights: shape (rows, pairs), see :mod:`nasopt.numerics.resampling`.
        first: unit vectors, shape (pairs, hidden).
        second: unit vectors of the other texts, shape (pairs, hidden).
        first_ids: numbers of the first texts, equal for equal ones, which count as right for one another; shape
            (pairs,).
        second_ids: the same for the other texts, shape (pairs,).

    Returns:
        Shape (rows,).
    """
    there = second_ids[_nearest(first, second)] == second_ids
    back = first_ids[_nearest(second, first)] == first_ids
    accuracy: FloatArray = weights @ ((there.astype(np.float64) + back) / 2) / weights.sum(axis=1)
    return accuracy


def distinct_texts(split: EncodedSplit) -> NDArray[np.int64]:
    """A number for each text of a split, the same for texts with the same tokens; shape (texts,)."""
    tokens, ends = split.columns["input_ids"].numpy(), split.offsets.tolist()
    numbers: dict[bytes, int] = {}
    texts = (tokens[start:stop].tobytes() for start, stop in pairwise(ends))
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)


def _nearest(questions: NDArray[np.float32], answers: NDArray[np.float32]) -> NDArray[np.int64]:
    """The first answer with the largest cosine for each question, shape (questions,); unit vectors (texts, hidden)."""
    blocks = range(0, len(questions), SIMILARITY_BLOCK)
    found: NDArray[np.int64] = np.concatenate(
        [(questions[start : start + SIMILARITY_BLOCK] @ answers.T).argmax(axis=1) for start in blocks]
    )
    return found


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def _checked_scores(values: Sequence[Any], role: str, column: str) -> Tensor:
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DatasetError(
                f"task.dataset.label: the column `{column}` of the {role} split holds {value!r} in row {row}, counted "
                "from 0; scores must be numbers"
            )
    if len(set(values)) < 2:
        raise DatasetError(f"task.dataset.label: all scores of the {role} split are equal; no ranks to compare with")
    return torch.tensor([float(value) for value in values], dtype=torch.float32)


def _pooling_of(config: TaskConfig) -> Pooling:
    """The pooling that the study file names, else the model's own files, else the mean.

    Raises:
        UnsupportedModelError: the model makes its vectors in a way that nasopt does not know.
    """
    said, modules = config.similarity.pooling, sentence_modules(config.model, config.revision)
    own, others = modules.pooling or "mean", choices(modules.others)
    if said is not None:
        if others:
            logger.warning("task.similarity.pooling: vectors are made without the model's %s", others)
        elif own != said and modules.pooling is not None:
            logger.warning("task.similarity.pooling: %s, though the model's own files say %s", said, own)
        return said
    if others:
        raise UnsupportedModelError(
            f"model {config.model!r}: its vectors go through {others} after pooling, which nasopt "
            "does not keep; set task.similarity.pooling to go on with the vectors before that"
        )
    if own not in POOLINGS:
        raise UnsupportedModelError(
            f"model {config.model!r}: its pooling is {own}; set task.similarity.pooling to one of {choices(POOLINGS)}"
        )
    return "cls" if own == "cls" else "mean"


def _without_pooler(model: PreTrainedModel) -> PreTrainedModel:
    """The model without its pooler, which vectors do not need, and which is often missing in the checkpoint."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model
