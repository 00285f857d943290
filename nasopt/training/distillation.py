"""Distillation from the base model with DistilBERT's losses: the genetic method's "crossover" (METHODS.md, 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from nasopt.tasks.base import Task
from nasopt.training.loop import LossFunction
from nasopt.training.losses import DIVERGENCES, hidden_cosine, vector_distance
from nasopt.training.teacher import Teacher


class DistillationSettings(Protocol):
    """Weights of the losses, and the temperature: a method's options have them."""

    @property
    def task_weight(self) -> float: ...

    @property
    def hidden_weight(self) -> float: ...

    @property
    def prediction_weight(self) -> float: ...

    @property
    def temperature(self) -> float: ...

    @property
    def scale_by_t2(self) -> bool: ...


@dataclass(frozen=True)
class LossWeights:
    """The weights of the losses, and the temperature, apart from the options that they come from."""

    task_weight: float = 1.0
    hidden_weight: float = 1.0
    prediction_weight: float = 1.0
    temperature: float = 1.0
    scale_by_t2: bool = False

    @classmethod
    def of(cls, settings: DistillationSettings) -> LossWeights:
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


def distillation_loss(options: DistillationSettings, task: Task, teachers: Sequence[Teacher]) -> LossFunction:
    """`L_task + L_hidn + L_pred`, weighted; without L_pred where the outputs are neither classes nor vectors.

    L_hidn is the mean over the texts of an example, and so is L_pred of vectors, their squared distance. L_pred of
    classes is the mean over what :meth:`nasopt.tasks.base.Task.distributions` gives: texts or, where each has a class,
    real tokens.

    Args:
        options: the weights and the temperature.
        task: gives outputs and its own loss.
        teachers: the base model's outputs on the training split, one for each text of an example.
    """
    embedding = task.embedding

    def loss(model: nn.Module, batch: Any) -> Tensor:
        outputs = task.run(model, batch, hidden_states=True)
        total = options.task_weight * task.loss_of(outputs, batch)
        found = [teacher(side) for side, teacher in zip(batch.sides, teachers, strict=True)]
        for output, side, (logits, (hidden,)) in zip(outputs, batch.sides, found, strict=True):
            difference = hidden_cosine(output.hidden_states[-1], hidden, side.attention_mask)
            total = total + options.hidden_weight / len(teachers) * difference
            if task.probabilities is not None:
                mine, its = (task.distributions(item, side) for item in (output.logits, logits))
                divergence = DIVERGENCES[task.probabilities](mine, its, options.temperature, options.scale_by_t2)
                total = total + options.prediction_weight * divergence
        if embedding is not None:
            wanted = [BaseModelOutput(last_hidden_state=hidden) for _, (hidden,) in found]
            pairs = zip(embedding.vectors(outputs, batch), embedding.vectors(wanted, batch), strict=True)
            distances = [vector_distance(mine, theirs) for mine, theirs in pairs]
            total = total + options.prediction_weight * torch.stack(distances).mean()
        return total

    return loss
