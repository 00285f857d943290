"""The `[method_options]` of the Bayesian method."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import AfterValidator, Field

from nasopt.config.task import Section
from nasopt.samplers.named import SamplerName

StructureName: TypeAlias = Literal["point", "diagonal", "low_rank"]
ObjectiveName: TypeAlias = Literal["ce", "map", "elbo", "hinton"]
StartName: TypeAlias = Literal["uniform", "initial"]
STARTS: tuple[StartName, ...] = get_args(StartName)


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= bounds[1]:
        raise ValueError(f"the range [{bounds[0]:g}, {bounds[1]:g}] ends before it begins")
    return bounds


_Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Range: TypeAlias = Annotated[tuple[_Positive, _Positive], AfterValidator(_ascending)]


class BayesianOptions(Section):
    """The `[method_options]` of the Bayesian method. An option with only one value is not searched."""

    trials: int = Field(20, ge=1, description="Trials of a whole search.")
    sampler: SamplerName = Field("nsga2", description="Optuna's sampler that proposes.")
    population_size: int = Field(
        8, ge=2, description="Population of NSGA-II; number of random trials before TPE and GP begin."
    )
    removable_layers: tuple[int, ...] | None = Field(
        None, min_length=1, description="Layers that may go (of the decoder, if there is one); any unless set."
    )
    posteriors: Annotated[tuple[StructureName, ...], Field(min_length=1)] = Field(
        ("point", "diagonal", "low_rank"), description="Structures of the covariance to choose from."
    )
    objectives: Annotated[tuple[ObjectiveName, ...], Field(min_length=1)] = Field(
        ("ce", "map", "elbo"), description="Losses of students to choose from; `hinton` distils from the base model."
    )
    prior_strength: Range = Field(
        (1e-6, 1.0), description="Range of the prior's weight in `map` and `elbo`; 1 is Bayes' rule."
    )
    learning_rate: Range | None = Field(
        None, description="Range of students' learning rates; that of [training] unless set."
    )
    temperature: float = Field(2.0, gt=0, allow_inf_nan=False, description="Temperature T_0 of `hinton`.")
    soft_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="Weight of the soft targets in `hinton`.")
    posterior_rank: int = Field(10, ge=2, description="Deviations of the trajectory that `low_rank` uses (K).")
    posterior_start: float = Field(0.5, ge=0, lt=1, description="Part of the base training before the trajectory.")
    posterior_collections: int = Field(40, ge=2, description="Number of collections of weights on the trajectory.")
    posterior_epochs: int = Field(
        1, ge=1, description="Epochs of further training, for the trajectory only, of a base model that comes trained."
    )
    posterior_learning_rate: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Constant learning rate of the further training; that of [training] unless set.",
    )
