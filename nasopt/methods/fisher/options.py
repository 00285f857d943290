"""`[method_options]` of the fisher method."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator

from nasopt.architecture.base import Precision
from nasopt.config.task import Section
from nasopt.samplers.named import SamplerName

CriterionName: TypeAlias = Literal["fisher", "joint", "obs"]


class FisherOptions(Section):
    """`[method_options]` of the fisher method."""

    trials: int = Field(24, ge=1, description="Number of trials of a whole search.")
    ladder: int = Field(
        8, ge=0, description="Untrained sub-networks that come first, their shares evenly spaced in the logarithm."
    )
    lowest_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Least share of the base model's latency that is proposed, and the last rung; 0.05 unless set.",
    )
    criteria: Annotated[tuple[CriterionName, ...], Field(min_length=1)] = Field(
        ("joint", "obs"),
        description="How units are ranked; a rung of the ladder takes the first one that leaves its last layer a head. "
        "Sub-networks that are trained, and an elastic base, have the first one but `obs`, if there is one.",
    )
    cost: Literal["latency", "flops"] = Field(
        "latency", description="What a share is of: the study's first latency, or floating-point operations."
    )
    examples: int | None = Field(
        None,
        ge=1,
        description="Training examples for sensitivities and the refit; 1024 unless set, or all if they are fewer.",
    )
    refit: bool = Field(True, description="Whether output projections are refitted by least squares after cutting.")
    weights: Literal["cut", "elastic"] = Field(
        "cut",
        description="Where an untrained sub-network's weights come from: the base model, or an elastic base, which is "
        "trained once for the study so that its sub-networks are good.",
    )
    elastic_epochs: int = Field(2, ge=1, description="Epochs of the elastic base.")
    elastic_learning_rate: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Learning rate of the elastic base; `[training]`'s unless set."
    )
    random_prefixes: int = Field(
        2, ge=0, description="Random sub-networks in each step of the elastic base, besides the largest and smallest."
    )
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)] = Field(
        ("fp32",),
        description="Which ones may be proposed; fp32 must be. Healed models come once more in each of the others.",
    )
    sampler: SamplerName = Field("tpe", description="Optuna's sampler that goes on after ladder and healing.")
    population_size: int = Field(8, ge=2, description="Population of NSGA-II; trials before TPE and GP begin.")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="Temperature t of the prediction loss.")
    scale_by_t2: bool = Field(False, description="Whether the prediction loss is multiplied by t^2.")
    task_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="Weight of the task's loss.")
    hidden_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="Weight of the hidden states' cosine loss."
    )
    prediction_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="Weight of the prediction loss.")

    @property
    def searched_criteria(self) -> tuple[CriterionName, ...]:
        """The criteria that a trial may have, the ladder's first; an elastic base knows the order of one only."""
        return self.criteria if self.weights == "cut" else (self.trained_criterion,)

    @property
    def trained_criterion(self) -> CriterionName:
        """The criterion of sub-networks that are trained: the first one but `obs`, if there is one.

        What is best without training is not what trains best (measured: benchmarks/results/elastic.md).
        """
        return next((item for item in self.criteria if item != "obs"), self.criteria[0])

    @field_validator("precisions")
    @classmethod
    def _base_precision(cls, precisions: tuple[Precision, ...]) -> tuple[Precision, ...]:
        if "fp32" not in precisions or len(set(precisions)) < len(precisions):
            raise ValueError("name each precision once, fp32 among them: it is the base model's")
        return precisions

    @field_validator("criteria")
    @classmethod
    def _different(cls, criteria: tuple[CriterionName, ...]) -> tuple[CriterionName, ...]:
        if len(set(criteria)) < len(criteria):
            raise ValueError("name each criterion once")
        return criteria
