"""Mutations: one parent genotype in, one changed genotype out.

A mutation is any callable `(genotype, space, rng) -> genotype | None`: it leaves its argument alone, stays within the
space's bounds, never removes the last remaining layer, and returns None where it finds nothing to change. Those here
choose among a list of changes, so that a sampler can also look through all of them.

Reference: METHODS.md, section 1. There a mutation prunes the K1 last layers or K2 heads of the last layer
(:data:`remove_last`) or quantises; the other ones reach more than the models with the first k layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from optuna.distributions import CategoricalDistribution, IntDistribution

from nasopt.architecture.genotype import canonical
from nasopt.samplers.genotype import Genotype, Space, fit, kept_layers, layers

Changes: TypeAlias = list[dict[str, Any]]
"""New values of the parameters that change, one mapping for each possible change."""


class Mutation(Protocol):
    """A callable that changes a genotype, or gives None where it finds nothing to change."""

    def __call__(self, genotype: Genotype, space: Space, rng: np.random.RandomState) -> Genotype | None: ...


@dataclass(frozen=True)
class Limits:
    """The most that one mutation removes: `layers` is K1 of METHODS.md, `heads` is K2."""

    layers: int = 1
    heads: int = 2


@dataclass(frozen=True)
class BlockMutation:
    """Draws one kind of change at random, then one change of that kind.

    Args:
        kinds: `(genotype, space, limits)` -> the possible changes, by kind; kinds may be empty.
        limits: the most that one mutation removes.
    """

    kinds: Callable[[Genotype, Space, Limits], list[Changes]]
    limits: Limits = Limits()

    def __call__(self, genotype: Genotype, space: Space, rng: np.random.RandomState) -> Genotype | None:
        kinds = [changes for changes in self.kinds(genotype, space, self.limits) if changes]
        if not kinds:
            return None
        changes = kinds[rng.randint(len(kinds))]
        return _apply(genotype, changes[rng.randint(len(changes))], space)

    def outcomes(self, genotype: Genotype, space: Space) -> Iterator[Genotype]:
        """Yields every genotype that this mutation can make."""
        for changes in self.kinds(genotype, space, self.limits):
            for change in changes:
                yield _apply(genotype, change, space)

    def limited(self, limits: Limits) -> BlockMutation:
        return replace(self, limits=limits)


def _last(genotype: Genotype, space: Space, limits: Limits) -> list[Changes]:
    kept = kept_layers(genotype)
    removed: Changes = []
    for count in range(1, min(limits.layers, len(kept) - 1) + 1):
        if not _is_removable(kept[-count], space):
            break
        removed.append({f"layer_{index}": 0 for index in kept[-count:]})
    return [removed, _fewer_heads(genotype, space, limits, kept[-1:])]


def _any_layer(genotype: Genotype, space: Space, limits: Limits) -> list[Changes]:
    kept = kept_layers(genotype)
    if len(kept) <= 1:
        return []
    return [[{f"layer_{index}": 0} for index in kept if _is_removable(index, space)]]


def _any_heads(genotype: Genotype, space: Space, limits: Limits) -> list[Changes]:
    return [_fewer_heads(genotype, space, limits, kept_layers(genotype))]


def _ffn(genotype: Genotype, space: Space, limits: Limits) -> list[Changes]:
    """Removes 1, 2, 4, 8... blocks of one layer, so that wide layers do not take a mutation for each block."""
    return [_narrower_ffn(genotype, space, index) for index in kept_layers(genotype)]


def _restore(genotype: Genotype, space: Space, limits: Limits) -> list[Changes]:
    changes: Changes = []
    kept = set(kept_layers(genotype))
    for index in layers(genotype):
        full = {
            name: distribution.high
            for name in (f"layer_{index}", f"heads_{index}", f"ffn_{index}")
            if isinstance(distribution := space.get(name), IntDistribution)
        }
        if index not in kept:
            changes.append(full)
        else:
            changes.extend({name: high} for name, high in full.items() if genotype[name] != high)
    return [changes]


def _precision(genotype: Genotype, space: Space, limits: Limits) -> list[Changes]:
    distribution = space.get("precision")
    if not isinstance(distribution, CategoricalDistribution):
        return []
    return [[{"precision": choice} for choice in distribution.choices if choice != genotype["precision"]]]


remove_last = BlockMutation(_last)
"""Removes the last 1..K1 remaining layers, or 1..K2 heads of the last one, equally likely: the published mutation."""

remove_any_layer = BlockMutation(_any_layer)
"""Removes one layer, wherever it is."""

remove_any_heads = BlockMutation(_any_heads)
"""Removes 1..K2 heads of one layer, wherever it is."""

remove_ffn = BlockMutation(_ffn)
"""Removes FFN neurons of one layer, in multiples of the distribution's step."""

restore = BlockMutation(_restore)
"""Restores a removed layer as the base model has it, or all heads, or all FFN neurons, of a thinned one."""

quantize = BlockMutation(_precision)
"""Changes the precision."""

MUTATIONS: dict[str, Mutation] = {
    "remove_last": remove_last,
    "remove_any_layer": remove_any_layer,
    "remove_any_heads": remove_any_heads,
    "remove_ffn": remove_ffn,
    "restore": restore,
    "quantize": quantize,
}
"""The mutations by the names that study files use."""


def _apply(genotype: Genotype, change: dict[str, Any], space: Space) -> Genotype:
    return fit(canonical({**genotype, **change}), space)


def _is_removable(index: int, space: Space) -> bool:
    distribution = space.get(f"layer_{index}")
    return isinstance(distribution, IntDistribution) and distribution.low == 0


def _fewer_heads(genotype: Genotype, space: Space, limits: Limits, indices: list[int]) -> Changes:
    changes: Changes = []
    for index in indices:
        name = f"heads_{index}"
        distribution = space.get(name)
        if isinstance(distribution, IntDistribution):
            spare = (genotype[name] - distribution.low) // distribution.step
            counts = range(1, min(limits.heads, spare) + 1)
            changes.extend({name: genotype[name] - count * distribution.step} for count in counts)
    return changes


def _narrower_ffn(genotype: Genotype, space: Space, index: int) -> Changes:
    name = f"ffn_{index}"
    distribution = space.get(name)
    if not isinstance(distribution, IntDistribution):
        return []
    blocks = (genotype[name] - distribution.low) // distribution.step
    sizes = [1 << power for power in range(blocks.bit_length())]
    return [{name: genotype[name] - size * distribution.step} for size in sizes]
