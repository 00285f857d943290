"""Text classification with several labels for each text, or none (`problem_type = multi_label_classification`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from nasopt.config.task import MULTI_LABEL, TaskConfig
from nasopt.errors import DatasetError, UnsupportedModelError, choices
from nasopt.models import loading
from nasopt.numerics.resampling import resample_weights
from nasopt.tasks.base import Evaluation
from nasopt.tasks.batches import Batch, EncodedSplit, Examples
from nasopt.tasks.datasets import load_splits
from nasopt.tasks.encoding import check_texts, identity_of, open_tokenizer
from nasopt.tasks.headed import HeadedTask
from nasopt.tasks.label_sets import LabelSets, read_label_sets
from nasopt.tasks.labels import TRAIN, names_of_head
from nasopt.tasks.multi_label_scores import multi_label_scores

RESAMPLES = 1000
SEED = 0
SHOWN = 10
RARE = 0.01
"""The share of the training texts below which `create` calls a label rare."""

USAGE = """
texts = tokenizer(["a text"], padding=True, truncation=True, max_length={limit}, return_tensors="pt")
probabilities = model(**texts).logits.sigmoid()[0].tolist()
labels = [model.config.id2label[i] for i, probability in enumerate(probabilities) if probability > 0.5]
"""


class MultiLabelClassification(HeadedTask):
    """Texts, or pairs of them, with any number of labels each; quality is a metric of the decisions for each label.

    Raises:
        DatasetError, UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """

    def __init__(self, config: TaskConfig, folder: Path | None = None) -> None:
        super().__init__(config, folder)
        columns = config.dataset.labels or (config.dataset.label,)
        self._data = load_splits(config.dataset, (*config.dataset.text, *columns))
        head = self._names_of_head() if self.has_head else None
        self._sets = read_label_sets(self._data, config, head)
        if not self._sets.targets["validation"].any():
            raise DatasetError(
                "task.dataset.splits: no text of the validation split has a label, so that every quality would be 0; "
                "shuffle the rows before they are split"
            )
        self.tokenizer = open_tokenizer(config, self._model_config)
        self._tokenizer_identity = identity_of(self.tokenizer)
        check_texts(self.tokenizer, self._data, config.dataset.text)
        self._weights = _balance(self._sets) if config.class_weights else None

    def _names_of_head(self) -> tuple[str, ...]:
        kind = self._model_config.problem_type
        if kind != MULTI_LABEL:
            raise UnsupportedModelError(
                f"the model's head has problem_type = {kind}, and not {MULTI_LABEL}, which task.kind asks for; set "
                "task.new_head = true to train a new head"
            )
        return names_of_head(self._model_config)

    def _places_in(self, head: PretrainedConfig) -> Sequence[int]:
        if head.problem_type != MULTI_LABEL:
            raise UnsupportedModelError(
                f"its head has problem_type = {head.problem_type}, and the study's texts have several labels each; "
                f"{TRAIN}"
            )
        return super()._places_in(head)

    @property
    def num_outputs(self) -> int:
        return len(self._sets.names)

    @property
    def probabilities(self) -> Literal["sigmoid"]:
        return "sigmoid"

    @property
    def usage(self) -> str:
        return USAGE.format(limit=min(self.config.max_length, self.max_positions))

    @property
    def remarks(self) -> tuple[str, ...]:
        return (*self._sets.remarks, *balance_remarks(self._sets))

    def _head(self) -> loading.Head:
        return loading.Head(self._sets.names, MULTI_LABEL)

    def encode(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Mapping[str, EncodedSplit]:
        """Tokenises every split; labels are of shape (examples, labels), 0 or 1."""
        encoder, targets = self._encoder(tokenizer), self._sets.targets
        columns = self.config.dataset.text
        return {role: encoder.encode(split, columns, role, folder, targets[role]) for role, split in self._data.items()}

    def loss_of(self, outputs: Sequence[Any], batch: Batch) -> Tensor:
        """Binary cross-entropy, averaged over the labels and the texts; a tensor of shape ().

        Logits and the batch's labels are of shape (batch, labels).
        """
        weights = None if self._weights is None else self._weights.to(batch.labels.device)
        return functional.binary_cross_entropy_with_logits(outputs[0].logits.float(), batch.labels, pos_weight=weights)

    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        device: torch.device,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Evaluation:
        """The metric on a split and on resamples of its texts, shape (1 + resamples,)."""
        logits = self._outputs(model, examples, device)
        weights = resample_weights(len(examples), RESAMPLES, SEED)
        scores = multi_label_scores(weights, examples.labels.numpy(), logits, self.config.metric)
        return Evaluation(float(scores[0]), replicates=scores)


def balance_remarks(sets: LabelSets) -> tuple[str, ...]:
    """Sentences about how often each label occurs in the training split, most frequent first."""
    train = sets.targets["train"]
    shares = train.mean(dim=0)
    order = shares.argsort(descending=True, stable=True).tolist()
    shown = [f"{sets.names[index]} {100 * float(shares[index]):.1f} %" for index in order]
    shown = [*shown[: SHOWN // 2], "...", *shown[-SHOWN // 2 :]] if len(shown) > SHOWN else shown
    said = [
        f"texts have several labels of {len(order)}, {float(train.sum(dim=1).mean()):.2f} on average; "
        f"shares of the training texts: {', '.join(shown)}"
    ]
    rare = [sets.names[index] for index in order if float(shares[index]) < RARE]
    if rare:
        said.append(
            f"{len(rare)} labels are on less than {100 * RARE:g} % of the training texts ({choices(rare[-SHOWN:])}); "
            'class_weights = "balanced" makes their examples count more'
        )
    return tuple(said)


def _balance(sets: LabelSets) -> Tensor:
    """Negatives / positives of each label in the training split (scikit-learn's `balanced`); shape (labels,)."""
    train = sets.targets["train"]
    positives = train.sum(dim=0)
    return (len(train) - positives) / positives.clamp_min(1)
