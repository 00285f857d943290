"""What a task is to the rest of nasopt: data, a base model with its tokenizer, a loss and a quality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nasopt.architecture.base import EncoderShape
from nasopt.config.task import TaskConfig
from nasopt.tasks.batches import Examples


@dataclass(frozen=True)
class Evaluation:
    """One pass over a split. What two models are compared by is either `outputs` or `replicates`.

    Attributes:
        quality: the metric.
        outputs: shape (examples, outputs), in the order of the split; None where the metric is not of such.
        replicates: the metric, then on resamples of the examples that are the same for every model (the paired
            bootstrap), shape (1 + resamples,).
        details: what else was found, by name, for the trial's attributes.
    """

    quality: float
    outputs: NDArray[np.float32] | None = None
    replicates: NDArray[np.float64] | None = None
    details: Mapping[str, float | str] = field(default_factory=dict)


class Task(ABC):
    """Data and base model of a study. Making one opens and checks the data; it loads no weights.

    Raises:
        DatasetError: the data do not exist or do not fit the task.
        UnsupportedModelError: the model does not exist, or is not one that can be cut.
    """

    tokenizer: PreTrainedTokenizerBase
    """The base model's."""
    _data: Mapping[str, Dataset]
    """The raw examples, by role."""

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def has_head(self) -> bool:
        """Whether the base model does this task as it comes, so that it needs no fine-tuning."""

    @property
    def is_classification(self) -> bool:
        """Whether outputs are logits over classes."""
        return False

    @property
    def num_outputs(self) -> int:
        """Logits of one text: classes, 1 for regression, 0 for a model without such a head."""
        return 0

    @abstractmethod
    def encode(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Mapping[str, Examples]:
        """Tokenises every split, or reads what an earlier call left in `folder` (an Arrow cache).

        Args:
            folder: of the cache.
            tokenizer: a candidate's, where it has another vocabulary than the base model.
        """

    def texts_read(self, role: str) -> list[str]:
        """Every text of a split as a tokenizer gets it, prefix included: one column after the other."""
        prefix = self.config.similarity.prefix
        return [prefix + str(text) for column in self.config.dataset.text for text in self._data[role][column]]

    @abstractmethod
    def load_model(self) -> PreTrainedModel:
        """The base model in fp32, as it comes, with a head for this task (a new one if it has none)."""

    @abstractmethod
    def blank_model(self) -> PreTrainedModel:
        """The base model's modules on torch's device `meta`: sizes without weights."""

    @abstractmethod
    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        device: torch.device,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Evaluation:
        """Runs the model over a split, in the model's own precision; `tokenizer` as in :meth:`encode`."""

    @property
    @abstractmethod
    def shape(self) -> EncoderShape:
        """The base model's."""

    @property
    @abstractmethod
    def max_positions(self) -> int:
        """Tokens the model reads at most."""

    @abstractmethod
    def loss_of(self, outputs: Sequence[Any], batch: Any) -> Tensor:
        """The task's loss, averaged over the batch, from what :meth:`run` gave."""

    def run(self, model: nn.Module, batch: Any, hidden_states: bool = False) -> list[Any]:
        """The model's outputs (of transformers) for each text of a batch, with hidden states where they are wanted."""
        options = {"output_hidden_states": True} if hidden_states else {}
        return [model(**side.inputs, **options) for side in batch.sides]

    def training_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The task's loss of a model on a batch."""
        return self.loss_of(self.run(model, batch), batch)

    def workload(self, model: nn.Module) -> nn.Module:
        """What one call of is timed, with a batch of texts: a forward pass of the model unless a task says more."""
        return model
