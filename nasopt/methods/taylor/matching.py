"""The loss of the Taylor method: the task's loss, and the differences between a student and its teacher.

``L = ranking_weight * L_task + output_weight * L_output + hidden_weight * L_hidden`` (METHODS.md, section 4: losses (i)
and (ii)). L_task of sentence similarity is the translation-ranking loss. L_output compares vectors of texts where there
are any, otherwise the probabilities of classes, or numbers by the squares of their differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.tasks.base import EmbeddingTask, Task
from nasopt.tasks.batches import Batch
from nasopt.training.losses import DIVERGENCES, layer_matched_mse, vector_distance
from nasopt.training.teacher import Teacher


@dataclass(frozen=True)
class MatchingWeights:
    """Weights of the three losses."""

    ranking: float = 1.0
    output: float = 1.0
    hidden: float = 0.0


@dataclass(frozen=True)
class HiddenMatching:
    """L_hidden: squared differences of hidden states over the real tokens, averaged over layers and texts.

    Args:
        layers: hidden states (0: the embeddings, -1: the last layer's). Student and teacher have equally many.
        teachers: give the teacher's hidden states, for each text of an example.
    """

    layers: Sequence[int]
    teachers: Sequence[Teacher]

    def __call__(self, outputs: Sequence[Any], sides: Sequence[Batch]) -> Tensor:
        differences = [
            layer_matched_mse(
                [output.hidden_states[layer] for layer in self.layers], teacher(side)[1], side.attention_mask
            )
            for output, side, teacher in zip(outputs, sides, self.teachers, strict=True)
        ]
        return torch.stack(differences).mean()


class VectorMatching:
    """The loss of sentence encoders. L_output is the mean over both texts, L_hidden over their real tokens.

    Args:
        task: gives vectors.
        weights: the weights of the losses.
        vectors: the teacher's, (examples, hidden) for each side.
        hidden: compares hidden states; only needed where they have a weight.
    """

    def __init__(
        self,
        task: EmbeddingTask,
        weights: MatchingWeights,
        vectors: Sequence[Tensor],
        hidden: HiddenMatching | None = None,
    ) -> None:
        self._task, self._weights, self._vectors, self._hidden = task, weights, vectors, hidden

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        weights, hidden = self._weights, self._hidden
        outputs = self._task.run(model, batch, hidden_states=hidden is not None)
        total: Tensor = outputs[0].last_hidden_state.new_zeros((), dtype=torch.float32)
        if weights.ranking:
            total = total + weights.ranking * self._task.loss_of(outputs, batch)
        if weights.output:
            mine = self._task.vectors(outputs, batch)
            pairs = zip(mine, self._vectors, strict=True)
            distances = [vector_distance(one, its[batch.indices].to(one.device)) for one, its in pairs]
            total = total + weights.output * torch.stack(distances).mean()
        if hidden is not None:
            total = total + weights.hidden * hidden(outputs, batch.sides)
        return total


class LogitMatching:
    """The loss of classifiers (KL divergence, t = 1) and of regressions (squared difference).

    Args:
        task: the classification or regression.
        weights: the weights of the losses.
        teacher: gives the teacher's logits.
        hidden: as for :class:`VectorMatching`.
    """

    def __init__(
        self, task: Task, weights: MatchingWeights, teacher: Teacher, hidden: HiddenMatching | None = None
    ) -> None:
        self._task, self._weights, self._teacher, self._hidden = task, weights, teacher, hidden

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        weights, hidden = self._weights, self._hidden
        (output,) = outputs = self._task.run(model, batch, hidden_states=hidden is not None)
        logits, _ = self._teacher(batch)
        total: Tensor = output.logits.new_zeros((), dtype=torch.float32)
        if weights.ranking:
            total = total + weights.ranking * self._task.loss_of(outputs, batch)
        if weights.output:
            mine, its = (self._task.distributions(found, batch) for found in (output.logits, logits))
            if self._task.probabilities is not None:
                difference = DIVERGENCES[self._task.probabilities](mine, its, 1.0)
            else:
                difference = vector_distance(mine, its)
            total = total + weights.output * difference
        if hidden is not None:
            total = total + weights.hidden * hidden(outputs, batch.sides)
        return total
