"""What a task is to the rest of nasopt: data, a base model with its tokenizer, a loss and a quality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nasopt.config import TaskConfig
from nasopt.models.architecture import EncoderShape
from nasopt.tasks.batches import Batch, EncodedSplit


@dataclass(frozen=True)
class Evaluation:
    """One pass over a split: the metric, and the outputs of shape (examples, outputs) in the order of the split."""

    quality: float
    outputs: NDArray[np.float32]


class Task(ABC):
    """Data and base model of a study. Making one opens and checks the data; it loads no weights.

    Raises:
        DatasetError: the data do not exist or do not fit the task.
        UnsupportedModelError: the model does not exist, or is not an encoder that can be cut.
    """

    tokenizer: PreTrainedTokenizerBase

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def has_head(self) -> bool:
        """Whether the base model comes with a head for this task, so that it needs no fine-tuning."""

    @property
    @abstractmethod
    def is_classification(self) -> bool:
        """Whether outputs are logits over classes."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Classes; 1 for regression."""

    @abstractmethod
    def texts(self, role: str) -> list[str]:
        """The raw texts of the split with that role (train, validation, test); the two texts of a pair as one."""

    @abstractmethod
    def encode(self, folder: Path) -> dict[str, EncodedSplit]:
        """Tokenises every split, or reads what an earlier call left in `folder` (an Arrow cache)."""

    @abstractmethod
    def load_model(self) -> PreTrainedModel:
        """The base model in fp32, as it comes, with a head for this task (a new one if it has none)."""

    @abstractmethod
    def blank_model(self) -> PreTrainedModel:
        """The base model's modules on torch's device `meta`: sizes without weights."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The task's loss, averaged over the batch."""

    @abstractmethod
    def quality(self, outputs: NDArray[np.float32], labels: NDArray[np.generic]) -> float:
        """The study's metric."""

    @abstractmethod
    def evaluate(self, model: nn.Module, split: EncodedSplit, device: torch.device) -> Evaluation:
        """Runs the model over a split, in the model's own precision."""

    @property
    @abstractmethod
    def shape(self) -> EncoderShape:
        """The base model's."""

    @property
    @abstractmethod
    def max_positions(self) -> int:
        """Tokens the model reads at most."""

    def training_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The task's loss of a model on a batch."""
        return self.loss(self.outputs(model, batch), batch.labels)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's outputs for a batch, shape (batch, outputs)."""
        logits: Tensor = model(**batch.inputs).logits
        return logits
