"""Genetic: hardware-aware evolution of compressed BERT models, by pruning, distillation and quantisation.

A trial's parameters are its absolute genotype; its weights are inherited from a parent (Lamarckian), or cut from the
base model or its elastic base. Mutation prunes, or restores from the base model, and fine-tunes what was inherited;
"crossover" with the base model is distillation from it and leaves the architecture unchanged; a change of precision
alone is post-training quantisation and trains nothing.

Source: METHODS.md, section 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nasopt.architecture.base import TRAININGS, CandidateArchitecture, EncoderShape
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.architecture.genotype import FFN_STEP
from nasopt.config.functions import deferred
from nasopt.methods.base import About, Judgement, Method, Outcome, Plan
from nasopt.methods.controls import Control, Controls, EpochCost, Member, distinct, not_counted
from nasopt.methods.genetic.options import GeneticOptions
from nasopt.methods.genetic.weights import elastic_settings, guidance, start_of, sub_networks
from nasopt.methods.layer_controls import (
    Budget,
    LayerControls,
    full_label,
    layer_recipe,
    whole_layers,
)
from nasopt.methods.space import SearchSpace
from nasopt.records.names import GUIDANCE, LADDER
from nasopt.samplers.genetic import GeneticSampler, fitness
from nasopt.training.weights import Cut, Elastic, Inherited, Stage, Trained, WeightSource
from nasopt.training.weights.trained import task_loss

if TYPE_CHECKING:
    from nasopt.config.study import StudyConfig
    from nasopt.tasks.base import Task
    from nasopt.training.context import Context
    from nasopt.training.loop import LossFunction

FITNESS = "fitness"
"""Trial user attribute: F."""


class GeneticMethod(Method):
    """Evolves compressed models whose weights are inherited from their parents."""

    about = About(
        name="genetic",
        searches="layers, heads and FFN neurons kept, precision, fine-tuning or distillation; weights are inherited",
        options=GeneticOptions,
        task_types=("text-classification", "token-classification", "question-answering", "sentence-similarity"),
        sources=(Inherited, Cut, Elastic),
        function_options=("pruning", "quantization"),
    )
    options: GeneticOptions

    @property
    def plan(self) -> Plan:
        options = self.options
        quantizer = None if options.quantization is None else deferred(options.quantization)
        budget = options.population_size * options.generations
        return Plan(budget, options.precisions, options.target_quality, quantizer)

    @property
    def _exponents(self) -> tuple[float, float, float]:
        return (self.options.a, self.options.b, self.options.c)

    def sampler(self, seed: int | None) -> GeneticSampler:
        from nasopt.samplers.mutations import MUTATIONS

        options = self.options
        return GeneticSampler(
            population_size=options.population_size,
            mutation_prob=options.mutation_prob,
            quantization_prob=options.quantization_prob,
            crossover_prob=options.crossover_prob,
            mutations=[MUTATIONS[name] for name in options.used_mutations],
            max_layers=options.max_layers,
            max_heads=options.max_heads,
            max_units=options.max_units,
            inherits=options.weights == "inherit",
            selection=options.selection,
            exponents=self._exponents,
            seed=seed,
        )

    def check(self, task: Task, config: StudyConfig) -> None:
        """Refuses tasks and models without sensitivities where they are needed, and ladders that cannot be."""
        from nasopt.training.sensitivity import check_task
        from nasopt.training.sub_networks import check_share

        options = self.options
        if options.needs_sensitivity:
            check_task(None, task)
        if options.start == "fisher" and options.lowest_share is not None:
            name = "method_options.lowest_share"
            check_share(name, options.lowest_share, options.cost, config.latency[0], task.shape)

    def prepare(self, context: Context) -> Mapping[str, Any]:
        """Finds the sensitivity that units are chosen by, the ladder that evolution starts with, and its guide; trains
        the elastic base where weights come from one.
        """
        from nasopt.training.unit_selection import unit_selector

        options = self.options
        unit_selector(options.pruning, context)
        if options.weights == "elastic":
            from nasopt.training.elastic import elastic_base

            elastic_base(elastic_settings(options, context), context)
        if not options.needs_sub_networks:
            return {}
        networks = sub_networks(options, context)
        found: dict[str, Any] = {}
        if options.start == "fisher":
            shares = networks.shares(options.lowest_share, options.ladder)
            found[LADDER] = [{**item.to_params(), "training": "none"} for item in networks.ladder(shares)]
        if options.is_guided:
            found[GUIDANCE] = guidance(networks)
        return found

    def space(self, shape: EncoderShape) -> SearchSpace:
        """The flat genotype: every parameter is always present."""
        distributions: dict[str, BaseDistribution] = {}
        for layer in range(shape.num_layers):
            distributions[f"layer_{layer}"] = IntDistribution(0, 1)
            distributions[f"heads_{layer}"] = IntDistribution(0, shape.num_heads)
            # A width that is no multiple of the step keeps its remainder, so that the full width can be said.
            lowest = shape.ffn_size % FFN_STEP
            distributions[f"ffn_{layer}"] = IntDistribution(lowest, shape.ffn_size, step=FFN_STEP)
        distributions["precision"] = CategoricalDistribution(self.options.precisions)
        distributions["training"] = CategoricalDistribution(TRAININGS)
        return SearchSpace(distributions, {**Architecture.full(shape).to_params(), "training": "none"})

    def architecture(self, params: Mapping[str, Any], context: Context) -> Architecture:
        """Which units the child keeps of its parent's, and which it takes back from the base model."""
        from nasopt.models.surgery import choose_units
        from nasopt.training.unit_selection import unit_selector
        from nasopt.training.weights.inherited import full_size

        if self.options.weights != "inherit":
            context = context.for_trial(context.number, None)
        origin = full_size(context)
        return choose_units(origin.model, origin.architecture, params, unit_selector(self.options.pruning, context))

    def weights(self, params: Mapping[str, Any], context: Context) -> WeightSource:
        """The parent's weights, the base model's, or the elastic base's, cut, and trained as the parameters say."""
        training, start = params["training"], start_of(params["training"], self.options, context)
        if training == "none":
            return start
        # NOTE: weights that depend on the genotype alone are trained with the study's seed, as every time.
        seed, inherits = context.config.seed, self.options.weights == "inherit"
        stage_seed = _training_seed(seed, context.number) if inherits else seed
        loss = self._distillation if training == "distill" else task_loss
        return Trained(start, [Stage(training, context.config.training.epochs, stage_seed, loss)])

    def _distillation(self, context: Context) -> LossFunction:
        from nasopt.training.distillation import distillation_loss

        return distillation_loss(self.options, context.task, context.teachers())

    @property
    def controls(self) -> Controls:
        return GeneticControls(self._distillation)

    def judge(self, outcome: Outcome) -> Judgement:
        """F among the current population: a snapshot, because its extremes move with the population."""
        values = fitness([*outcome.population, list(outcome.values)], self._exponents)
        return Judgement(scores={FITNESS: float(values[-1])})


class GeneticControls(LayerControls):
    """Layers of the base model; the base model itself; and each member's own architecture cut from it.

    All of them are trained as long as the member's line (see :mod:`nasopt.methods.layer_controls`).
    """

    def propose(
        self,
        members: Sequence[Member],
        shape: EncoderShape,
        random_masks: int,
        seed: int,
        epoch_cost: EpochCost = not_counted,
    ) -> list[Control]:
        found = super().propose(members, shape, random_masks, seed, epoch_cost)
        full, every_layer = epoch_cost(Architecture.full(shape)), range(shape.num_layers)
        for member, alike in zip(members, self.budgets(members, shape, epoch_cost), strict=True):
            budget = Budget.of(member, full)
            found.append(Control(full_label(budget), layer_recipe(every_layer, budget), shape.num_layers))
            label = f"same-as-{member.number}"
            if (layers := whole_layers(member.params, shape)) is not None:
                found.append(Control(label, layer_recipe(layers, alike), alike.depth))
            else:
                budget = Budget.of(member, epoch_cost(_of_counts(member.params, shape)))
                found.append(Control(label, {"cut_as": member.checkpoint, **budget.recipe}, budget.depth))
        return distinct(found)

    def make(self, recipe: Mapping[str, Any], context: Context) -> tuple[CandidateArchitecture, WeightSource]:
        if "cut_as" not in recipe:
            return super().make(recipe, context)
        architecture = context.checkpoints.architecture(recipe["cut_as"])
        assert isinstance(architecture, Architecture)
        return self.cut_alike(architecture, recipe, context)


def _of_counts(params: Mapping[str, Any], shape: EncoderShape) -> Architecture:
    """An architecture of as many heads and neurons as a genotype keeps: the first ones."""
    kept = (
        KeptUnits(tuple(range(params[f"heads_{layer}"])), tuple(range(params[f"ffn_{layer}"])))
        if params[f"layer_{layer}"]
        else None
        for layer in range(shape.num_layers)
    )
    return Architecture(tuple(kept))


def _training_seed(seed: int, number: int) -> int:
    """A seed that differs from trial to trial and depends on nothing else."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")
