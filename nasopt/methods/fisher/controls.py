"""Controls of the fisher method: other units and other layers at the same latency, made with the same budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from nasopt.architecture.base import CandidateArchitecture, EncoderShape, Precision
from nasopt.architecture.encoder import Architecture
from nasopt.methods.controls import Control, Controls, EpochCost, Member, distinct, enough_epochs, not_counted
from nasopt.methods.fisher.options import CriterionName, FisherOptions
from nasopt.methods.fisher.weights import healed, refitted, sub_networks
from nasopt.training.weights import WeightSource

if TYPE_CHECKING:
    from nasopt.training.context import Context

T = TypeVar("T", int, float)

_Key: TypeAlias = tuple[Precision, CriterionName, T]


class FisherControls(Controls):
    """The first k layers, of about a member's share of the latency; random units, as many in each block as the member
    keeps; and the base model, trained as long. All are cut from the base model, refitted, and distilled until they have
    had the member's budget: members of equal k share the first layers that have had the largest of their budgets.
    """

    def __init__(self, options: FisherOptions) -> None:
        self._options = options

    def depth(self, params: Mapping[str, Any]) -> int | None:
        """None: a share says the number of layers only for a base model of known depth; see :meth:`is_alike`."""
        return None

    def is_alike(self, params: Mapping[str, Any], recipe: Mapping[str, Any], depth: int | None) -> bool:
        """Whether the control has as many layers as the member's share, or random units of the same share."""
        share = params.get("latency_share")
        if share is None:
            return False
        if "of" in recipe:
            return bool(_nearest(share, recipe["of"]) == len(recipe["layers"]))
        return bool(share == recipe.get("share"))

    def propose(
        self,
        members: Sequence[Member],
        shape: EncoderShape,
        random_masks: int,
        seed: int,
        epoch_cost: EpochCost = not_counted,
    ) -> list[Control]:
        found = []
        layers = shape.num_layers
        for (precision, criterion, count), alike in _groups(members, lambda member: _nearest(_share(member), layers)):
            if count < layers:
                first = Architecture.masked(shape, [int(layer < count) for layer in range(layers)])
                made = _made(precision, criterion, _epochs(alike, first, epoch_cost))
                found.append(Control(f"first-{count}", _layers(count, shape, made), count))
        for (precision, criterion, share), alike in _groups(members, _share):
            made = _made(precision, criterion, _epochs(alike, alike[0].architecture, epoch_cost))
            recipe = {"kind": "random-units", "share": share, **made}
            found += [Control(f"random-units-{mask}", {**recipe, "seed": seed + mask}) for mask in range(random_masks)]
        for precision in dict.fromkeys(member.precision for member in members):
            alike = [member for member in members if member.precision == precision]
            epochs = _epochs(alike, Architecture.full(shape), epoch_cost)
            if epochs:
                made = _made(precision, self._options.searched_criteria[0], epochs)
                found.append(Control(f"full-{epochs}", _layers(layers, shape, made), layers))
        return distinct(found)

    def make(self, recipe: Mapping[str, Any], context: Context) -> tuple[CandidateArchitecture, WeightSource]:
        from nasopt.models.saliency import random_units

        criterion, epochs = recipe["criterion"], recipe["distill_epochs"]
        if recipe["kind"] == "layers":
            mask = [int(layer in recipe["layers"]) for layer in range(context.shape.num_layers)]
            architecture = Architecture.masked(context.shape, mask)
        else:
            found = sub_networks(criterion, self._options, context).architecture(recipe["share"])
            architecture = random_units(found, context.shape, recipe["seed"])
        source: WeightSource = refitted(criterion, self._options, context)
        if epochs:
            source = healed(source, epochs, self._options, context)
        return architecture.with_precision(recipe["precision"]), source


def _groups(members: Sequence[Member], key: Callable[[Member], T]) -> Iterator[tuple[_Key[T], list[Member]]]:
    """Members of equal precision, criterion and key, which share their controls; in the order of the first ones."""
    groups: dict[_Key[T], list[Member]] = {}
    for member in members:
        groups.setdefault((member.precision, member.params["criterion"], key(member)), []).append(member)
    yield from groups.items()


def _share(member: Member) -> float:
    return float(member.params["latency_share"])


def _nearest(share: float, num_layers: int) -> int:
    """The number of layers, at least one, whose share of the base model's is the nearest."""
    return max(1, round(share * num_layers))


def _epochs(members: Sequence[Member], architecture: CandidateArchitecture | None, epoch_cost: EpochCost) -> int:
    """Epochs that a control of this architecture needs to have the largest of the members' budgets.

    Without an architecture (the members' weights are gone), or without budgets, epochs alone count.
    """
    is_counted = architecture is not None and any(member.lineage.budget for member in members)
    cost = epoch_cost(architecture) if is_counted and architecture is not None else math.inf
    return max(enough_epochs(member.lineage, cost) for member in members)


def _layers(count: int, shape: EncoderShape, made: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of the first layers."""
    return {"kind": "layers", "layers": list(range(count)), "of": shape.num_layers, **made}


def _made(precision: Precision, criterion: CriterionName, epochs: int) -> dict[str, Any]:
    """The part of a recipe that says how weights are made."""
    return {"distill_epochs": epochs, "precision": precision, "criterion": criterion}
