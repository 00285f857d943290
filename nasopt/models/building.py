"""Builds the modules of architectures of every kind."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from transformers import PreTrainedModel

from nasopt.architecture.base import CandidateArchitecture
from nasopt.architecture.cells import CellArchitecture
from nasopt.architecture.encoder import Architecture
from nasopt.architecture.outside import OutsideArchitecture


@runtime_checkable
class BuildsItself(Protocol):
    """An architecture of another package, which knows its own module."""

    def build(self, base_model: PreTrainedModel) -> PreTrainedModel:
        """A model of this architecture, with the base model's weights or, if it has its own kind of weights, any."""


def build(architecture: CandidateArchitecture, base_model: PreTrainedModel) -> PreTrainedModel:
    """A model of an architecture, with the base model's weights for an encoder's, else with any.

    Args:
        architecture: an architecture of any kind that is installed.
        base_model: the full-size model; it may be changed, so pass a copy where it is needed again. For a model that
            was made elsewhere, that model.

    Raises:
        TypeError: the architecture is of a kind without a `build` method.
    """
    if isinstance(architecture, Architecture):
        from nasopt.models.surgery import cut

        return cut(base_model, architecture)
    if isinstance(architecture, CellArchitecture):
        from nasopt.models.modeling_adabert import AdaBertForSequenceClassification
        from nasopt.models.searchcell import frozen_config, student_config

        config = student_config(base_model.config, architecture.hidden_size, architecture.embedding_rank)
        return AdaBertForSequenceClassification(frozen_config(config, architecture))
    if isinstance(architecture, OutsideArchitecture):
        return base_model
    if isinstance(architecture, BuildsItself):
        return architecture.build(base_model)
    raise TypeError(f"an architecture of the type {type(architecture).__name__} has no `build(base_model)`")
