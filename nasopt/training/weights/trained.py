"""Weights that are trained after another source has given them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from nasopt.architecture.base import CandidateArchitecture, Training
from nasopt.training.candidate import Candidate
from nasopt.training.weights.source import WeightSource

if TYPE_CHECKING:
    from nasopt.training.context import Context
    from nasopt.training.loop import LossFunction

MakeLoss: TypeAlias = "Callable[[Context], LossFunction]"


def task_loss(context: Context) -> LossFunction:
    """The task's own loss, which fine-tuning minimises: (model, batch of B examples) -> a scalar of shape ()."""
    return context.task.training_loss


class Stage:
    """One training of a candidate, with the study's `[training]` settings except those given here.

    Args:
        training: what its epochs count as.
        epochs: passes over the training split; with 0 nothing is done.
        seed: decides the order of the examples, and dropout.
        loss: makes the loss that is minimised, a scalar of shape ().
        learning_rate: the study's if None.
    """

    def __init__(
        self,
        training: Training,
        epochs: int,
        seed: int,
        loss: MakeLoss = task_loss,
        learning_rate: float | None = None,
    ) -> None:
        self.training, self.epochs, self.seed = training, epochs, seed
        self.loss, self.learning_rate = loss, learning_rate

    def run(self, candidate: Candidate, context: Context) -> None:
        """Trains the candidate in place; its lineage gets the epochs, its `training` what they took."""
        from nasopt.training.loop import train

        if self.epochs == 0:
            return
        settings = context.config.training
        changes = {"epochs": self.epochs, "learning_rate": self.learning_rate or settings.learning_rate}
        taken = train(
            candidate.model,
            context.view(candidate.architecture).splits["train"],
            self.loss(context),
            settings.model_copy(update=changes),
            device=context.device,
            seed=self.seed,
            on_step=lambda done, total: context.on_phase("training", done, total),
        ).to_dict()
        sums = {name: taken[name] + candidate.training.get(name, 0) for name in ("steps", "tokens", "seconds")}
        candidate.training = {**taken, **sums}
        cost = context.epoch_cost(candidate.architecture, candidate.model)
        candidate.lineage = candidate.lineage.trained(self.training, self.epochs, cost)
        candidate.is_provisional = False


class Trained(WeightSource):
    """The weights of another source, trained in stages, one after the other.

    Args:
        start: where the weights come from.
        stages: how they are trained.
    """

    def __init__(self, start: WeightSource, stages: Sequence[Stage]) -> None:
        self.start, self.stages = start, tuple(stages)

    def work(self, params: Mapping[str, Any]) -> Hashable:
        return self.start.work(params)

    def candidate(self, architecture: CandidateArchitecture, context: Context) -> Candidate:
        candidate = self.start.candidate(architecture, context)
        for stage in self.stages:
            stage.run(candidate, context)
        return candidate
