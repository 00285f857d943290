"""Text classification and regression, of single texts or of pairs (Hugging Face's `text-classification`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from nasopt.config.task import CLASSIFICATION_METRICS, REGRESSION_METRICS, TaskConfig
from nasopt.errors import DatasetError, choices
from nasopt.models import loading
from nasopt.tasks.base import Evaluation, LabelledTask
from nasopt.tasks.batches import Batch, EncodedSplit, Examples
from nasopt.tasks.datasets import load_splits
from nasopt.tasks.encoding import check_texts, identity_of, open_tokenizer
from nasopt.tasks.headed import HeadedTask
from nasopt.tasks.labels import LabelColumn, order_of_classes, positive_class, read_labels
from nasopt.tasks.metrics import METRICS, f1

SHOWN_CLASSES = 10


class TextClassification(HeadedTask, LabelledTask):
    """Texts, or pairs of them, with a class or a number each; quality is a metric of a model's outputs.

    Raises:
        DatasetError, UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """

    def __init__(self, config: TaskConfig, folder: Path | None = None) -> None:
        super().__init__(config, folder)
        self._data = load_splits(config.dataset, (*config.dataset.text, config.dataset.label))
        column = LabelColumn(self._data, config)
        self._check_metric(column)
        self._labels = read_labels(column, self._model_config if self.has_head else None)
        self._targets = {role: self._target(values) for role, values in column.values.items()}
        self._check_positive()
        self._check_validation()
        self.tokenizer = open_tokenizer(config, self._model_config)
        self._tokenizer_identity = identity_of(self.tokenizer)
        check_texts(self.tokenizer, self._data, config.dataset.text)

    @property
    def is_classification(self) -> bool:
        return bool(self._labels.names)

    @property
    def num_outputs(self) -> int:
        return self._labels.num_outputs

    def texts(self, role: str) -> list[str]:
        split = self._data[role]
        return [
            " ".join(map(str, texts)) for texts in zip(*map(split.__getitem__, self.config.dataset.text), strict=True)
        ]

    @property
    def remarks(self) -> tuple[str, ...]:
        if not self.is_classification:
            return (*self._labels.remarks, "labels are read as numbers (regression)")
        names = self._labels.names
        shown = choices([*names[:SHOWN_CLASSES], "..."] if len(names) > SHOWN_CLASSES else names)
        said = [*self._labels.remarks, f"labels are read as {len(names)} classes: {shown}"]
        return (*said, f"quality is {self.quality_name}") if self._is_binary_f1 else tuple(said)

    @property
    def quality_name(self) -> str:
        if self._is_binary_f1:
            return f"f1 of the class `{self._labels.names[self.positive_class]}`"
        return self.config.metric

    @property
    def settled(self) -> TaskConfig:
        """`[task]` with the class that F1 is computed for."""
        positive = self._labels.names[self.positive_class] if self._is_binary_f1 else None
        return self.config.model_copy(update={"positive_label": positive})

    @property
    def positive_class(self) -> int:
        return self._positive

    @property
    def _is_binary_f1(self) -> bool:
        return self.config.metric == "f1" and len(self._labels.names) == 2

    def _check_metric(self, column: LabelColumn) -> None:
        allowed = CLASSIFICATION_METRICS if column.is_classification else REGRESSION_METRICS
        if self.config.metric not in allowed:
            kind = "classes" if column.is_classification else "numbers (regression)"
            other = "regression" if column.is_classification else "classification"
            raise DatasetError(
                f"task.metric: {self.config.metric} does not fit the column `{self.config.dataset.label}`, "
                f'which holds {kind}; choose one of {choices(allowed)}, or set task.kind = "{other}"'
            )

    def _check_positive(self) -> None:
        """Settles the class that F1 is computed for."""
        self._positive = 1
        if self._is_binary_f1:
            self._positive = positive_class(self._labels.names, self.config.positive_label)
        elif self.config.positive_label:
            raise DatasetError(
                f"task.positive_label: there are {len(self._labels.names)} classes; it is for f1 of two classes"
            )

    def _check_validation(self) -> None:
        """Refuses a validation split on which every model's quality would be 0."""
        present = set(self._targets["validation"].tolist())
        missing = self._is_binary_f1 and self.positive_class not in present
        if missing or (self.config.metric == "matthews_correlation" and len(present) < 2):
            name = self._labels.names[self.positive_class if missing else int(present.pop())]
            raise DatasetError(
                f"task.dataset.splits: {'no' if missing else 'every'} label of the validation split is `{name}`, so "
                f"{self.config.metric} would be 0 for every model; shuffle the rows before they are split"
            )

    def _target(self, values: Sequence[str | int | float]) -> Tensor:
        """The ids of classes (int64), or numbers (float32); shape (examples,)."""
        if self.is_classification:
            return torch.tensor([self._labels.ids[str(value)] for value in values], dtype=torch.int64)
        return torch.tensor(values, dtype=torch.float32)

    def _head(self) -> loading.Head:
        names = self._labels.names or ("LABEL_0",)
        kind = "single_label_classification" if self.is_classification else "regression"
        return loading.Head(names, kind)

    def _places_in(self, head: PretrainedConfig) -> Sequence[int]:
        return order_of_classes(head, LabelColumn(self._data, self.config), self._labels)

    def encode(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Mapping[str, EncodedSplit]:
        encoder = self._encoder(tokenizer)
        columns = self.config.dataset.text
        return {
            role: encoder.encode(split, columns, role, folder, self._targets[role])
            for role, split in self._data.items()
        }

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy for classes, mean squared error for numbers; a tensor of shape ().

        Args:
            outputs: shape (batch, outputs).
            labels: shape (batch,), int64 for classes and float32 for numbers.
        """
        if self.is_classification:
            return functional.cross_entropy(outputs.float(), labels)
        return functional.mse_loss(outputs.float().squeeze(-1), labels)

    def quality(self, outputs: NDArray[np.float32], labels: NDArray[np.generic]) -> float:
        """The metric of outputs of shape (examples, outputs) by labels of shape (examples,)."""
        metric = partial(f1, positive=self.positive_class) if self._is_binary_f1 else METRICS[self.config.metric]
        return metric(outputs, labels)

    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        device: torch.device,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Evaluation:
        """The metric on a split, with the model's outputs of shape (examples, outputs)."""
        outputs = self._outputs(model, examples, device)
        return Evaluation(self.quality(outputs, examples.labels.numpy()), outputs)

    def loss_of(self, outputs: Sequence[Any], batch: Batch) -> Tensor:
        """The loss of logits of shape (batch, outputs) by labels of shape (batch,); a tensor of shape ()."""
        return self.loss(outputs[0].logits, batch.labels)
