"""Sentence similarity: encoders that put translations, or texts of like meaning, close together.

Any pairs train, by translation ranking; quality is one of

* ``spearmanr``: rank correlation of the cosines of pairs with their scores, the label column of the validation split;
* ``retrieval``: how often the second text of a validation pair is the nearest one to the first, and the reverse;
* ``encodechka``: the mean over tasks of that benchmark (METHODS.md section 4).

:mod:`nasopt.tasks.retrieval` has other ones, of passages that are found for queries.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nasopt.architecture.base import EncoderShape, Precision
from nasopt.architecture.outside import OutsideModel
from nasopt.config.embedding import SimilarityConfig
from nasopt.config.section import Section
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError
from nasopt.models import loading
from nasopt.models.families import encoder_family_of, encoder_shape, max_positions
from nasopt.models.sentence_modules import SentenceModules, sentence_files, sentence_modules
from nasopt.numerics.resampling import FloatArray, resample_weights
from nasopt.tasks.base import EmbeddingTask, Evaluation
from nasopt.tasks.batches import Examples, PairBatch, PairedSplit
from nasopt.tasks.datasets import ROLES, load_splits
from nasopt.tasks.dimensions import Encoded, check_dimensions, qualities
from nasopt.tasks.embeddings import Pooling, TextEncoder, pool, translation_ranking
from nasopt.tasks.encodechka import Encodechka, mean_scores
from nasopt.tasks.encoding import Encoder, identity_of, open_tokenizer
from nasopt.tasks.similarity_scores import distinct_texts, pair_correlation, retrieval_accuracy, unit
from nasopt.tasks.texts import check_pairs
from nasopt.tasks.vector_settings import read_in_lower_case, settle

RESAMPLES = 1000
SEED = 0

VECTORS = """
texts = tokenizer({texts}, padding=True, truncation=True, max_length={limit}, return_tensors="pt")
hidden = model(**texts).last_hidden_state.float()  # (texts, tokens, hidden size)
{pooling}
"""

SENTENCE_TRANSFORMERS = """
With sentence-transformers the folder gives the same vectors; prefix, longest text, pooling and length are in its files:

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("this folder"{trust}).encode(["a text"])
```
"""
ROUNDED = """
It pools in the model's own precision, and the code above in fp32: vectors differ by what that rounds off.
"""
SIDES = ("query", "document")
"""The prompts of `encode_query` and `encode_document`."""
DEFAULT_PROMPT = "default"
"""The name of a prefix that is none of the model's own prompts."""

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


class SentenceSimilarity(EmbeddingTask):
    """Pairs of texts of like meaning; quality says how well a model's vectors recognise such pairs.

    Raises:
        DatasetError, UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """

    _is_outside = False
    """Whether the model was made elsewhere, so that it need not be of a family that can be cut."""

    def __init__(self, config: TaskConfig, folder: Path | None = None) -> None:
        super().__init__(config, folder)
        self._data = self._open_data(config)
        self._scores = {role: self._scores_of(split, role) for role, split in self._data.items()}
        self._model_config = loading.load_config(config.model, config.revision, config.trust_remote_code)
        encoder_family_of(self._model_config)
        self._own_modules = sentence_modules(config.model, config.revision)
        self._read_model(config)
        check_dimensions(config.similarity.dimensions, self.shape.hidden_size)
        if self._has_benchmark:
            _ = self.benchmark  # so that missing files are an error now, not after a training

    def _open_data(self, config: TaskConfig) -> Mapping[str, Dataset]:
        """The pairs of each split."""
        return open_pairs(config)

    def _read_model(self, config: TaskConfig) -> None:
        """Opens the model's tokenizer, and settles how texts become vectors."""
        self.tokenizer = open_tokenizer(config, self._model_config)
        if self._own_modules.lowercases:
            self.tokenizer = read_in_lower_case(self.tokenizer)
        self._tokenizer_identity = identity_of(self.tokenizer)
        self.config, self._remarks = settle(config, self._own_modules, self.tokenizer, self.max_positions)

    @property
    def settled(self) -> TaskConfig:
        """`[task]` with pooling, prefix, normalisation and the longest text as the model's own files say."""
        return self.config

    @property
    def remarks(self) -> tuple[str, ...]:
        return self._remarks

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
        code = VECTORS.format(texts=json.dumps(self._sample), pooling=POOLINGS[self.pooling], limit=self._limit)
        is_unit = self.config.similarity.normalize
        code += "" if self.dimension is None else f"vectors = vectors[:, :{self.dimension}]\n"
        return code + ("vectors = vectors / vectors.norm(dim=-1, keepdim=True)\n" if is_unit else "")

    @property
    def _sample(self) -> list[str]:
        """Texts for a model card's code."""
        return [f"{self.config.similarity.prefix}a text"]

    @property
    def array_usage(self) -> str:
        code = ARRAY_POOLINGS[self.pooling]
        normal = "vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)\n"
        return code + (normal if self.config.similarity.normalize else "")

    @property
    def folder_files(self) -> Mapping[str, str | bytes]:
        settings, own = self.config.similarity, self._own_modules
        modules = SentenceModules(
            pooling=self.pooling,
            normalize=settings.normalize,
            max_length=self._limit,
            prompts=self._prompts,
            prompt=settings.prefix,
            pools_prompt=own.pools_prompt,
            dimension=self.dimension,
        )
        return sentence_files(modules, self.shape.hidden_size)

    @property
    def _prompts(self) -> dict[str, str]:
        """The prompts of an exported folder, by name: the base model's, and the prefix under a name of its own."""
        prompts = {name: text for name, text in self._own_modules.prompts.items() if text}
        prefix = self.config.similarity.prefix
        if prefix and prefix not in prompts.values():
            return {**prompts, DEFAULT_PROMPT: prefix} if prompts else dict.fromkeys(SIDES, prefix)
        return prompts

    def other_use(self, precision: Precision, needs_code: bool) -> str:
        trust = ", trust_remote_code=True" if needs_code else ""
        return SENTENCE_TRANSFORMERS.format(trust=trust) + ("" if precision == "fp32" else ROUNDED)

    @property
    def pooling(self) -> Pooling:
        return self.config.similarity.pooling or "mean"

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
        task, config = copy.copy(self), self._config_for(model)
        task._own_modules = its = sentence_modules(config.model, config.revision)
        task._is_outside, task._model_config = True, loading.outside_config(config.model, config.revision)
        task._read_model(config.model_copy(update=self._yielding_to(its)))
        return task

    def _yielding_to(self, its: SentenceModules) -> Mapping[str, Section | None]:
        """The tables of the study's `[task]` without the settings that another model's own files have."""
        own = {"pooling": its.pooling, "prefix": its.prompt, "normalize": its.normalize}
        theirs = {name: value for name, value in self.config.similarity if own.get(name) is None}
        return {"similarity": SimilarityConfig.model_validate(theirs)}

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
        encoded = {}
        for role, split in self._data.items():
            first, second = (
                self._encoder(prefix, tokenizer).encode(split, [column], role, folder, self._scores[role])
                for prefix, column in zip(self.prefixes, self.config.dataset.text, strict=True)
            )
            encoded[role] = PairedSplit(first, second)
        return encoded

    def _encoder(self, prefix: str, tokenizer: PreTrainedTokenizerBase | None) -> Encoder:
        """A tokenizer, the task's own if None, that puts a prefix before every text."""
        used = tokenizer or self.tokenizer
        identity = identity_of(tokenizer) if tokenizer else self._tokenizer_identity
        return Encoder(used, identity, self._limit, self._padding(used), prefix)

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
            self.dimension,
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
            return self._benchmark_evaluation(encoder)
        whole = [unit(encoder.vectors(side)) for side in examples.sides]
        weights = resample_weights(len(examples), RESAMPLES, SEED)

        def scores(first: NDArray[np.float32], second: NDArray[np.float32], weights: FloatArray) -> FloatArray:
            if self.config.metric == "spearmanr":
                return pair_correlation(weights, first, second, examples.labels.numpy().astype(np.float64))
            return retrieval_accuracy(weights, first, second, *map(distinct_texts, examples.sides))

        def of_cut(dimension: int) -> float:
            first, second = (unit(side[:, :dimension]) for side in whole)
            return float(scores(first, second, weights[:1])[0])

        replicates = scores(whole[0], whole[1], weights)
        by_dimension = qualities(self.config.similarity.dimensions, whole[0].shape[1], of_cut)
        return Evaluation(float(replicates[0]), replicates=replicates, by_dimension=by_dimension)

    def _benchmark_evaluation(self, encoder: TextEncoder) -> Evaluation:
        settings, width = self.config.similarity, self.dimension or self.shape.hidden_size
        encoded = Encoded(encoder.sentences, encoder.words, settings.normalize)
        scores = self.benchmark.evaluate(encoded.sentences, encoded.words)

        def of_cut(dimension: int) -> float:
            sentences = partial(encoded.sentences, dimension=dimension)
            words = partial(encoded.words, dimension=dimension)
            return float(mean_scores(self.benchmark.evaluate(sentences, words, resamples=0))[0])

        details = {name: float(values[0]) for name, values in scores.items()}
        replicates, by_dimension = mean_scores(scores), qualities(settings.dimensions, width, of_cut)
        return Evaluation(float(replicates[0]), replicates=replicates, details=details, by_dimension=by_dimension)


def open_pairs(config: TaskConfig, roles: Sequence[str] = ROLES) -> dict[str, Dataset]:
    """The pairs of some splits, each with two texts.

    Raises:
        DatasetError: a split or a column does not exist, or a text is missing.
    """
    splits = load_splits(config.dataset, config.dataset.text, roles=roles)
    for role, split in splits.items():
        check_pairs(split, role, config.dataset.text)
    return splits


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


def _without_pooler(model: PreTrainedModel) -> PreTrainedModel:
    """The model without its pooler, which vectors do not need, and which is often missing in the checkpoint."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model
