"""What tasks share whose models are encoders with a head: model, shape, and the tokens that they read."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.outside import OutsideModel
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, HeadMismatchError, UnsupportedModelError
from nasopt.models import loading
from nasopt.models.families import encoder_family_of, encoder_shape, max_positions
from nasopt.models.heads import reorder_head
from nasopt.tasks.base import Task
from nasopt.tasks.batches import Examples, evaluation_batches
from nasopt.tasks.encoding import Encoder, check_texts, identity_of, open_tokenizer
from nasopt.tasks.labels import order_by_name


class HeadedTask(Task):
    """A task of encoders with a head. A subclass sets `tokenizer` and `_tokenizer_identity` when it is made.

    Raises:
        UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """

    _tokenizer_identity: str
    _head_suffix = loading.HEAD_SUFFIX
    _is_outside = False
    """Whether the model was made elsewhere, so that it need not be of a family that can be cut."""
    _order: Sequence[int] | None = None
    """For each label the place of its output in the checkpoint's head, where that is another one."""

    def __init__(self, config: TaskConfig, folder: Path | None = None) -> None:
        super().__init__(config, folder)
        self._model_config = loading.load_config(config.model, config.revision, config.trust_remote_code)
        encoder_family_of(self._model_config)

    @property
    def has_head(self) -> bool:
        return loading.has_head(self._model_config, self._head_suffix) and not self.config.new_head

    @property
    def shape(self) -> EncoderShape:
        return encoder_shape(self._model_config)

    @property
    def max_positions(self) -> int:
        return max_positions(self._model_config)

    @property
    def _limit(self) -> int:
        """The largest number of tokens that are read together."""
        return min(self.config.max_length, self.max_positions)

    @abstractmethod
    def _head(self) -> loading.Head:
        """The head that the base model is to have."""

    def for_model(self, model: OutsideModel) -> Self:
        task = copy.copy(self)
        task.config, task._is_outside = self._config_for(model), True
        task._model_config = loading.outside_config(model.source, model.revision)
        task._order = task._order_in(task._model_config) if task.has_head else None
        task.tokenizer = open_tokenizer(task.config, task._model_config)
        task._tokenizer_identity = identity_of(task.tokenizer)
        check_texts(task.tokenizer, task._data, task.config.dataset.text)
        return task

    def _order_in(self, head: PretrainedConfig) -> Sequence[int] | None:
        """For each of the task's labels the place of its output in another model's head; None if it is the same.

        Raises:
            HeadMismatchError: the head is not of these labels.
        """
        try:
            order = self._places_in(head)
        except (DatasetError, UnsupportedModelError) as error:
            raise HeadMismatchError(f"model {self.config.model!r}: {error}") from None
        return None if list(order) == list(range(len(order))) else order

    def _places_in(self, head: PretrainedConfig) -> Sequence[int]:
        """See :meth:`_order_in`.

        Raises:
            DatasetError, UnsupportedModelError: the head is not of these labels.
        """
        return order_by_name(head, self._head().labels)

    def load_model(self) -> PreTrainedModel:
        model = loading.load_base(
            self.config.model,
            self._head(),
            revision=self.config.revision,
            trust_remote_code=self.config.trust_remote_code,
            new_head=not self.has_head,
            any_type=self._is_outside,
        )
        if self._order is not None:
            reorder_head(model, self._order)
        return model

    def blank_model(self) -> PreTrainedModel:
        return loading.blank_base(self.config.model, self._head(), self.config.revision, self.config.trust_remote_code)

    @torch.inference_mode()
    def _outputs(self, model: nn.Module, examples: Examples, device: torch.device) -> NDArray[np.float32]:
        """The logits of all examples, in their order, shape (examples, outputs)."""
        model.eval()
        outputs = np.empty((len(examples), self.num_outputs), dtype=np.float32)
        for indices in evaluation_batches(examples.lengths):
            (found,) = self.run(model, examples.batch(indices).to(device))
            outputs[indices.numpy()] = found.logits.float().cpu().numpy()
        return outputs

    def _encoder(self, tokenizer: PreTrainedTokenizerBase | None) -> Encoder:
        """Makes the tokens of texts with the base model's tokenizer, or with a candidate's."""
        return Encoder(
            tokenizer or self.tokenizer,
            identity_of(tokenizer) if tokenizer else self._tokenizer_identity,
            self._limit,
            self._padding(tokenizer or self.tokenizer),
        )

    def _padding(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        """The value that pads each input of the model except the mask; segments only if the model has several."""
        segments = getattr(self._model_config, "type_vocab_size", 0) or 0
        padding = {"input_ids": int(tokenizer.pad_token_id), "token_type_ids": 0}
        wanted = {"input_ids"} | ({"token_type_ids"} if segments > 1 else set())
        return {name: padding[name] for name in tokenizer.model_input_names if name in wanted}
