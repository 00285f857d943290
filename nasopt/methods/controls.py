"""Controls: models that need no search, made with the budgets of those that were found, to be compared with them."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from nasopt.architecture.base import CandidateArchitecture, EncoderShape, Precision
from nasopt.training.weights import WeightSource

if TYPE_CHECKING:
    from nasopt.training.candidate import Lineage
    from nasopt.training.context import Context

EpochCost: TypeAlias = Callable[[CandidateArchitecture], float]
"""The cost of an epoch of an architecture in a budget (see :meth:`nasopt.training.context.Context.epoch_cost`)."""


def not_counted(architecture: CandidateArchitecture) -> float:
    """The cost of an epoch where nobody counts: controls then get as many epochs as the members."""
    return math.inf


@dataclass(frozen=True)
class Control:
    """A model that needs no search, made with the budget of one that was found, to be compared with it.

    Attributes:
        label: its name for readers, for example ``first-3``. Controls may share one (stored in another precision,
            trained for another number of epochs).
        recipe: a small JSON object with everything that :meth:`Controls.make` needs. Equal recipes are the same
            control, which a study makes once. The precision stands under `precision`: recipes that differ in nothing
            else are trained once.
        depth: the number of layers it keeps, comparable with :meth:`Controls.depth`; None where it has no depth.
    """

    label: str
    recipe: dict[str, Any]
    depth: int | None = None


@dataclass(frozen=True)
class Member:
    """A member of the Pareto front that a search has found.

    Attributes:
        number: the trial's number.
        params: its parameters.
        precision: the precision in which its weights are stored.
        checkpoint: the key of its weights.
        lineage: how they were trained.
        architecture: its shape; None where its weights are gone.
    """

    number: int
    params: Mapping[str, Any]
    precision: Precision
    checkpoint: str
    lineage: Lineage
    architecture: CandidateArchitecture | None = None


class Controls(ABC):
    """The controls that the findings of one method are compared with."""

    @abstractmethod
    def depth(self, params: Mapping[str, Any]) -> int | None:
        """The number of layers, or units, that a genotype keeps: members are compared with controls of equal depth.

        It is None where depth does not describe the genotype.
        """

    def is_alike(self, params: Mapping[str, Any], recipe: Mapping[str, Any], depth: int | None) -> bool:
        """Whether a member is compared with a control of its precision even if that one costs more: by default, where
        both have the same depth.

        Args:
            params: the member's.
            recipe: the control's.
            depth: the control's.
        """
        mine = self.depth(params)
        return mine is not None and mine == depth

    @abstractmethod
    def propose(
        self,
        members: Sequence[Member],
        shape: EncoderShape,
        random_masks: int,
        seed: int,
        epoch_cost: EpochCost = not_counted,
    ) -> list[Control]:
        """The controls of the members of a Pareto front.

        Args:
            members: complete feasible trials, without the base model.
            shape: the base model's.
            random_masks: the number of random ones for each depth; those of a smaller number are among the larger's.
            seed: the study's.
            epoch_cost: gives a control's cost of an epoch; it is trained until its budget is at least its member's.

        Returns:
            Controls with different recipes, in the order in which to make them.
        """

    @abstractmethod
    def make(self, recipe: Mapping[str, Any], context: Context) -> tuple[CandidateArchitecture, WeightSource]:
        """The shape of the control of a recipe, and the source of its weights.

        The seed of training is the study's, so that controls see the same batches in the same order.
        """


TOLERANCE = 0.01
"""Part of an epoch that a control may lack: FLOPs of equal depths differ with the lengths of the sampled texts."""


def enough_epochs(lineage: Lineage, epoch_cost: float) -> int:
    """Epochs that a control needs to have the budget of a member of this lineage.

    Args:
        lineage: the member's.
        epoch_cost: the control's cost of an epoch; infinite where nobody counts: then no budget asks for any.
    """
    return max(lineage.finetune_epochs + lineage.distill_epochs, math.ceil(lineage.budget / epoch_cost - TOLERANCE))


def distinct(controls: Iterable[Control]) -> list[Control]:
    """The first control of each recipe."""
    found: dict[str, Control] = {}
    for item in controls:
        found.setdefault(json.dumps(item.recipe, sort_keys=True), item)
    return list(found.values())
