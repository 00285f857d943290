"""A sub-network that shares the weights of a full-size model, whose gradients reach the full-size ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture
from nasopt.models.places import weight_places
from nasopt.models.surgery import cut


class SlicedModel(nn.Module):
    """Computes what the cut model would, with the weights that the full-size model has at that moment.

    A call costs what a call of the cut model does, besides gathering the weights that are kept; its outputs are those
    of :func:`nasopt.models.surgery.cut`. The parameters are the full-size model's own, and so is the mode (train or
    eval).

    Args:
        model: a full-size model of a supported encoder family, on the device where it stays.
        architecture: what the sub-network keeps of it; its precision does not matter.

    Raises:
        UnsupportedModelError: the model cannot be cut.
        ValueError: the architecture keeps no layer, or more than the model has.
    """

    def __init__(self, model: PreTrainedModel, architecture: Architecture) -> None:
        super().__init__()
        self.model = model
        self._places = weight_places(model, architecture)
        self._skeleton = (_skeleton(model, architecture),)  # a tuple hides its shapes from `parameters`

    def forward(self, **inputs: Any) -> Any:
        """The outputs of the cut model for inputs (B, T): transformers' objects."""
        (skeleton,) = self._skeleton
        return functional_call(skeleton.train(self.model.training), dict(self.cut_weights()), kwargs=inputs)

    def cut_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights of the cut model by their names there, in its shapes; gradients flow into the full-size ones."""
        full = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        yield from ((name, place.read(full[place.name])) for name, place in self._places.items())


def _skeleton(model: PreTrainedModel, architecture: Architecture) -> PreTrainedModel:
    """The modules of the cut model, whose parameters have shapes only; buffers are the full-size model's own."""
    parameters = {id(item): nn.Parameter(item.to("meta"), item.requires_grad) for item in model.parameters()}
    shared = {id(item): item for item in model.buffers()}
    return cut(copy.deepcopy(model, {**parameters, **shared}), architecture)
