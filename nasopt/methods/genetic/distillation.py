"""The loss of the genetic method's "crossover" with the base model: DistilBERT's distillation (METHODS.md, section 1).

Shapes: B examples, T tokens (padding included), H hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from nasopt.methods.genetic.options import GeneticOptions
from nasopt.tasks.base import Task
from nasopt.training.loop import LossFunction
from nasopt.training.losses import prediction_kl
from nasopt.training.teacher import Teacher


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """`L_hidn`: 1 - cos(h_S, h_T), averaged over the tokens that are not padding.

    The hidden-state loss of DistilBERT (Sanh et al. 2019, section 3).

    Args:
        student: last hidden states, (B, T, H).
        teacher: last hidden states, (B, T, H).
        mask: 1 for real tokens, (B, T).
    """
    similarity = functional.cosine_similarity(student.float(), teacher.float(), dim=-1)
    weights = mask.to(similarity.dtype)
    return ((1.0 - similarity) * weights).sum() / weights.sum()


def distillation_loss(options: GeneticOptions, task: Task, teachers: Sequence[Teacher]) -> LossFunction:
    """`L_task + L_hidn + L_pred`, weighted; without L_pred where the outputs are not classes.

    L_hidn is the mean over the texts of an example.

    Args:
        options: the weights and the temperature.
        task: gives outputs and its own loss.
        teachers: the base model's outputs on the training split, one for each text of an example.
    """

    def loss(model: nn.Module, batch: Any) -> Tensor:
        outputs = task.run(model, batch, hidden_states=True)
        total = options.task_weight * task.loss_of(outputs, batch)
        for output, side, teacher in zip(outputs, batch.sides, teachers, strict=True):
            logits, (hidden,) = teacher(side)
            difference = hidden_cosine(output.hidden_states[-1], hidden, side.attention_mask)
            total = total + options.hidden_weight / len(teachers) * difference
            if task.is_classification:
                divergence = prediction_kl(output.logits, logits, options.temperature, options.scale_by_t2)
                total = total + options.prediction_weight * divergence
        return total

    return loss
