"""A candidate: a model made from the base model, its shape, and where its weights came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nasopt.architecture.base import CandidateArchitecture, Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Lineage:
    """The history of a candidate's weights: their parent and their training, from the base model on.

    Attributes:
        parent: number of the trial whose weights were inherited; None for the base model.
        finetune_epochs: epochs on the task loss, summed over the line of parents.
        distill_epochs: epochs on task loss + distillation loss, summed over the line of parents.
        search_epochs: epochs of a network that held many candidates at once, whose weights this one has.
        budget: examples times forward-backward passes that went into the weights, summed over the line of parents and
            over what was trained once for the study, each pass weighted by its share of the base model's FLOPs. 0 in
            trials of older versions, which counted epochs only.
    """

    parent: int | None = None
    finetune_epochs: int = 0
    distill_epochs: int = 0
    search_epochs: int = 0
    budget: float = 0.0

    def trained(self, training: Training, epochs: int, epoch_cost: float) -> Lineage:
        """The same line, trained for some more epochs.

        Args:
            training: what the epochs count as.
            epochs: passes over the training split.
            epoch_cost: the cost of one of them (see :meth:`nasopt.training.context.Context.epoch_cost`).
        """
        budget = self.budget + epochs * epoch_cost
        if training == "distill":
            return replace(self, distill_epochs=self.distill_epochs + epochs, budget=budget)
        return replace(self, finetune_epochs=self.finetune_epochs + epochs, budget=budget)


@dataclass
class Candidate:
    """A trained fp32 model, its shape, and where its weights came from.

    Attributes:
        model: physically small, fp32, in eval mode.
        architecture: its shape, and the precision it is to be stored in.
        lineage: how its weights were trained.
        training: the steps, tokens and seconds of its training, and the last loss; empty if there was none.
        details: further findings to store with the trial, by the name of a user attribute; JSON.
        is_provisional: whether the weights stand in for those of a training of its own, which tell the candidate's
            quality better.
    """

    model: PreTrainedModel
    architecture: CandidateArchitecture
    lineage: Lineage
    training: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    is_provisional: bool = False


class ScreenedCandidateError(Exception):
    """A provisional candidate that is given up on a part of the validation split, with the trial that is better."""


class RejectedCandidateError(Exception):
    """A candidate that need not be built, because it is known beforehand to break a constraint.

    Args:
        reason: names the constraint, with both numbers.
        constraints: by name, above 0 where violated, for Optuna.
    """

    def __init__(self, reason: str, constraints: Mapping[str, float]) -> None:
        super().__init__(reason)
        self.constraints = dict(constraints)
