"""The method: its options, its search space, where weights come from, and what its findings are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from optuna.distributions import CategoricalDistribution, IntDistribution
from pydantic import Field

from nasopt.architecture.base import CandidateArchitecture, EncoderShape, Precision
from nasopt.config.task import Section
from nasopt.errors import StudyFileError
from nasopt.methods.base import About, Method, Plan
from nasopt.methods.controls import Controls
from nasopt.methods.layer_controls import LayerControls
from nasopt.methods.space import SearchSpace
from nasopt.samplers.named import SamplerName, named_sampler
from nasopt.training.candidate import Candidate
from nasopt.training.weights import Stage, Trained, WeightSource
from nasopt_layer_mean.architecture import LayerMean

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from nasopt.config.study import StudyConfig
    from nasopt.tasks.base import Task
    from nasopt.training.context import Context


class LayerMeanOptions(Section):
    """`[method_options]` of the method."""

    trials: int = Field(12, ge=1, description="Trials of a whole search.")
    sampler: SamplerName = Field("tpe", description="Which of Optuna's samplers proposes trials.")
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)] = Field(
        ("fp32", "bf16"), description="In which models are stored."
    )


@dataclass(frozen=True)
class FirstLayers(WeightSource):
    """The base model's weights in a model that averages its hidden states."""

    def candidate(self, architecture: CandidateArchitecture, context: Context) -> Candidate:
        assert isinstance(architecture, LayerMean)
        return Candidate(architecture.build(context.base_model), architecture, context.base_lineage)


class LayerMeanControls(LayerControls):
    """As many layers without an average: the first ones, the last ones, evenly spaced and random ones."""

    def depth(self, params: Mapping[str, Any]) -> int | None:
        return params.get("k")


class LayerMeanMethod(Method):
    """Searches how many of BERT's first layers are averaged; the candidate is fine-tuned."""

    about = About(
        name="layer-mean",
        searches="how many of BERT's first layers stay, their hidden states averaged, and the precision",
        options=LayerMeanOptions,
        task_types=("text-classification",),
        sources=(FirstLayers,),
        architectures=(LayerMean,),
    )
    options: LayerMeanOptions

    @property
    def plan(self) -> Plan:
        return Plan(self.options.trials, self.options.precisions)

    def sampler(self, seed: int | None) -> BaseSampler:
        return named_sampler(self.options.sampler, seed, population_size=4)

    def check(self, task: Task, config: StudyConfig) -> None:
        model_type = task.blank_model().config.model_type
        if model_type != "bert":
            raise StudyFileError(f"task.model: is of the type {model_type!r}, but layer-mean averages layers of BERT")

    def space(self, shape: EncoderShape) -> SearchSpace:
        """The base model, whose output is no average, lies outside."""
        precision = CategoricalDistribution(self.options.precisions)
        return SearchSpace({"k": IntDistribution(1, shape.num_layers), "precision": precision})

    def architecture(self, params: Mapping[str, Any], context: Context) -> LayerMean:
        return LayerMean(params["k"], params["precision"])

    def weights(self, params: Mapping[str, Any], context: Context) -> WeightSource:
        return Trained(FirstLayers(), [Stage("finetune", context.config.training.epochs, context.config.seed)])

    @property
    def controls(self) -> Controls:
        return LayerMeanControls()
