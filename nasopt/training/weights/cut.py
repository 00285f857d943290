"""Weights cut out of the base model, without any training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nasopt.architecture.encoder import Architecture
from nasopt.training.candidate import Candidate
from nasopt.training.weights.source import WeightSource

if TYPE_CHECKING:
    from nasopt.architecture.base import CandidateArchitecture
    from nasopt.training.context import Context


@dataclass(frozen=True)
class Cut(WeightSource):
    """The base model's weights, for any encoder architecture.

    Attributes:
        refit_examples: training examples on which the output projections are refitted by least squares after cutting
            (see :mod:`nasopt.models.reconstruction`); 0 leaves them as they are cut.
    """

    refit_examples: int = 0

    def candidate(self, architecture: CandidateArchitecture, context: Context) -> Candidate:
        import copy

        from nasopt.models.surgery import cut

        assert isinstance(architecture, Architecture)
        units = replace(architecture, vocabulary=None)
        model = cut(copy.deepcopy(context.base_model), units)
        if self.refit_examples:
            from nasopt.training.refitting import refit_projections

            refit_projections(model, units, self.refit_examples, context)
        return Candidate(cut(model, architecture, units), architecture, context.base_lineage)
