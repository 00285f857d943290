"""Controls that every encoder method shares: layers cut from the base model without a search.

A member of a Pareto front that keeps k of L layers is compared with the first k, the last k, evenly spaced k, and
random k layers, in full width and in the member's precision. They are trained for as many epochs as the member's whole
line of parents and what the study trained once for it, and for more where parents were larger, until their budget is
the member's. A member that keeps all layers is compared with the base model, trained on. Members of equal depth, epochs
and precision share their controls. (An independent re-run of the layer-mask search found searched masks no better than
random ones of the same depth, and worse than the first k layers: METHODS.md, section 2.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from nasopt.architecture.base import CandidateArchitecture, EncoderShape, Precision
from nasopt.architecture.encoder import Architecture
from nasopt.methods.controls import Control, Controls, EpochCost, Member, distinct, enough_epochs, not_counted
from nasopt.training.weights import Cut, Stage, Trained, WeightSource
from nasopt.training.weights.trained import MakeLoss, task_loss

if TYPE_CHECKING:
    from nasopt.training.context import Context

ENUMERATED = 10_000
"""The most masks of one depth that are listed and shuffled; where there are more, masks are drawn until they differ."""


@dataclass(frozen=True, order=True)
class Budget:
    """The budget of a member and its controls: layers, epochs over its line of parents, precision."""

    depth: int
    finetune_epochs: int
    distill_epochs: int
    precision: Precision

    @classmethod
    def of(cls, member: Member, epoch_cost: float = math.inf) -> Budget:
        """The budget of a member; its depth is 0 where its parameters name no layers.

        Args:
            member: a member of the front.
            epoch_cost: the cost of an epoch of its control. Where the member's epochs cost more, because its parents
                were larger, the control gets more of them, of the last kind.
        """
        line = member.lineage
        finetune, distill = line.finetune_epochs, line.distill_epochs
        missing = enough_epochs(line, epoch_cost) - finetune - distill
        finetune, distill = (finetune, distill + missing) if distill else (finetune + missing, distill)
        return cls(depth_of(member.params) or 0, finetune, distill, member.precision)

    @property
    def recipe(self) -> dict[str, Any]:
        """Its part of a control's recipe."""
        return {
            "finetune_epochs": self.finetune_epochs,
            "distill_epochs": self.distill_epochs,
            "precision": self.precision,
        }


class LayerControls(Controls):
    """Controls that keep whole layers of the base model, as many as a member keeps.

    Args:
        distillation: makes the loss of epochs of distillation, where members have any.
    """

    def __init__(self, distillation: MakeLoss | None = None) -> None:
        self._distillation = distillation

    def depth(self, params: Mapping[str, Any]) -> int | None:
        return depth_of(params)

    def propose(
        self,
        members: Sequence[Member],
        shape: EncoderShape,
        random_masks: int,
        seed: int,
        epoch_cost: EpochCost = not_counted,
    ) -> list[Control]:
        return layer_controls(self.budgets(members, shape, epoch_cost), shape.num_layers, random_masks, seed)

    def budgets(self, members: Iterable[Member], shape: EncoderShape, epoch_cost: EpochCost) -> list[Budget]:
        """The budgets for whole layers, as many as each member keeps; the first layers give the cost of their depth."""
        costs: dict[int, float] = {}
        found = []
        for member in members:
            depth = self.depth(member.params) or shape.num_layers
            if depth not in costs:
                costs[depth] = epoch_cost(Architecture.masked(shape, [int(i < depth) for i in range(shape.num_layers)]))
            found.append(replace(Budget.of(member, costs[depth]), depth=depth))
        return found

    def make(self, recipe: Mapping[str, Any], context: Context) -> tuple[CandidateArchitecture, WeightSource]:
        mask = [int(layer in recipe["layers"]) for layer in range(context.shape.num_layers)]
        return self.cut_alike(Architecture.masked(context.shape, mask), recipe, context)

    def cut_alike(
        self, architecture: Architecture, recipe: Mapping[str, Any], context: Context
    ) -> tuple[CandidateArchitecture, WeightSource]:
        """Any architecture, cut from the base model and trained as a recipe says."""
        seed = context.config.seed
        stages = [Stage("finetune", recipe["finetune_epochs"], seed, task_loss)]
        if recipe["distill_epochs"]:
            assert self._distillation is not None
            stages.append(Stage("distill", recipe["distill_epochs"], seed, self._distillation))
        return architecture.with_precision(recipe["precision"]), Trained(Cut(), stages)


def depth_of(params: Mapping[str, Any]) -> int | None:
    """Layers that a genotype keeps; None where it names none."""
    layers = [value for name, value in params.items() if name.startswith("layer_")]
    return sum(layers) if layers else None


def layer_controls(budgets: Iterable[Budget], num_layers: int, random_masks: int, seed: int) -> list[Control]:
    """The controls of members with these budgets; those that differ in precision only stand together."""
    found = []
    for (depth, *_), group in groupby(
        sorted(set(budgets)), key=lambda budget: (budget.depth, budget.finetune_epochs, budget.distill_epochs)
    ):
        alike = list(group)
        if depth == num_layers:
            masks = [(full_label(alike[0]), tuple(range(num_layers)))]
        else:
            masks = layer_masks(num_layers, depth, random_masks, seed)
        found += [Control(label, layer_recipe(layers, budget), depth) for label, layers in masks for budget in alike]
    return distinct(found)


def layer_masks(num_layers: int, depth: int, random_masks: int, seed: int) -> list[tuple[str, tuple[int, ...]]]:
    """Labels and layers of the masks that keep `depth` layers, fewer than all; the random ones differ from the others.

    Where there are fewer masks than asked for, all of them are given.
    """
    first = tuple(range(depth))
    last = tuple(range(num_layers - depth, num_layers))
    named = {f"first-{depth}": first, f"last-{depth}": last, f"even-{depth}": evenly_spaced(num_layers, depth)}
    drawn = _random_masks(num_layers, depth, np.random.default_rng([seed, depth]))
    others = (layers for layers in drawn if layers not in named.values())
    named |= {f"random-{depth}-{index}": layers for index, layers in zip(range(random_masks), others, strict=False)}
    return list(named.items())


def evenly_spaced(num_layers: int, depth: int) -> tuple[int, ...]:
    """The middle layers of `depth` equal parts of the encoder: 6 of 12 layers are 1, 3, 5, 7, 9, 11."""
    return tuple((2 * index + 1) * num_layers // (2 * depth) for index in range(depth))


def _random_masks(num_layers: int, depth: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """Yields different masks in random order: all of them, or without end where they are many."""
    if math.comb(num_layers, depth) <= ENUMERATED:
        masks = list(combinations(range(num_layers), depth))
        yield from (masks[index] for index in rng.permutation(len(masks)))
        return
    seen: set[tuple[int, ...]] = set()
    while True:
        layers = tuple(sorted(rng.choice(num_layers, depth, replace=False).tolist()))
        if layers not in seen:
            seen.add(layers)
            yield layers


def layer_recipe(layers: Iterable[int], budget: Budget) -> dict[str, Any]:
    """The recipe of a control with these whole layers of the base model."""
    return {"layers": list(layers), **budget.recipe}


def full_label(budget: Budget) -> str:
    """The label of the control that is the base model, trained on."""
    return f"full-{budget.finetune_epochs + budget.distill_epochs}"


def whole_layers(params: Mapping[str, Any], shape: EncoderShape) -> tuple[int, ...] | None:
    """The layers that a genotype keeps, if it keeps them in full width."""
    kept = tuple(index for index in range(shape.num_layers) if params[f"layer_{index}"])
    is_whole = all(
        params[f"heads_{index}"] == shape.num_heads and params[f"ffn_{index}"] == shape.ffn_size for index in kept
    )
    return kept if is_whole else None
