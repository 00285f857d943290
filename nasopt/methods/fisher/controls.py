"""Controls of the fisher method: other units and other layers at the same latency, made with the same budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasopt.architecture.base import CandidateArchitecture, EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.methods.controls import Control, Controls, EpochCost, Member, distinct, not_counted
from nasopt.methods.fisher.options import FisherOptions
from nasopt.methods.fisher.weights import healed, refitted
from nasopt.methods.layer_controls import Budget
from nasopt.training.weights import WeightSource

if TYPE_CHECKING:
    from nasopt.training.context import Context

_PARTS = 1000
"""Of the base model's latency, in which a share is counted."""


class FisherControls(Controls):
    """For each member the first k layers, of about its share of the latency; random units, as many in each block as it
    keeps; and the base model, trained as long. All are refitted and distilled as the member is.
    """

    def __init__(self, options: FisherOptions) -> None:
        self._options = options

    def depth(self, params: Mapping[str, Any]) -> int | None:
        """The share of the latency, in thousandths: members are compared with controls of the same one."""
        share = params.get("latency_share")
        return None if share is None else round(_PARTS * share)

    def propose(
        self,
        members: Sequence[Member],
        shape: EncoderShape,
        random_masks: int,
        seed: int,
        epoch_cost: EpochCost = not_counted,
    ) -> list[Control]:
        found = []
        for member in members:
            depth, epochs = self.depth(member.params), member.lineage.distill_epochs
            made = {
                "distill_epochs": epochs,
                "precision": member.precision,
                "criterion": member.params["criterion"],
            }
            count = max(1, round(member.params["latency_share"] * shape.num_layers))
            if count < shape.num_layers:
                first = Architecture.masked(shape, [int(layer < count) for layer in range(shape.num_layers)])
                enough = Budget.of(member, epoch_cost(first) if epochs else math.inf).distill_epochs
                # NOTE: the share is part of the recipe so that each member is compared with one of its own share.
                layers = {"kind": "layers", "layers": list(range(count)), "share": depth, **made}
                found.append(Control(f"first-{count}", {**layers, "distill_epochs": enough}, depth))
            like = {"kind": "random-units", "like": member.checkpoint, **made}
            found += [
                Control(f"random-units-{index}", {**like, "seed": seed + index}, depth) for index in range(random_masks)
            ]
            if epochs:
                whole = {"kind": "layers", "layers": list(range(shape.num_layers)), "share": _PARTS, **made}
                found.append(Control(f"full-{epochs}", whole, _PARTS))
        return distinct(found)

    def make(self, recipe: Mapping[str, Any], context: Context) -> tuple[CandidateArchitecture, WeightSource]:
        from nasopt.models.saliency import random_units

        if recipe["kind"] == "layers":
            mask = [int(layer in recipe["layers"]) for layer in range(context.shape.num_layers)]
            architecture = Architecture.masked(context.shape, mask)
        else:
            member = context.checkpoints.architecture(recipe["like"])
            assert isinstance(member, Architecture)
            architecture = random_units(member, context.shape, recipe["seed"])
        source: WeightSource = refitted(recipe["criterion"], self._options, context)
        if recipe["distill_epochs"]:
            source = healed(source, recipe["distill_epochs"], self._options, context)
        return architecture.with_precision(recipe["precision"]), source
