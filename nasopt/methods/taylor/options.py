"""The `[method_options]` of the Taylor method."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from nasopt.architecture.base import Precision
from nasopt.config.task import Section
from nasopt.samplers.named import SamplerName

SEARCHED = ("learning_rate", "ranking_weight", "output_weight")
"""The options that are a number, or a range to search."""


def _is_range(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"{list(pair)} is no range: the lower end comes first")
    return pair


_Share = Annotated[float, Field(ge=0, le=1)]
_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Shares: TypeAlias = Annotated[tuple[_Share, _Share], AfterValidator(_is_range)]
WeightRange: TypeAlias = Annotated[tuple[_Weight, _Weight], AfterValidator(_is_range)]
RateRange: TypeAlias = Annotated[tuple[_Rate, _Rate], AfterValidator(_is_range)]
VocabularyCut: TypeAlias = Literal["full", "cut"]


class TaylorOptions(Section):
    """The `[method_options]` of the Taylor method. The source names no settings: the defaults are ours."""

    trials: int = Field(40, ge=1, description="Trials of a whole search.")
    sampler: SamplerName = Field("nsga2", description="Optuna's sampler that proposes.")
    population_size: int = Field(
        8, ge=2, description="Population of NSGA-II; number of random trials before TPE and GP begin."
    )
    pruning: Literal["taylor", "fisher"] = Field(
        "taylor", description="What units are ranked by: first-order saliency, or Fisher information."
    )
    reading: Literal["gate", "weights"] = Field(
        "gate", description="How the weights of a unit add up in `taylor`: as a gate on it, or each by itself."
    )
    normalize: bool = Field(False, description="Whether the saliency of each layer is divided by its L2 norm.")
    scope: Literal["global", "layer"] = Field(
        "global", description="Whether all layers' heads and neurons are ranked together, or each has its own count."
    )
    start: Literal["sampler", "fisher"] = Field(
        "sampler",
        description="Whether the least lossy sub-networks of some shares of the base model's latency come before what "
        "the sampler proposes; `fisher` needs `scope` to be `layer`.",
    )
    ladder: int = Field(8, ge=1, description="Sub-networks of `start`, shares evenly spaced in the logarithm.")
    lowest_share: float | None = Field(
        None, gt=0, lt=1, description="The last of their shares; 0.05 unless set, or what the smallest one takes."
    )
    cost: Literal["latency", "flops"] = Field(
        "latency", description="What a share is of: the study's first latency, or floating-point operations."
    )
    rounds: int = Field(1, ge=1, description="Steps of removal; saliency is estimated again before each but the first.")
    saliency_examples: int = Field(2048, ge=1, description="Training examples that saliency is estimated on.")
    reconstruction_examples: int = Field(
        0,
        ge=0,
        description="Training examples on which output projections are refitted after cutting; 0: none.",
    )
    heads: Shares = Field((0.25, 1.0), description="Least and largest share of the heads that is kept.")
    ffn: Shares = Field((0.25, 1.0), description="Least and largest share of the FFN neurons, in steps of 64.")
    learning_rate: _Rate | RateRange | None = Field(
        None, description="A number, or a range to search; that of [training] unless set."
    )
    ranking_weight: _Weight | WeightRange = Field(1.0, description="Weight of the task's loss; a number or a range.")
    output_weight: _Weight | WeightRange = Field(
        1.0, description="Weight of the difference between student's and teacher's outputs; a number or a range."
    )
    hidden_weight: _Weight = Field(
        0.0, description="Weight of the difference between student's and teacher's hidden states, token by token."
    )
    hidden_layers: tuple[int, ...] = Field(
        (-1,), min_length=1, description="Hidden states to compare: 0 the embeddings, k after k layers, -1 the last."
    )
    vocabulary: tuple[VocabularyCut, ...] = Field(
        ("full",), min_length=1, description="Vocabularies to propose: all tokens, or those that are needed."
    )
    vocabulary_texts: tuple[str, ...] = Field(
        (), description="Text files whose tokens are needed, beside those of the training split."
    )
    precision: Precision = Field("fp32", description="Precision in which students are stored and measured.")

    @model_validator(mode="after")
    def _something_is_learnt(self) -> TaylorOptions:
        if not any((self.ranking_weight, self.output_weight, self.hidden_weight)):
            raise ValueError("ranking_weight, output_weight and hidden_weight are all 0: nothing would be trained")
        if len(set(self.vocabulary)) < len(self.vocabulary):
            raise ValueError("vocabulary: name each choice once")
        return self

    @model_validator(mode="after")
    def _the_start_can_be_said(self) -> TaylorOptions:
        if self.start == "fisher" and self.scope != "layer":
            raise ValueError('start = "fisher" says how many units each layer keeps: set scope = "layer"')
        return self
