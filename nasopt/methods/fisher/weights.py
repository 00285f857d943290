"""Where the weights of a sub-network come from: cut out of the base model, refitted, perhaps distilled from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasopt.methods.fisher.options import CriterionName, FisherOptions
from nasopt.training.weights import Cut, Stage, Trained, WeightSource

if TYPE_CHECKING:
    from nasopt.training.context import Context
    from nasopt.training.loop import LossFunction


def refitted(criterion: CriterionName, options: FisherOptions, context: Context) -> Cut:
    """The base model's weights, cut; and refitted on the same examples unless that is switched off."""
    from nasopt.training.sensitivity import REFIT_INPUTS, sample_settings

    if not options.refit:
        return Cut()
    return Cut(sample_settings(options.examples, context).examples, REFIT_INPUTS[criterion])


def healed(start: WeightSource, epochs: int, options: FisherOptions, context: Context) -> Trained:
    """The same, distilled from the base model.

    The seed is the study's, so that sub-networks and controls see the same batches in the same order.
    """

    def loss(context: Context) -> LossFunction:
        from nasopt.training.distillation import distillation_loss

        return distillation_loss(options, context.task, context.teachers())

    return Trained(start, [Stage("distill", epochs, context.config.seed, loss)])
