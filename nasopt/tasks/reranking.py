"""Rerankers: one score for a query and a text together, as the `CrossEncoder`s of sentence-transformers give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nasopt.architecture.base import Precision
from nasopt.architecture.outside import OutsideModel
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, UnsupportedModelError
from nasopt.models import loading
from nasopt.models.sentence_modules import activation_of
from nasopt.numerics.resampling import resample_weights
from nasopt.tasks.base import Evaluation
from nasopt.tasks.batches import Batch, EncodedSplit, Examples
from nasopt.tasks.datasets import load_splits
from nasopt.tasks.encoding import check_texts, identity_of, open_tokenizer
from nasopt.tasks.headed import HeadedTask
from nasopt.tasks.labels import NEW_HEAD, TRAIN, LabelColumn
from nasopt.tasks.reranking_scores import RankingMetric, query_scores
from nasopt.tasks.texts import is_missing, refuse_rows

RESAMPLES = 1000
SEED = 0
SIGMOID = "torch.nn.modules.activation.Sigmoid"
"""What sentence-transformers puts after one output, where nothing else is said."""

USAGE = """
pairs = tokenizer(["a query"], ["a text"], padding=True, truncation=True, max_length={limit}, return_tensors="pt")
scores = model(**pairs).logits[:, 0]  # the higher, the more relevant
"""
CROSS_ENCODER = """
With sentence-transformers the folder gives the same scores after {activation}:

```python
from sentence_transformers import CrossEncoder

scores = CrossEncoder("this folder"{trust}).predict([("a query", "a text")])
```
"""


class Reranking(HeadedTask):
    """Pairs of a query and a text with a relevance; quality is a metric of the order of each query's texts.

    Raises:
        DatasetError, UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """

    def __init__(self, config: TaskConfig, folder: Path | None = None) -> None:
        super().__init__(config, folder)
        if self.has_head:
            self._places_in(self._model_config, NEW_HEAD)
        extra = (config.dataset.query,) if config.dataset.query else ()
        self._data = load_splits(config.dataset, (*config.dataset.text, config.dataset.label, *extra))
        relevance = LabelColumn(self._data, config).values
        for role, values in relevance.items():
            negative = [float(value) < 0 for value in values]
            refuse_rows("label", role, config.dataset.label, negative, "negative", "a relevance is 0 or more")
        self._most = max(float(value) for value in relevance["train"])
        self._targets = {
            role: torch.tensor(np.stack([relevance[role], self._queries(split, role)], axis=1), dtype=torch.float32)
            for role, split in self._data.items()
        }
        self._check_queries()
        self._read_model()
        check_texts(self.tokenizer, self._data, config.dataset.text)

    def _queries(self, split: Dataset, role: str) -> np.ndarray[Any, Any]:
        """The number of each row's query: rows of one id, or of one first text, have the same; shape (rows,)."""
        column = self.config.dataset.query or self.config.dataset.text[0]
        values = split[column][:]
        refuse_rows("query", role, column, [is_missing(value) for value in values], "missing")
        numbers: dict[Any, int] = {}
        return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.float64)

    def _check_queries(self) -> None:
        for role in self._targets.keys() - {"train"}:
            relevance, queries = self._targets[role].numpy().T
            worst, best = (np.full(int(queries.max()) + 1, start) for start in (np.inf, -np.inf))
            np.minimum.at(worst, queries.astype(np.int64), relevance)
            np.maximum.at(best, queries.astype(np.int64), relevance)
            if not (worst < best).any():
                raise DatasetError(
                    f"task.dataset: no query of the {role} split has texts of different relevance, so that every order "
                    "is the same; is task.dataset.query the column of the queries' ids?"
                )

    def _read_model(self) -> None:
        """Opens the model's tokenizer, and finds what stands after its output in sentence-transformers."""
        self.tokenizer = open_tokenizer(self.config, self._model_config)
        self.tokenizer.model_max_length = self._limit  # `CrossEncoder` cuts there
        self._tokenizer_identity = identity_of(self.tokenizer)
        own = activation_of(self._model_config, self.config.model, self.config.revision)
        self._activation = own if own is not None and own.startswith("torch.") else SIGMOID

    def for_model(self, model: OutsideModel) -> Self:
        task = super().for_model(model)
        task._read_model()
        return task

    def _places_in(self, head: PretrainedConfig, cure: str = TRAIN) -> Sequence[int]:
        if head.num_labels != 1:
            raise UnsupportedModelError(
                f"the model's head has {head.num_labels} outputs, and a reranker has one; {cure}"
            )
        return [0]

    @property
    def _limit(self) -> int:
        return min(self.config.max_length, self.max_positions)

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def probabilities(self) -> Literal["sigmoid"]:
        return "sigmoid"

    @property
    def usage(self) -> str:
        return USAGE.format(limit=self._limit)

    def other_use(self, precision: Precision, needs_code: bool) -> str:
        trust = ", trust_remote_code=True" if needs_code else ""
        return CROSS_ENCODER.format(activation=f"`{self._activation}`", trust=trust)

    @property
    def remarks(self) -> tuple[str, ...]:
        said = []
        for role in ("train", "validation"):
            relevance, queries = self._targets[role].numpy().T
            distinct = int(queries.max()) + 1
            without = distinct - len(np.unique(queries[relevance > 0]))
            left_out = f", {without} of them without a relevant text" if without else ""
            said.append(f"the {role} split has {len(queries)} texts of {distinct} queries{left_out}")
            if without and role == "validation":
                said.append("queries without a relevant text do not count in quality")
        if self._most != 1:
            said.append(f"relevances are divided by {self._most:g}, the highest one, for the loss")
        return tuple(said)

    def _head(self) -> loading.Head:
        return loading.Head(("LABEL_0",), "regression")

    def load_model(self) -> PreTrainedModel:
        return self._with_activation(super().load_model())

    def blank_model(self) -> PreTrainedModel:
        return self._with_activation(super().blank_model())

    def _with_activation(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model, whose configuration says to sentence-transformers what stands after its output."""
        model.config.sentence_transformers = {"activation_fn": self._activation}
        return model

    def encode(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Mapping[str, EncodedSplit]:
        """Tokenises every split; labels are the relevance and the query's number, float32, shape (examples, 2)."""
        encoder, columns = self._encoder(tokenizer), self.config.dataset.text
        return {
            role: encoder.encode(split, columns, role, folder, self._targets[role])
            for role, split in self._data.items()
        }

    def loss_of(self, outputs: Sequence[Any], batch: Batch) -> Tensor:
        """Binary cross-entropy of each pair, as `BinaryCrossEntropyLoss` of sentence-transformers; of shape ().

        Logits are of shape (batch, 1); the first of the batch's labels, (batch, 2), is the relevance.
        """
        logits = outputs[0].logits.float().squeeze(-1)
        targets = (batch.labels[:, 0] / self._most).clamp(max=1).to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(logits, targets)

    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        device: torch.device,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Evaluation:
        """The metric, a mean over queries, on a split and on resamples of its queries, shape (1 + resamples,)."""
        relevance, queries = examples.labels.numpy().astype(np.float64).T
        logits = self._outputs(model, examples, device)[:, 0]
        metric = cast("RankingMetric", self.config.metric)
        # A part of a split may lack queries.
        numbers = np.unique(queries, return_inverse=True)[1]
        each = query_scores(numbers, relevance, logits, metric)
        each = each[~np.isnan(each)]
        weights = resample_weights(len(each), RESAMPLES, SEED)
        scores = weights @ each / weights.sum(axis=1)
        return Evaluation(float(scores[0]), replicates=scores)
