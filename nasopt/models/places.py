"""The places that the weights of a smaller model have in the full-size tensors they were cut from.

Shapes: an output projection has the shape (hidden size, units), the matrices before it (units, hidden size), where a
head has `head_size` units; matrices that are stored as one stand one below the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.models.families import encoder_shape, family_of
from nasopt.models.modeling_nasopt import LayerParts
from nasopt.models.vocabulary import vocabulary_dimensions


@dataclass(frozen=True)
class Place:
    """The part of a full-size tensor that a smaller model has: some of its rows or columns, or all of it.

    Attributes:
        name: the full-size tensor's.
        dimension: the one along which only some are kept.
        index: those that are kept, int64, (kept,); None for the whole tensor.
    """

    name: str
    dimension: int = 0
    index: Tensor | None = None

    def shape_in(self, tensor: Tensor) -> torch.Size:
        """The shape of the part of a full-size tensor."""
        shape = list(tensor.shape)
        if self.index is not None:
            shape[self.dimension] = len(self.index)
        return torch.Size(shape)

    def read(self, tensor: Tensor) -> Tensor:
        """The part of a full-size tensor, through which gradients flow; the tensor itself if that is all of it."""
        return tensor if self.index is None else tensor.index_select(self.dimension, self.index.to(tensor.device))

    def write(self, tensor: Tensor, values: Tensor) -> None:
        """Puts values of the part's shape into a full-size tensor, in place."""
        if self.index is None:
            tensor.copy_(values)
        else:
            tensor.index_copy_(self.dimension, self.index.to(tensor.device), values)


def weight_places(model: PreTrainedModel, architecture: Architecture) -> dict[str, Place]:
    """The places of the weights of a smaller model, by their names there, in a full-size one.

    Args:
        model: the full-size model.
        architecture: the smaller model's; its precision does not matter.
    """
    family = family_of(model)
    parts, layers = family.parts, family.parts.encoder_layers(model)
    names = list(model.state_dict())
    prefix = next(name for name, module in model.named_modules() if module is layers) + "."
    shared = f"{prefix}0.{family.shared}." if family.shared else None  # stays in the first layer, whichever that is
    places = {
        name: Place(name)
        for name in names
        if not name.startswith(prefix) or (shared is not None and name.startswith(shared))
    }
    if architecture.vocabulary is not None:
        tokens = torch.tensor(architecture.vocabulary, dtype=torch.long)
        for name, dimension in vocabulary_dimensions(model).items():
            places[name] = Place(name, dimension, tokens)
    head_size = encoder_shape(model.config).head_size
    for position, index in enumerate(architecture.kept_layers):
        start, units = f"{prefix}{index}.", architecture.layers[index]
        assert units is not None
        of_units = {} if family.is_encoder_decoder else unit_places(layers[index], parts, units, head_size)
        for full_name in names:
            if full_name.startswith(start) and not (shared is not None and full_name.startswith(shared)):
                name = full_name.removeprefix(start)
                place = of_units.get(name, Place(name))
                if place is not None:
                    places[f"{prefix}{position}.{name}"] = Place(full_name, place.dimension, place.index)
    return places


def unit_places(layer: nn.Module, parts: LayerParts, units: KeptUnits, head_size: int) -> dict[str, Place | None]:
    """The places of the weights of some of a layer's units in its parameters; None for weights without any units.

    A block that the layer does not have is left out, and so are parameters that do not depend on the units.
    """
    places: dict[str, Place | None] = {}
    modules = dict(layer.named_modules())
    for names, outgoing, kept in (
        (parts.projections, parts.attention_output, channels(units.heads, head_size)),
        ((parts.up,), parts.down, torch.tensor(units.neurons, dtype=torch.long)),
    ):
        output = modules.get(outgoing)
        if not isinstance(output, nn.Linear):
            continue
        places[f"{outgoing}.weight"] = Place(f"{outgoing}.weight", 1, kept) if len(kept) else None
        for name in names:
            linear = modules.get(name)
            if isinstance(linear, nn.Linear):
                offsets = torch.arange(0, linear.out_features, output.in_features)  # matrices one below the other
                rows = (offsets[:, None] + kept).flatten()
                for full_name in (f"{name}.weight", f"{name}.bias")[: 1 if linear.bias is None else 2]:
                    places[full_name] = Place(full_name, 0, rows) if len(kept) else None
    return places


def channels(heads: Sequence[int], head_size: int) -> Tensor:
    """The rows of the query projection that belong to some heads, int64, (heads * head_size,)."""
    return (torch.tensor(heads, dtype=torch.long)[:, None] * head_size + torch.arange(head_size)).flatten()
