"""Weights of another trial as they are, for one that differs from it in the precision only."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from nasopt.errors import CheckpointError
from nasopt.training.candidate import Candidate
from nasopt.training.weights.source import WeightSource

if TYPE_CHECKING:
    from nasopt.architecture.base import CandidateArchitecture
    from nasopt.training.context import Context, Parent


class Stored(WeightSource):
    """The weights of a parent of the same shape, trained as long as it was; nothing is trained again.

    Args:
        parent: the trial whose weights they are.
        otherwise: the source that made them, for when they are gone or of another shape.
    """

    needs_parents: ClassVar[bool] = True

    def __init__(self, parent: Parent, otherwise: WeightSource) -> None:
        self.parent, self.otherwise = parent, otherwise

    def work(self, params: Mapping[str, Any]) -> Hashable:
        return self.otherwise.work(params)

    def candidate(self, architecture: CandidateArchitecture, context: Context) -> Candidate:
        try:
            weights, stored = context.checkpoints.read(self.parent.checkpoint)
        except CheckpointError:
            return self.otherwise.candidate(architecture, context)
        if stored != architecture.with_precision("fp32"):
            return self.otherwise.candidate(architecture, context)
        model = self.restore(stored, weights, context.task.load_model())
        return Candidate(model, architecture, replace(self.parent.lineage, parent=self.parent.number))
