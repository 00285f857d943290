"""Weights cut out of the base model, without any training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from nasopt.architecture.encoder import Architecture
from nasopt.training.candidate import Candidate
from nasopt.training.weights.source import WeightSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nasopt.architecture.base import CandidateArchitecture
    from nasopt.training.context import Context


@dataclass(frozen=True)
class Cut(WeightSource):
    """The base model's weights, for any encoder architecture.

    Attributes:
        refit_examples: training examples on which the output projections are refitted by least squares after cutting;
            0 leaves them as they are cut.
        refit_inputs: what the projections read in the fit: `own`, the smaller model's inputs, block after block (see
            :mod:`nasopt.models.reconstruction`), or `base`, the base model's (the optimal brain surgeon's correction,
            see :mod:`nasopt.models.sensitivity.correction`).
    """

    refit_examples: int = 0
    refit_inputs: Literal["own", "base"] = "own"

    def candidate(self, architecture: CandidateArchitecture, context: Context) -> Candidate:
        import copy

        from nasopt.models.surgery import cut

        assert isinstance(architecture, Architecture)
        units = replace(architecture, vocabulary=None)
        model = cut(copy.deepcopy(context.base_model), units)
        if self.refit_examples and units.layers != Architecture.full(context.shape).layers:
            self._refit(model, units, context)
        return Candidate(cut(model, architecture, units), architecture, context.base_lineage)

    def _refit(self, model: PreTrainedModel, units: Architecture, context: Context) -> None:
        from nasopt.training.refitting import refit_projections
        from nasopt.training.samples import SampleSettings
        from nasopt.training.sensitivity import correct_by_obs

        if self.refit_inputs == "own":
            refit_projections(model, units, self.refit_examples, context)
            return
        config = context.config
        settings = SampleSettings(self.refit_examples, config.training.batch_size, config.seed)
        correct_by_obs(model, units, settings, context)
