"""Controls of the Taylor method: random units in the place of those that saliency chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nasopt.architecture.base import CandidateArchitecture, EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.methods.controls import Control, Controls, EpochCost, Member, distinct, not_counted
from nasopt.methods.taylor.options import SEARCHED, TaylorOptions
from nasopt.methods.taylor.weights import Recipe, distilled
from nasopt.training.weights import WeightSource

if TYPE_CHECKING:
    from nasopt.training.context import Context


class TaylorControls(Controls):
    """Controls: random heads and neurons, as many per layer as a member keeps; and the base model, trained as long."""

    def __init__(self, options: TaylorOptions) -> None:
        self._options = options

    def depth(self, params: Mapping[str, Any]) -> int | None:
        """Heads and neurons kept, together: members are compared with random ones of equal counts."""
        counts = [value for name, value in params.items() if name.startswith(("heads_", "ffn_"))]
        return sum(counts) if counts else None

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
            trained: dict[str, Any] = {"epochs": member.lineage.distill_epochs, "precision": member.precision}
            trained |= {name: member.params[name] for name in SEARCHED if name in member.params}
            like = {"kind": "random-units", "like": member.checkpoint, **trained}
            found += [
                Control(f"random-units-{index}", {**like, "seed": seed + index}, self.depth(member.params))
                for index in range(max(1, random_masks))
            ]
            whole = shape.num_layers * (shape.num_heads + shape.ffn_size)
            found.append(Control(f"full-{trained['epochs']}", {"kind": "full", **trained}, whole))
        return distinct(found)

    def make(self, recipe: Mapping[str, Any], context: Context) -> tuple[CandidateArchitecture, WeightSource]:
        from nasopt.models.saliency import random_units

        if recipe["kind"] == "full":
            architecture = Architecture.full(context.shape)
        else:
            member = context.checkpoints.architecture(recipe["like"])
            assert isinstance(member, Architecture)
            architecture = random_units(member, context.shape, recipe["seed"])
        how = Recipe.of(recipe, self._options, context.config.training)
        return architecture.with_precision(self._options.precision), distilled(how, self._options, context)
