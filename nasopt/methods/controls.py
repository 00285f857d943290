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
"""What an epoch of an architecture counts in a budget (see :meth:`nasopt.training.context.Context.epoch_cost`)."""


def not_counted(architecture: CandidateArchitecture) -> float:
    """The cost of an epoch where nobody counts: controls then get as many epochs as the members."""
    return math.inf


@dataclass(frozen=True)
class Control:
    """A model that needs no search, made with the budget of one that was found, to be compared with it.

    Attributes:
        label: what a reader is shown, for example ``first-3``. Controls may share one (stored in another precision,
            trained for another number of epochs).
        recipe: a small JSON object with everything that :meth:`Controls.make` needs. Equal recipes are the same
            control, which a study makes once. What it says of the precision stands under `precision`: recipes that
            differ in nothing else are trained once.
        depth: how many layers it keeps, comparable with :meth:`Controls.depth`; None where it has no such thing.
    """

    label: str
    recipe: dict[str, Any]
    depth: int | None = None


@dataclass(frozen=True)
class Member:
    """A member of the Pareto front that a search has found.

    Attributes:
        number: of the trial.
        params: its parameters.
        precision: in which its weights are stored.
        checkpoint: its weights.
        lineage: how they were trained.
    """

    number: int
    params: Mapping[str, Any]
    precision: Precision
    checkpoint: str
    lineage: Lineage


class Controls(ABC):
    """What the findings of one method are compared with."""

    @abstractmethod
    def depth(self, params: Mapping[str, Any]) -> int | None:
        """What a genotype keeps, in a number: members are compared with controls of equal depth.

        None where depth says nothing of it.
        """

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
            random_masks: how many random ones each depth gets; those of fewer are among those of more.
            seed: the study's.
            epoch_cost: of a control, which is trained until its budget is at least its member's.

        Returns:
            Controls with different recipes, in the order in which to make them.
        """

    @abstractmethod
    def make(self, recipe: Mapping[str, Any], context: Context) -> tuple[CandidateArchitecture, WeightSource]:
        """The shape of the control of a recipe, and where its weights come from.

        The seed of training is the study's, so that controls see the same batches in the same order.
        """


def distinct(controls: Iterable[Control]) -> list[Control]:
    """The first control of each recipe."""
    found: dict[str, Control] = {}
    for item in controls:
        found.setdefault(json.dumps(item.recipe, sort_keys=True), item)
    return list(found.values())
