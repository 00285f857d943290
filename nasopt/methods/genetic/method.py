"""Genetic: hardware-aware evolution of compressed BERT models, by pruning, distillation and quantisation.

A trial's parameters are its absolute genotype; its weights are inherited from a parent (Lamarckian). Mutation prunes,
or restores from the base model, and fine-tunes; "crossover" with the base model is distillation from it and leaves the
architecture unchanged; a change of precision alone is post-training quantisation and trains nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from nasopt.architecture.base import TRAININGS, EncoderShape, Precision, Training
from nasopt.architecture.encoder import Architecture
from nasopt.architecture.genotype import FFN_STEP
from nasopt.config.functions import load_function
from nasopt.config.task import Section
from nasopt.methods.base import Control, Method
from nasopt.methods.layer_controls import budgets_of, build_cut, distinct, full_label, layer_recipe, whole_layers
from nasopt.records.queries import base_of, checkpoint_of
from nasopt.records.trial import TrialRecord
from nasopt.samplers.genetic import GeneticSampler, fitness
from nasopt.samplers.history import parent_of
from nasopt.samplers.mutations import MUTATIONS
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context

if TYPE_CHECKING:
    import torch
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from nasopt.tasks.base import Task
    from nasopt.training.loop import LossFunction
    from nasopt.training.teacher import Teacher


class GeneticOptions(Section):
    """`[method_options]` of the genetic method. Defaults are the published ones where those are given."""

    population_size: int = Field(100, ge=2, description="Survivors, and trials of one generation.")
    generations: int = Field(100, ge=1, description="Trials of a whole search / population_size.")
    selection: Literal["pareto", "fitness"] = Field(
        "pareto", description="Non-dominated sort and crowding distance, or F = (Q/Qmax)^a (Tmin/T)^b (Mmin/M)^c."
    )
    a: float = Field(5.0, ge=0, allow_inf_nan=False, description="Exponent of quality in F.")
    b: float = Field(1.0, ge=0, allow_inf_nan=False, description="Exponent of latency in F.")
    c: float = Field(1.0, ge=0, allow_inf_nan=False, description="Exponent of memory in F.")
    target_quality: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Stop after the first trial that reaches it and is smaller and faster than the base model.",
    )
    mutation_prob: float = Field(0.9, ge=0, le=1, description="A child is pruned or restored somewhere.")
    quantization_prob: float = Field(0.3, ge=0, le=1, description="A child gets another precision.")
    crossover_prob: float = Field(0.5, ge=0, le=1, description="A child is distilled from the base model.")
    mutations: tuple[str, ...] = Field(
        ("remove_last",), min_length=1, description=f"Which ones may happen: {', '.join(MUTATIONS)}."
    )
    max_layers: int = Field(1, ge=1, description="Layers one mutation removes at most (K1).")
    max_heads: int = Field(2, ge=1, description="Heads one mutation removes at most (K2).")
    precisions: tuple[Precision, ...] = Field(
        ("fp32", "bf16", "fp16", "int8", "int4"), description="Which ones may be proposed; fp32 must be."
    )
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="t of the prediction loss.")
    scale_by_t2: bool = Field(False, description="Multiply the prediction loss by t^2.")
    task_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="Of L_task in a distillation.")
    hidden_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="Of L_hidn in a distillation.")
    prediction_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="Of L_pred in a distillation.")
    pruning: str | None = Field(None, description="`package.module:function` that chooses the units that stay.")
    quantization: str | None = Field(None, description="`package.module:function` (model, precision) -> model.")

    @field_validator("mutations")
    @classmethod
    def _known_mutations(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in MUTATIONS:
                raise ValueError(f"{name!r} is not a mutation; choose from {', '.join(MUTATIONS)}")
        return names

    @field_validator("precisions")
    @classmethod
    def _base_precision(cls, precisions: tuple[Precision, ...]) -> tuple[Precision, ...]:
        if "fp32" not in precisions or len(set(precisions)) < len(precisions):
            raise ValueError("name each precision once, fp32 among them: it is the base model's")
        return precisions

    @field_validator("pruning", "quantization")
    @classmethod
    def _importable(cls, name: str | None) -> str | None:
        if name is not None:
            load_function(name)
        return name

    @model_validator(mode="after")
    def _something_happens(self) -> GeneticOptions:
        if not (self.mutation_prob or self.quantization_prob or self.crossover_prob):
            raise ValueError("mutation_prob, quantization_prob and crossover_prob are all 0: no child would differ")
        return self


class GeneticMethod(Method):
    """See the module."""

    name = "genetic"
    task_types = ("text-classification", "sentence-similarity")
    searches = "layers, heads and FFN neurons kept, precision, fine-tuning or distillation; weights are inherited"
    options_model = GeneticOptions

    def __init__(self, options: GeneticOptions) -> None:
        self.options = options

    @property
    def budget(self) -> int:
        return self.options.population_size * self.options.generations

    @property
    def target_quality(self) -> float | None:
        return self.options.target_quality

    @property
    def _exponents(self) -> tuple[float, float, float]:
        return (self.options.a, self.options.b, self.options.c)

    def sampler(self, seed: int | None) -> GeneticSampler:
        options = self.options
        return GeneticSampler(
            population_size=options.population_size,
            mutation_prob=options.mutation_prob,
            quantization_prob=options.quantization_prob,
            crossover_prob=options.crossover_prob,
            mutations=[MUTATIONS[name] for name in options.mutations],
            max_layers=options.max_layers,
            max_heads=options.max_heads,
            selection=options.selection,
            exponents=self._exponents,
            seed=seed,
        )

    def base_params(self, shape: EncoderShape) -> dict[str, Any]:
        return {**Architecture.full(shape).to_params(), "training": "none"}

    @property
    def precisions(self) -> Sequence[Precision]:
        return self.options.precisions

    def suggest(self, trial: Trial, shape: EncoderShape) -> dict[str, Any]:
        """The flat genotype: every parameter is always present."""
        params: dict[str, Any] = {}
        for layer in range(shape.num_layers):
            params[f"layer_{layer}"] = trial.suggest_int(f"layer_{layer}", 0, 1)
            params[f"heads_{layer}"] = trial.suggest_int(f"heads_{layer}", 0, shape.num_heads)
            # A width that is no multiple of the step keeps its remainder, so that the full width can be said.
            lowest = shape.ffn_size % FFN_STEP
            params[f"ffn_{layer}"] = trial.suggest_int(f"ffn_{layer}", lowest, shape.ffn_size, step=FFN_STEP)
        params["precision"] = trial.suggest_categorical("precision", self.options.precisions)
        params["training"] = trial.suggest_categorical("training", TRAININGS)
        return params

    def build(self, trial: Trial, params: Mapping[str, Any], context: Context) -> Candidate:
        """Inherits the parent's weights, cuts and trains."""
        from nasopt.models.surgery import choose_units, cut, expand, keep_largest

        weights, parent_architecture, lineage = _inherit(trial, parent_of(trial), context)
        model = expand(context.base_model, weights, parent_architecture)
        select = load_function(self.options.pruning) if self.options.pruning else keep_largest
        architecture = choose_units(model, parent_architecture, params, select)
        candidate = Candidate(cut(model, architecture), architecture, lineage)
        if params["training"] != "none":
            seed = _training_seed(context.config.seed, trial.number)
            self.train(candidate, params["training"], context.config.training.epochs, seed, context)
        return candidate

    def quantize(self, candidate: Candidate, device: torch.device) -> PreTrainedModel:
        from nasopt.models.quantization import check_storable

        if self.options.quantization is None:
            return super().quantize(candidate, device)
        precision = candidate.architecture.precision
        model = load_function(self.options.quantization)(candidate.model, precision)
        check_storable(model, precision)
        quantized: PreTrainedModel = model.to(device).eval()
        return quantized

    def parents(self, study: Study) -> Sequence[FrozenTrial]:
        sampler: BaseSampler = study.sampler
        return sampler.elite(study) if isinstance(sampler, GeneticSampler) else ()

    def scores(self, study: Study, values: Sequence[float], parameters: int) -> dict[str, float]:
        """F among the current population: a snapshot, for its extremes move with the population."""
        population = [trial.values for trial in self.parents(study)]
        return {"fitness": float(fitness([*population, list(values)], self._exponents)[-1])}

    def loss(self, training: Training, context: Context) -> LossFunction:
        if training == "distill":
            return self.distillation_loss(context.task, context.teachers())
        return super().loss(training, context)

    def controls(
        self, members: Sequence[FrozenTrial], shape: EncoderShape, random_masks: int, seed: int
    ) -> list[Control]:
        """Also the base model, and each member's own architecture cut from it, trained for as many epochs."""
        found = super().controls(members, shape, random_masks, seed)
        for member, budget in zip(members, budgets_of(self, members), strict=True):
            every_layer = range(shape.num_layers)
            found.append(Control(full_label(budget), layer_recipe(every_layer, budget), shape.num_layers))
            label = f"same-as-{member.number}"
            if (layers := whole_layers(member.params, shape)) is not None:
                found.append(Control(label, layer_recipe(layers, budget), budget.depth))
            else:
                found.append(Control(label, {"cut_as": checkpoint_of(member), **budget.recipe}, budget.depth))
        return distinct(found)

    def build_control(self, recipe: Mapping[str, Any], trial: Trial, context: Context) -> Candidate:
        if "cut_as" not in recipe:
            return super().build_control(recipe, trial, context)
        _, architecture = context.checkpoints.read(recipe["cut_as"])
        assert isinstance(architecture, Architecture)
        return build_cut(self, architecture, recipe, trial, context)

    def distillation_loss(self, task: Task, teachers: Sequence[Teacher]) -> Callable[[nn.Module, Any], Tensor]:
        """`L_task + L_hidn + L_pred`, weighted; without L_pred where the outputs are not classes.

        L_hidn is the mean over the texts of an example.
        """
        from nasopt.training.losses import hidden_cosine, prediction_kl

        options = self.options

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


def _inherit(trial: Trial, parent: int | None, context: Context) -> tuple[dict[str, Tensor], Architecture, Lineage]:
    """Weights, shape and lineage of the parent; of the base model where there is none, or its weights are gone."""
    if parent is not None:
        # `trial.study` knows finished trials by number; the copy is avoided because a study may hold thousands.
        record = TrialRecord.of(trial.study.get_trials(deepcopy=False)[parent])
        key = record.checkpoint
        if key is not None and key in context.checkpoints:
            weights, architecture = context.checkpoints.read(key)
            assert isinstance(architecture, Architecture)
            epochs = (record.finetune_epochs or 0, record.distill_epochs or 0)
            return weights, architecture, Lineage(parent, *epochs)
    weights = context.base_model.state_dict()
    return weights, Architecture.full(context.shape), Lineage(base.number if (base := base_of(trial.study)) else None)


def _training_seed(seed: int, number: int) -> int:
    """A seed that differs from trial to trial and depends on nothing else."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")
