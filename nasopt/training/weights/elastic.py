"""Weights sliced out of the study's elastic base, without a training of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nasopt.architecture.encoder import Architecture
from nasopt.training.candidate import Candidate
from nasopt.training.weights.source import WeightSource

if TYPE_CHECKING:
    from nasopt.architecture.base import CandidateArchitecture
    from nasopt.training.context import Context
    from nasopt.training.elastic import ElasticSettings


@dataclass(frozen=True)
class Elastic(WeightSource):
    """The weights that the elastic base has for an encoder architecture, best for prefixes of its units' order.

    The candidate is provisional: a training of its own makes it better.

    Attributes:
        settings: those of the elastic base, which is trained at the first call for a study
            (:func:`nasopt.training.elastic.elastic_base`).
    """

    settings: ElasticSettings

    def candidate(self, architecture: CandidateArchitecture, context: Context) -> Candidate:
        import copy

        from nasopt.models.surgery import cut
        from nasopt.training.elastic import elastic_base

        assert isinstance(architecture, Architecture)
        found = context.once(self.settings, lambda: elastic_base(self.settings, context))
        model = copy.deepcopy(context.base_model)
        model.load_state_dict(found.weights)
        line = context.base_lineage
        lineage = replace(line, search_epochs=self.settings.epochs, budget=line.budget + found.budget)
        return Candidate(cut(model, architecture), architecture, lineage, is_provisional=True)
