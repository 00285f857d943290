"""Weights inherited from another trial (Lamarckian): what the parent lacks comes from the base model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from nasopt.architecture.encoder import Architecture
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.weights.source import WeightSource, genotype_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from nasopt.architecture.base import CandidateArchitecture
    from nasopt.training.context import Context, Parent


@dataclass(frozen=True)
class Inherited(WeightSource):
    """The weights of a parent, or of the base model where there is none or its weights are gone.

    Attributes:
        parent: the number of the trial whose weights they are; None for the base model's.
        base_number: the number of the base trial, which counts as no parent; None before there is one.
    """

    parent: int | None
    base_number: int | None

    needs_parents: ClassVar[bool] = True

    @classmethod
    def of(cls, context: Context) -> Inherited:
        """The source of the trial under way."""
        parent, base = context.parent, context.base
        return cls(None if parent is None else parent.number, None if base is None else base.number)

    def work(self, params: Mapping[str, Any]) -> Hashable:
        """The key of the trial's work: its genotype and its parent."""
        return None if self.parent == self.base_number else self.parent, genotype_key(params)

    def candidate(self, architecture: CandidateArchitecture, context: Context) -> Candidate:
        from nasopt.models.surgery import cut

        assert isinstance(architecture, Architecture)
        origin = full_size(context)
        return Candidate(cut(origin.model, architecture), architecture, origin.lineage)


@dataclass(frozen=True)
class Origin:
    """The full-size model that a child is cut from, and where its weights come from.

    Attributes:
        model: a full-size copy of the base model with the parent's weights in their places.
        architecture: the parent's, which says the units of the model that are the parent's.
        lineage: how the parent's weights were trained; its `parent` is the trial that is inherited from.
    """

    model: PreTrainedModel
    architecture: Architecture
    lineage: Lineage


def full_size(context: Context) -> Origin:
    """The model that the trial under way starts from, in the base model's shapes; a new copy at each call.

    Raises:
        CheckpointError: the parent's checkpoint is damaged.
    """
    from nasopt.models.surgery import expand

    parent: Parent | None = context.parent
    if parent is not None and parent.checkpoint in context.checkpoints:
        weights, architecture = context.checkpoints.read(parent.checkpoint)
        assert isinstance(architecture, Architecture)
        lineage = replace(parent.lineage, parent=parent.number)
    else:
        weights, architecture = context.base_model.state_dict(), Architecture.full(context.shape)
        lineage = context.base_lineage
    return Origin(expand(context.base_model, weights, architecture), architecture, lineage)
