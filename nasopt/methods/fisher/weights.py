"""The sub-networks of a study, and their weights: from the base model or its elastic base, distilled or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasopt.methods.fisher.options import CriterionName, FisherOptions
from nasopt.training.weights import Cut, Elastic, Stage, Trained, WeightSource

if TYPE_CHECKING:
    from nasopt.training.context import Context
    from nasopt.training.elastic import ElasticSettings
    from nasopt.training.loop import LossFunction
    from nasopt.training.sub_networks import SubNetworks


def sub_networks(criterion: CriterionName, options: FisherOptions, context: Context) -> SubNetworks:
    """The sub-networks whose units a criterion has ordered."""
    from nasopt.training.sensitivity import sample_settings
    from nasopt.training.sub_networks import study_sub_networks

    return study_sub_networks(criterion, sample_settings(options.examples, context), options.cost, context)


def untrained(criterion: CriterionName, options: FisherOptions, context: Context) -> WeightSource:
    """The weights of a sub-network that no training of its own has changed."""
    if options.weights == "elastic":
        return Elastic(elastic_settings(options, context))
    return refitted(criterion, options, context)


def elastic_settings(options: FisherOptions, context: Context) -> ElasticSettings:
    """The settings of a study's elastic base."""
    from nasopt.training.distillation import LossWeights
    from nasopt.training.elastic import ElasticSettings
    from nasopt.training.sensitivity import sample_settings

    return ElasticSettings(
        criterion=options.searched_criteria[0],
        sample=sample_settings(options.examples, context),
        cost=options.cost,
        lowest_share=options.lowest_share,
        epochs=options.elastic_epochs,
        random_prefixes=options.random_prefixes,
        loss=LossWeights.of(options),
        learning_rate=options.elastic_learning_rate,
    )


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
