"""The base class of weight sources. Importing this package must not import torch: methods are listed without it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from nasopt.architecture.base import CandidateArchitecture
from nasopt.architecture.genotype import canonical

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from nasopt.training.candidate import Candidate
    from nasopt.training.context import Context


Restore: TypeAlias = "Callable[[CandidateArchitecture, Mapping[str, Tensor], PreTrainedModel], PreTrainedModel]"
"""See :meth:`WeightSource.restore`."""


class WeightSource(ABC):
    """Gives a candidate its weights.

    A source is made for one trial (its parameters and its parent). It says which trials are the same work, so that a
    study does it once, which checkpoints must stay for later trials, and how a finished trial's model is made again.
    """

    needs_parents: ClassVar[bool] = False
    """Whether trials to come may start from the checkpoints of others, so that those of possible parents stay."""

    def work(self, params: Mapping[str, Any]) -> Hashable:
        """The key that is equal for trials of the same work: the genotype, unless a source knows better."""
        return genotype_key(params)

    @abstractmethod
    def candidate(self, architecture: CandidateArchitecture, context: Context) -> Candidate:
        """A candidate of that architecture with this source's weights, on the CPU or the context's device.

        Args:
            architecture: its shape.
            context: the study's data and base model, and the trial under way.
        """

    @staticmethod
    def restore(
        architecture: CandidateArchitecture, weights: Mapping[str, Tensor], base_model: PreTrainedModel
    ) -> PreTrainedModel:
        """The fp32 model of a finished trial once more, from the checkpoint that it left behind.

        Args:
            architecture: the checkpoint's.
            weights: its state dict, tensors in the shapes of that architecture.
            base_model: a base model with any weights, which may be changed.
        """
        from nasopt.models.building import build

        model = build(architecture, base_model)
        model.load_state_dict(weights)
        return model.eval()


def genotype_key(params: Mapping[str, Any]) -> Hashable:
    """A genotype as a key: equal for parameters that describe the same model and training."""
    items = sorted(canonical(params).items())
    return tuple((name, value if isinstance(value, Hashable) else repr(value)) for name, value in items)
