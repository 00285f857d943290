"""Text classification and regression, of single texts or of pairs (Hugging Face's `text-classification`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nasopt.architecture.base import EncoderShape
from nasopt.config.task import CLASSIFICATION_METRICS, REGRESSION_METRICS, TaskConfig
from nasopt.errors import DatasetError, choices
from nasopt.models import loading
from nasopt.models.families import encoder_family_of, encoder_shape, max_positions
from nasopt.tasks.base import Evaluation, LabelledTask
from nasopt.tasks.batches import Batch, EncodedSplit, Examples, sorted_batches
from nasopt.tasks.datasets import load_splits
from nasopt.tasks.encoding import Encoder, check_texts, identity_of, open_tokenizer
from nasopt.tasks.metrics import METRICS

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Labels:
    """The classes of a data set in the order of their ids; none of them for regression."""

    names: tuple[str, ...]
    ids: dict[Any, int]

    @property
    def num_outputs(self) -> int:
        return len(self.names) or 1


class TextClassification(LabelledTask):
    """Texts, or pairs of them, with a class or a number each; quality is a metric of a model's outputs.

    Raises:
        DatasetError, UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """

    def __init__(self, config: TaskConfig, folder: Path | None = None) -> None:
        super().__init__(config, folder)
        self._data = load_splits(config.dataset, (*config.dataset.text, config.dataset.label))
        self._model_config = loading.load_config(config.model, config.revision, config.trust_remote_code)
        encoder_family_of(self._model_config)
        self._labels = _labels_of(self._data["train"], config.dataset.label)
        self._check_metric()
        if self.has_head:
            self._labels = _labels_of_head(self._model_config, self._labels)
        for role, split in self._data.items():
            _check_labels(split, role, config.dataset.label, self._labels)
        self.tokenizer = open_tokenizer(config, self._model_config)
        self._tokenizer_identity = identity_of(self.tokenizer)
        check_texts(self.tokenizer, self._data, config.dataset.text)

    @property
    def has_head(self) -> bool:
        return loading.has_head(self._model_config) and not self.config.new_head

    @property
    def is_classification(self) -> bool:
        return bool(self._labels.names)

    @property
    def shape(self) -> EncoderShape:
        return encoder_shape(self._model_config)

    @property
    def num_outputs(self) -> int:
        return self._labels.num_outputs

    def texts(self, role: str) -> list[str]:
        split = self._data[role]
        return [
            " ".join(map(str, texts)) for texts in zip(*map(split.__getitem__, self.config.dataset.text), strict=True)
        ]

    @property
    def max_positions(self) -> int:
        return max_positions(self._model_config)

    def _check_metric(self) -> None:
        allowed = CLASSIFICATION_METRICS if self.is_classification else REGRESSION_METRICS
        if self.config.metric not in allowed:
            kind = "classes" if self.is_classification else "numbers (regression)"
            raise DatasetError(
                f"task.metric: {self.config.metric} does not fit the column `{self.config.dataset.label}`, "
                f"which holds {kind}; choose one of {choices(allowed)}"
            )

    def load_model(self) -> PreTrainedModel:
        return loading.load_base(
            self.config.model,
            self._head(),
            revision=self.config.revision,
            trust_remote_code=self.config.trust_remote_code,
            new_head=not self.has_head,
        )

    def blank_model(self) -> PreTrainedModel:
        return loading.blank_base(self.config.model, self._head(), self.config.revision, self.config.trust_remote_code)

    def _head(self) -> loading.Head:
        names = self._labels.names or ("LABEL_0",)
        kind = "single_label_classification" if self.is_classification else "regression"
        return loading.Head(names, kind)

    def encode(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Mapping[str, EncodedSplit]:
        encoder = Encoder(
            tokenizer or self.tokenizer,
            identity_of(tokenizer) if tokenizer else self._tokenizer_identity,
            min(self.config.max_length, self.max_positions),
            self._padding(tokenizer or self.tokenizer),
        )
        columns = self.config.dataset.text
        return {
            role: encoder.encode(split, columns, role, folder, self._label_ids(split))
            for role, split in self._data.items()
        }

    def _label_ids(self, split: Dataset) -> Tensor:
        ids = self._labels.ids
        labels = [ids[label] if ids else label for label in split[self.config.dataset.label]]
        return torch.tensor(labels, dtype=torch.int64 if self.is_classification else torch.float32)

    def _padding(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        """The tokenizer's outputs that the model reads, but the mask: segments only if it tells them apart."""
        segments = getattr(self._model_config, "type_vocab_size", 0) or 0
        padding = {"input_ids": int(tokenizer.pad_token_id), "token_type_ids": 0}
        wanted = {"input_ids"} | ({"token_type_ids"} if segments > 1 else set())
        return {name: padding[name] for name in tokenizer.model_input_names if name in wanted}

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy for classes, mean squared error for numbers; see :class:`nasopt.tasks.base.LabelledTask`."""
        if self.is_classification:
            return functional.cross_entropy(outputs.float(), labels)
        return functional.mse_loss(outputs.float().squeeze(-1), labels)

    def quality(self, outputs: NDArray[np.float32], labels: NDArray[np.generic]) -> float:
        return METRICS[self.config.metric](outputs, labels)

    @torch.inference_mode()
    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        device: torch.device,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Evaluation:
        model.eval()
        outputs = np.empty((len(examples), self._labels.num_outputs), dtype=np.float32)
        for indices in sorted_batches(examples.lengths, EVALUATION_BATCH):
            (found,) = self.run(model, examples.batch(indices).to(device))
            outputs[indices.numpy()] = found.logits.float().cpu().numpy()
        return Evaluation(self.quality(outputs, examples.labels.numpy()), outputs)

    def loss_of(self, outputs: Sequence[Any], batch: Batch) -> Tensor:
        return self.loss(outputs[0].logits, batch.labels)


def _labels_of(train: Dataset, column: str) -> Labels:
    """Classes as the data name them: ClassLabel names, strings or whole numbers. Fractions mean regression."""
    feature = train.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return Labels(tuple(feature.names), {index: index for index in range(len(feature.names))})
    values = train[column]
    if any(isinstance(value, float) for value in values):
        return Labels((), {})
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if len(distinct) < 2:
        raise DatasetError(f"task.dataset.label: the training split has one class only ({choices(distinct)})")
    return Labels(tuple(str(value) for value in distinct), {value: index for index, value in enumerate(distinct)})


def _labels_of_head(config: PretrainedConfig, labels: Labels) -> Labels:
    """The head's classes, with the data's labels mapped to them by name, or by number.

    Raises:
        DatasetError: the data have labels that are not the head's classes.
    """
    if not labels.names:
        if config.num_labels != 1:
            raise DatasetError(
                f"task.dataset.label: holds numbers, but the model's head has {config.num_labels} classes; "
                "set task.new_head = true to train a new head"
            )
        return labels
    names = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    if set(labels.names) <= set(names):
        position = {name: index for index, name in enumerate(names)}
        return Labels(names, {value: position[labels.names[index]] for value, index in labels.ids.items()})
    if all(isinstance(value, int) and 0 <= value < len(names) for value in labels.ids):
        return Labels(names, {value: value for value in range(len(names))})
    raise DatasetError(
        f"task.dataset.label: the labels {choices(labels.names[:10])} are not the classes of the model's head "
        f"({choices(names[:10])}); set task.new_head = true to train a new head"
    )


def _check_labels(split: Dataset, role: str, column: str, labels: Labels) -> None:
    values = split[column]
    if labels.names:
        unknown = sorted({str(value) for value in values if value not in labels.ids})
        expected = f"the classes are {choices(labels.names[:10])}"
    else:
        unknown = sorted({str(value) for value in values if not isinstance(value, int | float) or value != value})
        expected = "they must be numbers"
    if unknown:
        raise DatasetError(f"task.dataset.label: the {role} split has the labels {choices(unknown[:10])}; {expected}")
