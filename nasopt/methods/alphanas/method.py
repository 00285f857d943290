"""AlphaNAS: evolution over an abstract property of a model, its layer mask.

A trial's parameters are one bit for each encoder layer: 1 keeps the layer with the base model's weights, 0 removes it.
The masked model is trained briefly and measured. Nothing is inherited from trial to trial, so a mask evaluated before
need not be evaluated again, and its size is known before any training.

Source: METHODS.md, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from optuna import Trial
from optuna.distributions import IntDistribution
from pydantic import Field

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.config.task import Section
from nasopt.errors import StudyFileError
from nasopt.methods.base import About, Judgement, Method, Outcome, Plan
from nasopt.methods.controls import Controls
from nasopt.methods.layer_controls import LayerControls
from nasopt.methods.space import SearchSpace
from nasopt.records.queries import detail_of, feasible, final_trials
from nasopt.samplers.alphanas import AlphaNASSampler, score
from nasopt.samplers.history import proposed_params
from nasopt.training.candidate import RejectedCandidateError
from nasopt.training.weights import Cut, Stage, Trained, WeightSource

if TYPE_CHECKING:
    from optuna import Study

    from nasopt.config.study import StudyConfig
    from nasopt.tasks.base import Task
    from nasopt.training.context import Context

SCORE = "score"
"""The trial user attribute that holds Q_alpha."""
DEFAULT_MIN_QUALITY = {"accuracy": 0.75}
"""The published constraint, by metric; other metrics have none unless it is set."""


class AlphaNASOptions(Section):
    """The `[method_options]` of the AlphaNAS method, whose defaults are the published ones where those are given."""

    population_size: int = Field(8, ge=2, description="Survivors, and trials of one generation.")
    generations: int = Field(10, ge=1, description="Trials of a whole search / population_size.")
    selection: Literal["pareto", "score"] = Field(
        "pareto", description="Non-dominated sort and crowding distance, or Q = A - lambda N."
    )
    parameter_penalty: float = Field(
        1e-9, ge=0, allow_inf_nan=False, alias="lambda", description="Quality that one weight must be worth, in Q."
    )
    min_quality: float | None = Field(
        None,
        ge=-1,
        le=1,
        description=(
            f"Least quality; unless set, {DEFAULT_MIN_QUALITY['accuracy']} where the metric is accuracy, else none."
        ),
    )
    max_parameters: int = Field(100_000_000, ge=1, description="Largest number of weights (N).")
    max_flips: int = Field(2, ge=1, description="Most bits that one mutation flips.")


class MaskSpace(SearchSpace):
    """The space of layer masks: one bit for each layer."""

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The trial's mask.

        Raises:
            ValueError: an enqueued mask has another length.
        """
        names = list(self.distributions)
        asked = [name for name in proposed_params(trial) if name.startswith("layer_")]
        if asked and set(asked) != set(names):
            raise ValueError(
                f"the trial's mask has {len(asked)} bits, but the model has {len(names)} layers: enqueue {names[0]} to "
                f"{names[-1]}, each of them"
            )
        return super().suggest(trial)


class AlphaNASMethod(Method):
    """Searches layer masks by bit flips; the masked base model is fine-tuned briefly."""

    about = About(
        name="alphanas",
        searches="layer masks: which encoder layers stay, with the base model's weights; then a short fine-tuning",
        options=AlphaNASOptions,
    )
    options: AlphaNASOptions

    @property
    def plan(self) -> Plan:
        return Plan(self.options.population_size * self.options.generations)

    def sampler(self, seed: int | None) -> AlphaNASSampler:
        options = self.options
        return AlphaNASSampler(
            population_size=options.population_size,
            max_flips=options.max_flips,
            selection=options.selection,
            parameter_penalty=options.parameter_penalty,
            seed=seed,
        )

    def check(self, task: Task, config: StudyConfig) -> None:
        """Refuses a limit on the number of weights that no mask can keep to."""
        from nasopt.models.counts import count_parameters

        smallest = count_parameters(task.blank_model()).smallest
        if smallest > self.options.max_parameters:
            raise StudyFileError(
                f"method_options.max_parameters: {self.options.max_parameters:,}, but no mask can satisfy it: with one "
                f"layer the model still has {smallest:,} parameters; allow at least that many"
            )

    def space(self, shape: EncoderShape) -> SearchSpace:
        """One bit for each layer; an enqueued mask must have them all."""
        names = [f"layer_{layer}" for layer in range(shape.num_layers)]
        return MaskSpace({name: IntDistribution(0, 1) for name in names}, dict.fromkeys(names, 1))

    def architecture(self, params: Mapping[str, Any], context: Context) -> Architecture:
        """The masked model.

        Raises:
            RejectedCandidateError: the mask keeps too many weights, or no layer.
        """
        from nasopt.models.counts import count_parameters

        mask = [params[f"layer_{layer}"] for layer in range(context.shape.num_layers)]
        if not any(mask):
            raise RejectedCandidateError("the mask keeps no layer", {"layers": 1.0})
        architecture = Architecture.masked(context.shape, mask)
        parameters = count_parameters(context.base_model).of(architecture)
        excess = self._excess(parameters)
        if excess > 0:
            raise RejectedCandidateError(
                f"{parameters:,} parameters, above max_parameters ({self.options.max_parameters:,}): not trained",
                {"parameters": excess},
            )
        return architecture

    def weights(self, params: Mapping[str, Any], context: Context) -> WeightSource:
        """Cut from the base model and fine-tuned.

        NOTE: every mask is trained with the same seed, so with the same batches in the same order: two trials differ in
        their masks alone, and the same mask gives the same model in every trial.
        """
        return Trained(Cut(), [Stage("finetune", context.config.training.epochs, context.config.seed)])

    @property
    def controls(self) -> Controls:
        return LayerControls()

    def judge(self, outcome: Outcome) -> Judgement:
        violations = {"parameters": self._excess(outcome.parameters)}
        least, quality = self.options.min_quality, outcome.values[0]
        if least is None:
            least = DEFAULT_MIN_QUALITY.get(outcome.metric)
        if least is not None:
            violations["quality"] = least - quality
        return Judgement(violations, {SCORE: float(score(quality, outcome.parameters, self.options.parameter_penalty))})

    def _excess(self, parameters: int) -> float:
        return float(parameters - self.options.max_parameters)

    def summary(self, study: Study) -> dict[str, Any]:
        """The best mask ever seen, by Q_alpha."""
        scored = [trial for trial in feasible(final_trials(study)) if detail_of(trial, SCORE) is not None]
        if not scored:
            return {"best_mask": None}
        best = max(scored, key=lambda trial: (detail_of(trial, SCORE), -trial.number))
        mask = "".join(str(bit) for _, bit in sorted(best.params.items(), key=lambda item: int(item[0][6:])))
        return {"best_mask": {"mask": mask, "score": detail_of(best, SCORE), "trial": best.number}}
