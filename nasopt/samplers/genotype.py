"""The flat genotype as samplers see it: the parameters that belong to it, their full values, bounds and identity.

A genotype is a mapping from parameter names to values, a space one from names to Optuna distributions. Names and
canonical form are explained in :mod:`nasopt.architecture.encoder`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypeAlias

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nasopt.architecture.base import PRECISIONS, TRAININGS
from nasopt.architecture.cells import OPERATIONS
from nasopt.architecture.genotype import GENOTYPE_NAME, canonical

Genotype: TypeAlias = dict[str, Any]
Space: TypeAlias = dict[str, BaseDistribution]

_CHOICES: dict[str, tuple[str, ...]] = {"precision": PRECISIONS, "training": TRAININGS, "cell": OPERATIONS}
"""The values that categorical parameters may hold, by name or by the part of it before the number."""


def is_own(name: str, distribution: BaseDistribution) -> bool:
    """Whether a parameter belongs to the genotype, by its name and the kind of distribution that goes with it."""
    if GENOTYPE_NAME.fullmatch(name) is None:
        return False
    choices = _CHOICES.get(name.partition("_")[0])
    if choices is not None:
        return isinstance(distribution, CategoricalDistribution) and set(distribution.choices) <= set(choices)
    if not isinstance(distribution, IntDistribution) or distribution.log or distribution.low < 0:
        return False
    return not name.startswith("layer_") or distribution.high <= 1


def full_value(distribution: BaseDistribution) -> Any:
    """The base model's value: everything that can be kept; fp32 and no training, where the choices include them.

    For a cell, which the base model does not have, it is the first operation.
    """
    if isinstance(distribution, CategoricalDistribution):
        return next((choice for choice in distribution.choices if choice in ("fp32", "none")), distribution.choices[0])
    assert isinstance(distribution, IntDistribution)
    return distribution.high


def fit(genotype: Mapping[str, Any], space: Space) -> Genotype:
    """A genotype that has exactly the space's parameters, each within its bounds.

    Parameters that are missing, and categorical values that are not on offer, get the full value. Counts are rounded
    down to the distribution's step.
    """
    result: Genotype = {}
    for name, distribution in space.items():
        value = genotype.get(name, full_value(distribution))
        if isinstance(distribution, IntDistribution):
            value = min(max(int(value), distribution.low), distribution.high)
            value -= (value - distribution.low) % distribution.step
        elif isinstance(distribution, CategoricalDistribution) and value not in distribution.choices:
            value = full_value(distribution)
        result[name] = value
    return result


def layers(genotype: Mapping[str, Any]) -> list[int]:
    """Indices of all layers that the genotype speaks of, ascending."""
    names = (name.partition("_") for name in genotype)
    return sorted({int(index) for part, _, index in names if part in ("layer", "heads", "ffn") and index.isdigit()})


def kept_layers(genotype: Mapping[str, Any]) -> list[int]:
    """Indices of the layers that are kept, ascending; a layer without a `layer_<i>` parameter always is."""
    return [index for index in layers(genotype) if genotype.get(f"layer_{index}", 1)]


def identity(params: Mapping[str, Any], parent: int | None) -> Hashable:
    """The key that is equal for trials of the same work: canonical genotype (with the training) and parent."""
    items = sorted(canonical(params).items())
    return parent, tuple((name, value if isinstance(value, Hashable) else repr(value)) for name, value in items)
