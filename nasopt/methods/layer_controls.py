"""Controls that every encoder method shares: layers cut from the base model without a search.

For each member of a Pareto front that keeps k of L layers: the first k, the last k, evenly spaced k, and random k, full
width, in the member's precision, trained for as many epochs as the member's whole line of parents; for a member that
keeps all layers the base model, trained on. Members of equal depth, epochs and precision share theirs. (An independent
re-run of the layer-mask search found searched masks no better than random ones of the same depth, and worse than the
first k layers: METHODS.md, section 2.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import TrialState

from nasopt.architecture.base import EncoderShape, Precision
from nasopt.architecture.encoder import Architecture
from nasopt.errors import CheckpointError
from nasopt.methods.base import Control, Method
from nasopt.records import queries
from nasopt.records.trial import TrialRecord
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

ENUMERATED = 10_000
"""Up to so many masks of one depth are listed and shuffled; of more, random ones are drawn until they differ."""


@dataclass(frozen=True, order=True)
class Budget:
    """What a member took and costs, and its controls may: layers, epochs over its line of parents, precision."""

    depth: int
    finetune_epochs: int
    distill_epochs: int
    precision: Precision

    @property
    def recipe(self) -> dict[str, Any]:
        """Its part of a control's recipe."""
        return {
            "finetune_epochs": self.finetune_epochs,
            "distill_epochs": self.distill_epochs,
            "precision": self.precision,
        }


def budgets_of(method: Method, members: Sequence[FrozenTrial]) -> list[Budget]:
    """The budget of each complete trial; its depth is 0 where the method knows none."""
    return [
        Budget(
            method.depth(member.params) or 0,
            record.finetune_epochs or 0,
            record.distill_epochs or 0,
            queries.precision_of(member),
        )
        for member, record in ((member, TrialRecord.of(member)) for member in members)
    ]


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

    Where there are not as many masks as asked for, all there are.
    """
    first = tuple(range(depth))
    last = tuple(range(num_layers - depth, num_layers))
    named = {f"first-{depth}": first, f"last-{depth}": last, f"even-{depth}": evenly_spaced(num_layers, depth)}
    drawn = _random_masks(num_layers, depth, np.random.default_rng([seed, depth]))
    others = (layers for layers in drawn if layers not in named.values())
    named |= {f"random-{depth}-{index}": layers for index, layers in zip(range(random_masks), others, strict=False)}
    return list(named.items())


def evenly_spaced(num_layers: int, depth: int) -> tuple[int, ...]:
    """The middle layers of `depth` equal parts of the encoder: of 12 layers 6 are 1, 3, 5, 7, 9, 11."""
    return tuple((2 * index + 1) * num_layers // (2 * depth) for index in range(depth))


def _random_masks(num_layers: int, depth: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """Different masks in random order: all of them, or without end where they are many."""
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
    """Whole layers of the base model."""
    return {"layers": list(layers), **budget.recipe}


def full_label(budget: Budget) -> str:
    """The base model, trained on."""
    return f"full-{budget.finetune_epochs + budget.distill_epochs}"


def whole_layers(params: Mapping[str, Any], shape: EncoderShape) -> tuple[int, ...] | None:
    """The layers that a genotype keeps, if it keeps them in full width."""
    kept = tuple(index for index in range(shape.num_layers) if params[f"layer_{index}"])
    is_whole = all(
        params[f"heads_{index}"] == shape.num_heads and params[f"ffn_{index}"] == shape.ffn_size for index in kept
    )
    return kept if is_whole else None


def distinct(controls: Iterable[Control]) -> list[Control]:
    """The first control of each recipe."""
    found: dict[str, Control] = {}
    for item in controls:
        found.setdefault(queries.recipe_key(item.recipe), item)
    return list(found.values())


def build_layers(method: Method, recipe: Mapping[str, Any], trial: Trial, context: Context) -> Candidate:
    """A control of whole layers, trained."""
    full = Architecture.full(context.shape)
    kept = set(recipe["layers"])
    layers = tuple(units if index in kept else None for index, units in enumerate(full.layers))
    return build_cut(method, Architecture(layers), recipe, trial, context)


def build_cut(
    method: Method, architecture: Architecture, recipe: Mapping[str, Any], trial: Trial, context: Context
) -> Candidate:
    """A control of any architecture, cut from the base model and trained."""
    import copy

    from nasopt.models.surgery import cut

    base = queries.base_of(trial.study)
    lineage = Lineage(None if base is None else base.number)
    architecture = architecture.with_precision(recipe["precision"])
    known = _trained_before(trial, recipe, context)
    if known is not None:
        model = method.module(architecture, context.task)
        model.load_state_dict(known)
        epochs = (recipe["finetune_epochs"], recipe["distill_epochs"])
        return Candidate(model.eval(), architecture, Lineage(lineage.parent, *epochs))
    candidate = Candidate(cut(copy.deepcopy(context.base_model), architecture), architecture, lineage)
    method.train(candidate, "finetune", recipe["finetune_epochs"], context.config.seed, context)
    method.train(candidate, "distill", recipe["distill_epochs"], context.config.seed, context)
    return candidate


def _trained_before(trial: Trial, recipe: Mapping[str, Any], context: Context) -> Mapping[str, Any] | None:
    """The weights of a control that differs in nothing but the precision, if they are still there."""
    wanted = queries.recipe_key({**recipe, "precision": None})
    for other in trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))[::-1]:
        theirs = queries.recipe_of(other)
        key = queries.checkpoint_of(other)
        if theirs is None or key is None or key not in context.checkpoints:
            continue
        if queries.recipe_key({**theirs, "precision": None}) == wanted:
            try:
                return context.checkpoints.read(key)[0]
            except CheckpointError:
                return None
    return None
