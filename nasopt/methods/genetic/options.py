"""`[method_options]` of the genetic method."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from nasopt.architecture.base import Precision
from nasopt.config.functions import check_function_name
from nasopt.config.task import Section
from nasopt.samplers.mutations import GUIDED, MUTATIONS

PRUNINGS = ("magnitude", "fisher", "obs")
"""Ways to choose units that have a name."""
CRITERIA = ("fisher", "obs")
"""Of them, those that need the study's sensitivity."""
PUBLISHED = ("remove_last",)
"""The mutations of METHODS.md, section 1."""


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
    mutations: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None,
        description=f"Which ones may happen: {', '.join(MUTATIONS)}; {', '.join(GUIDED)} unless set, and "
        f"{', '.join(PUBLISHED)} where `start` is `base`.",
    )
    max_layers: int = Field(1, ge=1, description="Layers one mutation removes at most (K1).")
    max_heads: int = Field(2, ge=1, description="Heads one mutation removes at most (K2).")
    max_units: int = Field(
        8, ge=1, description=f"Heads and steps of 64 neurons that {' or '.join(GUIDED)} changes at most."
    )
    weights: Literal["inherit", "cut", "elastic"] = Field(
        "inherit",
        description="A child's weights before it is trained: its parent's; the base model's, refitted; or those of an "
        "elastic base, which is trained once for the study.",
    )
    elastic_epochs: int = Field(3, ge=1, description="Epochs of the elastic base.")
    random_prefixes: int = Field(
        2, ge=0, description="Random sub-networks in each step of the elastic base, besides the largest and smallest."
    )
    precisions: tuple[Precision, ...] = Field(
        ("fp32", "bf16", "fp16", "int8", "int4"), description="Which ones may be proposed; fp32 must be."
    )
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="t of the prediction loss.")
    scale_by_t2: bool = Field(False, description="Multiply the prediction loss by t^2.")
    task_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="Of L_task in a distillation.")
    hidden_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="Of L_hidn in a distillation.")
    prediction_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="Of L_pred in a distillation.")
    pruning: str = Field(
        "obs",
        description="How units are chosen: `magnitude`, `fisher`, `obs`, or by your `package.module:function`.",
    )
    start: Literal["fisher", "base"] = Field(
        "fisher", description="Evolution begins with a ladder of sub-networks and their healed children, or the base."
    )
    ladder: int = Field(8, ge=1, description="Sub-networks of it, their shares of the latency even in the logarithm.")
    lowest_share: float | None = Field(
        None, gt=0, lt=1, description="The last of them; 0.05 unless set, or what the smallest sub-network takes."
    )
    cost: Literal["latency", "flops"] = Field(
        "latency", description="What a share is of: the study's first latency, or floating-point operations."
    )
    quantization: str | None = Field(None, description="`package.module:function` (model, precision) -> model.")

    @field_validator("mutations")
    @classmethod
    def _known_mutations(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
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
    def _is_a_function_name(cls, name: str | None, info: ValidationInfo) -> str | None:
        # NOTE: nothing is imported here, because these options are also read from databases of other people's.
        if name is None or (info.field_name == "pruning" and name in PRUNINGS):
            return name
        try:
            return check_function_name(name)
        except ValueError as error:
            known = f", nor one of {', '.join(PRUNINGS)}" if info.field_name == "pruning" else ""
            raise ValueError(f"{error}{known}") from None

    @property
    def criterion(self) -> Literal["fisher", "obs"]:
        """The one that ladder, guide and refit take: that of `pruning` where it has one."""
        return "fisher" if self.pruning == "fisher" else "obs"

    @property
    def used_mutations(self) -> tuple[str, ...]:
        """Those that may happen."""
        return self.mutations or (PUBLISHED if self.start == "base" else GUIDED)

    @property
    def is_guided(self) -> bool:
        """Whether mutations ask what each number of units is expected to cost."""
        return not set(GUIDED).isdisjoint(self.used_mutations)

    @property
    def needs_sub_networks(self) -> bool:
        """Whether losses and times of the base model's blocks are asked for."""
        return self.start == "fisher" or self.is_guided

    @property
    def needs_sensitivity(self) -> bool:
        """Whether the study's sensitivity is asked for at all."""
        return self.needs_sub_networks or self.pruning in CRITERIA or self.weights == "cut"

    @model_validator(mode="after")
    def _elastic_base_has_an_order(self) -> GeneticOptions:
        if self.weights == "elastic" and self.pruning not in CRITERIA:
            raise ValueError(
                f'weights = "elastic" takes the first units of an order: set pruning to one of {", ".join(CRITERIA)}, '
                f"not {self.pruning}"
            )
        return self

    @model_validator(mode="after")
    def _something_happens(self) -> GeneticOptions:
        if not (self.mutation_prob or self.quantization_prob or self.crossover_prob):
            raise ValueError("mutation_prob, quantization_prob and crossover_prob are all 0: no child would differ")
        return self
