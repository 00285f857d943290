"""The interface of tasks: data, a base model with its tokenizer, a loss and a quality."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nasopt.architecture.base import EncoderShape, Precision
from nasopt.architecture.outside import OutsideModel
from nasopt.config.task import TaskConfig
from nasopt.tasks.batches import Batch, Examples


@dataclass(frozen=True)
class Evaluation:
    """The result of one pass over a split. Two models are compared by either their `outputs` or their `replicates`.

    Attributes:
        quality: the metric's value.
        outputs: the model's outputs, shape (examples, outputs), in the order of the split; None where the metric is not
            computed from outputs of single examples.
        replicates: the metric on the examples, then on resamples that are the same for every model (the paired
            bootstrap), shape (1 + resamples,).
        details: other results, by name, for the trial's attributes.
        by_dimension: the metric of vectors that are cut to their first entries, by their number, the largest first.
    """

    quality: float
    outputs: NDArray[np.float32] | None = None
    replicates: NDArray[np.float64] | None = None
    details: Mapping[str, float | str] = field(default_factory=dict)
    by_dimension: Mapping[int, float] = field(default_factory=dict)


class Task(ABC):
    """The data and the base model of a study. Making one opens and checks the data; it loads no weights.

    A task declares what it can do, so that no other code asks for its type: the settings that a study file may have in
    :data:`nasopt.config.task.TRAITS`, the rest in the members of its class.

    Args:
        config: `[task]` of the study file.
        folder: the study's artifact folder, where a tokenizer that was trained for it lies; None before there is one.

    Raises:
        DatasetError: the data do not exist or do not fit the task.
        UnsupportedModelError: the model does not exist, or is not one that can be cut.
    """

    tokenizer: PreTrainedTokenizerBase
    """The base model's tokenizer."""
    _data: Mapping[str, Dataset]
    """The raw examples, by role."""

    has_logits: ClassVar[bool] = True
    """Whether a model's outputs have logits, so that a student can learn its teacher's probabilities."""
    has_loss: ClassVar[bool] = True
    """Whether :meth:`loss_of` can be differentiated, so that a model's units can be ranked by its derivatives."""
    tags_tokens: ClassVar[bool] = False
    """Whether every token has logits of its own, (batch, tokens, outputs), and not every text, (batch, outputs)."""
    onnx_obstacle: ClassVar[str | None] = None
    """The thing that ONNX lacks for a model of this task, in a word; None where a model can be written as ONNX."""

    def __init__(self, config: TaskConfig, folder: Path | None = None) -> None:
        self.config = config
        self._folder = folder

    @property
    @abstractmethod
    def has_head(self) -> bool:
        """Whether the base model does this task as it comes, so that it needs no fine-tuning."""

    @property
    def is_classification(self) -> bool:
        """Whether outputs are logits over classes."""
        return False

    @property
    def probabilities(self) -> Literal["softmax", "sigmoid"] | None:
        """The function that makes probabilities of logits: of exclusive classes or of each label by itself.

        None where outputs are no logits.
        """
        return "softmax" if self.is_classification else None

    @property
    def positive_class(self) -> int:
        """The class that F1 is computed for, of two."""
        return 1

    @property
    def quality_name(self) -> str:
        """The metric, with the class that it is computed for where that is one of two."""
        return self.config.metric

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences about the ways in which the data were read where others were possible."""
        return ()

    @property
    def settled(self) -> TaskConfig:
        """`[task]` with the values that it leaves open and that the data settled."""
        return self.config

    @property
    def labelled(self) -> LabelledTask | None:
        """This task, if every example has a label; else None."""
        return None

    @property
    def embedding(self) -> EmbeddingTask | None:
        """This task, if its models give vectors of texts; else None."""
        return None

    @property
    def evaluates_test(self) -> bool:
        """Whether there is a test split, which an exported model is evaluated on once."""
        return self.config.dataset.splits.test is not None

    @property
    def window_overlap(self) -> int | None:
        """The tokens that two windows of a long text share which is read beside another one; None where it is cut."""
        return None

    @property
    def judged_on(self) -> str:
        """The data behind `quality`, in words."""
        return "the validation split"

    @property
    def usage(self) -> str:
        """Python code for the model card that uses `model` and `tokenizer` after they are loaded; empty for none."""
        return ""

    @property
    def folder_files(self) -> Mapping[str, str | bytes]:
        """Files of another library that an exported folder has beside the model's own: their content, by path."""
        return {}

    def other_use(self, precision: Precision, needs_code: bool) -> str:
        """Text for the model card about another library that loads the folder; empty for none.

        Args:
            precision: the model's.
            needs_code: whether the folder brings a modelling file along, which has to be trusted.
        """
        return ""

    @property
    def array_usage(self) -> str:
        """The same for an ONNX file: code that uses the arrays `outputs` and `inputs` after the file has run."""
        return ""

    @property
    def num_outputs(self) -> int:
        """The number of logits of one text, or token: the classes, 1 for regression, 0 for a model without a head."""
        return 0

    @abstractmethod
    def encode(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Mapping[str, Examples]:
        """Tokenises every split, or reads what an earlier call left in `folder` (an Arrow cache).

        Args:
            folder: the folder of the cache.
            tokenizer: the candidate's tokenizer, where its vocabulary is not the base model's.

        Returns:
            By role the tokens of all examples in flat arrays, shape (total_tokens,) each; see
            :class:`nasopt.tasks.batches.EncodedSplit`.
        """

    def count(self, role: str) -> int:
        """How many examples a split has."""
        return len(self._data[role])

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The text that is put before those of each text column."""
        return (self.config.similarity.prefix,) * len(self.config.dataset.text)

    def texts_read(self, role: str) -> list[str]:
        """Every text of a split as a tokenizer gets it, prefix included, one column after the other."""
        columns = zip(self.prefixes, self.config.dataset.text, strict=True)
        return [prefix + str(text) for prefix, column in columns for text in self._data[role][column]]

    @abstractmethod
    def load_model(self) -> PreTrainedModel:
        """The base model in fp32, as it comes, with a head for this task (a new one if it has none)."""

    @abstractmethod
    def blank_model(self) -> PreTrainedModel:
        """The base model's modules on torch's device `meta`, which have sizes but no weights."""

    def distributions(self, logits: Tensor, batch: Batch) -> Tensor:
        """The logits of the distributions that a student learns from its teacher, one a row, (N, C).

        Args:
            logits: those of a batch's texts, (batch, outputs), whose rows are returned as they are; or of its tokens,
                (batch, tokens, outputs), of which the rows of real ones are.
            batch: the texts, with inputs of shape (batch, tokens).
        """
        return logits[batch.attention_mask.bool()] if logits.ndim == 3 else logits

    @abstractmethod
    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        device: torch.device,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Evaluation:
        """Runs the model over a split, in the model's own precision; `tokenizer` as in :meth:`encode`.

        Returns:
            The quality, to be maximised, with outputs of shape (examples, outputs) or replicates of shape
            (1 + resamples,).
        """

    def for_model(self, model: OutsideModel) -> Task:
        """The same task for a model that was made elsewhere: the same rows and labels in the same order, read by its
        own tokenizer. None of its own code is run.

        Raises:
            HeadMismatchError: its head is not of this task's labels.
            UnsupportedModelError: it does not exist, or cannot do this task.
        """
        return type(self)(self._config_for(model), self._folder)

    def _config_for(self, model: OutsideModel) -> TaskConfig:
        """`[task]` for a model that was made elsewhere."""
        changes = {"model": model.source, "revision": model.revision, "new_head": model.new_head, "new_model": None}
        return self.config.model_copy(update={**changes, "trust_remote_code": False})

    @property
    @abstractmethod
    def shape(self) -> EncoderShape:
        """The base model's shape."""

    @property
    @abstractmethod
    def max_positions(self) -> int:
        """The largest number of tokens that the model reads."""

    @abstractmethod
    def loss_of(self, outputs: Sequence[Any], batch: Any) -> Tensor:
        """The task's loss, averaged over the batch; a tensor of shape ().

        Args:
            outputs: the outputs that :meth:`run` gave, one for each of the batch's sides.
            batch: the batch that they belong to, with inputs of shape (batch, tokens).
        """

    def loss_terms(self, examples: Examples) -> Tensor:
        """The number of terms that each example adds to :meth:`loss_of`'s mean, shape (examples,); 1 by default."""
        return torch.ones(len(examples), dtype=torch.int64)

    def run(self, model: nn.Module, batch: Any, hidden_states: bool = False) -> list[Any]:
        """The model's outputs (transformers' objects) for each side of a batch, with hidden states if asked for.

        Inputs are of shape (batch, tokens). Each output has `logits` of shape (batch, outputs) or, for tokens that have
        classes, (batch, tokens, outputs), or `last_hidden_state` of shape (batch, tokens, hidden); hidden states are
        the embeddings and then the output of each layer, each of shape (batch, tokens, hidden).
        """
        options = {"output_hidden_states": True} if hidden_states else {}
        return [model(**side.inputs, **options) for side in batch.sides]

    def training_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The task's loss of a model on a batch with inputs of shape (batch, tokens); a tensor of shape ()."""
        return self.loss_of(self.run(model, batch), batch)

    def workload(self, model: nn.Module) -> nn.Module:
        """The module whose call on a batch of texts is timed: the model, unless a task has another.

        It takes the model's inputs, each of shape (batch, tokens).
        """
        return model


class LabelledTask(Task):
    """A task whose examples have one label each: a class, or a number."""

    @property
    def labelled(self) -> LabelledTask:
        return self

    @abstractmethod
    def texts(self, role: str) -> list[str]:
        """The raw texts of a split, one for each example: its texts joined by a blank."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The task's loss, averaged over the batch; a tensor of shape ().

        Args:
            outputs: the logits, or the one number, of each example, shape (batch, outputs).
            labels: the examples' labels, shape (batch,), int64 for classes and float32 for numbers.
        """

    @abstractmethod
    def quality(self, outputs: NDArray[np.float32], labels: NDArray[np.generic]) -> float:
        """The metric, to be maximised.

        Args:
            outputs: the model's outputs, shape (examples, outputs).
            labels: the examples' labels, shape (examples,).
        """


class EmbeddingTask(Task):
    """A task whose models turn a text into a vector."""

    has_logits = False
    dimension: int | None = None
    """The number of first entries that its vectors are cut to; None for whole ones."""

    @property
    def embedding(self) -> EmbeddingTask:
        return self

    @property
    @abstractmethod
    def pooling(self) -> Literal["mean", "cls"]:
        """The way in which the hidden states of a text become its vector."""

    def cut_to(self, dimension: int) -> Self:
        """The same task whose vectors are cut to so many first entries, in evaluation and in exported folders."""
        task = copy.copy(self)
        task.dimension = dimension
        return task

    @abstractmethod
    def vectors(self, outputs: Sequence[Any], batch: Any) -> list[Tensor]:
        """The vectors of both texts, each of shape (batch, hidden), float32.

        Args:
            outputs: the outputs that :meth:`run` gave, with `last_hidden_state` of shape (batch, tokens, hidden).
            batch: the batch that they belong to, with inputs of shape (batch, tokens).
        """
