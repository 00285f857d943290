"""Mutations: one parent genotype in, one changed genotype out.

A mutation is any callable `(genotype, space, rng) -> genotype | None`: it leaves its argument alone, stays within the
space's bounds, never removes the last remaining layer, and returns None where it finds nothing to change. Those here
choose among a list of changes, so that a sampler can also look through all of them.

Reference: METHODS.md, section 1. There a mutation prunes the K1 last layers or K2 heads of the last layer
(:data:`remove_last`) or quantises; the other ones reach more than the models with the first k layers. Those that are
guided (:data:`remove_least`, :data:`restore_most`) go by the sensitivity of section 6.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from optuna.distributions import CategoricalDistribution, IntDistribution

from nasopt.architecture.genotype import canonical
from nasopt.numerics.budget import BlockCosts
from nasopt.samplers.genotype import Genotype, Space, fit, kept_layers, layers
from nasopt.samplers.guidance import Guide

Changes: TypeAlias = list[dict[str, Any]]
"""New values of the parameters that change, one mapping for each possible change."""


class Mutation(Protocol):
    """A callable that changes a genotype, or gives None where it finds nothing to change."""

    def __call__(self, genotype: Genotype, space: Space, rng: np.random.RandomState) -> Genotype | None: ...


@dataclass(frozen=True)
class Limits:
    """The most that one mutation removes: `layers` is K1 of METHODS.md, `heads` is K2.

    `units` is the most that a guided mutation removes or restores; a unit is a head, or one step of FFN neurons.
    """

    layers: int = 1
    heads: int = 2
    units: int = 8


@dataclass(frozen=True)
class OwnMutation(ABC):
    """A mutation of nasopt's own, which keeps to limits and can list what it makes.

    Args:
        limits: the most that one mutation changes.
    """

    limits: Limits = field(default=Limits(), kw_only=True)

    @abstractmethod
    def __call__(self, genotype: Genotype, space: Space, rng: np.random.RandomState) -> Genotype | None:
        """One child at random; None where there is nothing to change."""

    @abstractmethod
    def outcomes(self, genotype: Genotype, space: Space) -> Iterator[Genotype]:
        """Yields genotypes that this mutation can make, none only where it can make none."""

    def limited(self, limits: Limits) -> Self:
        """The same mutation under other limits."""
        return replace(self, limits=limits)

    def guided(self, guide: Guide) -> Self:
        """The same mutation with what a study knows of its blocks; most mutations do not ask for it."""
        return self


@dataclass(frozen=True)
class BlockMutation(OwnMutation):
    """Draws one kind of change at random, then one change of that kind; its outcomes are all that it can make.

    Args:
        kinds: `(genotype, space, limits)` -> the possible changes, by kind; kinds may be empty.
    """

    kinds: Callable[[Genotype, Space, Limits], list[Changes]]

    def __call__(self, genotype: Genotype, space: Space, rng: np.random.RandomState) -> Genotype | None:
        kinds = [changes for changes in self.kinds(genotype, space, self.limits) if changes]
        if not kinds:
            return None
        changes = kinds[rng.randint(len(kinds))]
        return _apply(genotype, changes[rng.randint(len(changes))], space)

    def outcomes(self, genotype: Genotype, space: Space) -> Iterator[Genotype]:
        for changes in self.kinds(genotype, space, self.limits):
            for change in changes:
                yield _apply(genotype, change, space)


@dataclass(frozen=True)
class GuidedMutation(OwnMutation):
    """Removes, or restores, some units one after another, each time in a block that is good for it.

    How many is 1, 2, 4, 8... up to `limits.units`, equally likely. Blocks of kept layers are ranked by expected loss
    for time: by what the next units cost for the time that they free, least first, or by what they bring back for the
    time that they take, most first. The best one is drawn with a probability of one half, the next one with a quarter,
    and so on. Where a study has no guide (:mod:`nasopt.samplers.guidance`), all blocks are equally likely.

    Outcomes are those in one block only, of 1, 2, 4, 8... units.

    Args:
        sign: -1 removes, 1 restores.
        guide: the expected losses and times; blocks that it does not know are left alone, unless it is empty.
    """

    sign: int
    guide: Guide = field(default_factory=dict)

    def __call__(self, genotype: Genotype, space: Space, rng: np.random.RandomState) -> Genotype | None:
        parent = child = fit(canonical(genotype), space)
        blocks = self._blocks(space)
        left = 1 << rng.randint(self.limits.units.bit_length())
        while left > 0 and (steps := self._steps(child, blocks, left)):
            step = steps[_favoured(len(steps), rng) if self.guide else rng.randint(len(steps))]
            child = _apply(child, step.change, space)
            left -= step.units
        return None if child == parent else child

    def outcomes(self, genotype: Genotype, space: Space) -> Iterator[Genotype]:
        parent = fit(canonical(genotype), space)
        blocks = self._blocks(space)
        for power in range(self.limits.units.bit_length()):
            for block in blocks:
                if 1 << power <= block.room(parent, self.sign):
                    yield _apply(parent, block.change(parent, self.sign << power), space)

    def guided(self, guide: Guide) -> Self:
        return replace(self, guide=guide)

    def _blocks(self, space: Space) -> list[_Block]:
        found = []
        for index in layers(space):
            for name in (f"heads_{index}", f"ffn_{index}"):
                distribution = space.get(name)
                if isinstance(distribution, IntDistribution) and (name in self.guide or not self.guide):
                    counts = range(distribution.low, distribution.high + 1, distribution.step)
                    costs = self.guide[name].at(counts) if self.guide else BlockCosts(counts, counts)
                    found.append(_Block(name, f"layer_{index}", counts, costs))
        return found

    def _steps(self, genotype: Genotype, blocks: list[_Block], most: int) -> list[_Step]:
        """The next change of each block that has one, of at most so many units, the best block first."""
        steps = [block.step(genotype, self.sign, most) for block in blocks if block.room(genotype, self.sign)]
        return sorted(steps, key=lambda step: step.rate, reverse=self.sign > 0)


@dataclass(frozen=True)
class _Step:
    """A change of one block: how many units it is, and the loss for the time, both as they rise or fall."""

    change: dict[str, Any]
    units: int
    rate: float


@dataclass(frozen=True)
class _Block:
    """The parameter that counts a block's units, that of its layer, and what each value costs."""

    name: str
    layer: str
    counts: range
    costs: BlockCosts

    def room(self, genotype: Genotype, sign: int) -> int:
        """How many units can go (sign -1), which they cannot of a layer that is gone, or come back (1)."""
        position = self.counts.index(genotype[self.name])
        if sign > 0:
            return len(self.counts) - 1 - position
        return position if genotype.get(self.layer, 1) else 0

    def change(self, genotype: Genotype, units: int) -> dict[str, Any]:
        """As many units more, or less; a layer that was gone comes back with them."""
        position = self.counts.index(genotype[self.name]) + units
        return {self.name: self.counts[position], **({self.layer: 1} if self.layer in genotype else {})}

    def step(self, genotype: Genotype, sign: int, most: int) -> _Step:
        """The 1 to `most` next units, as many as are best for their time together: losses need not be convex."""
        position = self.counts.index(genotype[self.name])
        units = np.arange(1, min(most, self.room(genotype, sign)) + 1)
        losses = sign * (self.costs.errors[position] - self.costs.errors[position + sign * units])
        times = sign * (self.costs.times[position + sign * units] - self.costs.times[position])
        rates = losses / np.maximum(times, _LEAST_TIME)
        best = int(rates.argmax() if sign > 0 else rates.argmin())
        return _Step(self.change(genotype, sign * int(units[best])), int(units[best]), float(rates[best]))


_LEAST_TIME = 1e-200
"""Stands for a time that does not rise with the units, as measured ones may not."""


def _favoured(count: int, rng: np.random.RandomState) -> int:
    """A position below `count`: 0 with a probability of one half, and each next one half as likely."""
    weights = 0.5 ** np.arange(count)
    return int(rng.choice(count, p=weights / weights.sum()))


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

remove_least = GuidedMutation(-1)
"""Removes 1, 2, 4... heads or steps of FFN neurons, those of least expected loss for the time that they take."""

restore_most = GuidedMutation(1)
"""Restores 1, 2, 4... heads or steps of FFN neurons, those of most expected loss for the time that they take."""

quantize = BlockMutation(_precision)
"""Changes the precision."""

MUTATIONS: dict[str, Mutation] = {
    "remove_last": remove_last,
    "remove_any_layer": remove_any_layer,
    "remove_any_heads": remove_any_heads,
    "remove_ffn": remove_ffn,
    "restore": restore,
    "remove_least": remove_least,
    "restore_most": restore_most,
    "quantize": quantize,
}
"""The mutations by the names that study files use."""

GUIDED = tuple(name for name, mutation in MUTATIONS.items() if isinstance(mutation, GuidedMutation))
"""The names of those that go by a study's sensitivity."""


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
