"""Where the weights of a child come from before it is trained, and what the sampler is told of the units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nasopt.methods.genetic.options import GeneticOptions
from nasopt.samplers.guidance import BlockGuide
from nasopt.training.weights import Cut, Elastic, Inherited, WeightSource

if TYPE_CHECKING:
    from nasopt.training.context import Context
    from nasopt.training.elastic import ElasticSettings
    from nasopt.training.sub_networks import SubNetworks


def start_of(training: str, options: GeneticOptions, context: Context) -> WeightSource:
    """The weights before training. Those of a ladder's sub-network, cut from the base model, are refitted.

    Args:
        training: of the trial under way.
        options: the study's.
        context: the study, and the trial under way.
    """
    if options.weights == "elastic":
        return Elastic(elastic_settings(options, context))
    if options.weights == "cut":
        return refitted(options, context)
    inherited = Inherited.of(context)
    is_rung = training == "none" and inherited.parent in (None, inherited.base_number)
    return refitted(options, context) if is_rung and options.start == "fisher" else inherited


def refitted(options: GeneticOptions, context: Context) -> Cut:
    """The base model's weights, cut and refitted, as the fisher method does it."""
    from nasopt.training.sensitivity import REFIT_INPUTS, sample_settings

    return Cut(sample_settings(None, context).examples, REFIT_INPUTS[options.criterion])


def elastic_settings(options: GeneticOptions, context: Context) -> ElasticSettings:
    """The settings of a study's elastic base."""
    from nasopt.training.distillation import LossWeights
    from nasopt.training.elastic import ElasticSettings
    from nasopt.training.sensitivity import sample_settings

    return ElasticSettings(
        criterion=options.criterion,
        sample=sample_settings(None, context),
        cost=options.cost,
        lowest_share=options.lowest_share,
        epochs=options.elastic_epochs,
        random_prefixes=options.random_prefixes,
        loss=LossWeights.of(options),
    )


def sub_networks(options: GeneticOptions, context: Context) -> SubNetworks:
    """The sub-networks of ladder and guide."""
    from nasopt.training.sensitivity import sample_settings
    from nasopt.training.sub_networks import study_sub_networks

    return study_sub_networks(options.criterion, sample_settings(None, context), options.cost, context)


def guidance(networks: SubNetworks) -> dict[str, Any]:
    """What the sampler knows of every block, as JSON: see :mod:`nasopt.samplers.guidance`."""
    found = {}
    for index, (block, costs) in enumerate(zip(networks.sensitivity.blocks, networks.costs, strict=True)):
        counts = [len(block.kept(units)) for units in range(block.units + 1)]
        name = f"{('heads', 'ffn')[index % 2]}_{index // 2}"
        found[name] = BlockGuide(np.asarray(counts, dtype=np.float64), costs).to_json()
    return found
