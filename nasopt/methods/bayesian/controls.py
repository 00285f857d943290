"""Controls of the Bayesian method: other layers, and the same layers from other starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nasopt.architecture.base import CandidateArchitecture, EncoderShape
from nasopt.methods.bayesian.options import STARTS, BayesianOptions
from nasopt.methods.bayesian.weights import OtherStart, removed_layers, student_training, without
from nasopt.methods.controls import Control, EpochCost, Member, distinct, not_counted
from nasopt.methods.layer_controls import LayerControls, layer_recipe
from nasopt.training.weights import WeightSource

if TYPE_CHECKING:
    from nasopt.training.context import Context
    from nasopt.training.loop import LossFunction


class BayesianControls(LayerControls):
    """Layers of the base model; and each member's own layers, trained alike but from other starts.

    The other starts are the base model's weights (sliced) and random ones: as many of each kind as there are random
    masks, with a seed each.
    """

    def __init__(self, options: BayesianOptions) -> None:
        super().__init__(self._distillation)
        self._options = options

    def _distillation(self, context: Context) -> LossFunction:
        """The loss of the controls that every method shares, in which an epoch of `hinton` is one of distillation."""
        from nasopt.methods.bayesian.aligned import hinton_loss

        teacher = context.base_model.to(context.device).eval()
        return hinton_loss(context.task, teacher, self._options.temperature, self._options.soft_weight)

    def propose(
        self,
        members: Sequence[Member],
        shape: EncoderShape,
        random_masks: int,
        seed: int,
        epoch_cost: EpochCost = not_counted,
    ) -> list[Control]:
        found = super().propose(members, shape, random_masks, seed, epoch_cost)
        for member, budget in zip(members, self.budgets(members, shape, epoch_cost), strict=True):
            number = member.number
            kept = set(range(shape.num_layers)) - set(removed_layers(member.params, shape))
            shared = {**layer_recipe(sorted(kept), budget), "learning_rate": member.params.get("learning_rate")}
            found.append(Control(f"sliced-{number}", {**shared, "start": "sliced"}, budget.depth))
            for start in STARTS:
                found += [
                    Control(f"{start}-{number}-{index}", {**shared, "start": start, "seed": seed + index}, budget.depth)
                    for index in range(max(1, random_masks))
                ]
        return distinct(found)

    def make(self, recipe: Mapping[str, Any], context: Context) -> tuple[CandidateArchitecture, WeightSource]:
        if "start" not in recipe:
            return super().make(recipe, context)
        how = student_training("ce", 1.0, recipe["learning_rate"], self._options, context)
        epochs = recipe["finetune_epochs"] + recipe["distill_epochs"]
        how = replace(how, settings=how.settings.model_copy(update={"epochs": epochs}))
        removed = set(range(context.shape.num_layers)) - set(recipe["layers"])
        source = OtherStart(
            None if recipe["start"] == "sliced" else recipe["start"], recipe.get("seed", context.config.seed), how
        )
        return without(context.shape, removed), source
