"""The loss of the Taylor method: the task's, and what a student's outputs differ from its teacher's.

``L = ranking_weight * L_task + output_weight * L_output + hidden_weight * L_hidden`` (METHODS.md, section 4: losses (i)
and (ii)). L_task of sentence similarity is the translation-ranking loss. L_output compares vectors of texts where there
are such, classes by their probabilities, numbers by their squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.tasks.base import Task
from nasopt.training.losses import hidden_mse, prediction_kl, vector_distance
from nasopt.training.teacher import Teacher


@dataclass(frozen=True)
class MatchingWeights:
    """Weights of the three losses."""

    ranking: float = 1.0
    output: float = 1.0
    hidden: float = 0.0


class VectorMatching:
    """For encoders of sentences. L_output is the mean over both texts, L_hidden is over their real tokens.

    Args:
        task: gives vectors.
        weights: of the losses.
        vectors: the teacher's, (examples, hidden) for each side.
        teachers: its last hidden states, for each side; only needed where they have a weight.
    """

    def __init__(
        self, task: Any, weights: MatchingWeights, vectors: Sequence[Tensor], teachers: Sequence[Teacher] = ()
    ) -> None:
        self._task, self._weights, self._vectors, self._teachers = task, weights, vectors, teachers

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        outputs, weights = self._task.run(model, batch), self._weights
        total: Tensor = outputs[0].last_hidden_state.new_zeros((), dtype=torch.float32)
        if weights.ranking:
            total = total + weights.ranking * self._task.loss_of(outputs, batch)
        if weights.output:
            mine = self._task.vectors(outputs, batch)
            pairs = zip(mine, self._vectors, strict=True)
            distances = [vector_distance(one, its[batch.indices].to(one.device)) for one, its in pairs]
            total = total + weights.output * torch.stack(distances).mean()
        if weights.hidden:
            sides = zip(outputs, batch.sides, self._teachers, strict=True)
            differences = [
                hidden_mse(output.last_hidden_state, teacher(side)[1][0], side.attention_mask)
                for output, side, teacher in sides
            ]
            total = total + weights.hidden * torch.stack(differences).mean()
        return total


class LogitMatching:
    """For classifiers (KL divergence, t = 1) and for numbers (squared difference).

    Args:
        task: the classification or regression.
        weights: of the losses.
        teacher: its logits, and its last hidden states where they have a weight.
    """

    def __init__(self, task: Task, weights: MatchingWeights, teacher: Teacher) -> None:
        self._task, self._weights, self._teacher = task, weights, teacher

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        weights = self._weights
        (output,) = outputs = self._task.run(model, batch, hidden_states=bool(weights.hidden))
        logits, hidden = self._teacher(batch)
        total: Tensor = output.logits.new_zeros((), dtype=torch.float32)
        if weights.ranking:
            total = total + weights.ranking * self._task.loss_of(outputs, batch)
        if weights.output:
            if self._task.is_classification:
                difference = prediction_kl(output.logits, logits, temperature=1.0)
            else:
                difference = vector_distance(output.logits, logits)
            total = total + weights.output * difference
        if weights.hidden:
            total = total + weights.hidden * hidden_mse(output.hidden_states[-1], hidden[0], batch.attention_mask)
        return total
